//! What a node offers: its pools, what they can do, how much room they have.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nothing is wished of a node: all of it is status.
///
/// The object is called like its Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, CustomResource, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "wharf.csi.dev",
    version = "v1alpha1",
    kind = "StorageNode",
    doc = "What wharf has on a node: pools, their room and what they can do. Written by the node's agent.",
    shortname = "snode",
    category = "wharf",
    status = "StorageNodeStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Pools", type_ = "string", json_path = ".status.pools[*].name"),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.pools[*].available"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Seen", type_ = "date", json_path = ".status.observedTime")
)]
pub struct StorageNodeSpec {}

/// What the node's agent reports.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageNodeStatus {
    /// The driver's version there.
    #[serde(default)]
    pub version: String,
    /// The value of the topology key for this node: its name, hashed when that is no legal value.
    #[serde(default)]
    pub topology_value: String,
    /// When it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_time: Option<Time>,
    /// Its pools.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pools: Vec<PoolStatus>,
    /// What is wrong with the node as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// As classes name it.
    pub name: String,
    /// The identity of its store: another one is another disk. Absent: it cannot be used now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its directory on the node.
    #[serde(default)]
    pub path: String,
    /// What it lies on: `xfs`, `btrfs`, `ext4`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// Whether files can share blocks there: snapshots of volumes in use need it.
    #[serde(default)]
    pub reflink: bool,
    /// Whether a directory's limit can be enforced there.
    #[serde(default)]
    pub directory_limits: bool,
    /// How large it is, in bytes.
    #[serde(default)]
    pub capacity_bytes: i64,
    /// What new volumes may claim together, in bytes.
    #[serde(default)]
    pub available_bytes: i64,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<String>,
    /// Why it cannot be used, or only in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
