//! Whole trees: removal that cannot leave the tree, usage, copy.
//!
//! Every step is an openat2(2) relative to an open directory with RESOLVE_BENEATH, NO_SYMLINKS,
//! NO_XDEV and NO_MAGICLINKS: a bind mount inside the tree stops the walk (EXDEV) instead of losing
//! the data behind it. std's remove_dir_all walks through bind mounts and is banned by lint.
//!
//! NO_XDEV is about mounts: a btrfs subvolume inside the tree belongs to the tree. Depth has no limit:
//! nothing recurses, and a bounded number of directories is open at a time.

mod attributes;
mod copy;
mod remove;
mod usage;
mod walk;

pub use copy::{copy, copy_remote};
pub use remove::remove;
pub use usage::{Usage, usage, usage_within};
pub(super) use walk::open_below;

#[cfg(test)]
mod tests;
