//! Whole trees: removal that cannot leave the tree, usage, copy.
//!
//! Every step is an openat2(2) relative to an open directory with RESOLVE_BENEATH, NO_SYMLINKS,
//! NO_XDEV and NO_MAGICLINKS: a bind mount inside the tree stops the walk (EXDEV) instead of losing
//! the data behind it. std's remove_dir_all walks through bind mounts and is banned by lint.

use super::Result;
use std::{ffi::OsStr, fs::File, path::Path};

/// What a tree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes, each hard-linked file once.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Bytes that are outside a project or qgroup limit would not be here; kept for `directory` volumes:
    /// nested btrfs subvolumes found.
    pub subvolumes: u64,
}

/// Removes `parent/name` whatever it is: file or tree, with nested btrfs subvolumes (read-only ones
/// too, and their qgroups). Absent is fine. `progress` gets the number of entries removed so far.
pub fn remove(parent: &Path, name: &OsStr, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let _ = progress;
    todo!("{parent:?} {name:?}")
}

/// Counts a tree without leaving its filesystem; stops with `None` beyond `limit` entries.
pub fn usage(root: &Path, limit: u64) -> Result<Option<Usage>> {
    todo!("{root:?} {limit}")
}

/// Copies a tree into an empty directory: modes, owners, times, xattrs, hard links, symlinks, holes,
/// device nodes, fifos; file data by reflink when `share`, else by sparse copy. Sockets are left out, a
/// file that vanishes meanwhile is no error. `progress` gets the bytes so far and says whether to go on.
pub fn copy(from: &File, to: &File, share: bool, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    let _ = (share, progress);
    todo!("{from:?} {to:?}")
}
