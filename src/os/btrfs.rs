//! btrfs: subvolumes, snapshots, classic qgroups.
//!
//! Ioctls from `linux/btrfs.h`; usage and limits are read from `/sys/fs/btrfs/<uuid>/qgroups`.

use super::Result;
use std::{ffi::OsStr, path::Path};

/// What a level-0 qgroup holds and may hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qgroup {
    /// Bytes reachable from the subvolume.
    pub referenced: u64,
    /// Bytes that only this subvolume holds.
    pub exclusive: u64,
    /// The limit on `referenced`, if one is set.
    pub limit: Option<u64>,
}

/// Whether `path` lies on btrfs.
pub fn is_btrfs(path: &Path) -> Result<bool> {
    todo!("{path:?}")
}

/// Whether the directory is the root of a subvolume.
pub fn is_subvolume(path: &Path) -> Result<bool> {
    todo!("{path:?}")
}

/// Creates the subvolume `name` in `parent`.
pub fn create_subvolume(parent: &Path, name: &OsStr) -> Result<()> {
    todo!("{parent:?} {name:?}")
}

/// Snapshots subvolume `source` as `parent/name`. One atomic cut; nested subvolumes are not in it.
pub fn snapshot(source: &Path, parent: &Path, name: &OsStr, read_only: bool) -> Result<()> {
    todo!("{source:?} {parent:?} {name:?} {read_only}")
}

/// Switches a subvolume's read-only property.
pub fn set_read_only(path: &Path, read_only: bool) -> Result<()> {
    todo!("{path:?} {read_only}")
}

/// The subvolume's id, which is also that of its level-0 qgroup.
pub fn subvolume_id(path: &Path) -> Result<u64> {
    todo!("{path:?}")
}

/// Paths, relative to `path`, of the subvolumes below it (BTRFS_IOC_GET_SUBVOL_ROOTREF or tree search).
pub fn nested_subvolumes(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    todo!("{path:?}")
}

/// Whether the admin has switched classic qgroups on (simple quotas do not count).
pub fn quota_enabled(path: &Path) -> Result<bool> {
    todo!("{path:?}")
}

/// Sets the limit on referenced bytes of the subvolume at `path`; `None` lifts it.
pub fn set_limit(path: &Path, bytes: Option<u64>) -> Result<()> {
    todo!("{path:?} {bytes:?}")
}

/// Figures of one subvolume's qgroup; `None` when quotas are off.
pub fn qgroup(path: &Path) -> Result<Option<Qgroup>> {
    todo!("{path:?}")
}

/// Removes the qgroup that a deleted subvolume left behind; absent is fine, so is one that the
/// kernel will drop by itself.
pub fn remove_qgroup(pool: &Path, subvolume: u64) -> Result<()> {
    todo!("{pool:?} {subvolume}")
}

/// Marks an empty file or directory as not copied on write (FS_NOCOW_FL), read back.
pub fn set_nocow(path: &Path) -> Result<()> {
    todo!("{path:?}")
}
