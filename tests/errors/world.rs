//! One driver with a pool of each kind, and what cases do with it.

use crate::{
    calls::{Rpc, ask},
    support::{
        MIB,
        co::{Co, Spec, csi},
        driver::Driver,
        host::{self, Loop, run},
        places::Places,
        pool::{Kind, Pool},
        unique,
    },
};
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};
use tonic::{Code, Status};
use uuid::Uuid;
use wharf::os::lock::{self, Guard, Mode as LockMode};

/// Size of the volumes that cases make.
pub const SIZE: u64 = 8 * MIB;
/// The topology key.
pub const NODE: &str = "wharf.csi.dev/node";

/// What a case ends with: its last answer, whatever it held.
pub type Answer = Result<(), Status>;

/// Fields are dropped in this order: the driver ends, mounts go, pools go.
pub struct World {
    pub co: Co,
    pub driver: Driver,
    pub places: Places,
    /// XFS: shares blocks.
    pub default: Pool,
    /// btrfs with qgroups: limits directories.
    pub quota: Pool,
    /// ext4: can only copy.
    pub ext4: Pool,
    /// A hundred megabytes; nothing is ever deleted from it, so nobody waits for its trash.
    pub small: Pool,
    /// Goes away and runs full.
    pub away: Pool,
    /// A volume that takes long to copy, once a case has made it.
    pub large: Option<String>,
}

impl World {
    pub fn new() -> Self {
        let default = Pool::new(Kind::Xfs, 16 << 30);
        let quota = Pool::new(Kind::BtrfsQuota, 4 << 30);
        let ext4 = Pool::new(Kind::Ext4, 8 << 30);
        let small = Pool::new(Kind::Ext4, 192 * MIB);
        let away = Pool::new(Kind::Ext4, 192 * MIB);
        let pools =
            [("default", &default), ("quota", &quota), ("ext4", &ext4), ("small", &small), ("away", &away)];
        let mut driver = Driver::spawn_as(unprivileged(&pools), &[]);
        assert!(driver.wait_until_ready(), "the driver did not start:\n{}", driver.log());
        let co = driver.co();
        Self { co, driver, places: Places::new(), default, quota, ext4, small, away, large: None }
    }

    pub fn pools(&self) -> [&Pool; 5] {
        [&self.default, &self.quota, &self.ext4, &self.small, &self.away]
    }

    /// The case's last request. A final error must have left nothing (design: finality), and that is looked at.
    pub fn last<T>(&mut self, call: impl FnOnce(&mut Co) -> Result<T, Status>) -> Result<T, Status> {
        let before = self.traces();
        let answer = call(&mut self.co);
        if let Err(status) = &answer
            && !matches!(status.code(), Code::Aborted | Code::Unavailable)
        {
            let after = self.traces();
            let changed: Vec<_> = before.symmetric_difference(&after).collect();
            assert!(changed.is_empty(), "{status:?} is final, but left or took away {changed:?}");
        }
        answer
    }

    /// As [`World::last`], for any request; the answer is not looked at.
    pub fn ask<Q: Rpc>(&mut self, request: Q) -> Answer {
        self.last(|co| ask(co, request)).map(drop)
    }

    /// What a request may leave: objects, drafts, loop devices, mounts and what is made to mount on.
    fn traces(&self) -> BTreeSet<String> {
        let mut traces = BTreeSet::new();
        for pool in self.pools() {
            for directory in ["volumes", "snapshots", "tmp"] {
                let names = fs::read_dir(pool.path().join(directory));
                traces.extend(
                    names.into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()),
                );
            }
        }
        let loops = host::loops();
        let of_pools = |each: &Loop| self.pools().iter().any(|pool| each.backing.starts_with(pool.path()));
        let bases: BTreeSet<_> = loops.iter().filter(|each| of_pools(each)).map(|each| each.number).collect();
        let ours = |each: &&Loop| of_pools(each) || each.base().is_some_and(|base| bases.contains(&base));
        traces.extend(loops.iter().filter(ours).map(|each| format!("{each:?}")));
        let below = |path: &Path| path.starts_with(self.places.path());
        let mounts = host::mounts();
        let points: BTreeSet<_> = mounts.iter().map(|mount| mount.point.clone()).collect();
        traces.extend(mounts.iter().filter(|mount| below(&mount.point)).map(|mount| format!("{mount:?}")));
        let mut rest = vec![self.places.path().to_owned()];
        while let Some(path) = rest.pop() {
            if path.is_dir() && !path.is_symlink() && !points.contains(&path) {
                rest.extend(fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
            }
            traces.insert(path.display().to_string());
        }
        traces
    }

    /// A small thin image with ext4 in the pool `default`.
    pub fn spec() -> Spec {
        Spec::new().thin().size(SIZE)
    }

    pub fn volume(&mut self) -> String {
        self.volume_of(&Self::spec())
    }

    pub fn volume_of(&mut self, spec: &Spec) -> String {
        self.co.create(&unique("v"), spec).unwrap().volume_id
    }

    /// A snapshot of a new volume.
    pub fn snapshot(&mut self) -> String {
        let volume = self.volume();
        self.snapshot_of(&volume)
    }

    pub fn snapshot_of(&mut self, volume: &str) -> String {
        self.co.snapshot(&unique("s"), volume).unwrap().snapshot_id
    }

    /// A new volume at a staging path.
    pub fn staged(&mut self, spec: &Spec) -> Placed {
        let id = self.volume_of(spec);
        let staging = self.places.staging(&unique("stage"));
        self.co.stage(&id, &staging, spec).unwrap();
        Placed { id, staging, target: self.places.target(&unique("pod")), spec: spec.clone() }
    }

    /// A new volume at a staging path and at a target.
    pub fn published(&mut self, spec: &Spec) -> Placed {
        let placed = self.staged(spec);
        self.co.publish(&placed.id, &placed.staging, &placed.target, spec, false).unwrap();
        placed
    }

    /// CreateVolume with something changed.
    pub fn create(&mut self, edit: impl FnOnce(&mut csi::CreateVolumeRequest)) -> Answer {
        let mut request = Self::spec().request(&unique("v"));
        edit(&mut request);
        self.ask(request)
    }

    /// CreateVolume, then again with something changed.
    pub fn create_again(&mut self, spec: &Spec, edit: impl FnOnce(&mut csi::CreateVolumeRequest)) -> Answer {
        let mut request = spec.request(&unique("v"));
        let first = ask(&mut self.co, request.clone()).unwrap();
        edit(&mut request);
        let again = self.last(|co| ask(co, request))?;
        assert!(again == first, "the answer is another one");
        Ok(())
    }

    /// The object's lock, as another process would hold it.
    pub fn lock(pool: &Pool, id: &str, mode: LockMode) -> Guard {
        let offset = offset(id);
        lock::try_lock(&pool.path().join("lock"), offset, mode).unwrap().unwrap()
    }

    pub fn directory(pool: &Pool, id: &str) -> PathBuf {
        let kind = if id.starts_with("local-snap-") { "snapshots" } else { "volumes" };
        pool.path().join(kind).join(uuid_of(id).to_string())
    }

    pub fn image(pool: &Pool, id: &str) -> PathBuf {
        Self::directory(pool, id).join("data/disk.img")
    }

    /// Flips a bit in the middle of an object's record; put right again when dropped.
    pub fn damage(pool: &Pool, id: &str) -> Damage {
        Damage::new(&Self::directory(pool, id).join("record.json"), |text| {
            let middle = text.len() / 2;
            text[middle] ^= 1;
        })
    }
}

/// The driver must not be able to grow ext4 online, whatever the test may do.
fn unprivileged(pools: &[(&str, &Pool)]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_resource", env!("CARGO_BIN_EXE_wharf"), "standalone"]);
    command.args(["--node-id", "node-1"]);
    for (name, pool) in pools {
        command.arg("--pool").arg(format!("{name}={}", pool.path().display()));
    }
    command
}

/// A volume and where it is.
pub struct Placed {
    pub id: String,
    pub staging: PathBuf,
    pub target: PathBuf,
    pub spec: Spec,
}

/// docs/format.md, "Locks".
pub fn offset(id: &str) -> u64 {
    let kind = u64::from(id.starts_with("local-snap-"));
    let (high, _) = uuid_of(id).as_u64_pair();
    (high << 2 & (i64::MAX as u64)) | kind
}

/// The uuid in an id.
pub fn uuid_of(id: &str) -> Uuid {
    let rest = id.strip_prefix("local-snap-").or_else(|| id.strip_prefix("local-")).unwrap();
    Uuid::parse_str(&rest[..36]).unwrap()
}

/// The id that the name has.
pub fn id_of(name: &str) -> String {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"wharf.csi.dev");
    format!("local-{}.node-1", Uuid::new_v5(&namespace, name.as_bytes()))
}

/// An id that no volume of a test has.
pub fn absent_volume() -> String {
    format!("local-{}.node-1", Uuid::new_v4())
}

/// An id that no snapshot of a test has.
pub fn absent_snapshot() -> String {
    format!("local-snap-{}.node-1", Uuid::new_v4())
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub fn range(required: i64, limit: i64) -> Option<csi::CapacityRange> {
    Some(csi::CapacityRange { required_bytes: required, limit_bytes: limit })
}

pub fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap()
}

/// accessibility_requirements that name one node.
pub fn only_node(node: &str) -> Option<csi::TopologyRequirement> {
    let topology = csi::Topology { segments: [(NODE.to_owned(), node.to_owned())].into() };
    Some(csi::TopologyRequirement { requisite: vec![topology.clone()], preferred: vec![topology] })
}

/// The mount part of a capability, for editing.
pub fn mount_of(capability: &mut csi::VolumeCapability) -> &mut csi::volume_capability::MountVolume {
    match &mut capability.access_type {
        Some(csi::volume_capability::AccessType::Mount(mount)) => mount,
        _ => panic!("it is for mounting"),
    }
}

/// A file that is not what it was; put right again when dropped.
pub struct Damage {
    path: PathBuf,
    good: Vec<u8>,
}

impl Damage {
    pub fn new(path: &Path, how: impl FnOnce(&mut Vec<u8>)) -> Self {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        how(&mut bad);
        fs::write(path, bad).unwrap();
        Self { path: path.to_owned(), good }
    }
}

impl Drop for Damage {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.good);
    }
}

/// An empty filesystem over a directory, as where a disk is not mounted; taken off when dropped.
pub struct Over(PathBuf);

impl Over {
    pub fn new(path: &Path) -> Self {
        Self::with(path, "size=1m")
    }

    pub fn with(path: &Path, options: &str) -> Self {
        run("mount", ["-t", "tmpfs", "-o", options, "tmpfs", path.to_str().unwrap()]);
        Self(path.to_owned())
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let _ = host::attempt("umount", [&self.0]);
    }
}

/// A file that takes all that is left of a filesystem; removed when dropped.
pub struct Filler(PathBuf);

impl Filler {
    pub fn new(directory: &Path) -> Self {
        let filler = Self(directory.join("filler"));
        let mut file = OpenOptions::new().create_new(true).append(true).open(&filler.0).unwrap();
        for size in [1 << 20, 4096, 1] {
            let piece = vec![7; size];
            while file.write_all(&piece).and_then(|()| file.sync_all()).is_ok() {}
        }
        filler
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Overwrites the start of a file.
pub fn overwrite(path: &Path, content: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(content, 0).unwrap();
    file.sync_all().unwrap();
}
