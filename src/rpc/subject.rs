//! What a request is about, for the log; and which requests are the same work.

use super::csi;
use crate::volume::nfs::{AnySnapshotId, AnyVolumeId, Server};
use prost::Message;
use std::collections::BTreeMap;
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

    /// The NFS server that the work may have to wait for. Not of Unpublish and Unstage, which never wait in line
    /// behind other requests.
    fn server(&self) -> Option<String> {
        None
    }

    /// Whether the work is a copy, which may take hours on a share.
    fn copies(&self) -> bool {
        false
    }
}

/// The server in an id of a volume or snapshot on a share.
fn server_of(id: &str) -> Option<String> {
    let share = match (AnyVolumeId::parse(id), AnySnapshotId::parse(id)) {
        (Some(AnyVolumeId::Nfs(id)), _) => id.share,
        (Some(AnyVolumeId::Legacy(id)), _) => id.share,
        (_, Some(AnySnapshotId::Nfs(id))) => id.share,
        (_, Some(AnySnapshotId::Legacy(id))) => id.share,
        _ => return None,
    };
    Some(share.server.to_string())
}

/// The server in a class's parameters or a volume context.
fn server_in(map: &BTreeMap<String, String>) -> Option<String> {
    let (_, server) = map.iter().find(|(key, _)| key.eq_ignore_ascii_case("server"))?;
    Some(Server::parse(server).map_or_else(|_| server.clone(), |server| server.to_string()))
}

macro_rules! subjects {
    ($($request:ident $($field:ident)? $(@ $server:ident $of:ident)?;)*) => {$(
        impl Subject for csi::$request {
            $(fn subject(&self) -> &str {
                &self.$field
            })?

            $(fn server(&self) -> Option<String> {
                $of(&self.$server)
            })?
        }
    )*};
}

subjects! {
    GetPluginInfoRequest;
    GetPluginCapabilitiesRequest;
    ProbeRequest;
    DeleteVolumeRequest volume_id @ volume_id server_of;
    ValidateVolumeCapabilitiesRequest volume_id @ volume_id server_of;
    ListVolumesRequest starting_token;
    GetCapacityRequest;
    ControllerGetCapabilitiesRequest;
    DeleteSnapshotRequest snapshot_id @ snapshot_id server_of;
    ListSnapshotsRequest starting_token;
    GetSnapshotRequest snapshot_id @ snapshot_id server_of;
    ControllerExpandVolumeRequest volume_id @ volume_id server_of;
    ControllerGetVolumeRequest volume_id @ volume_id server_of;
    ControllerGetVolumeHealthRequest volume_id @ volume_id server_of;
    ControllerListVolumeHealthRequest starting_token;
    NodeStageVolumeRequest volume_id @ volume_context server_in;
    NodeUnstageVolumeRequest volume_id;
    NodePublishVolumeRequest volume_id @ volume_context server_in;
    NodeUnpublishVolumeRequest volume_id;
    NodeGetVolumeStatsRequest volume_id @ volume_id server_of;
    NodeGetVolumeHealthRequest volume_id @ volume_id server_of;
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

    fn server(&self) -> Option<String> {
        server_in(&self.parameters)
    }

    fn copies(&self) -> bool {
        self.volume_content_source.is_some()
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

    fn server(&self) -> Option<String> {
        server_of(&self.source_volume_id)
    }

    fn copies(&self) -> bool {
        true
    }
}

/// Maps are ordered (`btree_map` in build.rs), so equal messages have equal encodings.
fn same(method: &str, wish: &impl Message) -> Uuid {
    Uuid::new_v5(&Uuid::new_v5(&Uuid::nil(), method.as_bytes()), &wish.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_known_by_their_requests() {
        let snapshot = csi::CreateSnapshotRequest {
            source_volume_id: "nfs-AAAAAAAAAAAAAAAAAAAAAA#nas#/data".into(),
            ..Default::default()
        };
        assert!(snapshot.copies() && snapshot.server().as_deref() == Some("nas"));
        let mut volume = csi::CreateVolumeRequest {
            parameters: [("server".to_owned(), "nas".to_owned())].into(),
            ..Default::default()
        };
        assert!(!volume.copies() && volume.server().as_deref() == Some("nas"));
        volume.volume_content_source = Some(csi::VolumeContentSource::default());
        assert!(volume.copies());
        assert!(!csi::DeleteSnapshotRequest::default().copies());
    }
}
