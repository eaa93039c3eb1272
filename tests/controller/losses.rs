//! Objects, definitions, nodes and the API server itself are lost: data is not, and nothing leaks.

use crate::{
    agent::Manner,
    bed::{Bed, unique},
    rig::{GIB, Rig, define_kinds, key, to_the_end},
    support::eventually,
};
use k8s_openapi::{
    api::core::v1::PersistentVolume,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde_json::json;
use tonic::Code;
use wharf::cluster::api::Desired;

#[test]
fn a_node_that_is_gone_for_good_does_not_keep_its_volumes() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    let (with, without) = (unique("pvc"), unique("pvc"));
    let ids = [&with, &without].map(|name| co.create(name, &rig.spec()).unwrap().volume_id);
    let (node, disk) = (agent.node.clone(), agent.die());
    rig.lose(&key(&without));
    let status = co.delete(&ids[0]).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "its Node is there: {status}");
    rig.bed.remove_node(&node);
    assert_eq!(co.delete(&ids[0]).unwrap_err().code(), Code::Unavailable, "there was no grace");
    for id in &ids {
        to_the_end(20, || co.delete(id)).unwrap();
    }
    for name in [&with, &without] {
        let tombstone = rig.volumes().get(&key(name)).expect("nothing tells the node to purge it");
        assert_eq!(
            (tombstone.spec.desired, tombstone.spec.node_name.as_str()),
            (Desired::Absent, node.as_str())
        );
        eventually("an event tells it", 10, || {
            let events = rig.volumes().events(&key(name));
            events.contains("NodeGone") && events.contains(&format!("wharf gc --node {node}"))
        });
    }
    assert_eq!(disk.lock().unwrap().len(), 2);
    let back = rig.agent(&node, Manner::Serves, disk);
    for name in [&with, &without] {
        rig.volumes().wait_gone(&key(name), 20);
    }
    assert!(back.disk.lock().unwrap().is_empty());
}

#[test]
fn what_a_claim_still_names_is_taken_up_again() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let mut first = rig.driver(&[]);
    let (claimed, nobodys) = (unique("pvc"), unique("pvc"));
    let ids = [&claimed, &nobodys].map(|name| first.co().create(name, &rig.spec()).unwrap().volume_id);
    first.kill();
    for name in [&claimed, &nobodys] {
        let label = json!({ "metadata": { "labels": { "wharf.csi.dev/orphaned": "true" } } });
        rig.volumes().merge(&key(name), label).unwrap();
        rig.volumes().merge_status(&key(name), json!({ "status": { "phase": "Orphaned" } })).unwrap();
    }
    rig.bed.all::<PersistentVolume>().create(json!({
        "metadata": { "name": claimed },
        "spec": { "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "csi": { "driver": "wharf.csi.dev", "volumeHandle": ids[0] } },
    }));
    let driver = rig.driver(&[]);
    let orphaned =
        |name: &str| rig.volumes().get(&key(name)).unwrap().metadata.labels.is_some_and(|l| !l.is_empty());
    eventually("the claimed one is taken up", 30, || !orphaned(&claimed));
    assert!(orphaned(&nobodys));
    driver.co().delete(&ids[1]).unwrap();
    assert!(agent.holds(&key(&claimed)) && !agent.holds(&key(&nobodys)));
    rig.bed.all::<PersistentVolume>().delete(&claimed);
}

/// A control plane of its own: it is taken apart.
#[test]
fn definitions_and_the_api_server_go_and_come_back() {
    let mut bed = Bed::start();
    define_kinds(&bed);
    let (node, disk, namespace, pool, id, name, mut driver) = {
        let rig = Rig::on(&bed);
        let agent = rig.served(10 * GIB, Manner::Serves);
        let driver = rig.driver(&[]);
        let name = unique("pvc");
        let id = driver.co().create(&name, &rig.spec()).unwrap().volume_id;
        bed.all::<CustomResourceDefinition>().delete("localvolumes.wharf.csi.dev");
        bed.all::<CustomResourceDefinition>().wait_gone("localvolumes.wharf.csi.dev", 30);
        assert!(agent.holds(&key(&name)), "a definition took the data along");
        let mut co = driver.co();
        for status in [
            co.delete(&id).unwrap_err(),
            co.create(&unique("pvc"), &rig.spec()).unwrap_err(),
            co.expand(&id, 2 << 20).unwrap_err(),
        ] {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.message().contains("wharf crds"), "it does not say what to do: {status}");
        }
        define_kinds(&bed);
        to_the_end(30, || co.delete(&id)).unwrap();
        assert!(!agent.holds(&key(&name)), "it leaked");
        let id = to_the_end(30, || co.create(&name, &rig.spec())).unwrap().volume_id;
        (agent.node.clone(), agent.disk.clone(), rig.namespace.clone(), rig.pool.clone(), id, name, driver)
    };
    bed.without_api_server(|_| {
        let mut co = driver.co();
        for status in [co.delete(&id).unwrap_err(), co.expand(&id, 2 << 20).unwrap_err()] {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
        co.probe().unwrap();
    });
    let rig = Rig { bed: &bed, namespace, pool };
    let agent = rig.agent(&node, Manner::Serves, disk);
    to_the_end(60, || driver.co().delete(&id)).unwrap();
    assert!(!agent.holds(&key(&name)));
    assert!(driver.terminate().success());
}
