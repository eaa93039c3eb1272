//! A server that these tests alone use, and the ways in which it stops to answer.

use crate::{
    export::{server, start_server},
    guest::{Frozen, Server, Share},
    support::{
        eventually,
        host::{attempt, run},
    },
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Behind the link `wharf-d`. Its exports are `xfs`, and `busy` which no driver uses.
pub const D: Server = Server { address: "10.77.4.2", root: "/run/vm/d" };
/// Its threads.
const THREADS: usize = 4;

/// One test at a time lets it die. Started by the first who comes.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static STARTED: OnceLock<()> = OnceLock::new();
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    STARTED.get_or_init(|| start_server("d", "4", &[["xfs", "xfs", "512M"], ["busy", "ext4", "32M"]]));
    guard
}

/// How it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing reaches it, and nobody says so.
    Dropped,
    /// Its disk does not answer, its network does.
    Frozen,
    /// Each of its threads waits for another disk.
    Busy,
    /// Who asks for an export waits for it; all else is answered. So mount(2) hangs.
    Unexported,
}

/// It answers again when this is dropped.
pub struct Dead {
    kind: Kind,
    frozen: Option<Frozen>,
    stuck: Vec<Child>,
    daemon: Option<String>,
    // Last: what is stuck there has to go first.
    share: Option<Share>,
}

impl Dead {
    pub fn new(kind: Kind) -> Self {
        let mut dead = Self { kind, frozen: None, stuck: Vec::new(), daemon: None, share: None };
        match kind {
            Kind::Dropped => {
                run("modprobe", ["sch_netem"]);
                run("tc", "qdisc add dev wharf-d root netem loss 100%".split(' '));
            }
            Kind::Frozen => dead.frozen = Some(Frozen::new(D, "xfs")),
            Kind::Busy => dead.occupy(),
            Kind::Unexported => {
                let daemon = mountd();
                run("kill", ["-STOP", &daemon]);
                dead.daemon = Some(daemon);
                server(&["in", "d", "exportfs", "-f"]);
            }
        }
        dead
    }

    /// Twice as many directories are made as it has threads, each in one of its own: one at a time is asked for in each.
    fn occupy(&mut self) {
        let share = D.mount("busy", "3");
        let places: Vec<_> = (0..2 * THREADS).map(|i| share.path().join(i.to_string())).collect();
        places.iter().for_each(|place| fs::create_dir_all(place).unwrap());
        self.share = Some(share);
        self.frozen = Some(Frozen::new(D, "busy"));
        let mkdir = |place: &Path| Command::new("mkdir").arg(place.join("stuck")).spawn().unwrap();
        self.stuck = places.iter().map(|place| mkdir(place)).collect();
        eventually("all threads of the server wait", 60, || threads_that_wait() >= THREADS);
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        if self.kind == Kind::Dropped {
            let _ = attempt("tc", "qdisc del dev wharf-d root".split(' '));
        }
        if let Some(daemon) = &self.daemon {
            let _ = attempt("kill", ["-CONT", daemon]);
        }
        drop(self.frozen.take());
        self.stuck.iter_mut().for_each(|child| {
            let _ = child.wait();
        });
        if let Some(share) = &self.share {
            for entry in fs::read_dir(share.path()).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path().join("stuck"));
            }
        }
    }
}

/// Kernel threads of NFS servers in uninterruptible sleep.
pub fn threads_that_wait() -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| stat.contains(" (nfsd) D ")).count()
}

/// The process of its rpc.mountd.
fn mountd() -> String {
    let namespace = fs::metadata("/run/netns/d").unwrap().ino();
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let is_it = |process: &Path| {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        name == "rpc.mountd\n"
            && fs::metadata(process.join("ns/net")).is_ok_and(|found| found.ino() == namespace)
    };
    let found = processes.into_iter().find(|process| is_it(process)).unwrap();
    found.file_name().unwrap().to_str().unwrap().to_owned()
}
