//! Objects, definitions, nodes and the API server itself are lost: data is not, and nothing leaks.

use crate::{
    agent::Manner,
    bed::{Bed, access::Bound, unique},
    rig::{GIB, Rig, define_kinds, key, named, node_of, to_the_end},
    support::{co::Spec, eventually},
};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde_json::json;
use std::process::Command;
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
    rig.bed.all::<PersistentVolume>().create(named(&claimed, &ids[0]));
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

/// It serves all the while: a container that does not is killed, again and again, and nobody is told why.
#[test]
fn rights_that_are_missing_taken_away_and_given_back() {
    let rig = Rig::new();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let (bed, account) = (rig.bed, unique("controller"));
    bed.within::<ServiceAccount>(&rig.namespace).create(json!({ "metadata": { "name": account } }));
    let (binding, subject) = (
        bed.all::<ClusterRoleBinding>(),
        json!([
            { "kind": "ServiceAccount", "name": account, "namespace": rig.namespace },
        ]),
    );
    let bind = |name: &str, role: &str| {
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role });
        binding.create(json!({ "metadata": { "name": name }, "subjects": subject, "roleRef": role }))
    };
    let give = || bind(&account, "cluster-admin");
    let kubeconfig = bed.kubeconfig_of(&rig.namespace, &account, Bound::Nothing);
    let mut driver = rig.spawn_as(&kubeconfig, &[]);
    assert!(driver.wait_until_ready(), "{}", driver.log());
    let mut co = driver.co();
    let (name, share) = (unique("pvc"), Spec::nfs("127.0.0.1", "/nowhere").size(1 << 20));
    let refused = |status: tonic::Status, what: &str| {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("RBAC") && status.message().contains("forbid"), "{status}");
        assert!(status.message().contains(what), "{status}");
    };
    refused(co.create(&name, &rig.spec()).unwrap_err(), "localvolumes");

    // All but the namespace that tells whose volumes on shares are.
    let some = unique("some");
    let rule = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["*"] });
    bed.all::<ClusterRole>().create(json!({ "metadata": { "name": some }, "rules": [
        rule("wharf.csi.dev", &["*"]),
        rule("coordination.k8s.io", &["leases"]),
        rule("", &["nodes", "persistentvolumes", "persistentvolumeclaims"]),
    ]}));
    bind(&some, &some);
    let id = to_the_end(60, || co.create(&name, &rig.spec())).unwrap().volume_id;
    refused(co.create(&unique("pvc"), &share).unwrap_err(), "kube-system");
    give();
    binding.delete(&some);
    bed.all::<ClusterRole>().delete(&some);
    // Now it is the share itself that is in the way.
    eventually("it knows whose shares are", 30, || {
        co.create(&unique("pvc"), &share).is_err_and(|status| !status.message().contains("kube-system"))
    });

    binding.delete(&account);
    let other = unique("pvc");
    eventually("it may not any more", 30, || {
        co.create(&other, &rig.spec()).is_err_and(|status| status.message().contains("RBAC"))
    });
    let cut = unique("snapshot");
    refused(co.create(&other, &rig.spec()).unwrap_err(), &key(&other));
    refused(co.expand(&id, 2 << 20).unwrap_err(), &key(&name));
    refused(co.snapshot(&cut, &id).unwrap_err(), &key(&cut));
    refused(co.delete(&id).unwrap_err(), &key(&name));
    co.probe().unwrap();
    assert!(driver.ended().is_none() && agent.holds(&key(&name)));

    give();
    to_the_end(30, || co.delete(&id)).unwrap();
    assert!(!agent.holds(&key(&name)));
    binding.delete(&account);
}

/// On a control plane of its own: the kind is changed.
#[test]
fn an_object_of_a_newer_version_holds_up_no_other() {
    let bed = Bed::start();
    define_kinds(&bed);
    let output = Command::new(env!("CARGO_BIN_EXE_wharf")).arg("crds").output().unwrap();
    let newer = String::from_utf8(output.stdout).unwrap();
    bed.apply(&newer.replace("- Absent\n", "- Absent\n                - Frozen\n"));
    let rig = Rig::on(&bed);
    let old = rig.served(5 * GIB, Manner::Serves);
    let mut driver = rig.driver(&[]);
    let (strange, plain) = (unique("pvc"), unique("pvc"));
    let id = driver.co().create(&strange, &rig.spec()).unwrap().volume_id;
    let new = rig.served(9 * GIB, Manner::Serves);
    let object = key(&strange);
    eventually("the newer kind is served", 30, || {
        let frozen = rig.volumes().merge(&object, json!({ "spec": { "desired": "Frozen" } }));
        frozen.is_ok() || bed.kubectl(&["get", "localvolume", &object, "-o", "yaml"]).contains("Frozen")
    });
    for restarted in [false, true] {
        if restarted {
            driver.kill();
            driver = rig.driver(&[]);
        }
        let mut co = driver.co();
        for status in [
            co.create(&strange, &rig.spec()).unwrap_err(),
            co.expand(&id, 2 << 20).unwrap_err(),
            co.delete(&id).unwrap_err(),
        ] {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(
                status.message().contains("newer version") && status.message().contains("Frozen"),
                "{status}"
            );
        }
        let other = co.create(&plain, &rig.spec()).unwrap();
        assert_eq!(node_of(&other), new.node);
        assert_eq!(co.volumes().unwrap(), [other.volume_id]);
    }
    assert!(old.holds(&object));
    let gc = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .args(["gc", "--cluster", "--kubeconfig"])
        .arg(bed.kubeconfig())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&gc.stderr);
    assert!(gc.status.success(), "{said}");
    assert!(said.contains(&format!("localvolume/{object} cannot be read")), "{said}");
}
