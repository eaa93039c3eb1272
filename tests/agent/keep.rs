//! Data outlives objects, kinds, the API server and other agents.

use crate::{
    bed::{Bed, unique},
    stand::{Stand, entries, health, is_accepted, key, phase, readiness, serve_kinds, snapshot_phase},
    support::{
        MIB,
        co::Spec,
        data::{bytes, sha256, write_durably},
        eventually,
        pool::{Kind, Pool},
    },
};
use kube::ResourceExt;
use serde_json::json;
use std::{fs, mem};
use wharf::cluster::api::{LocalVolume, ORPHANED_LABEL, Phase};

/// Something to recognise it by.
fn fill(stand: &Stand, name: &str) -> String {
    let content = bytes(u64::from(key(name).as_bytes()[0]), 1 << 20);
    write_durably(&stand.directory(name).join("data/content"), &content);
    sum(stand, name)
}

fn sum(stand: &Stand, name: &str) -> String {
    sha256(&stand.directory(name).join("data/content")) + &sha256(&stand.image(name))
}

fn orphan(stand: &Stand, name: &str, seconds: u64) -> LocalVolume {
    // Until then there may be no object, or another one.
    eventually("it is announced", seconds, || {
        stand.volumes().get(&key(name)).is_some_and(|volume| phase(&volume) == Phase::Orphaned)
    });
    stand.volumes().get(&key(name)).unwrap()
}

#[test]
fn an_object_that_is_deleted_by_hand_leaves_its_data() {
    let stand = Stand::new();
    let name = unique("pvc");
    let before = stand
        .ready(&name, json!({ "parameters": { "layout": "image", "provisioning": "thin", "uid": "7" } }));
    let content = fill(&stand, &name);
    stand.volumes().delete(&key(&name));
    let volume = orphan(&stand, &name, 30);
    assert_ne!(volume.uid(), before.uid());
    assert_eq!(volume.labels().get(ORPHANED_LABEL).map(String::as_str), Some("true"));
    assert_eq!(volume.spec, before.spec);
    assert_eq!(volume.status.as_ref().unwrap().volume_id, before.status.unwrap().volume_id);
    assert_eq!(readiness(&volume).1, "Orphaned");
    assert_eq!(sum(&stand, &name), content);
    eventually("events tell it", 10, || {
        let events = stand.volumes().events(&key(&name));
        events.contains("DataKept") && events.contains("Announced")
    });

    // The controller takes it over.
    stand
        .volumes()
        .merge(&key(&name), json!({ "metadata": { "labels": { ORPHANED_LABEL: null } } }))
        .unwrap();
    stand.volumes().wait(&key(&name), "is ready", 30, |volume| phase(volume) == Phase::Ready);
    assert_eq!(sum(&stand, &name), content);
    stand.unwish(&name);
    stand.volumes().wait_gone(&key(&name), 30);
    assert!(!stand.directory(&name).exists());
    stand.assert_empty();
}

#[test]
fn a_tombstone_names_what_is_deleted_and_not_announced() {
    let mut stand = Stand::new();
    let name = unique("pvc");
    stand.ready(&name, json!({}));
    stand.kill();
    // The node is gone, its object too; then it comes back.
    stand.volumes().merge(&key(&name), json!({ "metadata": { "finalizers": [] } })).unwrap();
    stand.volumes().delete(&key(&name));
    stand.volumes().wait_gone(&key(&name), 5);
    let tombstone = stand.volume("no such name", json!({ "desired": "Absent" }));
    stand.volumes().create(json!({ "metadata": { "name": key(&name) }, "spec": tombstone["spec"] }));
    stand.start(&[]);
    stand.volumes().wait(&key(&name), "is purged", 30, |volume| {
        phase(volume) == Phase::Deleting && !is_accepted(volume)
    });
    assert!(!stand.directory(&name).exists());
    assert!(!stand.volumes().events(&key(&name)).contains("Announced"));
    stand.volumes().delete(&key(&name));
}

#[test]
fn another_disk_in_its_place_is_a_loss_and_not_a_fresh_start() {
    let mut stand = Stand::new();
    let name = unique("pvc");
    let ready = stand.ready(&name, json!({}));
    let content = fill(&stand, &name);
    stand.kill();

    let right = mem::replace(&mut stand.pool, Pool::new(Kind::Xfs, 1024 * MIB));
    stand.start(&[]);
    let lost = stand.volumes().wait(&key(&name), "is lost", 30, |volume| phase(volume) == Phase::Lost);
    let (status, reason, message) = readiness(&lost);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Lost"));
    assert_eq!(health(&lost), Some(("False".to_owned(), "Lost".to_owned(), message.clone())));
    assert!(message.contains(&ready.status.unwrap().store.unwrap()), "{message}");
    eventually("an event tells it", 10, || stand.volumes().events(&key(&name)).contains("Lost"));
    // Neither a change nor a restart makes it anew.
    stand.volumes().merge(&key(&name), json!({ "spec": { "requiredBytes": 32 * MIB } })).unwrap();
    stand.volumes().wait(&key(&name), "is looked at", 30, |volume| {
        volume.status.as_ref().map(|status| status.observed_generation) == volume.metadata.generation
    });
    stand.kill();
    stand.start(&[]);
    let other = unique("pvc");
    stand.ready(&other, json!({}));
    assert_eq!(entries(&stand.pool.path().join("volumes")), [key(&other)]);
    stand.kill();

    drop(mem::replace(&mut stand.pool, right));
    stand.start(&[]);
    stand.volumes().wait(&key(&name), "is found again", 30, |volume| {
        phase(volume) == Phase::Ready && volume.status.as_ref().unwrap().failure.is_none()
    });
    assert_eq!(
        fs::metadata(stand.image(&name)).unwrap().len(),
        32 * MIB,
        "the wish of meanwhile is fulfilled"
    );
    assert!(sum(&stand, &name).starts_with(&content[..64]));
    stand.volumes().wait(&key(&other), "is lost", 30, |volume| phase(volume) == Phase::Lost);
}

#[test]
fn a_volume_that_cannot_be_used_is_ill_until_it_can() {
    let mut stand = Stand::new();
    let (good, name) = (unique("pvc"), unique("pvc"));
    stand.ready(&good, json!({}));
    let ready = stand.ready(&name, json!({}));
    assert_eq!(health(&ready).map(|(status, reason, _)| status + &reason).as_deref(), Some("TrueUsable"));
    let before = stand.volumes().get(&key(&good)).unwrap();
    stand.kill();
    let aside = stand.pool.path().join("aside");
    fs::rename(stand.image(&name), &aside).unwrap();
    stand.start(&[]);
    let is = |volume: &LocalVolume, status: &str| health(volume).is_some_and(|(is, ..)| is == status);
    let ill = stand.volumes().wait(&key(&name), "is ill", 30, |volume| is(volume, "False"));
    let (_, reason, message) = health(&ill).unwrap();
    assert_eq!((reason.as_str(), phase(&ill)), ("ImageMissing", Phase::Ready));
    assert!(message.contains("disk.img is missing"), "{message}");
    eventually("an event tells it", 10, || stand.volumes().events(&key(&name)).contains("ImageMissing"));
    assert!(!stand.image(&name).exists(), "it was made anew");
    let same = stand.volumes().get(&key(&good)).unwrap();
    assert_eq!(same.resource_version(), before.resource_version(), "it says the same over and over");

    // What follows the slow beat finds, without being asked: the pool goes, and all comes back.
    fs::rename(&aside, stand.image(&name)).unwrap();
    let (format, away) = (stand.pool.path().join("format.json"), stand.pool.path().join("format.away"));
    fs::rename(&format, &away).unwrap();
    let ill = stand.volumes().wait(&key(&good), "is ill", 90, |volume| is(volume, "False"));
    assert_eq!((health(&ill).unwrap().1.as_str(), phase(&ill)), ("PoolUnavailable", Phase::Ready));
    fs::rename(&away, &format).unwrap();
    for name in [&good, &name] {
        stand.volumes().wait(&key(name), "is well", 90, |volume| is(volume, "True"));
        eventually("an event tells it", 10, || stand.volumes().events(&key(name)).contains("Found"));
    }
}

#[test]
fn a_second_agent_waits_for_the_end_of_the_first() {
    let mut stand = Stand::new();
    let (first, second) = (unique("pvc"), unique("pvc"));
    let mut waiting = stand.spawn(&[]);
    assert!(waiting.wait_until_ready(), "its CSI services do not wait");
    stand.ready(&first, json!({}));
    assert!(waiting.log().contains("another process looks after this node's objects"), "{}", waiting.log());
    assert!(!waiting.log().contains("watching localvolumes"), "{}", waiting.log());
    stand.kill();
    stand.ready(&second, json!({}));
    assert!(waiting.log().contains("watching localvolumes"), "{}", waiting.log());
    stand.driver = Some(waiting);
}

/// On a control plane of its own: others would notice.
#[test]
fn kinds_that_are_deleted_and_an_api_server_that_is_away() {
    let mut bed = Bed::start();
    // The agent waits for its kinds.
    let mut stand = Stand::without_driver(&bed);
    stand.start(&[]);
    eventually("it says what is missing", 20, || stand.driver().log().contains("watching localvolumes"));
    serve_kinds(&bed);

    let names: Vec<_> = (0..5).map(|_| unique("pvc")).collect();
    for name in &names {
        stand.volumes().create(stand.volume(name, json!({})));
    }
    for name in &names {
        stand.volumes().wait(&key(name), "is ready", 30, |volume| phase(volume) == Phase::Ready);
    }
    let cut = unique("snapshot");
    let source = stand.volumes().get(&key(&names[0])).unwrap();
    stand.ready_snapshot(&cut, &source);
    let sums: Vec<_> = names.iter().map(|name| fill(&stand, name)).collect();

    for kind in ["localvolumes", "localsnapshots", "storagenodes"] {
        bed.kubectl(&["delete", "--timeout=40s", &format!("crd/{kind}.wharf.csi.dev")]);
    }
    serve_kinds(&bed);
    for name in &names {
        orphan(&stand, name, 40);
    }
    eventually("the snapshot is announced", 30, || {
        stand.snapshots().get(&key(&cut)).is_some_and(|snapshot| snapshot_phase(&snapshot) == Phase::Orphaned)
    });
    stand.storage_node("is published again", |node| node.status.is_some());
    assert_eq!(names.iter().map(|name| sum(&stand, name)).collect::<Vec<_>>(), sums);

    // Without an API server the node serves its volumes.
    let Stand { driver, node, namespace, pool, program, .. } = stand;
    let mut driver = driver.unwrap();
    let id = format!("local-{}.{node}", key(&names[1]));
    let staging = tempfile::tempdir().unwrap();
    bed.without_api_server(|_| {
        let mut co = driver.co();
        co.stage(&id, staging.path(), &Spec::image("ext4")).unwrap();
        co.unstage(&id, staging.path()).unwrap();
    });
    assert!(driver.ended().is_none());
    let stand = Stand { driver: Some(driver), bed: &bed, node, namespace, pool, program };
    stand.ready(&unique("pvc"), json!({}));
    stand.unwish(&names[1]);
    stand.volumes().wait_gone(&key(&names[1]), 30);
    assert!(!stand.directory(&names[1]).exists());
}
