//! mount(2) of a share, one version after the other.

use crate::os::{
    At as _, Error, Result,
    mount::{self, Attributes},
};
use rustix::{
    fs::{AtFlags, CWD, Statx, StatxFlags, statx},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};

/// What a mounted share is called in mountinfo; only these are ever unmounted lazily or by force.
pub const FILESYSTEMS: [&str; 2] = ["nfs", "nfs4"];

/// What mount(2) is told; the version is part of the options.
const TYPE: &str = "nfs";

/// A version of the protocol that can be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Version {
    /// 4.2
    V4_2,
    /// 4.1
    V4_1,
    /// 4.0
    V4_0,
    /// 3
    V3,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4_2 => "4.2",
            Self::V4_1 => "4.1",
            Self::V4_0 => "4.0",
            Self::V3 => "3",
        })
    }
}

/// One try: a version and the options that ask for it. Options may hold what nobody shall read in a log, so they
/// are not printed.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// The version that the options ask for.
    pub version: Version,
    /// As mount(2) takes them, the server's address included, since the kernel resolves no names:
    /// `vers=4.2,proto=tcp,…,addr=192.0.2.1`.
    pub data: String,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt {{ version: {}, .. }}", self.version)
    }
}

/// Mounts `source`, which is `server:/path` with a literal IPv6 address in brackets and as which mountinfo will
/// show it, with the first version that both sides have. A failure that another version would share ends it.
pub fn mount(source: &str, target: &Path, attributes: Attributes, attempts: &[Attempt]) -> Result<Version> {
    let mut failure = None;
    for Attempt { version, data } in attempts {
        match mount::mount(Path::new(source), target, TYPE, attributes, data) {
            Ok(()) => return Ok(*version),
            Err(error) if error.errno().is_some_and(try_next_version) => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::Unexpected(format!("no version to mount {source} with"))))
}

/// The inode number of a directory, asked of the server and not of a cache: it answers if the server does.
pub fn ask(directory: &Path) -> Result<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    let stat = statx(CWD, directory, flags, StatxFlags::BASIC_STATS);
    stat.and_then(|stat| number_of_living(&stat)).at("ask for the attributes of", directory)
}

/// The inode number of a directory. One that was removed may be told for a while, without any link, before it is
/// stale.
pub(in crate::os) fn number_of_living(directory: &Statx) -> Result<u64, Errno> {
    if directory.stx_nlink == 0 { Err(Errno::STALE) } else { Ok(directory.stx_ino) }
}

/// Whether another version may succeed where one failed with this. EPROTONOSUPPORT: the server, or the kernel,
/// does not have it. EINVAL: an older kernel does not know the minor version; a wrong option gives it every time.
pub fn try_next_version(errno: i32) -> bool {
    matches!(errno, libc::EPROTONOSUPPORT | libc::EINVAL)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn options_are_not_printed() {
        let attempt = Attempt { version: Version::V4_1, data: "sec=krb5".into() };
        assert_eq!(format!("{attempt:?}"), "Attempt { version: 4.1, .. }");
    }

    #[test]
    fn only_a_missing_version_is_a_reason_to_try_another() {
        assert!(try_next_version(libc::EPROTONOSUPPORT) && try_next_version(libc::EINVAL));
        for errno in
            [libc::ETIMEDOUT, libc::EACCES, libc::ENOENT, libc::ECONNREFUSED, libc::ENODEV, libc::EPERM]
        {
            assert!(!try_next_version(errno), "{errno}");
        }
    }

    #[test]
    fn a_share_that_cannot_be_mounted_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let source = "127.0.0.1:/none";
        let attempts = [
            Attempt {
                version: Version::V4_2,
                data: "vers=4.2,port=9,soft,timeo=1,retrans=0,addr=127.0.0.1".into(),
            },
            Attempt {
                version: Version::V4_1,
                data: "vers=4.1,port=9,soft,timeo=1,retrans=0,addr=127.0.0.1".into(),
            },
        ];
        // Without an NFS client in the kernel: ENODEV; with one: nobody listens.
        let error = mount(source, directory.path(), Attributes::default(), &attempts).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:/none"), "{error}");
        assert!(!error.to_string().contains("timeo"), "{error}");
        assert_eq!(crate::os::mountinfo::at(directory.path()).unwrap(), None);
        assert!(mount(source, directory.path(), Attributes::default(), &[]).is_err());
    }
}
