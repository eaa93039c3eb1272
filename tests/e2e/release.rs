//! The chart, installed as docs/install.md says.

use super::{
    bed::{
        Bed,
        nodes::TOPOLOGY,
        plane::{NODE, program},
    },
    scene::{DRIVER, within},
};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::Node,
    storage::v1::{CSINode, CSIStorageCapacity},
};
use kube::ResourceExt;
use serde_json::json;
use std::{
    path::Path,
    process::{Command, Stdio},
};

pub const NAMESPACE: &str = "wharf";

/// What is different from the chart's defaults: the pool has a disk of its own, and there is a class whose volumes can
/// grow while they are mounted (ext4's growth needs a capability that not every machine has). Two controllers on one node
/// would want the same ports, and the sidecars would take each other for themselves.
const VALUES: &str = r#"{
    "pools": [{ "name": "default", "path": "/var/lib/wharf", "mounted": true }],
    "log": { "format": "text" },
    "metrics": { "enabled": true },
    "controller": { "replicas": 1, "nodeGoneAfter": 5 },
    "storageClasses": { "more": [
        { "name": "local-xfs", "parameters": { "csi.storage.k8s.io/fstype": "xfs", "provisioning": "thin" } },
        { "name": "local-retain", "reclaimPolicy": "Retain" },
        { "name": "local-now", "volumeBindingMode": "Immediate" }
    ] }
}"#;

/// Defines the kinds and installs the chart; returns when it is ready.
pub fn install(bed: &Bed) {
    define_kinds(bed);
    helm_install(bed, &[]);
    wait_ready(bed);
}

/// Sees to it that it is there and works, whatever an earlier test that failed has left.
pub fn ensure(bed: &Bed) {
    let node = bed.all::<Node>().get(NODE);
    if node.is_some_and(|node| node.labels().get(TOPOLOGY).is_some_and(|value| value != NODE)) {
        label_node(bed, NODE);
    }
    match bed.within::<DaemonSet>(NAMESPACE).get("wharf-node") {
        Some(_) => wait_ready(bed),
        None => install(bed),
    }
}

/// Says on the Node what the driver's topology value there is; the kubelet refuses a driver that says otherwise.
pub fn label_node(bed: &Bed, value: &str) {
    bed.all::<Node>().merge(NODE, json!({ "metadata": { "labels": { TOPOLOGY: value } } })).unwrap();
}

pub fn define_kinds(bed: &Bed) {
    bed.kubectl(&["apply", "--server-side", "--filename", &file("deploy/crds.yaml")]);
}

/// `more`: further arguments, such as `--set`.
pub fn helm_install(bed: &Bed, more: &[&str]) {
    let chart = file("deploy/chart");
    let arguments = ["upgrade", "--install", "wharf", &chart, "--create-namespace", "--values", "-"];
    helm(bed, &[arguments.as_slice(), more].concat(), VALUES);
}

pub fn helm_uninstall(bed: &Bed) {
    helm(bed, &["uninstall", "wharf", "--wait", "--timeout", "60s"], "");
}

fn helm(bed: &Bed, arguments: &[&str], input: &str) {
    let mut command = Command::new("timeout");
    command.arg("90").arg(program("helm").get_program()).args(arguments);
    command.args(["--namespace", NAMESPACE, "--kubeconfig"]).arg(bed.kubeconfig());
    let values = bed.directory().join("values.json");
    std::fs::write(&values, input).unwrap();
    let output = command.stdin(Stdio::from(std::fs::File::open(values).unwrap())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm {}: {said}", arguments.join(" "));
}

/// Both workloads are rolled out, the kubelet knows the driver, and the scheduler has its capacity.
pub fn wait_ready(bed: &Bed) {
    for workload in ["daemonset/wharf-node", "deployment/wharf-controller"] {
        let waited = bed
            .try_kubectl(&["--namespace", NAMESPACE, "rollout", "status", workload, "--timeout", "55s"], "");
        waited.unwrap_or_else(|why| panic!("{why}\n{}", told(bed)));
    }
    wait_registered(bed);
    // The provisioner asks again after a minute where there was none yet.
    within("capacity is published", 90, || {
        let all = bed.within::<CSIStorageCapacity>(NAMESPACE).list();
        all.iter().any(|one| {
            one.storage_class_name == "wharf-local" && one.capacity.as_ref().is_some_and(|size| size.0 != "0")
        })
    });
}

pub fn wait_registered(bed: &Bed) {
    bed.all::<CSINode>().wait(NODE, "has the driver", 60, is_registered);
}

pub fn is_registered(node: &CSINode) -> bool {
    node.spec.drivers.iter().any(|driver| driver.name == DRIVER)
}

/// What the pods of the driver say of themselves.
pub fn told(bed: &Bed) -> String {
    let tell = |arguments: &[&str]| {
        bed.try_kubectl(&[&["--namespace", NAMESPACE], arguments].concat(), "").unwrap_or_else(|why| why)
    };
    [
        tell(&["get", "pods", "--output", "wide"]),
        tell(&["get", "events"]),
        tell(&["logs", "daemonset/wharf-node", "--tail", "30"]),
        tell(&["logs", "deployment/wharf-controller", "--container", "wharf", "--tail", "30"]),
    ]
    .join("\n")
}

/// A file of the repository.
pub fn file(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).to_str().unwrap().to_owned()
}
