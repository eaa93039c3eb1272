//! Loop devices, with the discipline that keeps two tenants apart.
//!
//! - At most one loop per image: flock(2) on the attached file excludes wharf's own processes, a
//!   write lease taken and dropped before LOOP_CONFIGURE detects everybody else.
//! - Every loop is born with AUTOCLEAR; only a raw block volume's loses it, as the last step.
//! - Names and sysfs are hints; LOOP_GET_STATUS64's device and inode decide.
//! - Logical block size 4096 always; direct I/O asked for and read back.

mod attach;
mod image;
mod ioctl;
mod node;
mod scan;
#[cfg(test)]
pub(in crate::os) mod scratch;
#[cfg(test)]
mod tests;

pub use attach::{Attach, attach_read_only_on, ensure_attached};
pub use image::{ignore_lease_signals, in_use, wait_unused};
pub use node::{device_number, number_of, open, path};
pub use scan::{Backing, all, backing_path, find, find_all, stacked_on, untold};

use super::{At as _, Error, Result, file::Inode};
use std::{
    fs::File,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Logical block size of every loop.
pub const BLOCK_SIZE: u32 = 4096;

/// How long another's brief hold on an image or a loop is waited for. udev's probes open a device for
/// milliseconds, between fork(2) and execve(2) every child of ours still holds all our files, and a losetup(8)
/// that lost the race for a number keeps that loop open for 0.2 s before it tries the next.
const PATIENCE: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(5);

/// An open loop device: AUTOCLEAR cannot strike while this lives.
#[derive(Debug)]
pub struct Held {
    /// N of /dev/loopN.
    pub number: u32,
    /// The open node, for reading unless this very process has attached it.
    pub file: File,
}

impl Held {
    /// The node's path, for messages and for mount(2).
    pub fn path(&self) -> PathBuf {
        path(self.number)
    }
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
    /// Where in the backing file the device begins; never anything but 0 on a loop that wharf made.
    pub offset: u64,
    /// How much of the backing file the device shows; 0 is all of it, as on every loop that wharf made.
    pub size_limit: u64,
}

/// `None`: nothing is attached (ENXIO).
pub fn status(held: &Held) -> Result<Option<Status>> {
    match ioctl::get_status(&held.file) {
        Ok(info) => Ok(Some(Status {
            backing: Inode { device: info.lo_device, number: info.lo_inode },
            backing_rdev: info.lo_rdevice,
            autoclear: info.lo_flags & ioctl::AUTOCLEAR != 0,
            read_only: info.lo_flags & ioctl::READ_ONLY != 0,
            direct_io: info.lo_flags & ioctl::DIRECT_IO != 0,
            offset: info.lo_offset,
            size_limit: info.lo_sizelimit,
        })),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(e) => Err(e).at("read the status of", held.path()),
    }
}

/// Whether anything is attached, a file on a filesystem that has shut down included: the kernel asks that for its
/// inode, in vain.
fn is_attached(held: &Held) -> Result<bool> {
    match status(held) {
        Err(e) if e.is_filesystem_down() => Ok(true),
        answer => Ok(answer?.is_some()),
    }
}

/// Sets or takes off AUTOCLEAR, read back. Nothing is done where it is so already: LOOP_SET_STATUS64 freezes the
/// device's queue, which takes some 15 ms.
pub fn set_autoclear(held: &Held, on: bool) -> Result<()> {
    let mut info = ioctl::get_status(&held.file).at("read the status of", held.path())?;
    if (info.lo_flags & ioctl::AUTOCLEAR != 0) == on {
        return Ok(());
    }
    info.lo_flags = if on { info.lo_flags | ioctl::AUTOCLEAR } else { info.lo_flags & !ioctl::AUTOCLEAR };
    ioctl::set_status(&held.file, &info).at("change autoclear of", held.path())?;
    match status(held)? {
        Some(now) if now.autoclear == on => Ok(()),
        _ => Err(Error::Unexpected(format!(
            "autoclear of {:?} did not become {on}: detach the loop and attach it anew",
            held.path()
        ))),
    }
}

/// Detaches. `Ok(false)`: still attached because somebody has it open; AUTOCLEAR, which the kernel
/// then arms, has been taken off again. Consumes the handle: our own open file would keep it.
pub fn clear(held: Held) -> Result<bool> {
    let backing = match status(&held) {
        Ok(None) => return Ok(true),
        Ok(Some(before)) => Some(before.backing),
        Err(e) if e.is_filesystem_down() => None,
        Err(e) => return Err(e),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ioctl::clear(&held.file) {
            Ok(()) | Err(nix::errno::Errno::ENXIO) => {}
            Err(e) => return Err(e).at("detach", held.path()),
        }
        // Asked while the device is still open here: with other openers the kernel has only armed
        // AUTOCLEAR, and closing first would leave it armed until the device is open again.
        if !is_attached(&held)? {
            return gone(held, backing);
        }
        if Instant::now() >= deadline {
            // What shows a filesystem that has shut down cannot be told anything, and may go when it is closed.
            if backing.is_some() {
                set_autoclear(&held, false)?;
            }
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
}

/// Closes the last open file of a detached loop and makes sure that the kernel has let go of `backing`:
/// it does so when the file is closed, which a child between fork and exec can delay.
fn gone(held: Held, backing: Option<Inode>) -> Result<bool> {
    let number = held.number;
    drop(held);
    let deadline = Instant::now() + PATIENCE * 10;
    loop {
        match open(number)? {
            None if !node::exists(number) => return Ok(true),
            // ENXIO on a device that exists: being detached, or being removed.
            None => {}
            // Somebody may have attached this very file again in the meantime.
            Some(again) => {
                return Ok(status(&again)?.is_none_or(|now| Some(now.backing) != backing));
            }
        }
        if Instant::now() >= deadline {
            return Err(Error::Unexpected(format!(
                "{:?} is still being detached: try again later",
                path(number)
            )));
        }
        thread::sleep(PAUSE);
    }
}

/// Takes over a grown backing file's size (LOOP_SET_CAPACITY) and reads it back.
pub fn set_capacity(held: &Held, bytes: u64) -> Result<()> {
    ioctl::set_capacity(&held.file).at("take over the grown size of", held.path())?;
    let now = size(held)?;
    if now == bytes {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "{:?} has {now} bytes after growing, not {bytes}: check the size of its backing file",
        held.path()
    )))
}

/// The device's size in bytes (BLKGETSIZE64).
pub fn size(held: &Held) -> Result<u64> {
    ioctl::size(&held.file).at("read the size of", held.path())
}

/// BLKROSET, read back. The kernel keeps this flag when the loop is detached; attaching anew resets it.
pub fn set_read_only(held: &Held, on: bool) -> Result<()> {
    ioctl::set_read_only(&held.file, on).at("change write protection of", held.path())?;
    if is_read_only(held)? == on {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "write protection of {:?} did not become {on}: detach the loop and attach it anew",
        held.path()
    )))
}

/// BLKROGET.
pub fn is_read_only(held: &Held) -> Result<bool> {
    ioctl::is_read_only(&held.file).at("read write protection of", held.path())
}

/// Writes back what the block device caches (fsync of the node).
pub fn sync(number: u32) -> Result<()> {
    let held = open(number)?.ok_or_else(|| node::missing(number))?;
    held.file.sync_all().at("write back", held.path())
}
