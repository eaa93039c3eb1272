//! What an inode carries beside its data.

use super::walk::link_of;
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fstat,
        getxattr, getxattr_query, listxattr, listxattr_query, setxattr, utimensat,
    },
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
};

/// The extended attributes that are copied: all that belong to the file itself. Others (`btrfs.`,
/// `system.nfs4_acl`) are views of something in the filesystem.
const COPIED: [&[u8]; 5] =
    [b"user.", b"trusted.", b"security.", b"system.posix_acl_access", b"system.posix_acl_default"];
/// How often a list or value that grows meanwhile is read again.
const TRIES: u32 = 16;
/// Most lists and values fit in here, so that a server is asked once, and not for the size first.
const USUAL: usize = 1 << 10;

/// What could not be done with a file whose name the caller knows.
pub(super) struct Failure {
    pub op: String,
    pub errno: Errno,
}

/// Gives `target` the owner, extended attributes, mode and times of `source`, in this order: a change of
/// owner takes away set-id bits and capabilities. Both may be O_PATH handles, of a symlink too.
/// `stat` is the source's from before it was read (its access time).
pub(super) fn copy(source: BorrowedFd<'_>, target: BorrowedFd<'_>, stat: &Stat) -> Result<(), Failure> {
    // On NFS each change is a call. Nobody else can have changed what was just made.
    let owned = (stat.st_uid, stat.st_gid);
    let made = fstat(target).map_err(failed("look at"))?;
    if (made.st_uid, made.st_gid) != owned {
        let (user, group) = (Uid::from_raw(owned.0), Gid::from_raw(owned.1));
        chownat(target, "", Some(user), Some(group), AtFlags::EMPTY_PATH)
            .map_err(failed("set the owner of"))?;
    }
    extended(source, target)?;
    // A change of owner takes bits away.
    let made =
        if (made.st_uid, made.st_gid) == owned { made } else { fstat(target).map_err(failed("look at"))? };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink && made.st_mode != stat.st_mode {
        chmod(link_of(target), Mode::from_raw_mode(stat.st_mode & 0o7777))
            .map_err(failed("set the mode of"))?;
    }
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    utimensat(target, "", &times, AtFlags::EMPTY_PATH).map_err(failed("set the times of"))
}

/// Copies extended attributes. The link in /proc leads to exactly the open inode, and works for O_PATH
/// handles, which the calls on descriptors refuse.
fn extended(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Failure> {
    let (from, to) = (link_of(source), link_of(target));
    let names = match growing(|| listxattr_query(&from), |buffer| listxattr(&from, buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(failed("list the extended attributes of")(e)),
    };
    for name in names.split(|byte| *byte == 0) {
        if !COPIED.iter().any(|copied| name.starts_with(copied)) {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let failed = |errno| Failure { op: format!("copy the extended attribute {name:?} of"), errno };
        match growing(|| getxattr_query(&from, name), |buffer| getxattr(&from, name, buffer)) {
            Ok(value) => setxattr(&to, name, &value, XattrFlags::empty()).map_err(failed)?,
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}

/// Reads something that is mostly small; else its size has to be asked for and may have changed by then.
fn growing(
    size: impl Fn() -> Result<usize, Errno>,
    read: impl Fn(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<u8>, Errno> {
    for attempt in 0..TRIES {
        let room = if attempt == 0 { USUAL } else { size()? };
        let mut buffer = vec![0; room];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::AGAIN)
}

fn failed(op: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { op: op.to_owned(), errno }
}

fn time<S: TryInto<i64>, N: TryInto<i64>>(seconds: S, nanoseconds: N) -> Timespec {
    Timespec { tv_sec: seconds.try_into().unwrap_or(0), tv_nsec: nanoseconds.try_into().unwrap_or(0) }
}
