//! With real agents: `wharf node` on pools of its own.

use crate::{
    bed::unique,
    rig::{Rig, create_within, key, node_of, to_the_end},
    support::{co::Co, driver::Driver, eventually},
};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;
use tonic::Code;
use wharf::cluster::api::{Phase, StorageNode};

/// A node whose agent is the real one.
pub struct Real {
    name: String,
    pool: TempDir,
    _driver: Driver,
}

impl Real {
    pub fn start(rig: &Rig) -> Self {
        let name = unique("node");
        rig.bed.node(&name, "wharf.csi.dev", &[]);
        let pool = tempfile::Builder::new().prefix("wharf-pool-").tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["node", "--node-id", &name, "--namespace", &rig.namespace, "--register", "false"]);
        command.arg("--kubeconfig").arg(rig.bed.kubeconfig());
        command.arg("--pool").arg(format!("{}={}", rig.pool, pool.path().display()));
        let mut driver = Driver::spawn_as(command, &[]);
        assert!(driver.wait_until_ready(), "the node did not start:\n{}", driver.log());
        let reports = rig.bed.all::<StorageNode>();
        reports.wait(&name, "tells of its pool", 30, |report| {
            report.status.as_ref().is_some_and(|status| status.pools.iter().any(|pool| pool.uuid.is_some()))
        });
        Self { name, pool, _driver: driver }
    }

    fn holds(&self, name: &str) -> bool {
        self.pool.path().join("volumes").join(key(name)).exists()
    }

    fn count(&self, what: &str) -> usize {
        fs::read_dir(self.pool.path().join(what)).map_or(0, Iterator::count)
    }
}

fn away(path: &Path) -> bool {
    !path.exists()
}

#[test]
fn real_agents_make_what_the_controller_is_asked_for() {
    let rig = Rig::new();
    let nodes = [Real::start(&rig), Real::start(&rig)];
    let driver = rig.driver(&[]);
    let mut co: Co = driver.co();
    let spec = rig.spec().size(16 << 20);

    let name = unique("pvc");
    let volume = to_the_end(30, || create_within(&mut co, &name, &spec, &[&nodes[0].name])).unwrap();
    assert_eq!(node_of(&volume), nodes[0].name);
    assert!(nodes[0].holds(&name) && !nodes[1].holds(&name));
    assert_eq!(co.expand(&volume.volume_id, 24 << 20).unwrap().capacity_bytes, 24 << 20);
    let snapshot = co.snapshot(&unique("snapshot"), &volume.volume_id).unwrap();
    assert_eq!(snapshot.size_bytes, 24 << 20);
    let both = [nodes[1].name.as_str(), nodes[0].name.as_str()];
    let restored = rig.spec().size(24 << 20).from_snapshot(&snapshot.snapshot_id);
    let (restored_name, began) = (unique("pvc"), std::time::Instant::now());
    let restored = create_within(&mut co, &restored_name, &restored, &both).unwrap();
    eprintln!("restored where its source is after {:?}", began.elapsed());
    assert_eq!(node_of(&restored), nodes[0].name);

    // Final failures leave nothing.
    let huge = unique("pvc");
    let too_large = rig.spec().size(1 << 55);
    assert_eq!(co.create(&huge, &too_large).unwrap_err().code(), Code::ResourceExhausted);
    let small = rig.spec().size(8 << 20).from_snapshot(&snapshot.snapshot_id);
    let status = create_within(&mut co, &huge, &small, &both).unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert!(rig.volumes().get(&key(&huge)).is_none() && nodes.iter().all(|node| !node.holds(&huge)));
    let status = co.expand(&volume.volume_id, 1 << 55).unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_eq!(rig.volumes().get(&key(&name)).unwrap().spec.required_bytes, 24 << 20);

    // An object is lost: its data is announced, and is still what its name asks for.
    rig.lose(&key(&name));
    rig.volumes().wait(&key(&name), "is announced", 40, |object| {
        object.status.as_ref().is_some_and(|status| status.phase == Phase::Orphaned)
    });
    let again = to_the_end(30, || create_within(&mut co, &name, &rig.spec().size(24 << 20), &both)).unwrap();
    assert_eq!(again.volume_id, volume.volume_id);

    co.delete(&volume.volume_id).unwrap();
    co.delete(&restored.volume_id).unwrap();
    co.delete_snapshot(&snapshot.snapshot_id).unwrap();
    co.delete(&volume.volume_id).unwrap();
    assert!(away(&nodes[0].pool.path().join("volumes").join(key(&name))));
    eventually("nothing is left", 20, || {
        nodes.iter().all(|node| node.count("volumes") + node.count("snapshots") + node.count("trash") == 0)
    });
}

#[test]
fn many_claims_at_once() {
    let rig = Rig::new();
    let nodes = [Real::start(&rig), Real::start(&rig)];
    let driver = rig.driver(&[]);
    let names: Vec<_> = (0..40).map(|_| unique("pvc")).collect();
    let spec = rig.spec().size(8 << 20);
    let began = std::time::Instant::now();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = names
            .iter()
            .map(|name| {
                let (driver, spec) = (&driver, &spec);
                scope.spawn(move || to_the_end(60, || driver.co().create(name, spec)).unwrap().volume_id)
            })
            .collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    eprintln!("40 volumes were made in {:?}", began.elapsed());
    assert!(nodes.iter().all(|node| node.count("volumes") > 0), "all on one node");
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for id in &ids {
            let driver = &driver;
            scope.spawn(move || to_the_end(60, || driver.co().delete(id)).unwrap());
        }
    });
    eprintln!("40 volumes were deleted in {:?}", began.elapsed());
    assert_eq!(nodes.iter().map(|node| node.count("volumes")).sum::<usize>(), 0);
}
