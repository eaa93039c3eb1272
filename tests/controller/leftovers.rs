//! What nobody needs any more is said, and stays until somebody decides. On a control plane of its own: here volumes of
//! others would be found, too.

use crate::{
    agent::Manner,
    bed::{Bed, unique},
    rig::{GIB, Rig, define_kinds, key},
    support::{driver::Driver, eventually},
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{sync::OnceLock, thread, time::Duration};
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

fn named(volume: &str, handle: &str) -> Value {
    json!({
        "metadata": { "name": volume },
        "spec": { "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "csi": { "driver": "wharf.csi.dev", "volumeHandle": handle } },
    })
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
