//! What the tests make on the host, and what they look at. Gone when dropped.

use crate::child::{Answer, Operation, launcher};
use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use wharf::share::{Call, Limits, Share, Shares, client::Mounted};

pub type TestShares = Shares<Operation, Answer>;

pub const LONG: Duration = Duration::from_secs(60);

pub fn shares(limits: Limits) -> TestShares {
    Shares::new(launcher(), limits)
}

pub fn call(shares: &TestShares, share: &Share, operation: Operation) -> wharf::error::Result<Answer> {
    shares.call(share, operation, Call::within(LONG))
}

/// A tmpfs of its own for each helper that is started for it.
pub fn memory(server: &str, name: &str) -> Share {
    let data = "size=1m".to_owned();
    let mounted = Mounted::Local { source: PathBuf::from(name), fstype: "tmpfs".into(), data };
    Share { server: server.into(), mounted }
}

/// A temporary directory.
pub fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("wharf-shares-").tempdir().unwrap()
}

/// An ext4 in an image on a loop device, mounted on the host as well, where it can be frozen.
pub struct Disk {
    pub device: String,
    point: PathBuf,
    mounted: bool,
    directory: Option<TempDir>,
}

impl Disk {
    pub fn new() -> Self {
        let directory = scratch();
        let (image, point) = (directory.path().join("image"), directory.path().join("point"));
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        fs::create_dir(&point).unwrap();
        run("mkfs.ext4", [OsStr::new("-q"), image.as_os_str()]);
        let device = run("losetup", [OsStr::new("--find"), OsStr::new("--show"), image.as_os_str()]);
        let mut disk = Self { device, point, mounted: false, directory: Some(directory) };
        run("mount", ["-t", "ext4", &disk.device, disk.point.to_str().unwrap()]);
        disk.mounted = true;
        disk
    }

    /// The device as a helper can name it, whose own namespace has no /dev.
    pub fn source(&self) -> PathBuf {
        format!("/proc/{}/root{}", std::process::id(), self.device).into()
    }

    pub fn share(&self, server: &str) -> Share {
        let source = self.source();
        let mounted = Mounted::Local { source, fstype: "ext4".into(), data: String::new() };
        Share { server: server.into(), mounted }
    }

    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Whoever writes hangs until the guard is dropped.
    pub fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", [OsStr::new("-f"), self.point.as_os_str()]);
        Frozen(self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let gone = eventually_or_not(LONG, || !self.mounted || attempt("umount", [self.point.as_os_str()]));
        let detached = attempt("losetup", ["-d", &self.device]);
        if !gone || !detached {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("left behind: {kept:?} on {}", self.device);
        }
    }
}

pub struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run("fsfreeze", [OsStr::new("-u"), self.0.point.as_os_str()]);
    }
}

/// How many processes have this device mounted, by their own mount tables.
pub fn namespaces_with(device: &str) -> usize {
    let mut found = std::collections::BTreeSet::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        let Ok(mounts) = fs::read_to_string(path.join("mountinfo")) else { continue };
        let Ok(namespace) = fs::read_link(path.join("ns/mnt")) else { continue };
        if mounts.lines().any(|line| line.contains(&format!("{device} "))) {
            found.insert(namespace);
        }
    }
    found.len()
}

/// This process's children that are helpers, those that are not reaped included.
pub fn children() -> Vec<u32> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        if rest.split(' ').nth(1) == Some(own.as_str()) {
            found.push(process.file_name().to_str().unwrap().parse().unwrap());
        }
    }
    found
}

pub fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(eventually_or_not(LONG, condition), "never: {what}");
}

pub fn eventually_or_not(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let output = Command::new("timeout").arg("60").arg(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn attempt<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> bool {
    Command::new("timeout").arg("60").arg(program).args(arguments).output().unwrap().status.success()
}
