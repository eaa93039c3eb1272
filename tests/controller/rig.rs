//! A part of the shared control plane for one test: nodes and a pool whose names no other test has.

use crate::{
    agent::{self, Agent, Disk, Manner},
    bed::{Bed, objects::Objects, unique},
    support::{
        co::{Co, Spec},
        driver::Driver,
        eventually,
    },
};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{
    path::Path,
    process::Command,
    sync::Once,
    thread,
    time::{Duration, Instant},
};
use tonic::{Code, Status};
use wharf::{
    cluster::{
        api::{LocalSnapshot, LocalVolume},
        client,
    },
    rpc::csi,
    volume::{Key, Name},
};

pub const GIB: i64 = 1 << 30;

/// Where one test plays.
pub struct Rig<'a> {
    pub bed: &'a Bed,
    pub namespace: String,
    /// Every node of this test has it, and no other.
    pub pool: String,
}

impl Rig<'static> {
    pub fn new() -> Self {
        let bed = Bed::shared();
        static KINDS: Once = Once::new();
        KINDS.call_once(|| define_kinds(bed));
        Self::on(bed)
    }
}

impl<'a> Rig<'a> {
    pub fn on(bed: &'a Bed) -> Self {
        Self { bed, namespace: bed.namespace("wharf"), pool: unique("pool") }
    }

    /// A Node with its StorageNode, without an agent.
    pub fn node(&self, available: i64) -> String {
        let name = unique("node");
        self.bed.node(&name, "wharf.csi.dev", &[]);
        self.report(&name, available);
        name
    }

    pub fn report(&self, node: &str, available: i64) {
        agent::report(self.bed, node, &self.pool, available);
    }

    /// A Node with an agent.
    pub fn served(&self, available: i64, manner: Manner) -> Agent {
        self.agent(&self.node(available), manner, Disk::default())
    }

    pub fn agent(&self, node: &str, manner: Manner, disk: Disk) -> Agent {
        // A connection lives in the runtime that made it, and an agent's ends with the agent: nobody shares it.
        let client = self.bed.block_on(client::connect(Some(&self.bed.kubeconfig()))).unwrap();
        Agent::start(client, &self.namespace, node, manner, disk)
    }

    /// `wharf controller`, that answers.
    pub fn driver(&self, environment: &[(&str, &str)]) -> Driver {
        let mut driver = self.spawn(environment);
        assert!(driver.wait_until_ready(), "the controller did not start:\n{}", driver.log());
        driver
    }

    pub fn spawn(&self, environment: &[(&str, &str)]) -> Driver {
        self.spawn_as(&self.bed.kubeconfig(), environment)
    }

    /// With the rights of whoever the kubeconfig is of.
    pub fn spawn_as(&self, kubeconfig: &Path, environment: &[(&str, &str)]) -> Driver {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["controller", "--node-gone-after", "2", "--namespace", &self.namespace]);
        command.arg("--kubeconfig").arg(kubeconfig);
        Driver::spawn_as(command, environment)
    }

    pub fn spec(&self) -> Spec {
        Spec::new().pool(&self.pool).size(1 << 20)
    }

    pub fn volumes(&self) -> Objects<LocalVolume> {
        self.bed.all()
    }

    pub fn snapshots(&self) -> Objects<LocalSnapshot> {
        self.bed.all()
    }

    /// Takes an object away as if it had never been, whatever finalizers it has. A real agent soon announces its data by
    /// another one.
    pub fn lose(&self, name: &str) {
        let lost = self.volumes().merge(name, json!({ "metadata": { "finalizers": null } })).unwrap().uid();
        self.volumes().delete(name);
        eventually("the object is lost", 10, || {
            self.volumes().get(name).is_none_or(|object| object.uid() != lost)
        });
    }
}

pub fn define_kinds(bed: &Bed) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/crds.yaml");
    bed.kubectl(&["apply", "-f", path]);
    let all =
        ["localvolumes", "localsnapshots", "storagenodes"].map(|name| format!("crd/{name}.wharf.csi.dev"));
    bed.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &all[0], &all[1], &all[2]]);
}

/// A PersistentVolume that names a volume.
pub fn named(volume: &str, handle: &str) -> Value {
    json!({
        "metadata": { "name": volume },
        "spec": { "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "csi": { "driver": "wharf.csi.dev", "volumeHandle": handle } },
    })
}

/// What the object of an orchestrator's name is called.
pub fn key(name: &str) -> String {
    Key::of(&Name::new(name).unwrap()).to_string()
}

/// Where a volume may be, by nodes; preferred in the same order.
pub fn within(nodes: &[&str]) -> csi::TopologyRequirement {
    let all: Vec<_> = nodes
        .iter()
        .map(|node| csi::Topology {
            segments: [("wharf.csi.dev/node".to_owned(), (*node).to_owned())].into(),
        })
        .collect();
    csi::TopologyRequirement { requisite: all.clone(), preferred: all }
}

/// The node of a volume.
pub fn node_of(volume: &csi::Volume) -> String {
    volume.accessible_topology[0].segments["wharf.csi.dev/node"].clone()
}

/// A CreateVolume with a place.
pub fn create_within(co: &mut Co, name: &str, spec: &Spec, nodes: &[&str]) -> Result<csi::Volume, Status> {
    let mut request = spec.request(name);
    request.accessibility_requirements = Some(within(nodes));
    send(co, request)
}

pub fn send(co: &mut Co, request: csi::CreateVolumeRequest) -> Result<csi::Volume, Status> {
    co.call(|mut client| async move { client.controller.create_volume(request).await })
        .map(|answer| answer.volume.unwrap())
}

/// As an orchestrator does: what is not final is asked again.
pub fn to_the_end<T>(seconds: u64, mut call: impl FnMut() -> Result<T, Status>) -> Result<T, Status> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match call() {
            Err(status) if matches!(status.code(), Code::Aborted | Code::Unavailable) => {
                assert!(Instant::now() < deadline, "not final within {seconds} s: {status}");
                thread::sleep(Duration::from_millis(100));
            }
            answer => return answer,
        }
    }
}
