//! How much room a filesystem has.

use super::{At as _, Result, file};
use rustix::fs::{StatVfs, StatVfsMountFlags, fstatvfs, statvfs};
use serde::{Deserialize, Serialize};
use std::{fs::File, path::Path};

/// statfs(2), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// All.
    pub total: u64,
    /// What an unprivileged user may still write.
    pub available: u64,
    /// `f_bfree`: also what is reserved for root.
    pub free: u64,
    /// Inodes in all; 0 where the filesystem does not count them.
    pub inodes: u64,
    /// Inodes left.
    pub inodes_free: u64,
    /// The mount is read-only.
    pub read_only: bool,
}

/// Of the filesystem at `path`.
pub fn of(path: &Path) -> Result<Space> {
    statvfs(path).map(Space::from).at("read the free space of", path)
}

/// As a directory shows it, which may have a limit of its own.
pub fn of_open(directory: &File) -> Result<Space> {
    fstatvfs(directory).map(Space::from).at("read the free space of", file::shown(directory))
}

impl From<StatVfs> for Space {
    fn from(stat: StatVfs) -> Self {
        Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
            read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::os::{
        loopdev::scratch::{MIB, Mounted, Scratch, attach},
        mount::{self, Attributes},
    };
    use std::fs;

    #[test]
    fn of_a_filesystem_of_known_size() {
        let scratch = Scratch::new();
        let held = attach(&scratch.ext4("a"));
        let target = scratch.directory("m");
        let _mounted = Mounted::guard(&target);
        mount::mount(&held.path(), &target, "ext4", Attributes::default(), "").unwrap();
        let empty = of(&target).unwrap();
        assert!(empty.total > 8 * MIB && empty.total < 16 * MIB, "{empty:?}");
        assert!(empty.available < empty.free && empty.free < empty.total, "5 % are root's: {empty:?}");
        assert!(empty.inodes_free > 0 && empty.inodes_free < empty.inodes, "{empty:?}");
        assert!(!empty.read_only);

        fs::write(target.join("f"), vec![1; 4 << 20]).unwrap();
        rustix::fs::syncfs(File::open(&target).unwrap()).unwrap();
        let used = of(&target).unwrap();
        assert!(empty.free - used.free >= 4 * MIB, "{empty:?} {used:?}");
        assert_eq!(empty.inodes_free - used.inodes_free, 1);

        let read_only = scratch.directory("ro");
        let _bound = Mounted::guard(&read_only);
        mount::bind(&target, &read_only, Attributes { read_only: true, ..Attributes::default() }).unwrap();
        assert_eq!(of(&read_only).unwrap(), Space { read_only: true, ..used });
    }

    #[test]
    fn of_nothing() {
        assert!(of(&Scratch::new().path("absent")).unwrap_err().is_not_found());
    }
}
