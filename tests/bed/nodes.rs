//! Nodes that are nothing but objects: what a kubelet and the driver on it would have written.

use super::Bed;
use k8s_openapi::api::{core::v1::Node, storage::v1::CSINode};
use kube::ResourceExt;
use serde_json::{Value, json};
use wharf::volume::NodeName;

/// The driver's topology key.
pub const TOPOLOGY: &str = "wharf.csi.dev/node";

impl Bed {
    /// A node that pods can be scheduled to, with a driver on it; `labels` besides the usual ones. The value of
    /// its topology is its name, or the hash of a long one.
    pub fn node(&self, name: &str, driver: &str, labels: &[(&str, &str)]) -> Node {
        let value = NodeName::of_node(name);
        let mut all =
            json!({ "kubernetes.io/hostname": value, "kubernetes.io/os": "linux", TOPOLOGY: value });
        for (key, value) in labels {
            all[*key] = json!(value);
        }
        let room = json!({ "cpu": "64", "memory": "64Gi", "ephemeral-storage": "64Gi", "pods": "1000" });
        let nodes = self.all::<Node>();
        nodes.create(json!({
            "metadata": { "name": name, "labels": all },
            "status": { "capacity": room, "allocatable": room, "conditions": [ready(true)] },
        }));
        // A new node is tainted until the controller that is left out has seen it.
        let node = nodes.merge(name, json!({ "spec": { "taints": null } })).unwrap();
        self.all::<CSINode>().create(json!({
            // Goes with its node, as a kubelet's does.
            "metadata": { "name": name, "ownerReferences": [{
                "apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid(),
            }] },
            "spec": { "drivers": [{ "name": driver, "nodeID": name, "topologyKeys": [TOPOLOGY] }] },
        }));
        node
    }

    /// What a kubelet says of itself, or the node's controller of a kubelet that says nothing.
    pub fn set_ready(&self, node: &str, is_ready: bool) {
        self.all::<Node>()
            .merge_status(node, json!({ "status": { "conditions": [ready(is_ready)] } }))
            .unwrap();
    }

    /// As `kubectl cordon` does, and its opposite.
    pub fn set_schedulable(&self, node: &str, schedulable: bool) {
        self.all::<Node>().merge(node, json!({ "spec": { "unschedulable": !schedulable } })).unwrap();
    }

    /// The node is gone for good; its pods go too, in a while.
    pub fn remove_node(&self, node: &str) {
        self.all::<Node>().delete(node);
        self.all::<Node>().wait_gone(node, 30);
        // So that the name is free again.
        self.all::<CSINode>().delete(node);
    }
}

fn ready(is_ready: bool) -> Value {
    let (status, reason) = if is_ready { ("True", "KubeletReady") } else { ("Unknown", "NodeStatusUnknown") };
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    json!({ "type": "Ready", "status": status, "reason": reason, "message": "as the test has it",
        "lastHeartbeatTime": now, "lastTransitionTime": now })
}
