//! Sharing blocks between files, and copying where that is impossible.

use super::Result;
use std::{fs::File, path::Path};

/// Makes `to` share all blocks of `from` (FICLONE).
pub fn clone_file(from: &File, to: &File) -> Result<()> {
    todo!("{from:?} {to:?}")
}

/// Whether files in this directory can share blocks: tried with two temporary files.
pub fn supported(directory: &Path) -> Result<bool> {
    todo!("{directory:?}")
}

/// Copies data and keeps holes (SEEK_DATA, SEEK_HOLE); `progress` gets the bytes done so far and says whether to go on.
pub fn copy_sparse(from: &File, to: &File, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    let _ = progress;
    todo!("{from:?} {to:?}")
}

/// Bytes of the file in extents that no other file shares (FIEMAP without the shared flag), unwritten ones included.
pub fn exclusive_bytes(file: &File) -> Result<u64> {
    todo!("{file:?}")
}
