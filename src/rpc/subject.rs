//! What a request is about, for the log; and which requests are the same work.

use super::csi;
use prost::Message;
use uuid::Uuid;

/// Implemented for every request.
pub trait Subject {
    /// The id, or the name, of the object. Never a secret.
    fn subject(&self) -> &str {
        ""
    }

    /// Requests with the same value are the same work: the second waits for the first.
    fn joins(&self) -> Option<Uuid> {
        None
    }
}

macro_rules! subjects {
    ($($request:ident $($field:ident)?;)*) => {$(
        impl Subject for csi::$request {
            $(fn subject(&self) -> &str {
                &self.$field
            })?
        }
    )*};
}

subjects! {
    GetPluginInfoRequest;
    GetPluginCapabilitiesRequest;
    ProbeRequest;
    DeleteVolumeRequest volume_id;
    ValidateVolumeCapabilitiesRequest volume_id;
    ListVolumesRequest starting_token;
    GetCapacityRequest;
    ControllerGetCapabilitiesRequest;
    DeleteSnapshotRequest snapshot_id;
    ListSnapshotsRequest starting_token;
    GetSnapshotRequest snapshot_id;
    ControllerExpandVolumeRequest volume_id;
    ControllerGetVolumeRequest volume_id;
    ControllerGetVolumeHealthRequest volume_id;
    ControllerListVolumeHealthRequest starting_token;
    NodeStageVolumeRequest volume_id;
    NodeUnstageVolumeRequest volume_id;
    NodePublishVolumeRequest volume_id;
    NodeUnpublishVolumeRequest volume_id;
    NodeGetVolumeStatsRequest volume_id;
    NodeGetVolumeHealthRequest volume_id;
    NodeGetStorageHealthRequest;
    NodeExpandVolumeRequest volume_id;
    NodeGetCapabilitiesRequest;
    NodeGetInfoRequest;
}

impl Subject for csi::CreateVolumeRequest {
    fn subject(&self) -> &str {
        &self.name
    }

    /// Secrets and topology lists change between retries of the same wish.
    fn joins(&self) -> Option<Uuid> {
        let mut wish = self.clone();
        wish.secrets.clear();
        wish.accessibility_requirements = None;
        Some(same("CreateVolume", &wish))
    }
}

impl Subject for csi::CreateSnapshotRequest {
    fn subject(&self) -> &str {
        &self.name
    }

    fn joins(&self) -> Option<Uuid> {
        let mut wish = self.clone();
        wish.secrets.clear();
        wish.accessibility_requirements = None;
        Some(same("CreateSnapshot", &wish))
    }
}

/// Maps are ordered (`btree_map` in build.rs), so equal messages have equal encodings.
fn same(method: &str, wish: &impl Message) -> Uuid {
    Uuid::new_v5(&Uuid::new_v5(&Uuid::nil(), method.as_bytes()), &wish.encode_to_vec())
}
