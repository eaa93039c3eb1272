//! Filesystems inside images: making, reading the superblock, growing, a new identity.

mod grow;
mod identity;
mod make;
mod superblock;

pub use grow::{grow_detached, grow_mounted, mend};
pub use identity::set_identity;
pub use make::make;

use super::{At, Error, Result, file::shown};
use std::{fs::File, os::unix::fs::FileExt};
use superblock::Superblock;
use uuid::Uuid;

/// Block size of every filesystem made here, and what all sizes are multiples of.
const BLOCK: u64 = 4096;
/// How much of the beginning is looked at: all signatures in use lie before this, the last is btrfs's.
const HEAD: usize = 0x1_1000;
/// How much of the end is looked at (backup partition tables, old RAID and ZFS labels).
const TAIL: usize = 0x1_0000;

/// The filesystems that an image may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl Filesystem {
    /// The smallest image that [`make()`] accepts, in bytes. Below it mke2fs makes no journal, and a power cut
    /// then damages the filesystem; mkfs.xfs refuses it (docs/formats.md).
    pub const fn minimum(self) -> u64 {
        match self {
            Self::Ext4 => 8 << 20,
            Self::Xfs => 300 << 20,
        }
    }
}

/// What the first and last blocks of an image say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeroes where signatures stand (the first 68 KiB, the last 64 KiB).
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

/// Reads the superblock without trusting it. An image that cannot be read, or is too short to tell,
/// is an error, never blank.
pub fn content(image: &File) -> Result<Content> {
    Ok(match read_superblock(image)? {
        Superblock::Blank => Content::Blank,
        Superblock::Foreign => Content::Foreign,
        Superblock::Ext4(found) => {
            Content::Known { filesystem: Filesystem::Ext4, size: found.size, uuid: found.uuid }
        }
        Superblock::Xfs(found) => {
            Content::Known { filesystem: Filesystem::Xfs, size: found.size, uuid: found.uuid }
        }
    })
}

fn read_superblock(image: &File) -> Result<Superblock> {
    let op = "read the superblock of";
    let size = image.metadata().at(op, shown(image))?.len();
    let mut head = vec![0; HEAD];
    let mut tail = vec![0; TAIL];
    if size < (HEAD + TAIL) as u64 {
        return Err(Error::Unexpected(format!(
            "{:?} is too short for a filesystem: {size} bytes",
            shown(image)
        )));
    }
    image.read_exact_at(&mut head, 0).at(op, shown(image))?;
    image.read_exact_at(&mut tail, size - TAIL as u64).at(op, shown(image))?;
    Ok(superblock::parse(&head, &tail))
}

#[cfg(test)]
mod tests;
