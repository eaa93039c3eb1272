//! What is mounted where: statx(2) for one path, /proc/self/mountinfo for all.

use super::Result;
use std::path::{Path, PathBuf};

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)), unescaped. Bytes that are not UTF-8 are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: u64,
    /// Device number of the superblock, as `st_dev`.
    pub device: u64,
    /// What of the filesystem is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Per-mount options, `rw,nosuid,…`.
    pub options: String,
    /// Filesystem type.
    pub fstype: String,
    /// Source.
    pub source: String,
    /// Per-superblock options.
    pub super_options: String,
    /// `shared:N` and the other optional fields.
    pub propagation: String,
}

impl Mount {
    /// Whether this mount, or its superblock, is read-only.
    pub fn is_read_only(&self) -> bool {
        todo!()
    }
    /// Whether a per-mount option is set.
    pub fn has(&self, option: &str) -> bool {
        todo!("{option}")
    }
}

/// All mounts of this mount namespace, in the kernel's order (a later one at the same point is on top).
pub fn read() -> Result<Vec<Mount>> {
    todo!()
}

/// The mount on top at exactly this path; `None` when the path is absent or is no mountpoint.
pub fn at(path: &Path) -> Result<Option<Mount>> {
    todo!("{path:?}")
}

/// Whether the path is the root of a mount (statx, STATX_ATTR_MOUNT_ROOT, never waiting for a server);
/// `None` when nothing is there.
pub fn is_mount_root(path: &Path) -> Result<Option<bool>> {
    todo!("{path:?}")
}
