//! Loop devices, with the discipline that keeps two tenants apart.
//!
//! - At most one loop per image: flock(2) on the attached file excludes wharf's own processes, a
//!   write lease taken and dropped before LOOP_CONFIGURE detects everybody else.
//! - Every loop is born with AUTOCLEAR; only a raw block volume's loses it, as the last step.
//! - Names and sysfs are hints; LOOP_GET_STATUS64's device and inode decide.
//! - Logical block size 4096 always; direct I/O asked for and read back.

use super::{Result, file::Inode};
use std::{fs::File, path::Path};

/// Logical block size of every loop.
pub const BLOCK_SIZE: u32 = 4096;

/// An open loop device: AUTOCLEAR cannot strike while this lives.
#[derive(Debug)]
pub struct Held {
    /// N of /dev/loopN.
    pub number: u32,
    /// The open node.
    pub file: File,
}

/// What LOOP_GET_STATUS64 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The backing file's inode.
    pub backing: Inode,
    /// The backing node's device number, when a device backs it (a stacked loop).
    pub backing_rdev: u64,
    /// LO_FLAGS_AUTOCLEAR.
    pub autoclear: bool,
    /// LO_FLAGS_READ_ONLY.
    pub read_only: bool,
    /// LO_FLAGS_DIRECT_IO.
    pub direct_io: bool,
}

/// How an image came to be attached.
#[derive(Debug)]
pub enum Attach {
    /// A loop is there now (an existing one of this very image, or a new one with AUTOCLEAR).
    Held(Held),
    /// Somebody has the image open and no loop can be found: try again later.
    Elsewhere,
}

/// Attaches an image, or finds the loop that holds it.
pub fn ensure_attached(image: &Path) -> Result<Attach> {
    todo!("{image:?}")
}

/// Whether anybody has the image open for anything (a loop, a copy, another program): the probe of
/// [`ensure_attached`] without attaching.
pub fn in_use(image: &Path) -> Result<bool> {
    todo!("{image:?}")
}

/// The loop that is attached to this inode, by sysfs and verified with LOOP_GET_STATUS64.
pub fn find(backing: Inode) -> Result<Option<u32>> {
    todo!("{backing:?}")
}

/// Opens /dev/loopN (made with mknod where there is no udev); `None` when there is no such device.
pub fn open(number: u32) -> Result<Option<Held>> {
    todo!("{number}")
}

/// `None`: nothing is attached (ENXIO).
pub fn status(held: &Held) -> Result<Option<Status>> {
    todo!("{held:?}")
}

/// The device number (`st_rdev`) of loop N.
pub fn device_number(number: u32) -> u64 {
    todo!("{number}")
}

/// N, when `rdev` is a loop's device number.
pub fn number_of(rdev: u64) -> Option<u32> {
    todo!("{rdev}")
}

/// Sets or takes off AUTOCLEAR, read back.
pub fn set_autoclear(held: &Held, on: bool) -> Result<()> {
    todo!("{held:?} {on}")
}

/// Detaches. `Ok(false)`: still attached because somebody has it open; AUTOCLEAR, which the kernel
/// then arms, has been taken off again. Consumes the handle: our own open file would keep it.
pub fn clear(held: Held) -> Result<bool> {
    todo!("{held:?}")
}

/// Takes over a grown backing file's size (LOOP_SET_CAPACITY) and reads it back.
pub fn set_capacity(held: &Held, size: u64) -> Result<()> {
    todo!("{held:?} {size}")
}

/// The device's size in bytes (BLKGETSIZE64).
pub fn size(held: &Held) -> Result<u64> {
    todo!("{held:?}")
}

/// BLKROSET, read back.
pub fn set_read_only(held: &Held, on: bool) -> Result<()> {
    todo!("{held:?} {on}")
}

/// BLKROGET.
pub fn is_read_only(held: &Held) -> Result<bool> {
    todo!("{held:?}")
}

/// Attaches a read-only loop with AUTOCLEAR on top of another loop.
pub fn attach_read_only_on(base: u32) -> Result<Held> {
    todo!("{base}")
}

/// The loops that are stacked on loop `base`.
pub fn stacked_on(base: u32) -> Result<Vec<u32>> {
    todo!("{base}")
}

/// Writes back what the block device caches (fsync of the node).
pub fn sync(number: u32) -> Result<()> {
    todo!("{number}")
}

/// The path of the backing file as sysfs knows it now, without " (deleted)"; a hint, never proof.
pub fn backing_path(number: u32) -> Result<Option<std::path::PathBuf>> {
    todo!("{number}")
}

/// `/dev/loopN`.
pub fn node(number: u32) -> std::path::PathBuf {
    format!("/dev/loop{number}").into()
}

/// Whether the backing file has been unlinked.
pub fn backing_is_deleted(number: u32) -> Result<bool> {
    todo!("{number}")
}
