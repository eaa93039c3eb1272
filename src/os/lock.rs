//! Byte-range locks that exclude within a process and across processes.
//!
//! Open-file-description locks (fcntl(2), F_OFD_SETLK): each guard has an open file of its own, the
//! kernel frees it when the file is closed, so also after kill -9.

use super::Result;
use std::{fs::File, path::Path};

/// Holds one byte of a lock file.
#[derive(Debug)]
pub struct Guard {
    /// Closing it is the unlock.
    _file: File,
}

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Many holders.
    Shared,
    /// One holder.
    Exclusive,
}

/// Tries to lock the byte at `offset` (below 2^63); `None` when somebody holds it.
pub fn try_lock(file: &Path, offset: u64, mode: Mode) -> Result<Option<Guard>> {
    todo!("{file:?} {offset} {mode:?}")
}
