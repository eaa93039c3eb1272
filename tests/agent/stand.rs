//! One node: a pool, the binary on it, and the objects that are of it.

use crate::{
    bed::{Bed, objects::Objects, unique},
    support::{
        MIB,
        driver::Driver,
        pool::{Kind, Pool},
    },
};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use wharf::{
    cluster::api::{FINALIZER, LocalSnapshot, LocalVolume, Phase, StorageNode},
    volume::{Key, Name},
};

pub const SIZE: u64 = 16 * MIB;

pub struct Stand<'a> {
    // Ends before its pool goes.
    pub driver: Option<Driver>,
    pub bed: &'a Bed,
    pub node: String,
    pub namespace: String,
    pub pool: Pool,
    pub program: PathBuf,
}

/// Applies the kinds.
pub fn serve_kinds(bed: &Bed) {
    let output = Command::new(env!("CARGO_BIN_EXE_wharf")).arg("crds").output().unwrap();
    bed.apply(std::str::from_utf8(&output.stdout).unwrap());
    for kind in ["localvolumes", "localsnapshots", "storagenodes"] {
        let name = format!("crd/{kind}.wharf.csi.dev");
        bed.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &name]);
    }
}

impl Stand<'static> {
    /// On the API server that all tests share.
    pub fn new() -> Self {
        let mut stand = Self::idle();
        stand.start(&[]);
        stand
    }

    /// The same before its driver has started.
    pub fn idle() -> Self {
        static KINDS: std::sync::Once = std::sync::Once::new();
        let bed = Bed::shared();
        KINDS.call_once(|| serve_kinds(bed));
        Self::without_driver(bed)
    }
}

impl<'a> Stand<'a> {
    pub fn without_driver(bed: &'a Bed) -> Self {
        let namespace = bed.namespace("agent");
        let pool = Pool::new(Kind::Xfs, 1024 * MIB);
        let program = env!("CARGO_BIN_EXE_wharf").into();
        Self { driver: None, bed, node: unique("node"), namespace, pool, program }
    }

    pub fn start(&mut self, environment: &[(&str, &str)]) {
        let mut driver = self.spawn(environment);
        assert!(driver.wait_until_ready(), "{}", driver.log());
        self.driver = Some(driver);
    }

    pub fn spawn(&self, environment: &[(&str, &str)]) -> Driver {
        self.spawn_with(&self.bed.kubeconfig(), environment)
    }

    pub fn spawn_with(&self, kubeconfig: &Path, environment: &[(&str, &str)]) -> Driver {
        let mut command = Command::new(&self.program);
        command
            .args(["node", "--register", "false", "--log-level", "info,wharf::cluster=debug", "--node-id"])
            .arg(&self.node)
            .args(["--namespace", &self.namespace])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("--pool")
            .arg(format!("default={}", self.pool.path().display()));
        Driver::spawn_as(command, environment)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.driver.take().unwrap().kill();
    }

    pub fn driver(&mut self) -> &mut Driver {
        self.driver.as_mut().unwrap()
    }

    pub fn volumes(&self) -> Objects<LocalVolume> {
        self.bed.all()
    }

    pub fn snapshots(&self) -> Objects<LocalSnapshot> {
        self.bed.all()
    }

    /// What the controller would write.
    pub fn volume(&self, name: &str, more: Value) -> Value {
        let mut spec = json!({
            "nodeName": self.node,
            "name": name,
            "pool": "default",
            "parameters": { "layout": "image" },
            "access": "Mount",
            "filesystem": "ext4",
            "requiredBytes": SIZE,
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({ "metadata": { "name": key(name) }, "spec": spec })
    }

    /// Asks for a volume and waits until it is there.
    pub fn ready(&self, name: &str, more: Value) -> LocalVolume {
        self.volumes().create(self.volume(name, more));
        self.volumes().wait(&key(name), "is ready", 30, |volume| phase(volume) == Phase::Ready)
    }

    pub fn ready_snapshot(&self, name: &str, volume: &LocalVolume) -> LocalSnapshot {
        let source = volume.status.clone().unwrap().volume_id;
        self.snapshots().create(json!({
            "metadata": { "name": key(name) },
            "spec": { "nodeName": self.node, "name": name, "sourceVolumeID": source },
        }));
        self.snapshots().wait(&key(name), "is ready", 30, |snapshot| snapshot_phase(snapshot) == Phase::Ready)
    }

    /// As the controller deletes: the wish, then the object.
    pub fn unwish(&self, name: &str) {
        self.volumes().merge(&key(name), json!({ "spec": { "desired": "Absent" } })).unwrap();
        self.volumes().delete(&key(name));
    }

    pub fn storage_node(&self, what: &str, wanted: impl Fn(&StorageNode) -> bool) -> StorageNode {
        self.bed.all::<StorageNode>().wait(&self.node, what, 30, wanted)
    }

    pub fn directory(&self, name: &str) -> PathBuf {
        self.pool.path().join("volumes").join(key(name))
    }

    pub fn image(&self, name: &str) -> PathBuf {
        self.directory(name).join("data/disk.img")
    }

    /// Nothing of any object is left in the pool or in the API server.
    pub fn assert_empty(&self) {
        for directory in ["volumes", "snapshots", "tmp"] {
            assert_eq!(entries(&self.pool.path().join(directory)), Vec::<String>::new(), "{directory}");
        }
        let volumes: Vec<_> = self.own_volumes().iter().map(ResourceExt::name_any).collect();
        assert_eq!(volumes, Vec::<String>::new());
    }

    pub fn own_volumes(&self) -> Vec<LocalVolume> {
        let mut all = self.volumes().list();
        all.retain(|volume| volume.spec.node_name == self.node);
        all
    }
}

pub fn entries(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub fn key(name: &str) -> String {
    Key::of(&Name::new(name).unwrap()).to_string()
}

pub fn phase(volume: &LocalVolume) -> Phase {
    volume.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

pub fn snapshot_phase(snapshot: &LocalSnapshot) -> Phase {
    snapshot.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

pub fn is_accepted(volume: &LocalVolume) -> bool {
    volume.finalizers().iter().any(|each| each == FINALIZER)
}

/// Status, reason and message of the condition `Ready`.
pub fn readiness(volume: &LocalVolume) -> (String, String, String) {
    condition(volume, "Ready").unwrap()
}

/// The same of `Healthy`; `None`: nobody has looked.
pub fn health(volume: &LocalVolume) -> Option<(String, String, String)> {
    condition(volume, "Healthy")
}

fn condition(volume: &LocalVolume, type_: &str) -> Option<(String, String, String)> {
    let conditions = volume.status.clone().unwrap_or_default().conditions;
    let found = conditions.into_iter().find(|condition| condition.type_ == type_)?;
    Some((found.status, found.reason, found.message))
}
