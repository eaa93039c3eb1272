//! A volume's whole life, and two controllers at once.

use crate::{
    agent::Manner,
    bed::unique,
    rig::{GIB, Rig, key, node_of},
    support::co::Spec,
};
use serde_json::json;
use tonic::Code;
use wharf::{
    cluster::api::{Desired, Phase},
    rpc::csi,
};

#[test]
fn a_volume_lives_and_dies_on_its_node() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let (name, spec) = (unique("pvc"), rig.spec());

    let volume = co.create(&name, &spec).unwrap();
    assert_eq!(node_of(&volume), agent.node);
    assert_eq!(volume.volume_id, format!("local-{}.{}", key(&name), agent.node));
    let object = rig.volumes().get(&key(&name)).unwrap();
    assert_eq!((object.spec.name.as_str(), object.spec.desired), (name.as_str(), Desired::Present));
    assert_eq!(co.create(&name, &spec).unwrap(), volume, "the same request gives the same answer");
    let other = rig.spec().size(2 << 20);
    assert_eq!(co.create(&name, &other).unwrap_err().code(), Code::AlreadyExists);
    let other = spec.clone().thin();
    assert_eq!(co.create(&name, &other).unwrap_err().code(), Code::AlreadyExists);
    assert!(co.volumes().unwrap().contains(&volume.volume_id));

    let grown = co.expand(&volume.volume_id, 3 << 20).unwrap();
    assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (3 << 20, true));
    assert_eq!(co.expand(&volume.volume_id, 1 << 20).unwrap().capacity_bytes, 3 << 20);

    let too_small = csi::ControllerExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        capacity_range: Some(csi::CapacityRange { required_bytes: 1, limit_bytes: 2 << 20 }),
        ..Default::default()
    };
    let too_small = co.call(|mut c| async move { c.controller.controller_expand_volume(too_small).await });
    assert_eq!(too_small.unwrap_err().code(), Code::OutOfRange);

    let cut = unique("snapshot");
    let snapshot = co.snapshot(&cut, &volume.volume_id).unwrap();
    assert_eq!(co.snapshot(&cut, &volume.volume_id).unwrap(), snapshot);
    assert!(co.snapshots().unwrap().contains(&snapshot.snapshot_id));
    let restored = unique("pvc");
    let restored = co.restore(&restored, &rig.spec().size(4 << 20), &snapshot.snapshot_id).unwrap();
    assert_eq!(node_of(&restored), agent.node);
    let other = co.snapshot(&cut, &restored.volume_id).unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists, "{other}");

    for id in [&volume.volume_id, &restored.volume_id] {
        co.delete(id).unwrap();
        co.delete(id).unwrap();
        assert!(!co.volumes().unwrap().contains(id));
    }
    co.delete_snapshot(&snapshot.snapshot_id).unwrap();
    co.delete_snapshot(&snapshot.snapshot_id).unwrap();
    assert!(agent.disk.lock().unwrap().is_empty(), "data is left: {:?}", agent.disk);
    assert!(rig.volumes().get(&key(&name)).is_none() && rig.snapshots().get(&key(&cut)).is_none());
}

/// Whoever writes: this is in the definitions.
#[test]
fn what_a_volume_is_never_changes() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let (name, cut, copy) = (unique("pvc"), unique("snapshot"), unique("pvc"));
    let id = co.create(&name, &rig.spec()).unwrap().volume_id;
    let snapshot = co.snapshot(&cut, &id).unwrap().snapshot_id;
    co.restore(&copy, &rig.spec().fs("ext4"), &snapshot).unwrap();
    let other = json!({ "kind": "Volume", "id": id });
    let (volumes, snapshots) = (rig.volumes(), rig.snapshots());
    let volume = |name: &str, spec: serde_json::Value| {
        volumes.merge(&key(name), json!({ "spec": spec })).map(drop).map_err(|error| error.to_string())
    };
    for (name, spec) in [
        (&name, json!({ "nodeName": "elsewhere" })),
        (&name, json!({ "name": "other" })),
        (&name, json!({ "pool": "other" })),
        (&name, json!({ "parameters": { "layout": "directory" } })),
        (&name, json!({ "access": "Block" })),
        (&name, json!({ "filesystem": "xfs" })),
        (&name, json!({ "source": other })),
        (&copy, json!({ "filesystem": "xfs" })),
        (&copy, json!({ "filesystem": null })),
        (&copy, json!({ "source": other })),
        (&copy, json!({ "source": null })),
    ] {
        let refused = volume(name, spec.clone()).expect_err(&spec.to_string());
        assert!(refused.contains("never change"), "{spec}: {refused}");
    }
    for spec in
        [json!({ "nodeName": "elsewhere" }), json!({ "name": "other" }), json!({ "sourceVolumeID": "other" })]
    {
        let refused = snapshots.merge(&key(&cut), json!({ "spec": spec })).unwrap_err().to_string();
        assert!(refused.contains("never change"), "{spec}: {refused}");
    }
    volume(&name, json!({ "requiredBytes": 2 << 20, "limitBytes": 4 << 20 })).unwrap();
    // What is to go has no way back.
    agent.behave(Manner::Sleeps);
    volume(&name, json!({ "desired": "Absent" })).unwrap();
    assert!(volume(&name, json!({ "desired": "Present" })).unwrap_err().contains("Absent is final"));
    snapshots.merge(&key(&cut), json!({ "spec": { "desired": "Absent" } })).unwrap();
    let back = snapshots.merge(&key(&cut), json!({ "spec": { "desired": "Present" } }));
    assert!(back.unwrap_err().to_string().contains("Absent is final"));
    for (short, object) in [("lvol", key(&name)), ("lsnap", key(&cut)), ("snode", agent.node.clone())] {
        assert!(rig.bed.kubectl(&["get", short, &object]).contains(&object), "{short}");
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let mut driver = rig.driver(&[]);
    let mut co = driver.co();
    let id = format!("local-{}.{}", key(&unique("never")), agent.node);
    for (what, status) in [
        ("expand", co.expand(&id, GIB as u64).unwrap_err()),
        ("snapshot", co.snapshot(&unique("snapshot"), &id).unwrap_err()),
        ("restore", co.restore(&unique("pvc"), &rig.spec(), "no-id").unwrap_err()),
    ] {
        assert_eq!(status.code(), Code::NotFound, "{what}: {status}");
    }
    let unknown = co.create(&unique("pvc"), &Spec::new().pool("no-such-pool").size(1 << 20)).unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument, "{unknown}");
    assert!(unknown.message().contains(&rig.pool), "{unknown}");
    // An id that parses and stands for nothing: its node is asked.
    co.delete(&id).unwrap();
    assert!(driver.terminate().success(), "{}", driver.log());
}

#[test]
fn a_health_call_tells_of_what_its_agent_says() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let name = unique("pvc");
    let id = co.create(&name, &rig.spec()).unwrap().volume_id;
    let mut health = || {
        let request = csi::ControllerGetVolumeHealthRequest { volume_id: id.clone(), ..Default::default() };
        co.call(|mut client| async move { client.controller.controller_get_volume_health(request).await })
            .unwrap()
    };
    let healthy = format!("{:?}", health());
    // Its agent's look at the data comes first, and `Ready` where there was none.
    let condition = |type_: &str, status: &str, reason: &str| {
        json!({ "type": type_, "status": status, "reason": reason, "message": "said so",
            "lastTransitionTime": "2026-01-01T00:00:00Z" })
    };
    for (conditions, told) in [
        (json!([condition("Ready", "False", "Damaged")]), "Damaged"),
        (
            json!([condition("Ready", "True", "Made"), condition("Healthy", "False", "ImageMissing")]),
            "ImageMissing",
        ),
    ] {
        let status = json!({ "status": { "conditions": conditions } });
        rig.volumes().merge_status(&key(&name), status).unwrap();
        crate::support::eventually("the ailment is told", 10, || {
            let health = format!("{:?}", health());
            health.contains(told) && health.contains("said so")
        });
    }
    let lost = json!({ "status": { "phase": Phase::Lost } });
    rig.volumes().merge_status(&key(&name), lost).unwrap();
    crate::support::eventually("the loss is told", 10, || format!("{:?}", health()).contains("Lost"));
    assert!(!healthy.contains("Lost"), "{healthy}");
    drop(agent);
}

#[test]
fn two_controllers_do_each_other_no_harm() {
    let rig = Rig::new();
    let agents = [rig.served(100 * GIB, Manner::Serves), rig.served(100 * GIB, Manner::Serves)];
    let drivers = [rig.driver(&[]), rig.driver(&[])];
    let names: Vec<_> = (0..12).map(|_| unique("pvc")).collect();
    let everybody = |act: &(dyn Fn(&mut crate::support::co::Co, &str) + Sync)| {
        std::thread::scope(|scope| {
            for driver in &drivers {
                for name in &names {
                    scope.spawn(move || act(&mut driver.co(), name));
                }
            }
        });
    };
    let spec = rig.spec();
    everybody(&|co, name| drop(co.create(name, &spec).unwrap()));
    let held: usize = agents.iter().map(|agent| agent.disk.lock().unwrap().len()).sum();
    assert_eq!(held, names.len(), "each is on one node: {agents:?}");
    let node = |name: &str| rig.volumes().get(&key(name)).unwrap().spec.node_name;
    assert!(agents.iter().all(|agent| names.iter().any(|name| node(name) == agent.node)), "all on one node");
    everybody(&|co, name| {
        let object = rig.volumes().get(&key(name));
        if let Some(object) = object {
            co.delete(&object.id().unwrap().to_string()).unwrap();
        }
    });
    let left: usize = agents.iter().map(|agent| agent.disk.lock().unwrap().len()).sum();
    assert_eq!(left, 0);
    assert!(names.iter().all(|name| rig.volumes().get(&key(name)).is_none()));
}
