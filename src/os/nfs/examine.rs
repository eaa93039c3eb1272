//! What this host's root may do on a mounted share, found out with files that have no name any more.

use crate::os::{At as _, Error, Result};
use rustix::{
    fs::{Gid, Uid, fchown, fstat, ioctl_ficlone},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};
use uuid::Uuid;

/// How the names begin that files have for a moment.
const PREFIX: &str = ".wharf-check-";

/// Owner and group that no server gives away by itself.
const SOMEBODY: u32 = 12_345;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Powers {
    /// The server exports it read-only.
    ReadOnly,
    /// The share's root may not be written to: root is turned into a user who may not.
    Denied,
    /// Files can be made there.
    Writable {
        /// Root is turned into another user.
        squashed: bool,
        /// Files can share blocks; `None`: no room to try it.
        reflink: Option<bool>,
    },
}

/// Tries what can be done in a directory. The files lose their names as soon as they have them, so that they
/// end with this process at the latest.
pub fn examine(directory: &Path) -> Result<Powers> {
    let op = "try to make a file in";
    let file = match nameless(directory).map_err(|error| number(&error)) {
        Ok(file) => file,
        Err(Errno::ROFS) => return Ok(Powers::ReadOnly),
        Err(Errno::ACCESS | Errno::PERM) => return Ok(Powers::Denied),
        Err(errno) => return Err(errno).at(op, directory),
    };
    let squashed = is_squashed(&file).at("try to give away a file in", directory)?;
    let reflink = match reflink(&file, directory) {
        Ok(can) => Some(can),
        Err(error) if error.is_no_space() => None,
        Err(error) => return Err(error),
    };
    Ok(Powers::Writable { squashed, reflink })
}

/// Its name tells whose it was, should a server make the file after everybody has given up.
fn nameless(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn number(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn is_squashed(file: &File) -> Result<bool, Errno> {
    if fstat(file)?.st_uid != 0 {
        return Ok(true);
    }
    match fchown(file, Some(Uid::from_raw(SOMEBODY)), Some(Gid::from_raw(SOMEBODY))) {
        Ok(()) => Ok(false),
        Err(Errno::PERM | Errno::ACCESS) => Ok(true),
        Err(errno) => Err(errno),
    }
}

fn reflink(from: &File, directory: &Path) -> Result<bool, Error> {
    let op = "try to share blocks in";
    let to = nameless(directory).at(op, directory)?;
    // XFS takes the clone of an empty file even where it cannot share.
    from.write_all_at(&[1; 4096], 0).and_then(|()| from.sync_all()).at(op, directory)?;
    match ioctl_ficlone(&to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::XDEV) => Ok(false),
        Err(errno) => Err(errno).at(op, directory),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::os::testing::{Kind, MIB, Pool};

    #[test]
    fn it_is_found_out_and_nothing_is_left() {
        for (kind, reflink) in [(Kind::Xfs, true), (Kind::Ext4, false)] {
            let pool = Pool::new(kind, 320 * MIB);
            let before = crate::os::file::list(pool.path()).unwrap();
            let expected = Powers::Writable { squashed: false, reflink: Some(reflink) };
            assert_eq!(examine(pool.path()).unwrap(), expected, "{kind:?}");
            assert_eq!(crate::os::file::list(pool.path()).unwrap(), before);
        }
        assert!(examine(Path::new("/proc")).is_err());
    }
}
