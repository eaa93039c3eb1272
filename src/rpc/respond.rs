//! Records and values to responses.

use super::csi;
use crate::{
    service::{Capacity, Expanded, Figures, Health, PoolAilment, Severity, Snapshot, SourceRequest, Volume},
    volume::{NodeName, topology::TOPOLOGY_KEY},
};

/// Sizes are below 2^63 by construction (`size::MAX`); a filesystem's figures may not be.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The one segment of a node.
pub fn topology(node: &NodeName) -> csi::Topology {
    csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), node.as_str().to_owned())].into() }
}

fn content_source(source: SourceRequest) -> csi::VolumeContentSource {
    use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let r#type = match source {
        SourceRequest::Snapshot(snapshot_id) => Type::Snapshot(SnapshotSource { snapshot_id }),
        SourceRequest::Volume(volume_id) => Type::Volume(VolumeSource { volume_id }),
    };
    csi::VolumeContentSource { r#type: Some(r#type) }
}

impl From<Volume> for csi::Volume {
    fn from(volume: Volume) -> Self {
        Self {
            capacity_bytes: signed(volume.size_bytes),
            volume_id: volume.id,
            volume_context: volume.context,
            content_source: volume.source.map(content_source),
            accessible_topology: volume.node.iter().map(topology).collect(),
        }
    }
}

impl From<Snapshot> for csi::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            size_bytes: signed(snapshot.asked_bytes),
            snapshot_id: snapshot.id,
            source_volume_id: snapshot.volume_id,
            creation_time: Some(snapshot.created.system_time().into()),
            // A snapshot that is not complete does not exist.
            ready_to_use: true,
            group_snapshot_id: String::new(),
            accessible_topology: snapshot.node.iter().map(topology).collect(),
        }
    }
}

impl From<Volume> for csi::CreateVolumeResponse {
    fn from(volume: Volume) -> Self {
        Self { volume: Some(volume.into()) }
    }
}

impl From<Volume> for csi::ControllerGetVolumeResponse {
    fn from(volume: Volume) -> Self {
        Self {
            volume: Some(volume.into()),
            status: Some(csi::controller_get_volume_response::VolumeStatus::default()),
        }
    }
}

impl From<(Vec<Volume>, String)> for csi::ListVolumesResponse {
    fn from((entries, next_token): (Vec<Volume>, String)) -> Self {
        let entry =
            |volume: Volume| csi::list_volumes_response::Entry { volume: Some(volume.into()), status: None };
        Self { entries: entries.into_iter().map(entry).collect(), next_token }
    }
}

impl From<Snapshot> for csi::CreateSnapshotResponse {
    fn from(snapshot: Snapshot) -> Self {
        Self { snapshot: Some(snapshot.into()) }
    }
}

impl From<Snapshot> for csi::GetSnapshotResponse {
    fn from(snapshot: Snapshot) -> Self {
        Self { snapshot: Some(snapshot.into()) }
    }
}

impl From<(Vec<Snapshot>, String)> for csi::ListSnapshotsResponse {
    fn from((entries, next_token): (Vec<Snapshot>, String)) -> Self {
        let entry =
            |snapshot: Snapshot| csi::list_snapshots_response::Entry { snapshot: Some(snapshot.into()) };
        Self { entries: entries.into_iter().map(entry).collect(), next_token }
    }
}

impl From<Capacity> for csi::GetCapacityResponse {
    fn from(capacity: Capacity) -> Self {
        Self {
            available_capacity: signed(capacity.available),
            maximum_volume_size: Some(signed(capacity.largest)),
            minimum_volume_size: (capacity.smallest > 0).then(|| signed(capacity.smallest)),
        }
    }
}

impl From<Expanded> for csi::ControllerExpandVolumeResponse {
    fn from(expanded: Expanded) -> Self {
        Self {
            capacity_bytes: signed(expanded.size_bytes),
            node_expansion_required: expanded.node_expansion_required,
        }
    }
}

impl From<u64> for csi::NodeExpandVolumeResponse {
    fn from(size: u64) -> Self {
        Self { capacity_bytes: signed(size) }
    }
}

impl From<Figures> for csi::NodeGetVolumeStatsResponse {
    fn from(figures: Figures) -> Self {
        use csi::volume_usage::Unit;
        let usage = |unit: Unit, amount: crate::service::Amount| csi::VolumeUsage {
            available: signed(amount.available),
            total: signed(amount.total),
            used: signed(amount.used),
            unit: unit.into(),
        };
        let mut all = vec![usage(Unit::Bytes, figures.bytes)];
        all.extend(figures.inodes.map(|inodes| usage(Unit::Inodes, inodes)));
        Self { usage: all }
    }
}

impl From<Health> for csi::VolumeHealth {
    fn from(health: Health) -> Self {
        let health_statuses =
            health.ailments.into_iter().map(|ailment| csi::volume_health::VolumeHealthEntry {
                status: match ailment.severity {
                    Severity::Degraded => csi::VolumeHealthErrorType::Degraded,
                    Severity::Inaccessible => csi::VolumeHealthErrorType::Inaccessible,
                    Severity::DataLoss => csi::VolumeHealthErrorType::DataLoss,
                }
                .into(),
                reason: ailment.reason.to_owned(),
                message: ailment.message,
            });
        Self { volume_id: health.id, health_statuses: health_statuses.collect() }
    }
}

impl From<Health> for csi::ControllerGetVolumeHealthResponse {
    fn from(health: Health) -> Self {
        Self { volume_health: Some(health.into()) }
    }
}

impl From<(Vec<Health>, String)> for csi::ControllerListVolumeHealthResponse {
    fn from((entries, next_token): (Vec<Health>, String)) -> Self {
        Self { entries: entries.into_iter().map(Into::into).collect(), next_token }
    }
}

impl From<Health> for csi::NodeGetVolumeHealthResponse {
    fn from(health: Health) -> Self {
        Self { volume_health: Some(health.into()) }
    }
}

impl From<Vec<PoolAilment>> for csi::NodeGetStorageHealthResponse {
    fn from(ailments: Vec<PoolAilment>) -> Self {
        // One message for each (status, reason): pools that share one are named together.
        let mut merged: Vec<PoolAilment> = Vec::new();
        for ailment in ailments {
            match merged
                .iter_mut()
                .find(|m| m.unreachable == ailment.unreachable && m.reason == ailment.reason)
            {
                Some(same) => {
                    same.message.push_str("; ");
                    same.message.push_str(&ailment.message);
                }
                None => merged.push(ailment),
            }
        }
        let entry = |ailment: PoolAilment| csi::node_get_storage_health_response::StorageBackendHealth {
            status: match ailment.unreachable {
                true => csi::StorageHealthErrorType::StorageUnreachable,
                false => csi::StorageHealthErrorType::StorageDegraded,
            }
            .into(),
            reason: ailment.reason.to_owned(),
            message: ailment.message,
            volume_capability: None,
        };
        Self { backend_health: merged.into_iter().map(entry).collect() }
    }
}

macro_rules! empty {
    ($($response:ident)*) => {$(
        impl From<()> for csi::$response {
            fn from((): ()) -> Self {
                Self {}
            }
        }
    )*};
}

empty! {
    DeleteVolumeResponse
    DeleteSnapshotResponse
    NodeStageVolumeResponse
    NodeUnstageVolumeResponse
    NodePublishVolumeResponse
    NodeUnpublishVolumeResponse
}
