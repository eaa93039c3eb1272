//! Attaching: an image, or a read-only loop on top of another loop.

use super::{
    BLOCK_SIZE, Held, PATIENCE, PAUSE, Status, image, ioctl, node, open, scan, set_read_only, status,
};
use crate::os::{At as _, Error, Result, file::Inode};
use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags, lstat, openat};
use std::{fs::File, path::Path, thread, time::Instant};

const CONTROL: &str = "/dev/loop-control";

/// How often a number may be snatched away before LOOP_CONFIGURE; each time somebody else has succeeded.
const ATTEMPTS: u32 = 100;

/// How an image came to be attached.
#[derive(Debug)]
pub enum Attach {
    /// A loop is there now (an existing one of this very image, or a new one with AUTOCLEAR).
    Held(Held),
    /// Somebody has the image open and no loop can be found: try again later.
    Elsewhere,
}

/// Attaches an image, or finds the loop that holds it. A found loop shows the whole image and is writable;
/// its AUTOCLEAR is as its maker left it.
pub fn ensure_attached(image: &Path) -> Result<Attach> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attach_or_find(image)? {
            Attach::Elsewhere if Instant::now() < deadline => thread::sleep(PAUSE),
            outcome => return Ok(outcome),
        }
    }
}

fn attach_or_find(path: &Path) -> Result<Attach> {
    let inode = match image::open(path, OFlags::RDWR)? {
        Some((file, inode)) => {
            if image::claim(&file, path)? {
                return attach(&file, inode, path).map(Attach::Held);
            }
            inode
        }
        None => {
            let stat = lstat(path).at("examine", path)?;
            Inode { device: stat.st_dev, number: stat.st_ino }
        }
    };
    match scan::find_named(inode, Some(path))? {
        Some(held) => reuse(held, inode, path),
        None => Ok(Attach::Elsewhere),
    }
}

/// A loop of somebody else's making may show the image in a way that no volume can use.
fn reuse(held: Held, inode: Inode, path: &Path) -> Result<Attach> {
    match status(&held)? {
        Some(Status { backing, read_only, offset: 0, size_limit: 0, .. })
            if backing == inode && !read_only =>
        {
            Ok(Attach::Held(held))
        }
        Some(now) if now.backing == inode => Err(Error::Unexpected(format!(
            "{path:?} is attached to {:?} read-only or in part, which wharf never does: detach that loop",
            held.path()
        ))),
        _ => Ok(Attach::Elsewhere),
    }
}

fn attach(file: &File, inode: Inode, path: &Path) -> Result<Held> {
    let outcome = configure(file, ioctl::AUTOCLEAR | ioctl::DIRECT_IO, path).and_then(|held| {
        verify(&held, |now| now.backing == inode && !now.read_only)?;
        // BLKROSET of the number's previous life survives the detaching.
        if super::is_read_only(&held)? {
            set_read_only(&held, false)?;
        }
        Ok(held)
    });
    if outcome.is_err() {
        image::disclaim(file, path)?;
    }
    outcome
}

/// Attaches a read-only loop with AUTOCLEAR on top of another loop. A bind mount of its node does not keep
/// it: take AUTOCLEAR off before the handle is dropped.
pub fn attach_read_only_on(base: u32) -> Result<Held> {
    let below = open(base)?.ok_or_else(|| node::missing(base))?;
    let path = below.path();
    if status(&below)?.is_none() {
        return Err(Error::Unexpected(format!("nothing is attached to {path:?}: stage the volume first")));
    }
    let held = configure(&below.file, ioctl::AUTOCLEAR | ioctl::READ_ONLY, &path)?;
    let rdev = node::device_number(base);
    verify(&held, |now| now.backing_rdev == rdev && now.read_only)?;
    Ok(held)
}

/// Attaches `backing` to a free number.
fn configure(backing: &File, flags: u32, path: &Path) -> Result<Held> {
    let control = openat(CWD, CONTROL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", CONTROL)?;
    let control = File::from(control);
    for _ in 0..ATTEMPTS {
        let number = ioctl::free_number(&control).at("find a free loop device with", CONTROL)?;
        if let Some(held) = configure_number(number, backing, flags, path)? {
            return Ok(held);
        }
    }
    Err(Error::Unexpected(format!(
        "cannot attach {path:?}: {ATTEMPTS} free loop devices were taken by others meanwhile: try again later"
    )))
}

/// Attaches `backing` to loop `number`; `None` when the number is taken or gone.
pub(super) fn configure_number(number: u32, backing: &File, flags: u32, path: &Path) -> Result<Option<Held>> {
    let read_only = flags & ioctl::READ_ONLY != 0;
    let Some(file) = node::open_for_attach(number, read_only)? else { return Ok(None) };
    match ioctl::configure(&file, backing, BLOCK_SIZE, flags) {
        Ok(()) => Ok(Some(Held { number, file })),
        Err(Errno::EBUSY | Errno::ENXIO) => Ok(None),
        Err(e) => Err(e).at(format!("attach to loop {number}"), path),
    }
}

/// Dropping a loop that is not as it must be detaches it, because it was made with AUTOCLEAR.
fn verify(held: &Held, expected: impl Fn(&Status) -> bool) -> Result<()> {
    let now = status(held)?;
    let block_size = ioctl::block_size(&held.file).at("read the block size of", held.path())?;
    if now.is_some_and(|now| now.autoclear && now.offset == 0 && now.size_limit == 0 && expected(&now))
        && u32::try_from(block_size) == Ok(BLOCK_SIZE)
    {
        return Ok(());
    }
    Err(Error::Unexpected(format!(
        "{:?} is not what was asked for after attaching: block size {block_size}, {now:?}",
        held.path()
    )))
}
