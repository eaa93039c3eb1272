//! How much room a filesystem has.

use super::Result;
use std::path::Path;

/// statfs(2), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    todo!("{path:?}")
}
