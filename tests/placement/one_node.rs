//! `wharf standalone` behind the stock provisioner: one node, and claims that come and go.

use crate::{
    bed::{
        Bed, Phase,
        claims::{Binding, Claim},
        objects::Objects,
        process::Process,
        sidecars::Place,
        snapshots::Cut,
        unique,
    },
    cluster::{handle_of, node_of, uuid_in},
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
use std::{fs, process::Command};

#[test]
fn claims_are_bound_and_their_space_comes_back() {
    let mut node = OneNode::new();
    let bed = node.bed;
    let empty = node.available();
    let (claims, pods) = (node.claims(), node.pods());
    let mut phase = Phase::new();

    let immediate = bed.class(&node.name, Binding::Immediate, &[]);
    node.claim("now", &immediate, Value::Null);
    let now = bed.bound(&node.namespace, "now", 60);
    assert_eq!(node_of(&now), node.name);
    phase.done("the first claim was bound");
    assert_eq!(node.volumes(), 1);
    let taken = empty - node.available();
    assert!((64 * MIB..80 * MIB).contains(&taken), "a volume of 64 MiB has taken {taken} bytes");

    let waiting = bed.class(&node.name, Binding::WaitForFirstConsumer, &[]);
    node.claim("later", &waiting, Value::Null);
    eventually("the scheduler can see what is free", 60, || {
        let all = bed.within::<CSIStorageCapacity>(&node.place.namespace).list();
        all.iter().any(|each| each.storage_class_name == waiting && each.capacity.is_some())
    });
    phase.done("capacity was published");
    let elsewhere = unique("bare");
    bed.node(&elsewhere, "other.csi.example", &[]);
    let selector = json!({ "nodeSelector": { "kubernetes.io/hostname": elsewhere } });
    bed.pod(&node.namespace, "misplaced", &["later"], selector);
    eventually("the pod cannot be placed", 60, || pods.events("misplaced").contains("FailedScheduling"));
    assert_eq!(node.volumes(), 1, "a volume was made for a pod that cannot be placed");
    pods.delete_now("misplaced");
    bed.pod(&node.namespace, "main", &["now", "later"], json!({}));
    assert_eq!(bed.scheduled(&node.namespace, "main", 60), node.name);
    let later = bed.bound(&node.namespace, "later", 10);
    assert_eq!(node_of(&later), node.name);
    assert_eq!(node.volumes(), 2);
    phase.done("the pod was scheduled");

    claims.delete("now");
    claims.delete("later");
    assert!(claims.get("now").is_some(), "a claim that a pod uses is gone");
    pods.delete_now("main");
    for (claim, volume) in [("now", now), ("later", later)] {
        claims.wait_gone(claim, 60);
        bed.all::<PersistentVolume>().wait_gone(&volume.name_any(), 60);
    }
    assert_eq!(node.volumes(), 0);
    eventually("the space is back", 30, || node.available() == empty);
    phase.done("all was deleted");
    node.assert_provisioner_is_content();
}

#[test]
fn a_claim_is_filled_from_a_snapshot() {
    // A provisioner looks for the kinds when it starts.
    Bed::shared().define_snapshots();
    let mut node = OneNode::new();
    let bed = node.bed;
    let class = bed.class(&node.name, Binding::Immediate, &[]);
    node.claim("first", &class, Value::Null);
    let first = handle_of(&bed.bound(&node.namespace, "first", 60));
    let cut = node.driver.co().snapshot(&unique("snap"), &first).unwrap();
    let restore_size = cut.size_bytes.try_into().unwrap();
    let cut = Cut { driver: &node.name, handle: &cut.snapshot_id, restore_size };
    let source = bed.snapshot(&node.namespace, "snap", &cut);
    node.claim("second", &class, source);
    let second = handle_of(&bed.bound(&node.namespace, "second", 60));
    assert_eq!(node.record_of(&second)["source"]["snapshot"], uuid_in(cut.handle));
    node.assert_provisioner_is_content();
}

#[test]
fn a_wrong_class_is_told_to_its_user() {
    let node = OneNode::new();
    let class = node.bed.class(&node.name, Binding::Immediate, &[("layuot", "image")]);
    node.claim("wrong", &class, Value::Null);
    eventually("the claim's events name the parameter", 60, || {
        let told = node.claims().events("wrong");
        told.contains("ProvisioningFailed") && told.contains("layuot")
    });
    assert_eq!(node.volumes(), 0);
}

/// A node of its own, with the driver on it and a pool, and a namespace of a user's.
struct OneNode {
    // In this order: the driver's clients end first, and the pool goes last.
    provisioner: Process,
    driver: Driver,
    pool: Pool,
    bed: &'static Bed,
    /// Of the driver and of the node.
    name: String,
    place: Place,
    namespace: String,
}

impl OneNode {
    fn new() -> Self {
        let bed = Bed::shared();
        let name = unique("one-node");
        let pool = Pool::new(Kind::Xfs, 1024 * MIB);
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["standalone", "--node-id", &name, "--driver-name", &name]);
        command.arg("--pool").arg(format!("default={}", pool.path().display()));
        let mut driver = Driver::spawn_as(command, &[]);
        assert!(driver.wait_until_ready(), "{}", driver.log());
        bed.csi_driver(&name);
        bed.node(&name, &name, &[]);
        let place = bed.controller_place("storage");
        let provisioner = bed.provisioner(&place, &driver.socket());
        let namespace = bed.namespace("user");
        Self { provisioner, driver, pool, bed, name, place, namespace }
    }

    fn claims(&self) -> Objects<PersistentVolumeClaim> {
        self.bed.within(&self.namespace)
    }

    fn pods(&self) -> Objects<Pod> {
        self.bed.within(&self.namespace)
    }

    fn claim(&self, name: &str, class: &str, source: Value) {
        self.bed.claim(&self.namespace, &Claim { name, class, size: "64Mi", source });
    }

    /// It runs, and was allowed to do whatever it tried.
    fn assert_provisioner_is_content(&mut self) {
        assert!(self.provisioner.ended().is_none(), "{}", self.provisioner.tail(20));
        let log = self.provisioner.log();
        let denied: Vec<_> = log.lines().filter(|line| line.contains("forbidden")).collect();
        assert!(denied.is_empty(), "{denied:#?}");
    }

    /// How many there are on disk.
    fn volumes(&self) -> usize {
        fs::read_dir(self.pool.path().join("volumes")).map_or(0, Iterator::count)
    }

    /// What the driver has written about a volume.
    fn record_of(&self, handle: &str) -> Value {
        let path = self.pool.path().join("volumes").join(uuid_in(handle)).join("record.json");
        let sealed: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        sealed["record"].clone()
    }

    /// Bytes that the driver would still give away.
    fn available(&self) -> u64 {
        self.driver.co().capacity(&Spec::new()).unwrap().available_capacity.try_into().unwrap()
    }
}
