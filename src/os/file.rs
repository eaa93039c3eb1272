//! Files that must survive: creation, durable replacement, allocation, synchronisation.

use super::Result;
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// How the temporary files of [`replace`] begin.
pub const TEMPORARY: &str = ".new-";

/// Which inode a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub number: u64,
}

/// The parts of stat(2) that wharf looks at.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Identity.
    pub inode: Inode,
    /// `st_size`.
    pub size: u64,
    /// `st_blocks` in bytes.
    pub allocated: u64,
    /// Is a directory.
    pub is_dir: bool,
    /// Is a regular file.
    pub is_file: bool,
    /// Is a block device.
    pub is_block: bool,
    /// Device number, for a node.
    pub rdev: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Stat {
    /// Is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        todo!()
    }
}

/// Opens an existing regular file for reading (O_NOFOLLOW, O_NONBLOCK).
pub fn open_for_reading(path: &Path) -> Result<File> {
    todo!("{path:?}")
}

/// lstat(2); `None` when nothing is there (ENOENT, ENOTDIR).
pub fn stat(path: &Path) -> Result<Option<Stat>> {
    todo!("{path:?}")
}

/// fstat(2).
pub fn stat_file(file: &File) -> Result<Stat> {
    todo!("{file:?}")
}

/// Makes one directory with mode 0700; an existing one is an error (EEXIST).
pub fn create_dir(path: &Path) -> Result<()> {
    todo!("{path:?}")
}

/// Creates a new file (O_EXCL, O_NOFOLLOW, 0600), open for reading and writing.
pub fn create_new(path: &Path) -> Result<File> {
    todo!("{path:?}")
}

/// Opens an existing regular file for reading and writing (O_NOFOLLOW, O_NONBLOCK: an image may carry a lease).
pub fn open_image(path: &Path) -> Result<File> {
    todo!("{path:?}")
}

/// Opens an existing directory (O_DIRECTORY, O_NOFOLLOW).
pub fn open_dir(path: &Path) -> Result<File> {
    todo!("{path:?}")
}

/// Reads a regular file of at most `limit` bytes (O_NOFOLLOW); a larger one is an error.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    todo!("{path:?} {limit}")
}

/// Writes a new file and fsyncs it. Its directory entry is not yet durable.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    todo!("{path:?} {}", bytes.len())
}

/// Replaces `path` atomically and durably: temporary file beside it, fsync, rename, fsync of the directory.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    todo!("{path:?} {}", bytes.len())
}

/// rename(2) with RENAME_NOREPLACE.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    todo!("{from:?} {to:?}")
}

/// fsync(2) of a file or directory.
pub fn sync(path: &Path) -> Result<()> {
    todo!("{path:?}")
}

/// syncfs(2) of the filesystem that holds `path`.
pub fn sync_filesystem(path: &Path) -> Result<()> {
    todo!("{path:?}")
}

/// Owns every block up to `size` and sets the size (fallocate(2), mode 0); holes that a trim made are filled.
pub fn allocate(file: &File, size: u64) -> Result<()> {
    todo!("{file:?} {size}")
}

/// Sets the size without owning blocks (ftruncate(2)); a hole reads as zeroes.
pub fn set_size(file: &File, size: u64) -> Result<()> {
    todo!("{file:?} {size}")
}

/// Sets owner and permission bits of an open file or directory, only what is given.
pub fn set_owner(file: &File, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) -> Result<()> {
    todo!("{file:?} {uid:?} {gid:?} {mode:?}")
}

/// Removes a file; absent is fine.
pub fn remove_file(path: &Path) -> Result<()> {
    todo!("{path:?}")
}

/// rmdir(2); absent is fine.
pub fn remove_dir(path: &Path) -> Result<()> {
    todo!("{path:?}")
}

/// The names in a directory, sorted.
pub fn list(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    todo!("{path:?}")
}

/// Whether the directory carries FS_XFLAG_PROJINHERIT (renames from outside would be EXDEV).
pub fn inherits_project(path: &Path) -> Result<bool> {
    todo!("{path:?}")
}

/// The path with every symlink resolved.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    todo!("{path:?}")
}
