//! What nobody needs any more is said, and stays until somebody decides. On a control plane of its own: here volumes of
//! others would be found, too.

use crate::{
    agent::Manner,
    bed::{Bed, unique},
    rig::{GIB, Rig, define_kinds, key, named, to_the_end},
    support::{
        driver::{Driver, free_address, sample, scrape},
        eventually,
    },
    together::Real,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    process::{Command, Output},
    sync::OnceLock,
    thread,
    time::Duration,
};
use wharf::cluster::api::LocalVolume;

fn rig() -> Rig<'static> {
    static BED: OnceLock<Bed> = OnceLock::new();
    let bed = BED.get_or_init(|| {
        let bed = Bed::start();
        define_kinds(&bed);
        bed
    });
    Rig::on(bed)
}

/// For which a second without a claim is long.
fn impatient(rig: &Rig) -> Driver {
    rig.driver(&[("WHARF_UNCLAIMED_AFTER", "1")])
}

/// Type, status and reason of each of its conditions.
fn conditions(volume: &LocalVolume) -> Vec<[String; 3]> {
    let all = volume.status.clone().unwrap_or_default().conditions;
    all.into_iter().map(|one| [one.type_, one.status, one.reason]).collect()
}

#[test]
fn a_volume_that_nothing_names_is_unclaimed_until_something_does() {
    let rig = rig();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let drivers = [impatient(&rig), impatient(&rig)];
    let mut co = drivers[0].co();
    let waiting = unique("claim");
    let claim: PersistentVolumeClaim = rig.bed.within(&rig.namespace).create(json!({
        "metadata": { "name": waiting },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "resources": { "requests": { "storage": "1Mi" } } },
    }));
    let (nobodys, bound, asked) = (unique("pvc"), unique("pvc"), format!("pvc-{}", claim.uid().unwrap()));
    let ids = [&nobodys, &bound, &asked].map(|name| co.create(name, &rig.spec()).unwrap().volume_id);
    rig.bed.all::<PersistentVolume>().create(named(&bound, &ids[1]));

    let found = rig.volumes().wait(&key(&nobodys), "is unclaimed", 30, LocalVolume::is_unclaimed);
    let all = conditions(&found);
    assert_eq!(all, [["Unclaimed", "True", "NoPersistentVolume"]], "{all:?}");
    let message = &found.status.as_ref().unwrap().conditions[0].message;
    assert!(message.contains(&ids[0]) && message.contains("make a PersistentVolume"), "{message}");
    eventually("an event tells it", 10, || rig.volumes().events(&key(&nobodys)).contains("Unclaimed"));
    // What has a PersistentVolume, or a claim that may still get one, has been looked at as often.
    thread::sleep(Duration::from_secs(6));
    for name in [&bound, &asked] {
        assert!(!rig.volumes().get(&key(name)).unwrap().is_unclaimed(), "{name}");
    }
    assert!(agent.holds(&key(&nobodys)), "it was deleted");
    let again = rig.volumes().get(&key(&nobodys)).unwrap();
    assert_eq!(again.resource_version(), found.resource_version(), "it is written over and over");

    // Others' conditions stay, those that come between as well.
    let mut two = again.status.clone().unwrap().conditions;
    two.insert(
        0,
        serde_json::from_value(json!({ "type": "Ready", "status": "True", "reason": "Made",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }))
        .unwrap(),
    );
    rig.volumes().merge_status(&key(&nobodys), json!({ "status": { "conditions": two } })).unwrap();
    rig.bed.all::<PersistentVolume>().create(named(&nobodys, &ids[0]));
    let claimed = rig.volumes().wait(&key(&nobodys), "is claimed", 30, |object| !object.is_unclaimed());
    assert_eq!(conditions(&claimed), [["Ready", "True", "Made"]]);
    eventually("an event tells it", 10, || rig.volumes().events(&key(&nobodys)).contains("Claimed:"));

    rig.bed.within::<PersistentVolumeClaim>(&rig.namespace).delete(&waiting);
    rig.volumes().wait(&key(&asked), "is unclaimed without its claim", 30, LocalVolume::is_unclaimed);
    // A wish to delete it is what ends it.
    co.delete(&ids[2]).unwrap();
    assert!(!agent.holds(&key(&asked)));
    for name in [&bound, &nobodys] {
        rig.bed.all::<PersistentVolume>().delete(name);
    }
}

#[test]
fn a_controller_and_an_agent_keep_each_others_conditions() {
    let rig = rig();
    let _node = Real::start(&rig);
    let driver = impatient(&rig);
    let name = unique("pvc");
    let id = to_the_end(30, || driver.co().create(&name, &rig.spec().size(16 << 20))).unwrap().volume_id;
    rig.volumes().wait(&key(&name), "is unclaimed", 30, LocalVolume::is_unclaimed);
    let said = |volume: &LocalVolume| -> Vec<String> {
        conditions(volume).into_iter().map(|[type_, status, _]| type_ + &status).collect()
    };
    let now = || said(&rig.volumes().get(&key(&name)).unwrap());
    let three = ["ReadyTrue", "HealthyTrue", "UnclaimedTrue"].map(str::to_owned);
    assert_eq!(now(), three);
    assert_eq!(driver.co().expand(&id, 24 << 20).unwrap().capacity_bytes, 24 << 20);
    assert_eq!(now(), three, "the agent has overwritten what the controller says");
    rig.bed.all::<PersistentVolume>().create(named(&name, &id));
    let claimed = rig.volumes().wait(&key(&name), "is claimed", 30, |object| !object.is_unclaimed());
    assert_eq!(said(&claimed), three[..2], "the controller has overwritten what the agent says");
    driver.co().delete(&id).unwrap();
    rig.bed.all::<PersistentVolume>().delete(&name);
}

fn gc(rig: &Rig, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.arg("gc").args(arguments).arg("--kubeconfig").arg(rig.bed.kubeconfig());
    command.env_remove("WHARF_POOLS").env_remove("WHARF_SHARES").output().unwrap()
}

/// What it finds on a node: kind, place, whether it may be removed, and was.
fn found_on(rig: &Rig, node: &str, arguments: &[&str]) -> BTreeSet<(String, String, bool, bool)> {
    let output = gc(rig, &[arguments, &["--output", "json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let flag = |row: &Value, key: &str| row[key].as_bool().unwrap();
    let of_node = report["leftovers"].as_array().unwrap().iter().filter(|row| row["node"] == node);
    of_node
        .map(|row| (text(row, "what"), text(row, "place"), flag(row, "removable"), flag(row, "removed")))
        .collect()
}

#[test]
fn tombstones_go_when_somebody_gives_their_node_up() {
    let rig = rig();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let metrics = free_address();
    let driver = rig.driver(&[("WHARF_METRICS_ADDRESS", &metrics)]);
    let mut co = driver.co();
    let [deleted, cut, kept, held] = ["pvc", "snapshot", "pvc", "pvc"].map(unique);
    let ids = [&deleted, &kept, &held].map(|name| co.create(name, &rig.spec()).unwrap().volume_id);
    rig.bed.all::<PersistentVolume>().create(named(&kept, &ids[1]));
    let snapshot = co.snapshot(&cut, &ids[0]).unwrap().snapshot_id;
    let (node, disk) = (agent.node.clone(), agent.die());
    // Refused as long as its Node is there, whatever is asked for.
    let refused = gc(&rig, &["--node", &node, "--apply"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("is in the cluster"), "{why}");
    let foreign = json!({ "metadata": { "finalizers": ["wharf.csi.dev/agent", "example.com/mine"] } });
    rig.volumes().merge(&key(&held), foreign).unwrap();
    rig.bed.remove_node(&node);
    to_the_end(30, || co.delete(&ids[0])).unwrap();
    to_the_end(30, || co.delete_snapshot(&snapshot)).unwrap();
    to_the_end(30, || co.delete(&ids[2])).unwrap();

    let count = |name: &str| sample(&scrape(&metrics), &format!("wharf_controller_{name}"));
    eventually("they are counted", 10, || {
        let of_kind = |kind: &str| count(&format!("tombstones{{kind=\"{kind}\"}}"));
        (of_kind("volume"), of_kind("snapshot")) == (Some(2.0), Some(1.0))
    });
    let dead = count("unanswered_waits_total{reason=\"dead\"}");
    assert!(dead >= Some(3.0), "{}", scrape(&metrics));

    let volume = |name: &str| format!("localvolume/{}", key(name));
    let row = |what: &str, place: String, removable: bool, removed: bool| {
        (format!("tombstone of a {what}"), place, removable, removed)
    };
    let rows = |removable: bool, removed: bool| {
        BTreeSet::from([
            row("volume", volume(&deleted), removable, removed),
            row("volume", volume(&held), removable, false),
            row("snapshot", format!("localsnapshot/{}", key(&cut)), removable, removed),
        ])
    };
    assert_eq!(found_on(&rig, &node, &["--cluster"]), rows(false, false));
    assert_eq!(found_on(&rig, &node, &["--cluster", "--apply"]), rows(false, false));
    assert_eq!(found_on(&rig, "node", &["--node", "another"]), BTreeSet::new());
    assert_eq!(found_on(&rig, &node, &["--node", &node]), rows(true, false));
    assert!(rig.volumes().get(&key(&deleted)).is_some(), "a dry run has removed it");
    let mut after = rows(true, true);
    after.remove(&row("volume", volume(&held), true, false));
    after.insert(row("volume", volume(&held), false, false));
    assert_eq!(found_on(&rig, &node, &["--node", &node, "--apply"]), after);
    assert!(rig.volumes().get(&key(&deleted)).is_none() && rig.snapshots().get(&key(&cut)).is_none());
    let finalizers = rig.volumes().get(&key(&held)).unwrap().finalizers().to_vec();
    assert_eq!(finalizers, ["example.com/mine"], "others' finalizers are theirs");
    let wanted = rig.volumes().get(&key(&kept)).unwrap();
    assert!(wanted.metadata.deletion_timestamp.is_none() && wanted.finalizers().len() == 1);
    rig.volumes().merge(&key(&held), json!({ "metadata": { "finalizers": null } })).unwrap();
    rig.bed.all::<PersistentVolume>().delete(&kept);
    assert_eq!(disk.lock().unwrap().len(), 4);
}

#[test]
fn an_unclaimed_volume_is_listed_and_stays() {
    let rig = rig();
    let agent = rig.served(10 * GIB, Manner::Serves);
    let metrics = free_address();
    let driver = rig.driver(&[("WHARF_UNCLAIMED_AFTER", "1"), ("WHARF_METRICS_ADDRESS", &metrics)]);
    let name = unique("pvc");
    driver.co().create(&name, &rig.spec()).unwrap();
    rig.volumes().wait(&key(&name), "is unclaimed", 30, LocalVolume::is_unclaimed);
    eventually("it is counted", 10, || {
        sample(&scrape(&metrics), "wharf_controller_unclaimed_volumes") >= Some(1.0)
    });
    let row = ("unclaimed volume".to_owned(), format!("localvolume/{}", key(&name)), false, false);
    for arguments in [&["--cluster"][..], &["--cluster", "--apply"]] {
        assert_eq!(found_on(&rig, &agent.node, arguments), BTreeSet::from([row.clone()]));
    }
    let told = || {
        let table = gc(&rig, &["--cluster"]);
        assert!(table.status.success());
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        text.lines().find(|line| line.contains(&key(&name))).unwrap_or_default().to_owned()
    };
    assert!(told().contains("make one to use or delete the data"), "{}", told());
    assert!(agent.holds(&key(&name)));
    // What an agent has found is listed too, as long as nobody asks for it.
    agent.behave(Manner::Sleeps);
    let label = json!({ "metadata": { "labels": { "wharf.csi.dev/orphaned": "true" } } });
    let orphaned = json!({ "status": { "phase": "Orphaned", "conditions": [] } });
    rig.volumes().merge(&key(&name), label).unwrap();
    rig.volumes().merge_status(&key(&name), orphaned).unwrap();
    let orphan = ("orphaned volume".to_owned(), format!("localvolume/{}", key(&name)), false, false);
    assert_eq!(found_on(&rig, &agent.node, &["--cluster"]), BTreeSet::from([orphan]));
    assert!(told().contains("make a PersistentVolume with its handle"), "{}", told());
}
