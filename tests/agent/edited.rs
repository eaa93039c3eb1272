//! What somebody has done by hand ends in a condition and an event that name the cause, and nothing else.

use crate::{
    bed::{Bed, access::Bound, unique},
    stand::{Stand, is_accepted, key, phase, readiness, serve_kinds},
    support::eventually,
};
use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, process::Command};
use wharf::cluster::api::Phase;

#[test]
fn an_object_that_makes_no_sense() {
    let stand = Stand::new();
    let other = unique("pvc");
    let strange = unique("strange");
    let cases: [(String, Value, &str); 5] = [
        (strange.clone(), stand.volume(&strange, json!({}))["spec"].clone(), "is not called like the uuid"),
        (
            key(&other),
            stand.volume("a name of another key", json!({}))["spec"].clone(),
            "somebody has edited",
        ),
        edited(&stand, json!({ "parameters": { "layuot": "image" } }), "layuot"),
        edited(&stand, json!({ "pool": "slow" }), "this node has default"),
        edited(&stand, json!({ "requiredBytes": 9, "limitBytes": 5 }), "which no size satisfies"),
    ];
    for (name, spec, _) in &cases {
        stand.volumes().create(json!({ "metadata": { "name": name }, "spec": spec }));
    }
    for (name, _, cause) in &cases {
        let volume = stand.volumes().wait(name, "has failed", 30, |volume| phase(volume) == Phase::Failed);
        let (status, _, message) = readiness(&volume);
        assert_eq!(status, "False");
        assert!(message.contains(cause), "{message}");
        assert_eq!(volume.status.unwrap().failure.unwrap().message, message);
        eventually("an event tells it", 10, || stand.volumes().events(name).contains(cause));
    }
    // Others are not held up, and these hold nothing up.
    stand.ready(&unique("pvc"), json!({}));
    for (name, ..) in &cases {
        stand.volumes().delete(name);
        stand.volumes().wait_gone(name, 10);
    }
}

fn edited(stand: &Stand, more: Value, cause: &'static str) -> (String, Value, &'static str) {
    let name = unique("pvc");
    (key(&name), stand.volume(&name, more)["spec"].clone(), cause)
}

#[test]
fn a_record_that_is_deleted_from_disk() {
    let stand = Stand::new();
    let name = unique("pvc");
    stand.ready(&name, json!({}));
    let record = stand.directory(&name).join("record.json");
    let kept = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    touch(&stand, &name);
    let volume =
        stand.volumes().wait(&key(&name), "is in doubt", 30, |volume| readiness(volume).0 == "False");
    assert_eq!((phase(&volume), readiness(&volume).1.as_str()), (Phase::Ready, "Damaged"));
    eventually("an event tells it", 10, || {
        stand.volumes().events(&key(&name)).contains("has lost its record.json")
    });
    assert!(stand.image(&name).exists());

    // It is not deleted either: whose it is cannot be told.
    stand.unwish(&name);
    stand.volumes().wait(&key(&name), "cannot be deleted", 30, |volume| {
        phase(volume) == Phase::Deleting && volume.status.as_ref().unwrap().failure.is_some()
    });
    assert!(stand.image(&name).exists());
    fs::write(&record, kept).unwrap();
    stand.volumes().wait_gone(&key(&name), 60);
    assert!(!stand.directory(&name).exists());
}

/// Any change makes the agent look.
fn touch(stand: &Stand, name: &str) {
    let now = unique("now");
    stand.volumes().merge(&key(name), json!({ "metadata": { "labels": { "touched": now } } })).unwrap();
}

/// What was reported is read from the disk again, and the agent takes on again what it was made to let go.
#[test]
fn a_status_and_a_finalizer_that_are_wiped_come_back() {
    let stand = Stand::new();
    let name = unique("pvc");
    let told = stand.ready(&name, json!({})).status.unwrap();
    let image = fs::metadata(stand.image(&name)).unwrap().ino();
    for wipe in ["status", "finalizers", "both"] {
        if wipe != "finalizers" {
            stand.volumes().merge_status(&key(&name), json!({ "status": null })).unwrap();
        }
        if wipe != "status" {
            stand.volumes().merge(&key(&name), json!({ "metadata": { "finalizers": null } })).unwrap();
        }
        let back = stand.volumes().wait(&key(&name), "is as it was", 30, |volume| {
            phase(volume) == Phase::Ready && is_accepted(volume)
        });
        let now = back.status.unwrap();
        assert_eq!(
            (&now.volume_id, &now.store, now.size_bytes),
            (&told.volume_id, &told.store, told.size_bytes)
        );
        assert_eq!(fs::metadata(stand.image(&name)).unwrap().ino(), image, "{wipe}: made anew");
    }
}

#[test]
fn a_volume_in_use_is_not_deleted() {
    let stand = Stand::new();
    let name = unique("pvc");
    let volume = stand.ready(&name, json!({}));
    let id = volume.status.unwrap().volume_id.unwrap();
    let staging = tempfile::tempdir().unwrap();
    let mut co = stand.driver.as_ref().unwrap().co();
    co.stage(&id, staging.path(), &crate::support::co::Spec::image("ext4")).unwrap();
    stand.unwish(&name);
    let held = stand
        .volumes()
        .wait(&key(&name), "says why not", 30, |volume| volume.status.as_ref().unwrap().failure.is_some());
    assert_eq!(phase(&held), Phase::Deleting);
    assert_eq!(held.status.unwrap().failure.unwrap().reason, "Refused");
    assert!(stand.image(&name).exists());
    co.unstage(&id, staging.path()).unwrap();
    stand.volumes().wait_gone(&key(&name), 30);
    assert!(!stand.directory(&name).exists());
}

#[test]
fn rights_that_are_taken_away_and_given_back() {
    let mut stand = Stand::new();
    stand.kill();
    let (bed, role) = (stand.bed, unique("agent-role"));
    let rule = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["*"] });
    bed.all::<ClusterRole>().create(json!({ "metadata": { "name": role }, "rules": [
        rule("wharf.csi.dev", &["*"]), rule("coordination.k8s.io", &["leases"]), rule("events.k8s.io", &["events"]),
    ]}));
    bed.within::<ServiceAccount>(&stand.namespace).create(json!({ "metadata": { "name": "agent" } }));
    let kubeconfig = bed.kubeconfig_of(&stand.namespace, "agent", Bound::Nothing);
    start_as(&mut stand, kubeconfig);
    let name = unique("pvc");
    stand.volumes().create(stand.volume(&name, json!({})));
    eventually("it says what it may not", 30, || stand.driver().log().contains("is forbidden"));
    assert!(!is_accepted(&stand.volumes().get(&key(&name)).unwrap()));

    let namespace = stand.namespace.clone();
    let binding = || {
        bed.all::<ClusterRoleBinding>().create(json!({
            "metadata": { "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": "agent", "namespace": namespace }],
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        }))
    };
    binding();
    stand.volumes().wait(&key(&name), "is ready", 60, |volume| phase(volume) == Phase::Ready);
    bed.all::<ClusterRoleBinding>().delete(&role);
    let account = format!("system:serviceaccount:{namespace}:agent");
    let may = ["auth", "can-i", "get", "localvolumes.wharf.csi.dev", "--as", &account];
    eventually("it may not any more", 30, || bed.try_kubectl(&may, "").is_err());
    stand.unwish(&name);
    eventually("it says of which it may not", 60, || {
        let log = stand.driver().log();
        log.lines().any(|line| line.contains(&key(&name)) && line.contains("is forbidden"))
    });
    assert!(stand.image(&name).exists(), "nothing is deleted for what may have been taken back");
    assert!(stand.driver().ended().is_none());
    stand.driver().co().probe().unwrap();
    binding();
    stand.volumes().wait_gone(&key(&name), 60);
    assert!(!stand.directory(&name).exists());
    bed.all::<ClusterRoleBinding>().delete(&role);
    bed.all::<ClusterRole>().delete(&role);
}

fn start_as(stand: &mut Stand, kubeconfig: PathBuf) {
    let mut driver = stand.spawn_with(&kubeconfig, &[]);
    assert!(driver.wait_until_ready(), "{}", driver.log());
    stand.driver = Some(driver);
}

/// On a control plane of its own: the kind is changed.
#[test]
fn an_object_of_a_newer_version() {
    let bed = Bed::start();
    let output = Command::new(env!("CARGO_BIN_EXE_wharf")).arg("crds").output().unwrap();
    let newer = String::from_utf8(output.stdout)
        .unwrap()
        .replace("- Absent\n", "- Absent\n                - Frozen\n");
    serve_kinds(&bed);
    bed.apply(&newer);
    let mut stand = Stand::without_driver(&bed);
    stand.start(&[]);
    let (strange, plain) = (unique("pvc"), unique("pvc"));
    stand.ready(&strange, json!({}));
    eventually("the newer kind is served", 30, || {
        stand.volumes().merge(&key(&strange), json!({ "spec": { "desired": "Frozen" } })).is_ok()
            || bed.kubectl(&["get", "localvolume", &key(&strange), "-o", "yaml"]).contains("Frozen")
    });
    let told = || bed.kubectl(&["get", "events", "-A", "-o", "jsonpath={.items[*].message}"]);
    eventually("an event tells it", 30, || told().contains("cannot read the object"));
    // Others go on, also after a restart.
    stand.kill();
    stand.start(&[]);
    let name = key(&plain);
    bed.apply(&with_type(stand.volume(&plain, json!({}))).to_string());
    eventually("the other one is made", 30, || {
        bed.kubectl(&["get", "localvolume", &name, "-o", "jsonpath={.status.phase}"]) == "Ready"
    });
    assert!(stand.image(&strange).exists());
    assert!(stand.driver().ended().is_none());
}

fn with_type(mut object: Value) -> Value {
    object["apiVersion"] = json!("wharf.csi.dev/v1alpha1");
    object["kind"] = json!("LocalVolume");
    object
}
