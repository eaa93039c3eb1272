//! Local volumes that lie on other nodes.

use super::{
    Capacity, CreateLocal, CreateSnapshot, ExpandVolume, Expanded, GetCapacity, Health, Page, Snapshot,
    ValidateVolume, Volume, list::Listed,
};
use crate::{
    error::Result,
    volume::{Class, Key, SnapshotId, VolumeId},
};
use std::fmt;

/// Who carries local operations out for a controller that has no disk itself. With it, [`super::Service`] asks it
/// wherever it would have looked into its own pools; without it, the volumes are here.
///
/// What holds for the service holds for each method: the same request again gives the same answer, and an error that
/// the orchestrator takes for final leaves nothing behind. All may block, to the time limits of their own.
pub trait Nodes: fmt::Debug + Send + Sync {
    /// Makes the volume where it is best, or finds it.
    fn create_volume(&self, request: &CreateLocal) -> Result<Volume>;
    /// The id of the volume with this key, if there is one.
    fn volume_of(&self, key: Key) -> Result<Option<VolumeId>>;
    /// On the node that the id names; absent is done.
    fn delete_volume(&self, id: &VolumeId) -> Result<()>;
    /// On the node of the volume.
    fn create_snapshot(&self, request: &CreateSnapshot, source: &VolumeId) -> Result<Snapshot>;
    /// On the node that the id names; absent is done.
    fn delete_snapshot(&self, id: &SnapshotId) -> Result<()>;
    /// On the node that the id names.
    fn expand_volume(&self, id: &VolumeId, request: &ExpandVolume) -> Result<Expanded>;
    /// One volume: NOT_FOUND when there is none.
    fn volume(&self, id: &VolumeId) -> Result<Volume>;
    /// One snapshot: NOT_FOUND when there is none.
    fn snapshot(&self, id: &SnapshotId) -> Result<Snapshot>;
    /// Volumes in the order of their keys.
    fn volumes(&self, page: &Page) -> Result<Listed<Volume>>;
    /// Snapshots in the order of their keys, of one volume or of all.
    fn snapshots(&self, page: &Page, source: Option<Key>) -> Result<Listed<Snapshot>>;
    /// `Ok(None)`: everything asked about is so; else the reason why not.
    fn validate(&self, id: &VolumeId, request: &ValidateVolume) -> Result<Option<String>>;
    /// What a class could still get where the request asks. Never waits.
    fn capacity(&self, class: &Class, request: &GetCapacity) -> Capacity;
    /// What is wrong with a volume.
    fn volume_health(&self, id: &VolumeId) -> Result<Health>;
    /// Volumes with something wrong, in the order of their keys.
    fn list_health(&self, page: &Page) -> Result<Listed<Health>>;
    /// Whether the controller can serve at all.
    fn probe(&self) -> Result<()>;
}
