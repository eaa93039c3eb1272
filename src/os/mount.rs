//! Mounting and unmounting.

use super::Result;
use std::{fs::File, path::Path};

/// Restrictions of a bind mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// MOUNT_ATTR_RDONLY.
    pub read_only: bool,
    /// MOUNT_ATTR_NOSUID.
    pub nosuid: bool,
    /// MOUNT_ATTR_NODEV.
    pub nodev: bool,
    /// MOUNT_ATTR_NOEXEC.
    pub noexec: bool,
    /// MOUNT_ATTR_NOATIME.
    pub noatime: bool,
}

/// Mounts a filesystem (mount(2) by sys-mount): `attributes` become flags, `data` goes to the filesystem.
pub fn mount(source: &Path, target: &Path, fstype: &str, attributes: Attributes, data: &str) -> Result<()> {
    todo!("{source:?} {target:?} {fstype} {attributes:?} {data}")
}

/// Binds `source` (the mount or directory or node that is there now, not what is mounted below it) on
/// `target` with all attributes in one step: open_tree, mount_setattr, move_mount. Symlinks at the end
/// of either path are not followed.
pub fn bind(source: &Path, target: &Path, attributes: Attributes) -> Result<()> {
    todo!("{source:?} {target:?} {attributes:?}")
}

/// Unmounts what is on top at `target` (UMOUNT_NOFOLLOW, never lazily); EINVAL (no mount) is an error.
pub fn unmount(target: &Path) -> Result<()> {
    todo!("{target:?}")
}

/// A mounted filesystem that no path leads to; it ends when this is dropped.
#[derive(Debug)]
pub struct Detached {
    /// The open root directory, on which ioctls work.
    pub root: File,
}

/// Mounts without a place in the tree (fsopen, fsconfig, fsmount): nothing stays behind when the process dies.
/// `options` are `key` or `key=value` pairs. The kernel's own message is part of the error.
pub fn mount_detached(source: &Path, fstype: &str, options: &[(&str, Option<&str>)]) -> Result<Detached> {
    todo!("{source:?} {fstype} {options:?}")
}
