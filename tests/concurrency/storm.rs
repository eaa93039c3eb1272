//! Random requests for a few volumes, hundreds at once.

use crate::{
    calls::Rpc,
    crowd::{
        BOUND, Patience, Random, code, connect, names, runtime, send, snapshot_id, volume_id, wait_until_free,
    },
    settle::settle,
    support::{
        MIB,
        co::{Co, Mode, Spec, csi},
        driver::Driver,
        host,
        inventory::{Inventory, assert_same},
        is_full,
        places::Places,
        pool::{Kind, Pool},
        unique,
    },
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::{Code, Status};
use wharf::{os::loopdev::number_of, rpc::client::Client};

const VOLUMES: usize = 20;
const REQUESTS: u64 = 240;
pub const SIZE: u64 = 8 * MIB;

/// A volume that may exist, and where it may be.
#[derive(Clone)]
pub struct Subject {
    pub name: String,
    pub pool: &'static str,
    pub spec: Spec,
    pub staging: PathBuf,
    pub targets: [PathBuf; 2],
}

impl Subject {
    pub fn id(&self) -> String {
        volume_id(&self.name)
    }

    pub fn snapshot(&self) -> String {
        format!("{}-snapshot", self.name)
    }

    fn clone_name(&self) -> String {
        format!("{}-clone", self.name)
    }

    /// What is mounted when it is staged.
    pub fn staged(&self) -> PathBuf {
        if self.spec.block { self.staging.join("device") } else { self.staging.clone() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    Create,
    Delete,
    Stage,
    Unstage,
    Publish,
    Unpublish,
    Stats,
    Expand,
    ExpandNode,
    Snapshot,
    DeleteSnapshot,
    Clone,
    DeleteClone,
    Get,
    List,
    ListSnapshots,
    Health,
    NodeHealth,
    Capacity,
}

/// What leads further more often than what takes away.
const OPS: [Op; 30] = [
    Op::Create,
    Op::Create,
    Op::Create,
    Op::Create,
    Op::Delete,
    Op::Stage,
    Op::Stage,
    Op::Stage,
    Op::Stage,
    Op::Unstage,
    Op::Unstage,
    Op::Publish,
    Op::Publish,
    Op::Publish,
    Op::Publish,
    Op::Unpublish,
    Op::Unpublish,
    Op::Stats,
    Op::Expand,
    Op::ExpandNode,
    Op::Snapshot,
    Op::DeleteSnapshot,
    Op::Clone,
    Op::DeleteClone,
    Op::Get,
    Op::List,
    Op::ListSnapshots,
    Op::Health,
    Op::NodeHealth,
    Op::Capacity,
];

/// The codes that an operation may end with when others work on the same volume.
fn allowed(op: Op) -> &'static [Code] {
    use Code::{Aborted, FailedPrecondition, NotFound, Ok, OutOfRange};
    match op {
        Op::Create | Op::DeleteSnapshot | Op::Unpublish | Op::Unstage => &[Ok, Aborted],
        Op::Delete | Op::DeleteClone => &[Ok, Aborted, FailedPrecondition],
        Op::Stage | Op::Publish => &[Ok, Aborted, NotFound, FailedPrecondition],
        Op::Snapshot | Op::Expand => &[Ok, Aborted, NotFound],
        // The source may have grown beyond what the clone asks for.
        Op::Clone => &[Ok, Aborted, NotFound, OutOfRange],
        Op::ExpandNode => &[Ok, Aborted, NotFound, OutOfRange, FailedPrecondition],
        Op::Stats | Op::Get | Op::Health | Op::NodeHealth => &[Ok, NotFound],
        Op::List | Op::ListSnapshots | Op::Capacity => &[Ok],
    }
}

#[test]
fn random_requests_at_once() {
    let xfs = Pool::new(Kind::Xfs, 8 << 30);
    let btrfs = Pool::new(Kind::BtrfsQuota, 4 << 30);
    let pools = BTreeMap::from([("default", &xfs), ("btrfs", &btrfs)]);
    let mut driver = Driver::start(&[("default", xfs.path()), ("btrfs", btrfs.path())], &[]);
    let places = Places::new();
    let empty = [Inventory::take(&xfs, &[]), Inventory::take(&btrfs, &[])];
    let runtime = runtime();
    let mut total: BTreeMap<String, usize> = BTreeMap::new();
    for seed in seeds() {
        println!("seed {seed}");
        let subjects = subjects(&places);
        prepare(&subjects, &mut driver.co());
        let outcomes = runtime.block_on(async {
            let clients = [connect(&driver.socket()).await, connect(&driver.socket()).await];
            tokio::time::timeout(BOUND, storm(seed, &subjects, &clients)).await.expect("a deadlock")
        });
        assert!(driver.ended().is_none(), "the driver has ended");
        for (op, patience, answer) in outcomes {
            judge(op, patience, &answer);
            *total.entry(format!("{op:?} {:?}", code(&answer))).or_default() += 1;
        }
        for subject in &subjects {
            for pool in pools.values() {
                for (name, kind) in [(&subject.name, 0), (&subject.clone_name(), 0), (&subject.snapshot(), 1)]
                {
                    wait_until_free(pool, name, kind);
                }
            }
            assert_consistent(subject, pools[subject.pool]);
        }
        for pool in pools.values() {
            assert_eq!(names(pool, "tmp"), [] as [&str; 0], "unfinished work is left");
        }
        settle(&subjects, &pools, &mut driver.co());
    }
    let done: usize = total.values().sum();
    println!("{done} requests: {total:?}");
    assert!(done >= 600);
    assert_same(&empty[0], &Inventory::take(&xfs, &[]));
    assert_same(&empty[1], &Inventory::take(&btrfs, &[]));
}

/// Fixed ones; `make test-full` adds some that nobody has seen, and prints them.
fn seeds() -> Vec<u64> {
    let mut seeds = vec![1, 20, 300];
    if is_full() {
        seeds.extend((0..12).map(|_| uuid::Uuid::new_v4().as_u64_pair().0 >> 1));
    }
    seeds
}

fn subjects(places: &Places) -> Vec<Subject> {
    let spec = |number: usize| match number % 5 {
        0 => ("default", Spec::image("ext4").thin().size(SIZE)),
        1 => ("btrfs", Spec::image("ext4").size(SIZE)),
        2 => ("default", Spec::block().thin().size(SIZE)),
        3 => ("btrfs", Spec::directory("enforced").size(SIZE)),
        _ => ("default", Spec::directory("advisory").size(SIZE)),
    };
    let subject = |number| {
        let name = unique("v");
        let (pool, spec) = spec(number);
        let spec = spec.mode(Mode::SingleNodeMultiWriter).pool(pool);
        let targets = ["one", "two"].map(|target| places.target(&format!("{name}-{target}")));
        Subject { staging: places.staging(&name), name, pool, spec, targets }
    };
    (0..VOLUMES).map(subject).collect()
}

/// Half of them exist from the start, and half of these are staged: else most answers were NOT_FOUND.
fn prepare(subjects: &[Subject], co: &mut Co) {
    for (number, subject) in subjects.iter().enumerate().filter(|(number, _)| number.is_multiple_of(2)) {
        co.create(&subject.name, &subject.spec).unwrap();
        if number.is_multiple_of(4) {
            co.stage(&subject.id(), &subject.staging, &subject.spec).unwrap();
        }
    }
}

type Outcome = (Op, Patience, Result<(), Status>);

async fn storm(seed: u64, subjects: &[Subject], clients: &[Client; 2]) -> Vec<Outcome> {
    let mut random = Random::new(seed);
    let mut tasks = Vec::new();
    let (mut subject, mut op, mut start) = (&subjects[0], Op::Create, Duration::ZERO);
    for number in 0..REQUESTS {
        // All are under way together, and three at a time begin together on one volume, two of them with
        // the same wish: what a lock is for.
        if number % 3 == 0 {
            subject = random.pick(subjects);
            start = Duration::from_millis(random.below(250));
        }
        if number % 3 != 1 {
            op = *random.pick(&OPS);
        }
        let subject = subject.clone();
        let second = random.below(2) == 1;
        let brief = Duration::from_millis(1 + random.below(40));
        let patience = match random.below(40) {
            0 => Patience::Deadline(brief),
            1 => Patience::Leaves(brief),
            _ => Patience::Enough,
        };
        let client = clients[usize::try_from(number % 2).unwrap()].clone();
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(start).await;
            (op, patience, perform(op, &subject, second, &client, patience).await)
        }));
    }
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

async fn perform(
    op: Op,
    of: &Subject,
    second: bool,
    client: &Client,
    patience: Patience,
) -> Result<(), Status> {
    let id = of.id();
    let target = text(&of.targets[usize::from(second)]);
    let staging = text(&of.staging);
    let capability = Some(of.spec.capability());
    let range = |times: u64| {
        Some(csi::CapacityRange { required_bytes: i64::try_from(SIZE * times).unwrap(), limit_bytes: 0 })
    };
    async fn go<Q: Rpc>(client: &Client, message: Q, patience: Patience) -> Result<(), Status> {
        send(client, message, patience).await.map(drop)
    }
    macro_rules! go {
        ($request:ident { $($field:ident: $value:expr),* $(,)? }) => {
            {
                let mut request = csi::$request::default();
                $(request.$field = $value;)*
                go(client, request, patience).await
            }
        };
    }
    match op {
        Op::Create => go(client, of.spec.request(&of.name), patience).await,
        Op::Delete => go!(DeleteVolumeRequest { volume_id: id }),
        Op::Stage => go!(NodeStageVolumeRequest {
            volume_id: id,
            staging_target_path: staging,
            volume_capability: capability,
        }),
        Op::Unstage => go!(NodeUnstageVolumeRequest { volume_id: id, staging_target_path: staging }),
        Op::Publish => go!(NodePublishVolumeRequest {
            volume_id: id,
            staging_target_path: staging,
            target_path: target,
            volume_capability: capability,
            readonly: second,
        }),
        Op::Unpublish => go!(NodeUnpublishVolumeRequest { volume_id: id, target_path: target }),
        Op::Stats => go!(NodeGetVolumeStatsRequest { volume_id: id, volume_path: target }),
        Op::Expand => go!(ControllerExpandVolumeRequest { volume_id: id, capacity_range: range(2) }),
        Op::ExpandNode => {
            go!(NodeExpandVolumeRequest { volume_id: id, volume_path: target, capacity_range: range(2) })
        }
        Op::Snapshot => go!(CreateSnapshotRequest { source_volume_id: id, name: of.snapshot() }),
        Op::DeleteSnapshot => go!(DeleteSnapshotRequest { snapshot_id: snapshot_id(&of.snapshot()) }),
        Op::Clone => go(client, of.spec.clone().from_volume(&id).request(&of.clone_name()), patience).await,
        Op::DeleteClone => go!(DeleteVolumeRequest { volume_id: volume_id(&of.clone_name()) }),
        Op::Get => go!(ControllerGetVolumeRequest { volume_id: id }),
        Op::List => go!(ListVolumesRequest { max_entries: 7 }),
        Op::ListSnapshots => go!(ListSnapshotsRequest { source_volume_id: id }),
        Op::Health => go!(ControllerGetVolumeHealthRequest { volume_id: id }),
        Op::NodeHealth => go!(NodeGetVolumeHealthRequest {
            volume_id: id,
            staging_target_path: staging,
            volume_publish_path: target,
        }),
        Op::Capacity => go(client, csi::GetCapacityRequest::default(), patience).await,
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn judge(op: Op, patience: Patience, answer: &Result<(), Status>) {
    let code = code(answer);
    // Near its own deadline the caller, or the library on either side, may end the call.
    let cut_short = match patience {
        Patience::Enough => false,
        Patience::Deadline(_) => matches!(code, Code::Aborted | Code::Cancelled | Code::DeadlineExceeded),
        Patience::Leaves(_) => code == Code::Cancelled,
    };
    assert!(cut_short || allowed(op).contains(&code), "{op:?} {patience:?}: {answer:?}");
}

/// At most one loop device per volume, and at each place at most one mount, which is of that volume.
fn assert_consistent(subject: &Subject, pool: &Pool) {
    let directory = pool.path().join("volumes").join(&subject.id()["local-".len()..][..36]);
    let image = directory.join("data/disk.img");
    let all = host::loops();
    let loops: Vec<_> = all.iter().filter(|each| each.backing == image).collect();
    assert!(loops.len() <= 1, "{loops:?}");
    let mounts = host::mounts();
    for place in [subject.staged(), subject.targets[0].clone(), subject.targets[1].clone()] {
        let here: Vec<_> = mounts.iter().filter(|mount| mount.point == place).collect();
        assert!(here.len() <= 1, "{here:?}");
        let Some(mount) = here.first() else { continue };
        assert!(directory.exists(), "it is mounted and does not exist");
        let root = mount.root.to_str().unwrap();
        if root.ends_with("/data") {
            assert!(root.contains(&subject.id()["local-".len()..][..36]), "{mount:?}");
            continue;
        }
        let number =
            root.strip_prefix("/loop").map(|n| n.parse().unwrap()).or_else(|| number_of(mount.device));
        let device = all.iter().find(|each| Some(each.number) == number).unwrap();
        let base =
            device.base().and_then(|base| all.iter().find(|each| each.number == base)).unwrap_or(device);
        assert_eq!(base.backing, image, "{mount:?}");
    }
}
