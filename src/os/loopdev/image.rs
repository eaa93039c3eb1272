//! Who has an image open: flock(2) among wharf's own processes, a write lease against everybody else.
//!
//! The kernel grants F_WRLCK only while the asking file is the inode's one open file. The lease itself is
//! never kept: on an attached image it would make every later open(2) wait 45 s.

use super::PAUSE;
use crate::os::{At as _, Error, Result, file::Inode};
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::{
    fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::Path,
    sync::Once,
    thread,
    time::{Duration, Instant},
};

/// Makes the process ignore SIGIO, which the kernel sends when somebody opens an image in the moment a
/// lease on it is held, and which kills by default. Every probe sees to it; main calls it before anything else.
pub fn ignore_lease_signals() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        // SAFETY: installs no handler. The call cannot fail for a valid signal that may be ignored.
        let _previous = unsafe { signal(Signal::SIGIO, SigHandler::SigIgn) };
    });
}

/// Whether anybody has the image open for anything (a loop, a copy, another program): the probe of
/// [`super::ensure_attached`] without attaching. The caller's own open files count too, also those that a
/// child holds between fork and exec: where `true` would be final, use [`wait_unused`].
pub fn in_use(image: &Path) -> Result<bool> {
    let Some((file, _)) = open(image, OFlags::RDONLY)? else { return Ok(true) };
    let free = claim(&file, image)?;
    if free {
        disclaim(&file, image)?;
    }
    Ok(!free)
}

/// Waits until nobody has the image open; `false` when somebody still has it after `limit`. What
/// [`crate::os::mount::Detached`] leaves needs this before a program may work on the file.
pub fn wait_unused(image: &Path, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    while in_use(image)? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
    Ok(true)
}

/// Opens an image; `None` when somebody holds a lease on it. Never waits for one (O_NONBLOCK).
pub(super) fn open(image: &Path, access: OFlags) -> Result<Option<(File, Inode)>> {
    ignore_lease_signals();
    let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(CWD, image, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e).at("open the image", image),
    };
    let stat = fstat(&file).at("examine", image)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::Unexpected(format!(
            "{image:?} is no regular file: it cannot be attached as an image"
        )));
    }
    Ok(Some((file, Inode { device: stat.st_dev, number: stat.st_ino })))
}

/// Proves that this is the only open file of the image and locks out wharf's other processes, for as long
/// as the file (or a loop that it is given to) lives; `false` when somebody else has the image open.
pub(super) fn claim(file: &File, image: &Path) -> Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(e) => return Err(e).at("lock the image", image),
    }
    match set_lease(file, libc::F_WRLCK) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {
            disclaim(file, image)?;
            return Ok(false);
        }
        Err(e) => return Err(e).at("take a lease (the pool's filesystem must support them) on", image),
    }
    set_lease(file, libc::F_UNLCK).at("give back the lease on", image)?;
    Ok(true)
}

/// Gives the lock back. Closing alone would not while a child between fork and exec shares the open file.
pub(super) fn disclaim(file: &File, image: &Path) -> Result<()> {
    flock(file, FlockOperation::Unlock).at("unlock the image", image)
}

fn set_lease(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: passes integers only; the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
