//! Filesystems inside images: making, reading the superblock, growing, a new identity.

use super::Result;
use std::{fs::File, path::Path};
use uuid::Uuid;

/// The filesystems that an image may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

/// What the first blocks of an image say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeroes where the known signatures stand.
    Blank,
    /// A filesystem that wharf makes.
    Known {
        /// Which.
        filesystem: Filesystem,
        /// Its own idea of its size in bytes.
        size: u64,
        /// Its identity.
        uuid: Uuid,
    },
    /// Something else.
    Foreign,
}

/// Reads the superblock without trusting it.
pub fn content(image: &File) -> Result<Content> {
    todo!("{image:?}")
}

/// Makes a filesystem in `image` as large as the file, block size 4096, feature set pinned
/// (docs/formats.md), never discarding. Called from one place only: design invariant 1.
pub fn make(filesystem: Filesystem, image: &Path) -> Result<()> {
    todo!("{filesystem:?} {image:?}")
}

/// Grows a mounted filesystem to fill its device, by ioctl on the open root directory.
pub fn grow_mounted(filesystem: Filesystem, root: &File, size: u64) -> Result<()> {
    todo!("{filesystem:?} {root:?} {size}")
}

/// Grows an ext4 in a detached image to the file's size (`e2fsck -fp`, `resize2fs`): where the
/// ioctl is refused (CAP_SYS_RESOURCE).
pub fn grow_detached(image: &Path) -> Result<()> {
    todo!("{image:?}")
}

/// Gives a clean, detached filesystem a new uuid and reads it back.
pub fn set_identity(filesystem: Filesystem, image: &Path, uuid: Uuid) -> Result<()> {
    todo!("{filesystem:?} {image:?} {uuid}")
}
