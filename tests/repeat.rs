//! Every request ten times: the answers are the same, and what it did was done once. The driver may be
//! killed in between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::needless_pass_by_value,
    clippy::needless_update
)]

#[path = "errors/calls.rs"]
mod calls;
mod support;

use calls::{Rpc, ask};
use std::{collections::BTreeSet, fs, path::Path};
use support::{
    MIB,
    co::{Co, Mode, Spec, csi, file_in},
    data,
    driver::Driver,
    host,
    inventory::{Inventory, assert_same},
    places::Places,
    pool::{Kind, Pool},
    unique,
};
use tonic::{Code, Status};

const TIMES: usize = 10;
const SIZE: u64 = 32 * MIB;

/// Not served at all, or (GetCapacity) about the pool's own figures, which change by themselves.
const NOT_REPEATED: usize = 4;

#[test]
fn image_with_ext4() {
    life(Kind::Xfs, &Spec::image("ext4").size(SIZE), false);
}

#[test]
fn image_with_ext4_and_kills() {
    life(Kind::Xfs, &Spec::image("ext4").size(SIZE), true);
}

#[test]
fn image_with_xfs() {
    life(Kind::Btrfs, &Spec::image("xfs").size(300 * MIB), false);
}

#[test]
fn image_with_xfs_and_kills() {
    life(Kind::Xfs, &Spec::image("xfs").thin().size(300 * MIB), true);
}

#[test]
fn block() {
    life(Kind::Xfs, &Spec::block().size(SIZE), false);
}

#[test]
fn block_and_kills() {
    life(Kind::Btrfs, &Spec::block().thin().size(SIZE), true);
}

#[test]
fn directory() {
    life(Kind::BtrfsQuota, &Spec::directory("enforced").size(SIZE), false);
}

#[test]
fn directory_and_kills() {
    life(Kind::BtrfsQuota, &Spec::directory("enforced").size(SIZE), true);
}

#[test]
fn directory_without_a_limit() {
    life(Kind::Xfs, &Spec::directory("advisory").size(SIZE), true);
}

/// A driver that may be killed after each request's fifth time. Fields are dropped in this order.
struct Stand {
    co: Co,
    driver: Driver,
    places: Places,
    pool: Pool,
    kills: bool,
    methods: BTreeSet<&'static str>,
    requests: usize,
}

impl Stand {
    fn new(kind: Kind, kills: bool) -> Self {
        let pool = Pool::new(kind, 4 << 30);
        let driver = Driver::start(&[("default", pool.path())], &[]);
        let (co, places) = (driver.co(), Places::new());
        Self { co, driver, places, pool, kills, methods: BTreeSet::new(), requests: 0 }
    }

    fn look(&self) -> Inventory {
        Inventory::take(&self.pool, &[self.places.path()])
    }

    /// Repeats a request; its answers, and what is on the machine, are those of the first time.
    fn repeat<Q: Rpc>(&mut self, request: &Q) -> Result<Q::Answer, Status> {
        let first = ask(&mut self.co, request.clone());
        let after_first = self.look();
        self.again(request, &first);
        assert_same(&after_first, &self.look());
        first
    }

    /// Repeats a request that changes nothing.
    fn read<Q: Rpc>(&mut self, request: &Q) -> Q::Answer {
        let first = ask(&mut self.co, request.clone());
        self.again(request, &first);
        first.unwrap()
    }

    /// The second to the last time.
    fn again<Q: Rpc>(&mut self, request: &Q, first: &Result<Q::Answer, Status>) {
        self.methods.insert(Q::METHOD);
        for time in 2..=TIMES {
            let answer = ask(&mut self.co, request.clone());
            assert!(same(first, &answer), "{} differs the {time}. time: {}", Q::METHOD, text(first, &answer));
            if self.kills && time == TIMES / 2 {
                self.driver.kill();
                self.driver = Driver::start(&[("default", self.pool.path())], &[]);
                self.co = self.driver.co();
            }
        }
        self.requests += TIMES;
    }

    fn stage(&mut self, id: &str, staging: &Path, spec: &Spec) {
        let request = csi::NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: path(staging),
            volume_capability: Some(spec.capability()),
            ..Default::default()
        };
        self.repeat(&request).unwrap();
        let staged = if spec.block { staging.join("device") } else { staging.to_owned() };
        assert_eq!(mounts_at(&staged), 1);
    }

    fn publish(&mut self, id: &str, staging: &Path, target: &Path, spec: &Spec, readonly: bool) {
        let request = csi::NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: path(staging),
            target_path: path(target),
            volume_capability: Some(spec.capability()),
            readonly,
            ..Default::default()
        };
        self.repeat(&request).unwrap();
        assert_eq!(mounts_at(target), 1);
    }

    fn unpublish(&mut self, id: &str, target: &Path) {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: path(target) };
        self.repeat(&request).unwrap();
        assert_eq!(mounts_at(target), 0);
        assert!(target.symlink_metadata().is_err(), "the target is still there");
    }

    fn unstage(&mut self, id: &str, staging: &Path) {
        let request =
            csi::NodeUnstageVolumeRequest { volume_id: id.to_owned(), staging_target_path: path(staging) };
        self.repeat(&request).unwrap();
        assert_eq!(mounts_at(staging) + mounts_at(&staging.join("device")), 0);
    }
}

fn same<T: PartialEq>(one: &Result<T, Status>, other: &Result<T, Status>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err(one), Err(other)) => one.code() == other.code() && one.message() == other.message(),
        _ => false,
    }
}

fn text<T>(one: &Result<T, Status>, other: &Result<T, Status>) -> String {
    format!("{:?} and {:?}", one.as_ref().err(), other.as_ref().err())
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn mounts_at(point: &Path) -> usize {
    host::mounts().iter().filter(|mount| mount.point == point).count()
}

fn life(kind: Kind, spec: &Spec, kills: bool) {
    let spec = &spec.clone().mode(Mode::SingleNodeMultiWriter);
    let mut stand = Stand::new(kind, kills);
    let empty = stand.look();
    let volume = stand.repeat(&spec.request(&unique("v"))).unwrap().volume.unwrap();
    let id = volume.volume_id;
    let (staging, target, reader) =
        (stand.places.staging("v"), stand.places.target("writer"), stand.places.target("reader"));

    stand.stage(&id, &staging, spec);
    stand.publish(&id, &staging, &target, spec, false);
    let content = data::bytes(7, 1 << 20);
    write(&target, spec, &content);
    stand.publish(&id, &staging, &reader, spec, true);
    let loops = host::loops_below(stand.pool.path());
    let expected = if spec.block { 2 } else { usize::from(!is_directory(spec)) };
    assert_eq!(loops.len(), expected, "a volume has one loop, a read-only device one more: {loops:?}");
    ask_about(&mut stand, &id, &target, &staging, spec);

    let snapshot = cut(&mut stand, &id);
    let restored = stand.repeat(&spec.clone().from_snapshot(&snapshot).request(&unique("r"))).unwrap();
    let clone = stand.repeat(&spec.clone().from_volume(&id).request(&unique("c"))).unwrap();
    for copy in [restored, clone].map(|answer| answer.volume.unwrap().volume_id) {
        check_copy(&mut stand, &copy, spec, &content);
        delete(&mut stand, &copy);
    }
    grow(&mut stand, &id, &target, spec);

    stand.unpublish(&id, &reader);
    stand.unpublish(&id, &target);
    stand.unstage(&id, &staging);
    let request = csi::DeleteSnapshotRequest { snapshot_id: snapshot, ..Default::default() };
    stand.repeat(&request).unwrap();
    delete(&mut stand, &id);
    fs::remove_dir(&staging).unwrap();
    assert_same(&empty, &stand.look());
    println!("{} requests of {} methods", stand.requests, stand.methods.len());
    assert_eq!(
        stand.methods.len(),
        calls::SERVED - NOT_REPEATED,
        "not repeated: all but {:?}",
        stand.methods
    );
}

fn is_directory(spec: &Spec) -> bool {
    spec.parameters.iter().any(|(_, value)| value == "directory")
}

fn write(target: &Path, spec: &Spec, content: &[u8]) {
    if spec.block {
        data::write_direct(target, 0, content);
    } else {
        data::write_durably(&target.join("file"), content);
    }
}

/// Requests that change nothing.
fn ask_about(stand: &mut Stand, id: &str, target: &Path, staging: &Path, spec: &Spec) {
    let id = id.to_owned();
    let before = stand.look();
    stand.read(&csi::GetPluginInfoRequest {});
    stand.read(&csi::GetPluginCapabilitiesRequest {});
    stand.read(&csi::ProbeRequest {});
    stand.read(&csi::ControllerGetCapabilitiesRequest {});
    stand.read(&csi::NodeGetCapabilitiesRequest {});
    stand.read(&csi::NodeGetInfoRequest {});
    stand.read(&csi::NodeGetStorageHealthRequest::default());
    stand.read(&csi::ListVolumesRequest::default());
    stand.read(&csi::ListSnapshotsRequest::default());
    stand.read(&csi::ControllerListVolumeHealthRequest::default());
    stand.read(&csi::ControllerGetVolumeRequest { volume_id: id.clone() });
    let request = csi::ControllerGetVolumeHealthRequest { volume_id: id.clone(), ..Default::default() };
    stand.read(&request);
    let request = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_capabilities: vec![spec.capability()],
        ..Default::default()
    };
    assert!(stand.read(&request).confirmed.is_some());
    let request = csi::NodeGetVolumeHealthRequest {
        volume_id: id.clone(),
        volume_publish_path: path(target),
        staging_target_path: path(staging),
    };
    assert!(stand.read(&request).volume_health.unwrap().health_statuses.is_empty());
    let request =
        csi::NodeGetVolumeStatsRequest { volume_id: id, volume_path: path(target), ..Default::default() };
    let stats = stand.read(&request);
    assert!(stats.usage[0].total > 0);
    assert_same(&before, &stand.look());
}

fn cut(stand: &mut Stand, id: &str) -> String {
    let request = csi::CreateSnapshotRequest {
        source_volume_id: id.to_owned(),
        name: unique("s"),
        ..Default::default()
    };
    let snapshot = stand.repeat(&request).unwrap().snapshot.unwrap();
    assert!(snapshot.ready_to_use);
    let request = csi::GetSnapshotRequest { snapshot_id: snapshot.snapshot_id.clone(), ..Default::default() };
    assert!(stand.read(&request).snapshot.unwrap() == snapshot);
    snapshot.snapshot_id
}

fn check_copy(stand: &mut Stand, id: &str, spec: &Spec, content: &[u8]) {
    let (staging, target) = (stand.places.staging("copy"), stand.places.target("copy"));
    stand.co.stage(id, &staging, spec).unwrap();
    stand.co.publish(id, &staging, &target, spec, true).unwrap();
    let file = file_in(&target, spec, "file");
    let length = content.len() as u64;
    let temporary = tempfile::NamedTempFile::new().unwrap();
    fs::write(temporary.path(), content).unwrap();
    assert_eq!(data::sha256_head(&file, length), data::sha256(temporary.path()));
    stand.co.unpublish(id, &target).unwrap();
    stand.co.unstage(id, &staging).unwrap();
    fs::remove_dir(&staging).unwrap();
}

/// In use, by both RPCs. Where the kernel does not grow ext4 online the answer is the same ten times, too.
fn grow(stand: &mut Stand, id: &str, target: &Path, spec: &Spec) {
    let wanted = spec.required * 2;
    let range = Some(csi::CapacityRange { required_bytes: wanted, limit_bytes: 0 });
    let request = csi::ControllerExpandVolumeRequest {
        volume_id: id.to_owned(),
        capacity_range: range,
        ..Default::default()
    };
    let answer = stand.repeat(&request).unwrap();
    assert_eq!(answer.capacity_bytes, wanted);
    let request = csi::NodeExpandVolumeRequest {
        volume_id: id.to_owned(),
        volume_path: path(target),
        capacity_range: range,
        ..Default::default()
    };
    match stand.repeat(&request) {
        Ok(answer) => assert_eq!(answer.capacity_bytes, wanted),
        Err(status) => {
            assert_eq!((status.code(), spec.fs.as_str()), (Code::FailedPrecondition, "ext4"), "{status:?}");
        }
    }
}

fn delete(stand: &mut Stand, id: &str) {
    let request = csi::DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
    stand.repeat(&request).unwrap();
}
