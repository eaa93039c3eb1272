//! The kinds of objects that controller and agents exchange, and what every one of them has.
//!
//! `wharf crds` prints their definitions from these types; `deploy/crds.yaml` is that text.

#![allow(clippy::duplicated_attributes, reason = "each printer column has a name and a type")]

pub mod kubernetes;
mod local_snapshot;
mod local_volume;
mod object;
mod storage_node;

pub use local_snapshot::{LocalSnapshot, LocalSnapshotSpec, LocalSnapshotStatus};
pub use local_volume::{
    LocalVolume, LocalVolumeSpec, LocalVolumeStatus, ObjectSource, SourceKind, VolumeAccess,
};
pub use object::{LocalObject, Reported};
pub use storage_node::{PoolStatus, StorageNode, StorageNodeSpec, StorageNodeStatus};

use crate::error::{Error, failure::Failure as Detail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The group of all kinds.
pub const GROUP: &str = "wharf.csi.dev";

/// While an object has it, its node's agent is responsible for what the object names. An agent adds it before its
/// first side effect, and takes it away when nothing is left to do.
pub const FINALIZER: &str = "wharf.csi.dev/agent";

/// What an agent has found on disk without an object has this label, with the value `true`. Nobody has asked for it:
/// it is never the result of a CreateVolume or CreateSnapshot, and `Orphaned` until the controller takes the label off.
pub const ORPHANED_LABEL: &str = "wharf.csi.dev/orphaned";

/// The condition of a volume whose agent has looked at it: whether it can be used, in the words of the service's health.
pub const HEALTHY: &str = "Healthy";

/// The condition of a volume that is there, and that neither a PersistentVolume nor a claim names. The controller sees
/// that, and writes it.
pub const UNCLAIMED: &str = "Unclaimed";

/// Whether there is to be data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Desired {
    /// It is made, kept, grown.
    #[default]
    Present,
    /// It is deleted. Written by DeleteVolume and DeleteSnapshot alone, and final: data never goes because an
    /// object does.
    Absent,
}

/// What an agent last reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not there yet.
    #[default]
    Pending,
    /// There.
    Ready,
    /// It cannot be made, and nothing of it was left behind; see `failure`.
    Failed,
    /// On its way to the trash.
    Deleting,
    /// It was there, and is not any more. Nothing is ever made in its place.
    Lost,
    /// Data on the node for which no object was there: announced again by the agent.
    Orphaned,
}

impl Phase {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Ready, Self::Failed, Self::Deleting, Self::Lost, Self::Orphaned];

    /// As objects and metrics show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Ready => "Ready",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
            Self::Lost => "Lost",
            Self::Orphaned => "Orphaned",
        }
    }
}

/// Why something that was asked for is not so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// One word, in the words of events and conditions.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The driver's own error, as JSON, for the controller to answer with the same code.
    pub detail: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        // Plain data: it cannot fail to serialise. Without it the controller answers INTERNAL with the message.
        let detail = serde_json::to_string(&Detail::from(error)).unwrap_or_default();
        Self { reason: error.reason().to_owned(), message: error.chain(), detail }
    }
}

impl From<&Failure> for Error {
    fn from(failure: &Failure) -> Self {
        serde_json::from_str::<Detail>(&failure.detail)
            .map_or_else(|_| Self::Internal(failure.message.clone()), Self::from)
    }
}
