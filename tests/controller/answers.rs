//! What is answered when the answer is not simply yes: work that takes longer than its caller waits, agents that die at
//! it, and names that sit where they may not be.

use crate::{
    agent::{Agent, Disk, Manner},
    bed::unique,
    rig::{GIB, Rig, create_within, key, named, node_of, to_the_end, within},
    support::{co::Co, eventually},
};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use serde_json::json;
use std::{thread, time::Duration};
use tonic::{Code, Request, Status};
use wharf::{
    cluster::api::{Desired, LocalSnapshot, LocalVolume, Phase},
    error::Error,
    rpc::csi,
    volume::NodeName,
};

/// As a sidecar with so little patience would ask.
fn create_in_haste(co: &mut Co, request: csi::CreateVolumeRequest) -> Result<csi::Volume, Status> {
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(4));
    co.call(|mut client| async move { client.controller.create_volume(request).await })
        .map(|answer| answer.volume.unwrap())
}

#[test]
fn work_goes_on_when_its_caller_gives_up_and_the_same_request_joins_it() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Accepts);
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let name = unique("pvc");
    let mut object = None;
    for _ in 0..2 {
        let status = create_in_haste(&mut co, rig.spec().request(&name)).unwrap_err();
        assert_eq!(status.code(), Code::Aborted, "{status}");
        let now = rig.volumes().get(&key(&name)).expect("what is not final is not withdrawn");
        assert!(is_taken_on(&now), "{now:?}");
        assert_eq!(*object.get_or_insert(now.uid()), now.uid(), "it was begun anew");
    }
    let first = thread::scope(|scope| {
        let waiting = scope.spawn(|| driver.co().create(&name, &rig.spec()));
        thread::sleep(Duration::from_millis(200));
        agent.behave(Manner::Serves);
        waiting.join().unwrap().unwrap()
    });
    assert_eq!(co.create(&name, &rig.spec()).unwrap(), first);
    assert_eq!(rig.volumes().get(&key(&name)).unwrap().uid(), object.unwrap());
}

fn is_taken_on(volume: &LocalVolume) -> bool {
    !volume.finalizers().is_empty()
}

#[test]
fn an_agent_that_dies_at_its_work_is_waited_for_no_longer_and_ends_it_when_it_is_back() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let driver = rig.driver(&[]);
    let origin = driver.co().create(&unique("pvc"), &rig.spec()).unwrap();
    agent.behave(Manner::Accepts);
    let (name, cut) = (unique("pvc"), unique("snapshot"));
    let node = agent.node.clone();
    let (volume, snapshot, disk) = thread::scope(|scope| {
        let volume = scope.spawn(|| driver.co().create(&name, &rig.spec()));
        let snapshot = scope.spawn(|| driver.co().snapshot(&cut, &origin.volume_id));
        eventually("both are taken on", 10, || {
            let snapshot = rig.snapshots().get(&key(&cut));
            rig.volumes().get(&key(&name)).is_some_and(|volume| is_taken_on(&volume))
                && snapshot.is_some_and(|snapshot: LocalSnapshot| !snapshot.finalizers().is_empty())
        });
        let disk = agent.die();
        (volume.join().unwrap(), snapshot.join().unwrap(), disk)
    });
    for status in [volume.unwrap_err(), snapshot.unwrap_err()] {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains(&node), "it does not say whose: {status}");
    }
    // It may have been made: nobody may take the name elsewhere.
    assert!(rig.volumes().get(&key(&name)).is_some() && rig.snapshots().get(&key(&cut)).is_some());
    let back = rig.agent(&node, Manner::Serves, disk);
    let volume = to_the_end(20, || driver.co().create(&name, &rig.spec())).unwrap();
    assert_eq!(node_of(&volume), node);
    to_the_end(20, || driver.co().snapshot(&cut, &origin.volume_id)).unwrap();
    assert!(back.holds(&key(&name)) && back.holds(&key(&cut)));
}

#[test]
fn a_volume_that_is_ready_elsewhere_is_neither_moved_nor_made_twice() {
    let rig = Rig::new();
    let (there, other) = (rig.served(2 * GIB, Manner::Serves), rig.served(9 * GIB, Manner::Serves));
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let name = unique("pvc");
    let volume = create_within(&mut co, &name, &rig.spec(), &[&there.node]).unwrap();
    let status = create_within(&mut co, &name, &rig.spec(), &[&other.node]).unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(there.holds(&key(&name)) && !other.holds(&key(&name)));
    assert_eq!(create_within(&mut co, &name, &rig.spec(), &[&there.node]).unwrap(), volume);
}

/// The Node is gone for good, which alone would release the name: data that a PersistentVolume names is somebody's.
#[test]
fn what_a_persistent_volume_names_is_not_given_up_with_its_node() {
    let rig = Rig::new();
    let (gone, other) = (rig.served(9 * GIB, Manner::Serves), rig.served(2 * GIB, Manner::Serves));
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let (claimed, free) = (unique("pvc"), unique("pvc"));
    let ids = [&claimed, &free]
        .map(|name| create_within(&mut co, name, &rig.spec(), &[&gone.node]).unwrap().volume_id);
    rig.bed.all::<PersistentVolume>().create(named(&claimed, &ids[0]));
    let disk = die(&rig, gone);
    // The grace is over when the one that nothing names is made elsewhere.
    eventually("the free name is released", 30, || {
        create_within(&mut co, &free, &rig.spec(), &[&other.node])
            .is_ok_and(|volume| node_of(&volume) == other.node)
    });
    for _ in 0..2 {
        let status = create_within(&mut co, &claimed, &rig.spec(), &[&other.node]).unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    }
    let object = rig.volumes().get(&key(&claimed)).unwrap();
    assert_eq!(object.status.unwrap().phase, Phase::Ready);
    assert!(!other.holds(&key(&claimed)) && disk.lock().unwrap().contains_key(&key(&claimed)));
    rig.bed.all::<PersistentVolume>().delete(&claimed);
}

fn die(rig: &Rig, agent: Agent) -> Disk {
    let node = agent.node.clone();
    let disk = agent.die();
    rig.bed.remove_node(&node);
    disk
}

/// An attempt that a node has taken on and never ended, and the node is gone: written before or after it went.
#[test]
fn an_attempt_on_a_node_that_is_gone_is_made_elsewhere() {
    for given_up_before in [true, false] {
        let rig = Rig::new();
        let (gone, other) = (rig.served(9 * GIB, Manner::Accepts), rig.served(2 * GIB, Manner::Serves));
        let driver = rig.driver(&[]);
        let mut co = driver.co();
        let name = unique("pvc");
        let mut request = rig.spec().request(&name);
        request.accessibility_requirements = Some(within(&[&gone.node]));
        assert_eq!(create_in_haste(&mut co, request).unwrap_err().code(), Code::Aborted);
        assert!(is_taken_on(&rig.volumes().get(&key(&name)).unwrap()));
        let node = gone.node.clone();
        let _disk = gone.die();
        let mut elsewhere = || create_within(&mut co, &name, &rig.spec(), &[&other.node]);
        if given_up_before {
            let status = elsewhere().unwrap_err();
            assert_eq!(status.code(), Code::Aborted, "{status}");
            assert_eq!(rig.volumes().get(&key(&name)).unwrap().spec.desired, Desired::Absent);
        }
        rig.bed.remove_node(&node);
        let volume = to_the_end(40, elsewhere).unwrap();
        assert_eq!(node_of(&volume), other.node, "given up before: {given_up_before}");
        assert!(other.holds(&key(&name)));
    }
}

/// The same where nobody says where it may be, and the claim is of no node.
#[test]
fn an_attempt_on_a_node_that_is_gone_is_made_elsewhere_although_it_may_be_there() {
    let rig = Rig::new();
    let gone = rig.served(9 * GIB, Manner::Accepts);
    let other = rig.served(2 * GIB, Manner::Serves);
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let name = unique("pvc");
    assert_eq!(create_in_haste(&mut co, rig.spec().request(&name)).unwrap_err().code(), Code::Aborted);
    assert_eq!(rig.volumes().get(&key(&name)).unwrap().spec.node_name, gone.node);
    let _disk = die(&rig, gone);
    let volume = to_the_end(40, || co.create(&name, &rig.spec())).unwrap();
    assert_eq!(node_of(&volume), other.node);
}

/// Where it was to be cut nobody can: whoever asks is told, and nothing of it stays.
#[test]
fn a_snapshot_on_a_node_that_is_gone_comes_to_an_end() {
    for is_deleted in [false, true] {
        let rig = Rig::new();
        let gone = rig.served(9 * GIB, Manner::Serves);
        let driver = rig.driver(&[]);
        let mut co = driver.co();
        let origin = co.create(&unique("pvc"), &rig.spec()).unwrap().volume_id;
        gone.behave(Manner::Accepts);
        let cut = unique("snapshot");
        let disk = thread::scope(|scope| {
            let waiting = scope.spawn(|| driver.co().snapshot(&cut, &origin));
            eventually("it is taken on", 10, || {
                rig.snapshots().get(&key(&cut)).is_some_and(|snapshot| !snapshot.finalizers().is_empty())
            });
            if is_deleted {
                // As a withdrawal that nobody could end.
                rig.snapshots().delete(&key(&cut));
            }
            let disk = die(&rig, gone);
            waiting.join().unwrap().unwrap_err();
            disk
        });
        let status = to_the_end(40, || co.snapshot(&cut, &origin)).unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(rig.snapshots().get(&key(&cut)).is_none(), "deleted: {is_deleted}");
        assert!(disk.lock().unwrap().len() == 1, "the volume is there");
    }
}

/// What its agent has found and not yet reported is neither taken up nor given up: nothing else tells that it was there.
#[test]
fn what_was_found_and_not_reported_is_left_alone() {
    let rig = Rig::new();
    let (there, other) = (rig.served(9 * GIB, Manner::Serves), rig.served(2 * GIB, Manner::Serves));
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let name = unique("pvc");
    let volume = create_within(&mut co, &name, &rig.spec(), &[&there.node]).unwrap();
    there.behave(Manner::Sleeps);
    let label = json!({ "metadata": { "labels": { "wharf.csi.dev/orphaned": "true" } } });
    rig.volumes().merge(&key(&name), label).unwrap();
    rig.volumes().merge_status(&key(&name), json!({ "status": null })).unwrap();
    eventually("it is not reported", 10, || {
        co.create(&name, &rig.spec()).is_err_and(|status| status.code() == Code::Aborted)
    });
    assert_eq!(co.expand(&volume.volume_id, 2 << 20).unwrap_err().code(), Code::Aborted);
    let status = create_within(&mut co, &name, &rig.spec(), &[&other.node]).unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    let object = rig.volumes().get(&key(&name)).unwrap();
    assert_eq!((object.spec.desired, object.labels().len()), (Desired::Present, 1), "{object:?}");
    rig.volumes().merge_status(&key(&name), json!({ "status": { "phase": "Orphaned" } })).unwrap();
    there.behave(Manner::Serves);
    assert_eq!(to_the_end(20, || co.create(&name, &rig.spec())).unwrap(), volume);
    assert!(there.holds(&key(&name)) && !other.holds(&key(&name)));
}

/// The attempt failed because of data that is somebody else's, and its controller died before it withdrew it.
#[test]
fn a_failed_attempt_is_given_up_without_a_wish_about_data() {
    fn anothers() -> Error {
        Error::Incompatible("there is another volume of this name".into())
    }
    let rig = Rig::new();
    let (first, second) =
        (rig.served(9 * GIB, Manner::Refuses(anothers)), rig.served(2 * GIB, Manner::Serves));
    let name = unique("pvc");
    first.disk.lock().unwrap().insert(key(&name), 1);
    let mut dying = rig.driver(&[("WHARF_FAILPOINT", "cluster.create.failed=kill")]);
    create_within(&mut dying.co(), &name, &rig.spec(), &[&first.node]).unwrap_err();
    eventually("it is dead", 10, || dying.ended().is_some());
    assert_eq!(rig.volumes().get(&key(&name)).unwrap().status.unwrap().phase, Phase::Failed);
    let driver = rig.driver(&[]);
    let elsewhere = || create_within(&mut driver.co(), &name, &rig.spec(), &[&second.node]);
    assert_eq!(node_of(&to_the_end(20, elsewhere).unwrap()), second.node);
    assert!(first.holds(&key(&name)), "data of somebody else was deleted");
}

/// An id has a hash where a node's name is long.
#[test]
fn a_volume_on_a_node_with_a_long_name_is_deleted_there_whatever_is_lost() {
    let rig = Rig::new();
    let node = format!("{}.{}", unique("node"), "x".repeat(60));
    rig.bed.node(&node, "wharf.csi.dev", &[]);
    rig.report(&node, 9 * GIB);
    let agent = rig.agent(&node, Manner::Serves, Disk::default());
    let driver = rig.driver(&[]);
    let name = unique("pvc");
    let id = driver.co().create(&name, &rig.spec()).unwrap().volume_id;
    assert!(!id.contains(&node) && agent.holds(&key(&name)));
    agent.behave(Manner::Sleeps);
    rig.lose(&key(&name));
    rig.bed.remove_node(&node);
    // Its watch is to have heard of it.
    thread::sleep(Duration::from_secs(1));
    agent.behave(Manner::Serves);
    // The Node is not there, and its agent is.
    to_the_end(30, || driver.co().delete(&id)).unwrap();
    assert!(!agent.holds(&key(&name)), "it leaked");
    // Nobody has ever had this one.
    let unknown = format!("local-{}.{}", key(&name), NodeName::of_node(&"y".repeat(64)));
    let status = driver.co().delete(&unknown).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}
