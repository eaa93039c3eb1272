//! Where volumes go.

use crate::{
    agent::Manner,
    bed::unique,
    rig::{GIB, Rig, create_within, key, node_of, send, within},
};
use serde_json::json;
use std::time::Instant;
use tonic::Code;
use wharf::{error::Error, rpc::csi};

/// A claim that the scheduler has chosen `node` for.
fn claim(rig: &Rig, node: Option<&str>) -> Vec<(String, String)> {
    let name = unique("claim");
    let annotations = node.map(|node| json!({ "volume.kubernetes.io/selected-node": node }));
    rig.bed.within::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(&rig.namespace).create(json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "none-such",
            "resources": { "requests": { "storage": "1Mi" } } },
    }));
    vec![
        ("csi.storage.k8s.io/pvc/name".to_owned(), name),
        ("csi.storage.k8s.io/pvc/namespace".to_owned(), rig.namespace.clone()),
    ]
}

fn request(rig: &Rig, name: &str, claim: Vec<(String, String)>, nodes: &[&str]) -> csi::CreateVolumeRequest {
    let mut request = rig.spec().request(name);
    request.parameters.extend(claim);
    request.accessibility_requirements = (!nodes.is_empty()).then(|| within(nodes));
    request
}

#[test]
fn the_roomiest_node_comes_first_and_the_next_when_it_refuses() {
    fn full() -> Error {
        Error::NoSpace("another process has filled the disk".into())
    }
    let rig = Rig::new();
    let (small, large) = (rig.served(2 * GIB, Manner::Serves), rig.served(9 * GIB, Manner::Serves));
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    assert_eq!(node_of(&co.create(&unique("pvc"), &rig.spec()).unwrap()), large.node);
    large.behave(Manner::Refuses(full));
    let name = unique("pvc");
    assert_eq!(node_of(&co.create(&name, &rig.spec()).unwrap()), small.node);
    assert!(small.holds(&key(&name)) && !large.holds(&key(&name)));
    // Not tried where it cannot be.
    let status = co.create(&unique("pvc"), &rig.spec().size(20 << 30)).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    small.behave(Manner::Refuses(full));
    let name = unique("pvc");
    let status = co.create(&name, &rig.spec()).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("another process"), "{status}");
    assert!(rig.volumes().get(&key(&name)).is_none());
}

#[test]
fn the_schedulers_choice_is_taken_or_refused() {
    let rig = Rig::new();
    let (chosen, other) = (rig.served(2 * GIB, Manner::Serves), rig.served(9 * GIB, Manner::Serves));
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let both = [chosen.node.as_str(), other.node.as_str()];
    let selected = |name: &str| request(&rig, name, claim(&rig, Some(&chosen.node)), &both);
    let volume = send(&mut co, selected(&unique("pvc"))).unwrap();
    assert_eq!(node_of(&volume), chosen.node);
    // The same list without a choice: Immediate with allowedTopologies.
    let volume = send(&mut co, request(&rig, &unique("pvc"), claim(&rig, None), &both)).unwrap();
    assert_eq!(node_of(&volume), other.node);
    let volume = send(&mut co, request(&rig, &unique("pvc"), claim(&rig, None), &both[..1])).unwrap();
    assert_eq!(node_of(&volume), chosen.node);
    // Cordoned, not ready, dead: the scheduler has to look elsewhere, at once.
    rig.bed.set_schedulable(&chosen.node, false);
    crate::support::eventually("the cordon is seen", 10, || {
        let name = unique("pvc");
        let answer = send(&mut co, selected(&name));
        assert!(answer.is_ok() || rig.volumes().get(&key(&name)).is_none(), "an object is left");
        answer.is_err_and(|status| status.code() == Code::ResourceExhausted)
    });
    rig.bed.set_schedulable(&chosen.node, true);
    rig.bed.set_ready(&chosen.node, false);
    crate::support::eventually("it is seen that the node is not ready", 10, || {
        send(&mut co, selected(&unique("pvc"))).is_err_and(|status| status.code() == Code::ResourceExhausted)
    });
}

#[test]
fn a_restore_goes_where_its_source_is() {
    let rig = Rig::new();
    let (small, large) = (rig.served(2 * GIB, Manner::Serves), rig.served(9 * GIB, Manner::Serves));
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let origin = create_within(&mut co, &unique("pvc"), &rig.spec(), &[&small.node]).unwrap();
    assert_eq!(node_of(&origin), small.node);
    let snapshot = co.snapshot(&unique("snapshot"), &origin.volume_id).unwrap();
    // The scheduler preferred the other one.
    let both = [large.node.as_str(), small.node.as_str()];
    for spec in [rig.spec().from_snapshot(&snapshot.snapshot_id), rig.spec().from_volume(&origin.volume_id)] {
        let copy = create_within(&mut co, &unique("pvc"), &spec, &both).unwrap();
        assert_eq!(node_of(&copy), small.node);
        let status = create_within(&mut co, &unique("pvc"), &spec, &both[..1]).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
}

#[test]
fn a_dead_agent_holds_nobody_up() {
    let rig = Rig::new();
    let (dead, alive) = (rig.served(9 * GIB, Manner::Serves), rig.served(2 * GIB, Manner::Serves));
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let there = create_within(&mut co, &unique("pvc"), &rig.spec(), &[&dead.node]).unwrap();
    let node = dead.node.clone();
    let before = co.capacity(&rig.spec()).unwrap().available_capacity;
    let disk = dead.die();
    let began = Instant::now();
    assert_eq!(node_of(&co.create(&unique("pvc"), &rig.spec()).unwrap()), alive.node);
    let status = create_within(&mut co, &unique("pvc"), &rig.spec(), &[&node]).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    for status in [
        co.delete(&there.volume_id).unwrap_err(),
        co.expand(&there.volume_id, 3 << 20).unwrap_err(),
        co.snapshot(&unique("snapshot"), &there.volume_id).unwrap_err(),
    ] {
        assert!(matches!(status.code(), Code::Unavailable | Code::NotFound), "{status}");
    }
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    let after = co.capacity(&rig.spec()).unwrap().available_capacity;
    assert!(before > 10 * GIB && after < 3 * GIB, "{before}, {after}");
    // The wish to delete stands: the node carries it out when it comes back.
    let back = rig.agent(&node, Manner::Serves, disk);
    crate::support::eventually("what was to be deleted is", 20, || back.disk.lock().unwrap().is_empty());
    crate::rig::to_the_end(20, || co.delete(&there.volume_id)).unwrap();
}
