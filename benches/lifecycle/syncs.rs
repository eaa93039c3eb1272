//! How often Create and Delete ask the disk to make something durable, counted by strace.

use super::{
    Effort,
    figures::Table,
    ground::{Ground, KINDS, name},
    lives::specs,
    machine::{checkpoint, progress},
    support::{driver::Driver, eventually, unique},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const SYNCS: [&str; 5] = ["fsync", "fdatasync", "syncfs", "sync_file_range", "sync"];

/// How many times the driver, and the programs that it started, called one of [`SYNCS`].
struct Counted {
    driver: usize,
    programs: usize,
}

/// A strace that is attached to all threads of a driver.
struct Strace {
    child: Child,
    directory: TempDir,
}

impl Strace {
    fn attach(driver: &Driver) -> Self {
        let directory = tempfile::Builder::new().prefix("wharf-bench-").tempdir().unwrap();
        let pid = driver.pid();
        let child = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-e",
                &format!("trace=execve,{}", SYNCS.join(",")),
                "-p",
                &pid.to_string(),
                "-o",
            ])
            .arg(directory.path().join("trace"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let traced = |task: fs::DirEntry| {
            // A thread that has just ended is not in the way.
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status
                .lines()
                .all(|line| line.strip_prefix("TracerPid:").is_none_or(|tracer| tracer.trim() != "0"))
        };
        let tasks = format!("/proc/{pid}/task");
        eventually("strace is attached", 10, || fs::read_dir(&tasks).unwrap().flatten().all(traced));
        Self { child, directory }
    }

    fn count(mut self) -> Counted {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap();
        let text = fs::read_to_string(self.directory.path().join("trace")).unwrap();
        let mut programs = BTreeSet::new();
        let mut counted = Counted { driver: 0, programs: 0 };
        for line in text.lines() {
            let Some((pid, call)) = line.split_once(' ') else { continue };
            let Some((call, _)) = call.trim().split_once('(') else { continue };
            if call == "execve" {
                programs.insert(pid);
            } else if SYNCS.contains(&call) {
                *(if programs.contains(pid) { &mut counted.programs } else { &mut counted.driver }) += 1;
            }
        }
        counted
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn print(_: Effort) {
    let mut table = Table::new([
        "pool",
        "volume",
        "create: driver",
        "create: mkfs",
        "delete: driver",
        "delete: programs",
    ]);
    for kind in KINDS {
        progress(&format!("counting syncs on {}", name(kind)));
        let ground = Ground::new(kind, 8);
        let driver = ground.driver();
        let mut co = driver.co();
        for (what, spec) in specs(kind) {
            checkpoint();
            // The first mkfs.xfs is asked for its version.
            let first = co.create(&unique("syncs"), &spec).unwrap().volume_id;
            co.delete(&first).unwrap();
            let strace = Strace::attach(&driver);
            let id = co.create(&unique("syncs"), &spec).unwrap().volume_id;
            let create = strace.count();
            let strace = Strace::attach(&driver);
            co.delete(&id).unwrap();
            let delete = strace.count();
            let budget = |count: usize, most: usize| {
                format!("{count}, ≤{most} {}", if count <= most { "ok" } else { "**missed**" })
            };
            table.row([
                name(kind).to_owned(),
                what.to_owned(),
                budget(create.driver, 4),
                create.programs.to_string(),
                budget(delete.driver, 2),
                delete.programs.to_string(),
            ]);
        }
    }
    table.print("Calls of fsync, fdatasync, syncfs, sync_file_range and sync, by strace");
}
