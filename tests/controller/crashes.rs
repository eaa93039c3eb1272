//! kill -9 between any two writes to the API server: the same request to another controller ends it as if nothing had
//! happened.

use crate::{
    agent::{Agent, Manner},
    bed::unique,
    rig::{GIB, Rig, create_within, key, node_of, to_the_end},
    support::{co::Co, driver::Driver, eventually},
};
use serde_json::json;
use std::{collections::BTreeSet, fs, path::Path};
use tonic::{Code, Status};
use wharf::{cluster::api::LocalVolume, error::Error};

/// Every failpoint of the controller is in one of these.
const CREATE: [&str; 2] = ["cluster.create.placed", "cluster.create.written"];
const CREATE_REFUSED: [&str; 2] = ["cluster.create.failed", "cluster.withdrawn"];
const CREATE_STALE: [&str; 1] = ["cluster.create.stale"];
const CREATE_ANEW: [&str; 2] = ["cluster.create.old-wished", "cluster.create.old-deleted"];
const CREATE_FOUND: [&str; 1] = ["cluster.create.adopted"];
const CREATE_ELSEWHERE: [&str; 1] = ["cluster.create.given-up"];
const CREATE_FROM_GONE: [&str; 2] = ["cluster.released", "cluster.let-go"];
const DELETE: [&str; 3] = ["cluster.delete.wished", "cluster.delete.deleted", "cluster.delete.gone"];
const DELETE_LOST: [&str; 2] = ["cluster.delete.no-object", "cluster.delete.stand-in"];
const EXPAND: [&str; 1] = ["cluster.expand.wished"];
const EXPAND_REFUSED: [&str; 2] = ["cluster.expand.refused", "cluster.expand.taken-back"];
const SNAPSHOT: [&str; 2] = ["cluster.snapshot.placed", "cluster.snapshot.written"];
const SNAPSHOT_REFUSED: [&str; 2] = ["cluster.snapshot.failed", "cluster.withdrawn"];
const SNAPSHOT_STALE: [&str; 1] = ["cluster.snapshot.stale"];
const SNAPSHOT_ANEW: [&str; 2] = ["cluster.snapshot.old-wished", "cluster.snapshot.old-deleted"];
const SNAPSHOT_FOUND: [&str; 1] = ["cluster.snapshot.adopted"];

const ALL: [&[&str]; 16] = [
    &CREATE,
    &CREATE_REFUSED,
    &CREATE_STALE,
    &CREATE_ANEW,
    &CREATE_FOUND,
    &CREATE_ELSEWHERE,
    &CREATE_FROM_GONE,
    &DELETE,
    &DELETE_LOST,
    &EXPAND,
    &EXPAND_REFUSED,
    &SNAPSHOT,
    &SNAPSHOT_REFUSED,
    &SNAPSHOT_STALE,
    &SNAPSHOT_ANEW,
    &SNAPSHOT_FOUND,
];

#[test]
fn every_failpoint_of_the_controller_is_struck() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cluster/controller");
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let names = text.split("failpoint!(\"").skip(1).filter_map(|rest| rest.split('"').next());
        there.extend(names.map(str::to_owned));
    }
    let struck: BTreeSet<_> = ALL.into_iter().flatten().map(|name| (*name).to_owned()).collect();
    assert_eq!(there, struck);
}

/// A controller dies at `point` during `call`; another one repeats it.
fn killed_at<T>(
    rig: &Rig,
    point: &str,
    mut call: impl FnMut(&mut Co) -> Result<T, Status>,
    then: impl FnOnce(),
) -> Result<T, Status> {
    let mut dying = rig.driver(&[("WHARF_FAILPOINT", &format!("{point}=kill"))]);
    let mut co = dying.co();
    eventually(&format!("{point} is reached"), 30, || call(&mut co).is_err() && dying.ended().is_some());
    then();
    let second = rig.driver(&[]);
    to_the_end(40, || call(&mut second.co()))
}

fn nothing() {}

/// Written down, and no more: its controller is dead.
fn only_written(rig: &Rig, name: &str, nodes: &[&str]) {
    let mut dying = rig.driver(&[("WHARF_FAILPOINT", "cluster.create.written=kill")]);
    create_within(&mut dying.co(), name, &rig.spec(), nodes).unwrap_err();
    eventually("it is dead", 10, || dying.ended().is_some());
    assert!(rig.volumes().get(&key(name)).is_some());
}

fn no_space() -> Error {
    Error::NoSpace("the pool is full".into())
}

fn refused() -> Error {
    Error::Refused("a pool that cannot".into())
}

/// On one node, with a volume.
struct WithVolume {
    rig: Rig<'static>,
    agent: Agent,
    _driver: Driver,
    name: String,
    id: String,
}

impl WithVolume {
    fn new() -> Self {
        let rig = Rig::new();
        let agent = rig.served(10 * GIB, Manner::Serves);
        let driver = rig.driver(&[]);
        let name = unique("pvc");
        let id = driver.co().create(&name, &rig.spec()).unwrap().volume_id;
        Self { rig, agent, _driver: driver, name, id }
    }

    fn object(&self) -> LocalVolume {
        self.rig.volumes().get(&key(&self.name)).unwrap()
    }
}

#[test]
fn create() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    for point in CREATE {
        let name = unique("pvc");
        let volume = killed_at(&rig, point, |co| co.create(&name, &rig.spec()), nothing).unwrap();
        assert_eq!(node_of(&volume), agent.node, "{point}");
        assert!(agent.holds(&key(&name)), "{point}");
    }
    assert_eq!(agent.disk.lock().unwrap().len(), CREATE.len());
}

#[test]
fn create_that_cannot_be() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Refuses(no_space));
    for point in CREATE_REFUSED {
        let name = unique("pvc");
        let status = killed_at(&rig, point, |co| co.create(&name, &rig.spec()), nothing).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{point}: {status}");
        assert!(status.message().contains("the pool is full"), "{point}: {status}");
        assert!(rig.volumes().get(&key(&name)).is_none(), "{point}: an object is left");
    }
    assert!(agent.disk.lock().unwrap().is_empty());
}

#[test]
fn create_whose_agent_died_before_it_saw_it() {
    let rig = Rig::new();
    for point in CREATE_STALE {
        let agent = rig.served(10 * GIB, Manner::Sleeps);
        let (name, node) = (unique("pvc"), agent.node.clone());
        only_written(&rig, &name, &[&node]);
        agent.die();
        let call = |co: &mut Co| create_within(co, &name, &rig.spec(), &[&node]);
        let status = killed_at(&rig, point, call, nothing).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{point}: {status}");
        assert!(rig.volumes().get(&key(&name)).is_none(), "{point}: an object is left");
    }
}

#[test]
fn create_after_a_deletion_that_was_cut_off() {
    for point in CREATE_ANEW {
        let it = WithVolume::new();
        it.rig.volumes().merge(&key(&it.name), json!({ "spec": { "desired": "Absent" } })).unwrap();
        let before = it.object();
        killed_at(&it.rig, point, |co| co.create(&it.name, &it.rig.spec()), nothing).unwrap();
        assert_ne!(it.object().metadata.uid, before.metadata.uid, "{point}");
        assert!(it.agent.holds(&key(&it.name)), "{point}");
    }
}

#[test]
fn create_of_what_was_found_on_a_disk() {
    for point in CREATE_FOUND {
        let it = WithVolume::new();
        it.rig
            .volumes()
            .merge(&key(&it.name), json!({ "metadata": { "labels": { "wharf.csi.dev/orphaned": "true" } } }))
            .unwrap();
        it.rig.volumes().merge_status(&key(&it.name), json!({ "status": { "phase": "Orphaned" } })).unwrap();
        let uid = it.object().metadata.uid;
        let volume = killed_at(&it.rig, point, |co| co.create(&it.name, &it.rig.spec()), nothing).unwrap();
        assert_eq!(volume.volume_id, it.id, "{point}");
        assert_eq!(it.object().metadata.uid, uid, "{point}");
        assert!(it.object().metadata.labels.is_none_or(|labels| labels.is_empty()), "{point}");
    }
}

#[test]
fn create_that_has_to_go_elsewhere() {
    for point in CREATE_ELSEWHERE {
        let rig = Rig::new();
        let (first, second) = (rig.served(10 * GIB, Manner::Accepts), rig.served(10 * GIB, Manner::Serves));
        let name = unique("pvc");
        only_written(&rig, &name, &[&first.node]);
        eventually("it is accepted", 10, || {
            rig.volumes().get(&key(&name)).unwrap().metadata.finalizers.is_some_and(|all| !all.is_empty())
        });
        let call = |co: &mut Co| create_within(co, &name, &rig.spec(), &[&second.node]);
        let volume = killed_at(&rig, point, call, || first.behave(Manner::Serves)).unwrap();
        assert_eq!(node_of(&volume), second.node, "{point}");
        assert!(!first.holds(&key(&name)) && second.holds(&key(&name)), "{point}");
    }
}

#[test]
fn create_whose_node_is_gone() {
    for point in CREATE_FROM_GONE {
        let it = WithVolume::new();
        let (rig, name, node) = (&it.rig, it.name.clone(), it.agent.node.clone());
        let other = rig.served(10 * GIB, Manner::Serves);
        let disk = it.agent.die();
        rig.bed.remove_node(&node);
        // ALREADY_EXISTS until the Node has been away for long enough.
        let call = |co: &mut Co| {
            create_within(co, &name, &rig.spec(), &[&other.node]).map_err(|status| match status.code() {
                Code::AlreadyExists => Status::unavailable(status.message()),
                _ => status,
            })
        };
        let volume = killed_at(rig, point, call, nothing).unwrap();
        assert_eq!(node_of(&volume), other.node, "{point}");
        // Nobody has asked for that.
        assert!(disk.lock().unwrap().contains_key(&key(&name)), "{point}: data was deleted");
    }
}

#[test]
fn delete() {
    for point in DELETE {
        let it = WithVolume::new();
        killed_at(&it.rig, point, |co| co.delete(&it.id), nothing).unwrap();
        assert!(!it.agent.holds(&key(&it.name)), "{point}");
        assert!(it.rig.volumes().get(&key(&it.name)).is_none(), "{point}");
    }
}

#[test]
fn delete_without_an_object() {
    for point in DELETE_LOST {
        let it = WithVolume::new();
        it.agent.behave(Manner::Sleeps);
        it.rig.lose(&key(&it.name));
        assert!(it.agent.holds(&key(&it.name)), "an object took its data along");
        it.agent.behave(Manner::Serves);
        killed_at(&it.rig, point, |co| co.delete(&it.id), nothing).unwrap();
        assert!(!it.agent.holds(&key(&it.name)), "{point}");
        assert!(it.rig.volumes().get(&key(&it.name)).is_none(), "{point}");
    }
}

#[test]
fn expand() {
    for point in EXPAND {
        let it = WithVolume::new();
        let grown = killed_at(&it.rig, point, |co| co.expand(&it.id, 5 << 20), nothing).unwrap();
        assert_eq!(grown.capacity_bytes, 5 << 20, "{point}");
    }
}

#[test]
fn expand_that_cannot_be() {
    for point in EXPAND_REFUSED {
        let it = WithVolume::new();
        it.agent.behave(Manner::RefusesGrowth);
        let status = killed_at(&it.rig, point, |co| co.expand(&it.id, 5 << 20), nothing).unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{point}: {status}");
        assert_eq!(it.object().spec.required_bytes, 1 << 20, "{point}: the wish is left");
        it.agent.behave(Manner::Serves);
        eventually("the agent is content again", 10, || {
            let object = it.object();
            let status = object.status.unwrap();
            Some(status.observed_generation) == object.metadata.generation && status.failure.is_none()
        });
        assert_eq!(it.object().status.unwrap().size_bytes, Some(1 << 20), "{point}: it has grown");
    }
}

#[test]
fn snapshot() {
    for point in SNAPSHOT {
        let it = WithVolume::new();
        let name = unique("snapshot");
        let snapshot = killed_at(&it.rig, point, |co| co.snapshot(&name, &it.id), nothing).unwrap();
        assert_eq!(snapshot.source_volume_id, it.id, "{point}");
        assert!(snapshot.ready_to_use && it.agent.holds(&key(&name)), "{point}");
    }
}

#[test]
fn snapshot_that_cannot_be() {
    for point in SNAPSHOT_REFUSED {
        let it = WithVolume::new();
        it.agent.behave(Manner::Refuses(refused));
        let name = unique("snapshot");
        let status = killed_at(&it.rig, point, |co| co.snapshot(&name, &it.id), nothing).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{point}: {status}");
        assert!(it.rig.snapshots().get(&key(&name)).is_none(), "{point}: an object is left");
        assert!(!it.agent.holds(&key(&name)), "{point}");
    }
}

#[test]
fn snapshot_whose_agent_died_before_it_saw_it() {
    for point in SNAPSHOT_STALE {
        let it = WithVolume::new();
        it.agent.behave(Manner::Sleeps);
        let name = unique("snapshot");
        let dying = it.rig.driver(&[("WHARF_FAILPOINT", "cluster.snapshot.written=kill")]);
        dying.co().snapshot(&name, &it.id).unwrap_err();
        let (rig, node, disk) = (&it.rig, it.agent.node.clone(), it.agent.die());
        assert!(rig.snapshots().get(&key(&name)).is_some());
        let mut dying = rig.driver(&[("WHARF_FAILPOINT", &format!("{point}=kill"))]);
        dying.co().snapshot(&name, &it.id).unwrap_err();
        eventually("the point is reached", 10, || dying.ended().is_some());
        let second = rig.driver(&[]);
        assert_eq!(second.co().snapshot(&name, &it.id).unwrap_err().code(), Code::Unavailable);
        assert!(rig.snapshots().get(&key(&name)).is_none(), "{point}: an object is left");
        let agent = rig.agent(&node, Manner::Serves, disk);
        to_the_end(20, || second.co().snapshot(&name, &it.id)).unwrap();
        assert!(agent.holds(&key(&name)));
    }
}

#[test]
fn snapshot_after_a_deletion_that_was_cut_off() {
    for point in SNAPSHOT_ANEW {
        let it = WithVolume::new();
        let name = unique("snapshot");
        let driver = it.rig.driver(&[]);
        driver.co().snapshot(&name, &it.id).unwrap();
        let uid = it.rig.snapshots().get(&key(&name)).unwrap().metadata.uid;
        it.rig.snapshots().merge(&key(&name), json!({ "spec": { "desired": "Absent" } })).unwrap();
        killed_at(&it.rig, point, |co| co.snapshot(&name, &it.id), nothing).unwrap();
        assert_ne!(it.rig.snapshots().get(&key(&name)).unwrap().metadata.uid, uid, "{point}");
        assert!(it.agent.holds(&key(&name)), "{point}");
    }
}

#[test]
fn snapshot_that_was_found_on_a_disk() {
    for point in SNAPSHOT_FOUND {
        let it = WithVolume::new();
        let name = unique("snapshot");
        let driver = it.rig.driver(&[]);
        let cut = driver.co().snapshot(&name, &it.id).unwrap();
        let snapshots = it.rig.snapshots();
        let label = json!({ "metadata": { "labels": { "wharf.csi.dev/orphaned": "true" } } });
        snapshots.merge(&key(&name), label).unwrap();
        snapshots.merge_status(&key(&name), json!({ "status": { "phase": "Orphaned" } })).unwrap();
        let again = killed_at(&it.rig, point, |co| co.snapshot(&name, &it.id), nothing).unwrap();
        assert_eq!(again.snapshot_id, cut.snapshot_id, "{point}");
    }
}
