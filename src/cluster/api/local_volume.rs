//! A local volume: one directory or image file on one node.

use super::{Desired, Failure, LocalObject, Phase, UNCLAIMED};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What CreateVolume asked for, in the driver's own terms, and whether it is still wanted.
///
/// The object is called like the volume's uuid, which is made of the orchestrator's name for it.
#[derive(Clone, Debug, PartialEq, Eq, CustomResource, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "wharf.csi.dev",
    version = "v1alpha1",
    kind = "LocalVolume",
    doc = "A local volume of wharf: one directory or image file on one node. Written by the driver; to delete data, delete the claim.",
    shortname = "lvol",
    category = "wharf",
    status = "LocalVolumeStatus",
    derive = "PartialEq",
    selectable = ".spec.nodeName",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Name", type_ = "string", json_path = ".spec.name", priority = 1),
    printcolumn(name = "Layout", type_ = "string", json_path = ".spec.parameters.layout", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.failure.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.nodeName == oldSelf.nodeName && self.name == oldSelf.name && self.pool == oldSelf.pool && self.parameters == oldSelf.parameters && self.access == oldSelf.access").message("nodeName, name, pool, parameters and access never change"),
    validation = Rule::new("has(self.filesystem) == has(oldSelf.filesystem) && (!has(self.filesystem) || self.filesystem == oldSelf.filesystem)").message("filesystem never changes"),
    validation = Rule::new("has(self.source) == has(oldSelf.source) && (!has(self.source) || self.source == oldSelf.source)").message("source never changes"),
    validation = Rule::new("oldSelf.desired != 'Absent' || self.desired == 'Absent'").message("Absent is final")
)]
pub struct LocalVolumeSpec {
    /// The Node on whose disk it lies.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// The orchestrator's name for it (`pvc-…`).
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The pool on that node.
    #[schemars(length(min = 1, max = 63))]
    pub pool: String,
    /// The class's other parameters, normalised.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// As a mounted filesystem or as a raw block device.
    pub access: VolumeAccess,
    /// What is inside an image that is mounted: ext4 or xfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// The size last asked for, in bytes; 0: none was. Only grows.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub required_bytes: i64,
    /// The size that must not be exceeded, in bytes; 0: none.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub limit_bytes: i64,
    /// Where its first content comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ObjectSource>,
    /// Whether there is to be data.
    #[serde(default)]
    pub desired: Desired,
}

/// Where first content comes from: on the same node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectSource {
    /// Of which kind.
    pub kind: SourceKind,
    /// Its id, as the orchestrator knows it.
    #[schemars(length(min = 1, max = 256))]
    pub id: String,
}

/// What a volume can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum SourceKind {
    /// Restored.
    Snapshot,
    /// Cloned.
    Volume,
}

/// How pods see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum VolumeAccess {
    /// A directory.
    Mount,
    /// A device.
    Block,
}

impl LocalVolume {
    /// Nothing in the cluster names it, as the controller has found.
    pub fn is_unclaimed(&self) -> bool {
        self.condition(UNCLAIMED).is_some_and(|condition| condition.status == "True")
    }
}

/// What the node's agent reports.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalVolumeStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: Phase,
    /// The generation of the object that this speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// The id that the orchestrator knows.
    #[serde(default, rename = "volumeID", skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<String>,
    /// The size it has, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The identity of the store it lies in, since it was there for the first time: in another one it is `Lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Why the wish of this generation is not fulfilled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// `Ready`, `Healthy`, `Unclaimed`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
