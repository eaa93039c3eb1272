//! `wharf standalone` behind the stock provisioner: one node, and claims that come and go.

use crate::{
    bed::{
        Bed, Phase,
        claims::{Binding, Claim},
    },
    support::{
        MIB,
        co::Spec,
        driver::Driver,
        eventually,
        pool::{Kind, Pool},
    },
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::CSIStorageCapacity,
};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{fs, path::Path};

const DRIVER: &str = "wharf.csi.dev";
/// What `support::driver` calls its node.
const NODE: &str = "node-1";

#[test]
fn claims_are_bound_and_their_space_comes_back() {
    let bed = Bed::shared();
    let pool = Pool::new(Kind::Xfs, 1024 * MIB);
    let driver = Driver::start(&[("default", pool.path())], &[]);
    let empty = available(&driver);
    bed.csi_driver(DRIVER);
    bed.node(NODE, DRIVER, &[]);
    bed.node("bare", "other.csi.example", &[]);
    let place = bed.controller_place("storage");
    let mut provisioner = bed.provisioner(&place, &driver.socket());
    let namespace = bed.namespace("user");
    let claims = bed.within::<PersistentVolumeClaim>(&namespace);
    let pods = bed.within::<Pod>(&namespace);
    let mut phase = Phase::new();

    let immediate = bed.class(DRIVER, Binding::Immediate, &[]);
    bed.claim(&namespace, &claim("now", &immediate));
    let now = bed.bound(&namespace, "now", 60);
    assert_eq!(node_of(&now), NODE);
    phase.done("the first claim was bound");
    assert_eq!(volumes_in(pool.path()), 1);
    let left = empty - available(&driver);
    assert!((64 * MIB..80 * MIB).contains(&left), "a volume of 64 MiB has taken {left} bytes");

    let waiting = bed.class(DRIVER, Binding::WaitForFirstConsumer, &[]);
    bed.claim(&namespace, &claim("later", &waiting));
    eventually("the scheduler can see what is free", 60, || {
        let all = bed.within::<CSIStorageCapacity>(&place.namespace).list();
        all.iter().any(|each| each.storage_class_name == waiting && each.capacity.is_some())
    });
    phase.done("capacity was published");
    // The driver is not where this one may run.
    bed.pod(
        &namespace,
        "misplaced",
        &["later"],
        json!({ "nodeSelector": { "kubernetes.io/hostname": "bare" } }),
    );
    eventually("the pod cannot be placed", 60, || pods.events("misplaced").contains("FailedScheduling"));
    assert_eq!(volumes_in(pool.path()), 1, "a volume was made before its pod had a node");
    pods.delete_now("misplaced");
    bed.pod(&namespace, "main", &["now", "later"], json!({}));
    assert_eq!(bed.scheduled(&namespace, "main", 60), NODE);
    let later = bed.bound(&namespace, "later", 10);
    assert_eq!(node_of(&later), NODE);
    assert_eq!(volumes_in(pool.path()), 2);
    phase.done("the pod was scheduled");

    for name in ["now", "later"] {
        claims.delete(name);
    }
    assert!(claims.get("now").is_some(), "a claim that a pod uses is gone");
    pods.delete_now("main");
    for (name, volume) in [("now", now), ("later", later)] {
        claims.wait_gone(name, 60);
        bed.all::<PersistentVolume>().wait_gone(&volume.name_any(), 60);
    }
    assert_eq!(volumes_in(pool.path()), 0);
    eventually("the space is back", 30, || available(&driver) == empty);
    phase.done("all was deleted");
    assert!(provisioner.ended().is_none(), "{}", provisioner.tail(20));
}

fn claim<'a>(name: &'a str, class: &'a str) -> Claim<'a> {
    Claim { name, class, size: "64Mi", source: Value::Null }
}

/// The node that a volume's affinity names.
fn node_of(volume: &PersistentVolume) -> String {
    let affinity = volume.spec.as_ref().unwrap().node_affinity.as_ref().unwrap();
    let terms = &affinity.required.as_ref().unwrap().node_selector_terms;
    let values: Vec<_> = terms
        .iter()
        .flat_map(|term| term.match_expressions.iter().flatten())
        .flat_map(|each| each.values.iter().flatten())
        .collect();
    assert_eq!(values.len(), 1, "{affinity:?}");
    values[0].clone()
}

fn volumes_in(pool: &Path) -> usize {
    fs::read_dir(pool.join("volumes")).map_or(0, Iterator::count)
}

/// Bytes that the driver would still give away.
fn available(driver: &Driver) -> u64 {
    driver.co().capacity(&Spec::new()).unwrap().available_capacity.try_into().unwrap()
}
