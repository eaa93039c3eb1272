//! Programs, mounts and loop devices of the machine, and how what a test left is taken away.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};
use wharf::os::{
    loopdev::{self, device_number},
    mountinfo::{self, Mount},
};

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
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// An attached loop device, from sysfs.
#[derive(Clone, Debug)]
pub struct Loop {
    pub number: u32,
    /// With " (deleted)" taken off.
    pub backing: PathBuf,
    pub deleted: bool,
    pub autoclear: bool,
    pub read_only: bool,
    pub block_size: u64,
    pub size: u64,
}

impl Loop {
    pub fn node(&self) -> PathBuf {
        format!("/dev/loop{}", self.number).into()
    }

    /// The loop that this one is stacked on.
    pub fn base(&self) -> Option<u32> {
        self.backing.to_str()?.strip_prefix("/dev/loop")?.parse().ok()
    }
}

/// All attached loop devices.
pub fn loops() -> Vec<Loop> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|n| n.strip_prefix("loop")).and_then(|n| n.parse().ok())
        else {
            continue;
        };
        let read = |attribute: &str| fs::read_to_string(entry.path().join(attribute));
        let Ok(backing) = read("loop/backing_file") else { continue };
        let backing = backing.trim_end_matches('\n');
        let number_in = |attribute: &str| read(attribute).ok().and_then(|t| t.trim().parse::<u64>().ok());
        all.push(Loop {
            number,
            backing: backing.trim_end_matches(" (deleted)").into(),
            deleted: backing.ends_with(" (deleted)"),
            autoclear: number_in("loop/autoclear") == Some(1),
            read_only: number_in("ro") == Some(1),
            block_size: number_in("queue/logical_block_size").unwrap_or(0),
            size: number_in("size").unwrap_or(0) * 512,
        });
    }
    all.sort_by_key(|each| each.number);
    all
}

/// The loops whose backing file is below `directory`, and those stacked on them.
pub fn loops_below(directory: &Path) -> Vec<Loop> {
    let all = loops();
    let mut found: Vec<Loop> =
        all.iter().filter(|each| each.backing.starts_with(directory)).cloned().collect();
    let bases: BTreeSet<_> = found.iter().map(|each| each.number).collect();
    found.extend(all.into_iter().filter(|each| each.base().is_some_and(|base| bases.contains(&base))));
    found
}

/// Detaches a loop if it still shows this file: its number may have gone to somebody else, perhaps to a
/// device that only a bind mount holds, and `losetup --detach` does not look. Whether it is gone, or goes
/// with its last user: a mount namespace that somebody else has made may hold a copy of a test's mounts.
pub fn detach(number: u32, backing: &Path) -> bool {
    // While it is open, its number stays with it.
    let Ok(Some(held)) = loopdev::open(number) else { return true };
    match loopdev::backing_path(number) {
        Ok(Some(found)) if found.path == backing => {
            loopdev::clear(held).unwrap_or(false) || go_with_last_user(number, backing)
        }
        _ => true,
    }
}

fn go_with_last_user(number: u32, backing: &Path) -> bool {
    let Ok(Some(held)) = loopdev::open(number) else { return true };
    match loopdev::backing_path(number) {
        Ok(Some(found)) if found.path == backing => loopdev::set_autoclear(&held, true).is_ok(),
        _ => true,
    }
}

/// Unmounts the binds of a loop's node: once the loop is gone they would show whoever gets its number next.
/// Whether none is left.
fn unbind(each: &Loop) -> bool {
    // While it is open, its number stays with it.
    let Ok(Some(_held)) = loopdev::open(each.number) else { return false };
    if !matches!(loopdev::backing_path(each.number), Ok(Some(found)) if found.path == each.backing) {
        return false;
    }
    let node = PathBuf::from(format!("/loop{}", each.number));
    let device = device_number(each.number);
    let is_bind = |mount: &Mount| {
        mount.root == node && fs::metadata(&mount.point).is_ok_and(|found| found.rdev() == device)
    };
    let binds: Vec<_> = mounts().into_iter().filter(is_bind).collect();
    binds.iter().all(|bind| attempt("umount", [bind.point.as_os_str()]).is_ok())
}

/// All mounts of this mount namespace.
pub fn mounts() -> Vec<Mount> {
    mountinfo::read().unwrap()
}

/// Every mount that has to go before the filesystem at `below` can be unmounted: of loops whose file is
/// there, binds of its directories, and what is mounted further down. Binds of device nodes hold nothing.
fn mounts_of(below: &Path, loops: &[Loop]) -> Vec<Mount> {
    let all = mounts();
    let devices: BTreeSet<u64> = loops.iter().map(|each| device_number(each.number)).collect();
    let inside: BTreeSet<u64> =
        all.iter().filter(|mount| mount.point.starts_with(below)).map(|mount| mount.device).collect();
    let bind_of_volume = |mount: &Mount| {
        inside.contains(&mount.device) && mount.root.components().any(|part| part.as_os_str() == "volumes")
    };
    all.into_iter()
        .filter(|mount| {
            mount.point.starts_with(below) || devices.contains(&mount.device) || bind_of_volume(mount)
        })
        .collect()
}

/// Unmounts everything below `directory` and whatever was made from files there, and detaches its
/// loops: what a volume's leftovers would be. With `itself`, what is mounted at `directory` too. Whether
/// all of it is gone.
pub fn release(directory: &Path, itself: bool) -> bool {
    for _ in 0..100 {
        let loops = loops_below(directory);
        let mut mounts = mounts_of(directory, &loops);
        if !itself {
            mounts.retain(|mount| mount.point != directory);
        }
        if mounts.is_empty() && loops.is_empty() {
            return true;
        }
        for mount in mounts.iter().rev() {
            let _ = attempt("umount", [mount.point.as_os_str()]);
        }
        // Stacked ones come last in the list.
        for each in loops.iter().rev() {
            let _ = unbind(each) && detach(each.number, &each.backing);
        }
        thread::sleep(Duration::from_millis(20));
    }
    false
}

/// What a process or thread does, by its directory in /proc, in the letters of proc_pid_stat(5); `None`: it is gone.
pub fn state(process: &Path) -> Option<char> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// [`state`] of a process.
pub fn state_of(pid: impl std::fmt::Display) -> Option<char> {
    state(Path::new(&format!("/proc/{pid}")))
}
