#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod copy;
mod remove;
mod subvolumes;
mod usage;

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, mkdirat, openat},
};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// A chain of directories, deeper than any path; gives the deepest, open.
fn chain(top: &Path, depth: usize) -> OwnedFd {
    fs::create_dir_all(top).unwrap();
    let mut at = openat(rustix::fs::CWD, top, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = openat(&at, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    at
}

/// How many files this process has open, other tests' included.
fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Ends the other thread of a race, also when this one fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
