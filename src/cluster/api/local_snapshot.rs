//! A snapshot of a local volume, on the volume's node.

use super::{Desired, Failure, Phase};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What CreateSnapshot asked for, and whether it is still wanted.
///
/// The object is called like the snapshot's uuid, which is made of the orchestrator's name for it.
#[derive(Clone, Debug, PartialEq, Eq, CustomResource, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "wharf.csi.dev",
    version = "v1alpha1",
    kind = "LocalSnapshot",
    doc = "A snapshot of a local volume of wharf. Written by the driver; to delete data, delete the VolumeSnapshot.",
    shortname = "lsnap",
    category = "wharf",
    status = "LocalSnapshotStatus",
    derive = "PartialEq",
    selectable = ".spec.nodeName",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Volume", type_ = "string", json_path = ".spec.sourceVolumeID"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Name", type_ = "string", json_path = ".spec.name", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.failure.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.nodeName == oldSelf.nodeName && self.name == oldSelf.name && self.sourceVolumeID == oldSelf.sourceVolumeID").message("nodeName, name and sourceVolumeID never change"),
    validation = Rule::new("oldSelf.desired != 'Absent' || self.desired == 'Absent'").message("Absent is final")
)]
pub struct LocalSnapshotSpec {
    /// The Node on whose disk it lies: its volume's.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// The orchestrator's name for it (`snapshot-…`).
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// The id of the volume that it is of.
    #[serde(rename = "sourceVolumeID")]
    #[schemars(length(min = 1, max = 256))]
    pub source_volume_id: String,
    /// Whether there is to be data.
    #[serde(default)]
    pub desired: Desired,
}

/// What the node's agent reports.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalSnapshotStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: Phase,
    /// The generation of the object that this speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// The id that the orchestrator knows.
    #[serde(default, rename = "snapshotID", skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// What a restore must at least ask for, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_bytes: Option<i64>,
    /// The moment it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<Time>,
    /// The identity of the store it lies in, since it was there for the first time: in another one it is `Lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Why the wish of this generation is not fulfilled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// `Ready`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
