//! Real filesystems for tests: an image file, a loop device, a mount, all gone when dropped.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;

/// What a pool may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Btrfs,
    /// With classic qgroups switched on.
    BtrfsQuota,
    /// At least 300 MiB.
    Xfs,
    Ext4,
}

impl Kind {
    /// What mount(8) calls it.
    pub fn fstype(self) -> &'static str {
        match self {
            Self::Btrfs | Self::BtrfsQuota => "btrfs",
            Self::Xfs => "xfs",
            Self::Ext4 => "ext4",
        }
    }
}

/// A mounted filesystem of its own. `losetup` and the kernel see to it that parallel tests never share a device.
#[derive(Debug)]
pub struct Pool {
    // In this order they are dropped.
    mounted: Mounted,
    _image: TempDir,
}

impl Pool {
    pub fn new(kind: Kind, size: u64) -> Self {
        let directory = scratch();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(size).unwrap();
        let (program, options): (_, &[&str]) = match kind {
            Kind::Btrfs | Kind::BtrfsQuota => ("mkfs.btrfs", &["-q", "-m", "single"]),
            Kind::Xfs => ("mkfs.xfs", &["-q", "-s", "size=4096", "-m", "reflink=1"]),
            Kind::Ext4 => ("mkfs.ext4", &["-q", "-b", "4096"]),
        };
        run(program, options.iter().map(OsStr::new).chain([image.as_os_str()]));
        let mounted = Mounted::new(&image, kind.fstype());
        if kind == Kind::BtrfsQuota {
            run("btrfs", ["quota".as_ref(), "enable".as_ref(), mounted.path().as_os_str()]);
            run("btrfs", ["quota".as_ref(), "rescan".as_ref(), "-w".as_ref(), mounted.path().as_os_str()]);
        }
        Self { mounted, _image: directory }
    }

    /// The root of the filesystem.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }
}

/// An image on a loop device, mounted in a directory of its own; all gone when dropped.
#[derive(Debug)]
pub struct Mounted {
    directory: Option<TempDir>,
    mount: PathBuf,
    device: Option<String>,
    mounted: bool,
}

impl Mounted {
    pub fn new(image: &Path, fstype: &str) -> Self {
        let directory = scratch();
        let mount = directory.path().to_owned();
        let mut this = Self { directory: Some(directory), mount, device: None, mounted: false };
        this.device = Some(run("losetup", [OsStr::new("--find"), OsStr::new("--show"), image.as_os_str()]));
        let device = this.device.clone().unwrap();
        // A loop that was made read-only (BLKROSET) is still so for the next who gets its number.
        run("blockdev", ["--setrw", &device]);
        run("mount", ["-t".as_ref(), fstype.as_ref(), device.as_ref(), this.mount.as_os_str()]);
        this.mounted = true;
        this
    }

    /// The root of the filesystem.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// The loop device.
    pub fn device(&self) -> &str {
        self.device.as_deref().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mount = self.mount.as_os_str();
        // Another test's child process may hold our open files for the moment between fork and exec.
        let unmounted = || {
            (0..50).any(|_| {
                attempt("umount", [mount]).is_ok() || {
                    std::thread::sleep(Duration::from_millis(100));
                    false
                }
            })
        };
        let mut clean = !self.mounted || unmounted();
        if let Some(device) = &self.device {
            clean &= attempt("losetup", [OsStr::new("--detach"), device.as_ref()]).is_ok();
        }
        if !clean {
            // The directory stays, or its removal would walk into what is still mounted.
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("left behind: {kept:?}; clean up with umount {mount:?}; losetup -d {:?}", self.device);
        }
    }
}

fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("wharf-test-").tempdir().unwrap()
}

/// A bind mount that is gone when dropped.
#[derive(Debug)]
pub struct Bind(PathBuf);

impl Bind {
    pub fn new(source: &Path, target: &Path) -> Self {
        run("mount", ["--bind".as_ref(), source.as_os_str(), target.as_os_str()]);
        Self(target.to_owned())
    }

    /// A filesystem in memory in its place, with these mount options.
    pub fn tmpfs(options: &str, target: &Path) -> Self {
        run("mount", ["-t", "tmpfs", "-o", options, "tmpfs", target.to_str().unwrap()]);
        Self(target.to_owned())
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        // Some tests make the kernel take the mount away: then there is nothing to undo.
        let _ = attempt("umount", [self.0.as_os_str()]);
    }
}

/// Runs a program to its end, a minute at most, and gives its trimmed output; panics when it fails.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    attempt(program, arguments).unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// Like [`run`], with the failure as text.
pub fn attempt<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String, String> {
    let output = Command::new("timeout").arg("60").arg(program).args(arguments).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}
