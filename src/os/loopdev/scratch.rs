//! What tests make on the host, and how it goes away again, also when they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{
    Attach, Held, clear, device_number, ensure_attached, open, scan::find_named, set_autoclear, stacked_on,
    status,
};
use crate::os::{
    command::{Tool, run},
    file::Inode,
    mount,
};
use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

pub(in crate::os) const MIB: u64 = 1 << 20;

/// A temporary directory. Dropping it detaches whatever loop is attached to one of its images.
pub(in crate::os) struct Scratch {
    images: Mutex<Vec<Inode>>,
    directory: tempfile::TempDir,
}

impl Scratch {
    pub(in crate::os) fn new() -> Self {
        super::ignore_lease_signals();
        Self { images: Mutex::default(), directory: tempfile::tempdir().unwrap() }
    }

    pub(in crate::os) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(in crate::os) fn directory(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    pub(in crate::os) fn empty_file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        File::create_new(&path).unwrap();
        path
    }

    pub(in crate::os) fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create_new(&path).unwrap();
        file.set_len(size).unwrap();
        self.images.lock().unwrap().push(inode(&path));
        path
    }

    pub(in crate::os) fn ext4(&self, name: &str) -> PathBuf {
        let path = self.image(name, 16 * MIB);
        let arguments = ["-q", "-F", "-t", "ext4", "-b", "4096", path.to_str().unwrap()];
        run(Tool::Mke2fs, arguments, &[0], Duration::from_secs(60)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for image in self.images.lock().unwrap().drain(..) {
            // Whoever else has a loop open now: it goes with the last close.
            let Ok(Some(base)) = find_named(image, None) else { continue };
            for stacked in stacked_on(base.number).unwrap_or_default() {
                if let Ok(Some(stacked)) = open(stacked)
                    && status(&stacked)
                        .unwrap()
                        .is_some_and(|now| now.backing_rdev == device_number(base.number))
                {
                    set_autoclear(&stacked, true).unwrap();
                }
            }
            set_autoclear(&base, true).unwrap();
        }
    }
}

/// Unmounts everything at a path when dropped.
pub(in crate::os) struct Mounted(PathBuf);

impl Mounted {
    pub(in crate::os) fn guard(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // EBUSY: a child that a parallel test is starting still holds a file of ours.
        let deadline = Instant::now() + Duration::from_secs(5);
        while match mount::unmount(&self.0) {
            Ok(()) => true,
            Err(e) => e.errno() == Some(libc::EBUSY) && Instant::now() < deadline,
        } {
            thread::yield_now();
        }
    }
}

/// Unmounts what is on top, which nothing of ours may keep busy for long.
pub(in crate::os) fn unmounted(path: &Path) {
    eventually("unmounted", || match mount::unmount(path) {
        Ok(()) => true,
        Err(e) => {
            assert_eq!(e.errno(), Some(libc::EBUSY), "{e}");
            false
        }
    });
}

pub(in crate::os) fn inode(path: &Path) -> Inode {
    let metadata = fs::metadata(path).unwrap();
    Inode { device: metadata.dev(), number: metadata.ino() }
}

pub(in crate::os) fn attach(image: &Path) -> Held {
    match ensure_attached(image).unwrap() {
        Attach::Held(held) => held,
        Attach::Elsewhere => panic!("{image:?} is open elsewhere"),
    }
}

/// Children that other tests are starting may hold our files for a moment.
pub(in crate::os) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Detaches the loop of an image that only other tests' searches and losetup(8) may have open besides.
pub(in crate::os) fn detach(image: Inode) {
    eventually("detached", || find_named(image, None).unwrap().is_none_or(|held| clear(held).unwrap()));
}
