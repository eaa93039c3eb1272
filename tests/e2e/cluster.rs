//! The cluster that all scenarios share, and whose turn it is.

use super::{
    bed::{Bed, Phase, Settings, kubectl::run_quietly, plane::program, process::Process},
    machine,
    node::{self, Node},
    release,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// Where the pool's disk is mounted, as the chart's values have it.
pub const POOL: &str = "/var/lib/wharf";
const POOL_BYTES: u64 = 16 << 30;

pub struct Cluster {
    pub bed: Bed,
    node: Mutex<Node>,
    _snapshots: Process,
}

/// Held for as long as a test uses the cluster.
pub enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

static TURNS: RwLock<()> = RwLock::new(());

impl Cluster {
    /// With other tests beside this one.
    pub fn shared() -> (&'static Self, Turn) {
        let cluster = Self::get();
        (cluster, Turn::Shared { _guard: TURNS.read().unwrap_or_else(PoisonError::into_inner) })
    }

    /// For what would disturb other tests, or be disturbed. Waits until everything is as it should be: an earlier test
    /// may have failed half-way.
    pub fn alone() -> (&'static Self, Turn) {
        let cluster = Self::get();
        let turn = Turn::Alone { _guard: TURNS.write().unwrap_or_else(PoisonError::into_inner) };
        cluster.node().ensure_kubelet();
        release::ensure(&cluster.bed);
        (cluster, turn)
    }

    fn get() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| {
            assert!(
                std::env::var(machine::DIRECTORY).is_ok(),
                "only on the machine that another test starts"
            );
            Self::start()
        })
    }

    /// It ends with the machine.
    fn start() -> Self {
        let bed = Bed::start_with(Settings { node_lifecycle: true, address: Some(node::ADDRESS) });
        let mut phase = Phase::new();
        make_pool();
        bed.define_snapshots();
        let snapshots = bed.run(
            "snapshot-controller",
            program("snapshot-controller").arg("--kubeconfig").arg(bed.kubeconfig()),
        );
        phase.done("a pool, and the kinds of snapshots");
        let node = Node::start(&bed);
        phase = Phase::new();
        release::install(&bed);
        phase.done("the chart");
        Self { bed, node: Mutex::new(node), _snapshots: snapshots }
    }

    pub fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk of its own for the pool; its loop device goes with the mount.
pub fn make_pool() {
    let image = PathBuf::from(std::env::var(machine::DIRECTORY).unwrap()).join("pool.image");
    File::create(&image).unwrap().set_len(POOL_BYTES).unwrap();
    run_quietly(Command::new("mkfs.xfs").args(["-q", "-s", "size=4096", "-m", "reflink=1"]).arg(&image));
    fs::create_dir_all(POOL).unwrap();
    run_quietly(Command::new("mount").args(["-t", "xfs", "-o", "loop"]).arg(&image).arg(POOL));
}

/// How much room the pool's filesystem has, in bytes.
pub fn room() -> u64 {
    let found = rustix::fs::statvfs(Path::new(POOL)).unwrap();
    found.f_bavail * found.f_frsize
}
