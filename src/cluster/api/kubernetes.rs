//! Kubernetes' own kinds, as far as they are read here.
//!
//! A whole PersistentVolume knows thirty sources of volumes and a Node the images it has; neither is of use here, and
//! both would take room in the program and in what the watches keep. Nothing of these kinds is ever written.

use k8s_openapi::{
    api::{core::v1 as core, storage::v1 as storage},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A claim: only what every object has.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = core::PersistentVolumeClaim)]
pub struct PersistentVolumeClaim {
    metadata: ObjectMeta,
}

/// A namespace: only what every object has.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = core::Namespace)]
pub struct Namespace {
    metadata: ObjectMeta,
}

/// A volume of the cluster, by whatever driver.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = core::PersistentVolume)]
pub struct PersistentVolume {
    metadata: ObjectMeta,
    /// Where it lies.
    #[serde(default)]
    pub spec: PersistentVolumeSpec,
}

/// Where its data is.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PersistentVolumeSpec {
    /// `None`: it is not of a CSI driver.
    pub csi: Option<CsiSource>,
}

/// A volume of a CSI driver.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CsiSource {
    /// As drivers call themselves.
    pub driver: String,
    /// The driver's id for it.
    pub volume_handle: String,
}

/// A class, by whatever provisioner.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = storage::StorageClass)]
#[serde(rename_all = "camelCase")]
pub struct StorageClass {
    metadata: ObjectMeta,
    /// The driver that makes volumes of this class.
    pub provisioner: String,
    /// What it is told of them.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// What volumes of this class are mounted with.
    #[serde(default)]
    pub mount_options: Vec<String>,
}

/// A machine of the cluster.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = core::Node)]
pub struct Node {
    /// What every object has.
    pub metadata: ObjectMeta,
    /// What is wished of it.
    #[serde(default)]
    pub spec: NodeSpec,
    /// What is known of it.
    #[serde(default)]
    pub status: NodeStatus,
}

/// What administrators wish of a machine.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeSpec {
    /// It is cordoned.
    #[serde(default)]
    pub unschedulable: bool,
}

/// What its kubelet has told.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeStatus {
    /// `Ready` is one of them.
    #[serde(default)]
    pub conditions: Vec<NodeCondition>,
}

/// One of the things that its kubelet tells.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeCondition {
    /// What it is about.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}
