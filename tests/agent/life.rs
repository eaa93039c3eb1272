//! From the wish to the data and back.

use crate::{
    bed::unique,
    stand::{SIZE, Stand, entries, is_accepted, key, phase, readiness, snapshot_phase},
    support::{
        MIB,
        driver::{free_address, sample, scrape},
        eventually,
    },
};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;
use std::{fs, thread, time::Duration};
use wharf::cluster::api::Phase;

#[test]
fn an_object_becomes_a_volume_and_an_unwished_one_goes() {
    let stand = Stand::new();
    let name = unique("pvc");
    let volume = stand.ready(&name, json!({}));
    let status = volume.status.clone().unwrap();
    assert_eq!(status.volume_id, Some(format!("local-{}.{}", key(&name), stand.node)));
    assert_eq!((status.size_bytes, status.size.as_deref()), (Some(SIZE.cast_signed()), Some("16.0 MiB")));
    assert_eq!(status.observed_generation, volume.metadata.generation.unwrap());
    assert_eq!(status.failure, None);
    assert_eq!(readiness(&volume).0, "True");
    assert!(is_accepted(&volume));
    assert_eq!(fs::metadata(stand.image(&name)).unwrap().len(), SIZE);

    stand.unwish(&name);
    stand.volumes().wait_gone(&key(&name), 30);
    assert!(!stand.directory(&name).exists());
    thread::sleep(Duration::from_secs(1));
    stand.assert_empty();
}

#[test]
fn the_node_shows_what_it_has_and_that_it_lives() {
    let stand = Stand::new();
    let node = stand.storage_node("is published", |node| node.status.is_some());
    let status = node.status.unwrap();
    assert_eq!(
        (status.topology_value.as_str(), status.version.as_str()),
        (&*stand.node, env!("CARGO_PKG_VERSION"))
    );
    let [pool] = &status.pools[..] else { panic!("{:?}", status.pools) };
    assert_eq!(
        (pool.name.as_str(), pool.filesystem.as_deref(), pool.reflink),
        ("default", Some("xfs"), true)
    );
    assert_eq!(pool.path, stand.pool.path().to_str().unwrap());
    let store: serde_json::Value =
        serde_json::from_slice(&fs::read(stand.pool.path().join("format.json")).unwrap()).unwrap();
    assert!(store.to_string().contains(pool.uuid.as_deref().unwrap()), "{store}");
    assert!(pool.available_bytes > 0 && pool.available_bytes < pool.capacity_bytes);

    let name = unique("pvc");
    stand.ready(&name, json!({ "requiredBytes": 100 * MIB }));
    let before = pool.available_bytes;
    stand.storage_node("shows less room", |node| {
        node.status.as_ref().unwrap().pools[0].available_bytes <= before - (100 * MIB).cast_signed()
    });
    stand.unwish(&name);
    stand.storage_node("shows the room again", |node| {
        node.status.as_ref().unwrap().pools[0].available_bytes > before - (10 * MIB).cast_signed()
    });

    let lease =
        stand.bed.within::<Lease>(&stand.namespace).get(&format!("wharf-node-{}", stand.node)).unwrap();
    let lease = lease.spec.unwrap();
    assert_eq!(lease.lease_duration_seconds, Some(40));
    let age = k8s_openapi::jiff::Timestamp::now().duration_since(lease.renew_time.unwrap().0);
    assert!(age.as_secs() < 20, "{age}");
}

#[test]
fn a_snapshot_a_restore_and_growth() {
    let stand = Stand::new();
    let (name, cut, restored) = (unique("pvc"), unique("snapshot"), unique("pvc"));
    let volume = stand.ready(&name, json!({}));
    let snapshot = stand.ready_snapshot(&cut, &volume);
    let status = snapshot.status.unwrap();
    assert_eq!(status.snapshot_id, Some(format!("local-snap-{}.{}", key(&cut), stand.node)));
    assert_eq!(status.asked_bytes, Some(SIZE.cast_signed()));
    assert!(status.creation_time.is_some() && status.store.is_some());
    let source =
        json!({ "source": { "kind": "Snapshot", "id": status.snapshot_id }, "requiredBytes": 2 * SIZE });
    stand.ready(&restored, source);
    assert_eq!(fs::metadata(stand.image(&restored)).unwrap().len(), 2 * SIZE);

    stand.volumes().merge(&key(&name), json!({ "spec": { "requiredBytes": 3 * SIZE } })).unwrap();
    let grown = stand.volumes().wait(&key(&name), "has grown", 30, |volume| {
        let status = volume.status.as_ref().unwrap();
        status.size_bytes == Some((3 * SIZE).cast_signed())
            && Some(status.observed_generation) == volume.metadata.generation
    });
    assert_eq!(phase(&grown), Phase::Ready);
    assert_eq!(fs::metadata(stand.image(&name)).unwrap().len(), 3 * SIZE);

    stand.volumes().merge(&key(&name), json!({ "spec": { "requiredBytes": 1_u64 << 50 } })).unwrap();
    let refused = stand.volumes().wait(&key(&name), "says that it cannot grow", 30, |volume| {
        volume.status.as_ref().unwrap().failure.is_some()
    });
    let status = refused.status.clone().unwrap();
    assert_eq!((status.phase, status.failure.unwrap().reason.as_str()), (Phase::Ready, "OutOfRange"));
    assert_eq!(Some(status.observed_generation), refused.metadata.generation);

    stand.snapshots().merge(&key(&cut), json!({ "spec": { "desired": "Absent" } })).unwrap();
    stand.snapshots().delete(&key(&cut));
    stand.snapshots().wait_gone(&key(&cut), 30);
    assert_eq!(entries(&stand.pool.path().join("snapshots")), Vec::<String>::new());
}

#[test]
fn what_cannot_be_made_says_why_and_leaves_nothing() {
    let stand = Stand::new();
    let name = unique("pvc");
    stand.volumes().create(stand.volume(&name, json!({ "requiredBytes": 1_u64 << 50 })));
    let failed = stand.volumes().wait(&key(&name), "has failed", 30, |volume| phase(volume) == Phase::Failed);
    let failure = failed.status.clone().unwrap().failure.unwrap();
    assert_eq!(failure.reason, "NoSpace");
    assert!(failure.message.contains("has room for"), "{}", failure.message);
    assert!(matches!(wharf::error::Error::from(&failure), wharf::error::Error::NoSpace(_)));
    eventually("an event tells it", 10, || stand.volumes().events(&key(&name)).contains("NoSpace"));
    stand.volumes().delete(&key(&name));
    stand.volumes().wait_gone(&key(&name), 30);
    stand.assert_empty();

    let cut = unique("snapshot");
    stand.snapshots().create(json!({
        "metadata": { "name": key(&cut) },
        "spec": { "nodeName": stand.node, "name": cut, "sourceVolumeID": format!("local-{}.x", key("gone")) },
    }));
    let failed = stand
        .snapshots()
        .wait(&key(&cut), "has failed", 30, |snapshot| snapshot_phase(snapshot) == Phase::Failed);
    assert_eq!(failed.status.unwrap().failure.unwrap().reason, "NotFound");
}

/// The controller sets the wish and dies before it deletes; or it never knew the object.
#[test]
fn a_wish_alone_is_enough() {
    let stand = Stand::new();
    let (name, unknown) = (unique("pvc"), unique("pvc"));
    stand.ready(&name, json!({}));
    stand.volumes().merge(&key(&name), json!({ "spec": { "desired": "Absent" } })).unwrap();
    let done = stand.volumes().wait(&key(&name), "is let go", 30, |volume| !is_accepted(volume));
    assert_eq!(phase(&done), Phase::Deleting);
    assert_eq!(readiness(&done).1, "Deleted");
    assert!(!stand.directory(&name).exists());
    stand.volumes().delete(&key(&name));
    stand.volumes().wait_gone(&key(&name), 5);

    // By the id alone: the orchestrator's name is not known, nor the pool.
    let tombstone = stand.volume("no such name", json!({ "desired": "Absent", "pool": "other" }));
    stand.volumes().create(json!({ "metadata": { "name": key(&unknown) }, "spec": tombstone["spec"] }));
    stand.volumes().wait(&key(&unknown), "is known to be gone", 30, |volume| {
        phase(volume) == Phase::Deleting && !is_accepted(volume)
    });
    stand.volumes().delete(&key(&unknown));
}

#[test]
fn what_it_does_is_counted() {
    let mut stand = Stand::new();
    let address = free_address();
    stand.kill();
    stand.start(&[("WHARF_METRICS_ADDRESS", &address)]);
    let of = |name: &str, labels: &str| sample(&scrape(&address), &format!("wharf_agent_{name}{{{labels}}}"));
    let (good, bad) = (unique("pvc"), unique("pvc"));
    stand.ready(&good, json!({}));
    stand.volumes().create(stand.volume(&bad, json!({ "pool": "none" })));
    stand.volumes().wait(&key(&bad), "has failed", 30, |volume| phase(volume) == Phase::Failed);
    let counted = |phase: &str| of("objects", &format!("kind=\"volume\",phase=\"{phase}\""));
    eventually("all is counted", 10, || {
        (counted("Ready"), counted("Failed"), counted("Pending")) == (Some(1.0), Some(1.0), Some(0.0))
    });
    eventually("nothing waits", 10, || of("objects_queued", "kind=\"volume\"") == Some(0.0));
    let done = |action: &str, result: &str| {
        of("actions_total", &format!("kind=\"volume\",action=\"{action}\",result=\"{result}\""))
    };
    assert_eq!(done("create", "OK"), Some(1.0));
    // Once, or again because what it had written first was overtaken.
    let refused = done("create", "Invalid").unwrap_or_default();
    assert!((1.0..=3.0).contains(&refused), "{}", scrape(&address));
    stand.unwish(&good);
    stand.volumes().wait_gone(&key(&good), 30);
    assert_eq!((done("delete", "OK"), counted("Lost")), (Some(1.0), Some(0.0)));
    let seconds = of("action_duration_seconds_count", "kind=\"volume\",action=\"create\"");
    assert_eq!(seconds, Some(1.0 + refused), "{}", scrape(&address));
    // Deleting what was never there leaves nothing queued either.
    stand.unwish(&bad);
    stand.volumes().wait_gone(&key(&bad), 30);
    eventually("nothing is left", 10, || {
        (counted("Ready"), counted("Failed"), of("objects_queued", "kind=\"volume\""))
            == (Some(0.0), Some(0.0), Some(0.0))
    });
}
