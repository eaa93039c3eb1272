//! Requests to commands. Every INVALID_ARGUMENT about a missing or malformed field is born here.

use super::csi;
use crate::{
    error::{Error, Result},
    service::{
        AnyClass, Claim, CreateLocal, CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume, ExpandNode,
        ExpandVolume, GetCapacity, GetSnapshot, GetStats, GetVolume, GetVolumeHealth, ListHealth,
        ListSnapshots, ListVolumes, NodeHealth, Page, Publish, SourceRequest, Stage, TargetPath, Unpublish,
        Unstage, ValidateVolume, nfs::CreateOnShare,
    },
    volume::{
        AccessMode, Capability, CapacityRange, Class, Name,
        capability::AccessType,
        nfs::{self, class::secret_options},
        parameters,
        topology::Requirement,
    },
};
use std::collections::BTreeMap;

fn missing(field: &str) -> Error {
    Error::Invalid(format!("{field} is missing"))
}

fn required(field: &str, text: String) -> Result<String> {
    if text.is_empty() { Err(missing(field)) } else { Ok(text) }
}

fn range(range: Option<csi::CapacityRange>) -> Result<CapacityRange> {
    let range = range.unwrap_or_default();
    CapacityRange::new(range.required_bytes, range.limit_bytes)
}

fn page(max_entries: i32, token: String) -> Result<Page> {
    let max_entries = usize::try_from(max_entries)
        .map_err(|_| Error::Invalid("max_entries must not be negative".into()))?;
    Ok(Page { max_entries, token })
}

fn capability(capability: csi::VolumeCapability) -> Result<Capability> {
    use csi::volume_capability::{AccessType as Type, access_mode::Mode};
    let mode = capability.access_mode.ok_or_else(|| missing("volume_capability.access_mode"))?.mode;
    let mode = match Mode::try_from(mode) {
        Ok(Mode::SingleNodeWriter) => AccessMode::SingleNodeWriter,
        Ok(Mode::SingleNodeReaderOnly) => AccessMode::SingleNodeReaderOnly,
        Ok(Mode::MultiNodeReaderOnly) => AccessMode::MultiNodeReaderOnly,
        Ok(Mode::MultiNodeSingleWriter) => AccessMode::MultiNodeSingleWriter,
        Ok(Mode::MultiNodeMultiWriter) => AccessMode::MultiNodeMultiWriter,
        Ok(Mode::SingleNodeSingleWriter) => AccessMode::SingleNodeSingleWriter,
        Ok(Mode::SingleNodeMultiWriter) => AccessMode::SingleNodeMultiWriter,
        Ok(Mode::Unknown) | Err(_) => {
            return Err(Error::Invalid(format!("volume_capability.access_mode {mode} is unknown")));
        }
    };
    let access = match capability.access_type.ok_or_else(|| missing("volume_capability.access_type"))? {
        Type::Block(_) => AccessType::Block,
        Type::Mount(mount) if !mount.volume_mount_group.is_empty() => {
            return Err(Error::Invalid("volume_mount_group is not supported: use fsGroup".into()));
        }
        Type::Mount(mount) => AccessType::Mount { fs_type: mount.fs_type, flags: mount.mount_flags },
    };
    Ok(Capability { mode, access })
}

fn capabilities(all: Vec<csi::VolumeCapability>) -> Result<Vec<Capability>> {
    if all.is_empty() {
        return Err(missing("volume_capabilities"));
    }
    all.into_iter().map(capability).collect()
}

fn requirement(requirement: Option<csi::TopologyRequirement>) -> Requirement {
    let requirement = requirement.unwrap_or_default();
    let segments = |topologies: Vec<csi::Topology>| topologies.into_iter().map(|t| t.segments).collect();
    Requirement { requisite: segments(requirement.requisite), preferred: segments(requirement.preferred) }
}

/// `None`: the volume is no NFS volume.
fn nfs_context(context: &BTreeMap<String, String>) -> Result<Option<nfs::Context>> {
    if nfs::is_nfs(context) { nfs::Context::parse(context).map(Some) } else { Ok(None) }
}

fn source(source: csi::VolumeContentSource) -> Result<SourceRequest> {
    use csi::volume_content_source::Type;
    match source.r#type.ok_or_else(|| missing("volume_content_source.type"))? {
        Type::Snapshot(snapshot) => {
            required("volume_content_source.snapshot_id", snapshot.snapshot_id).map(SourceRequest::Snapshot)
        }
        Type::Volume(volume) => {
            required("volume_content_source.volume_id", volume.volume_id).map(SourceRequest::Volume)
        }
    }
}

/// As csi-provisioner tells it.
fn claim(parameters: &BTreeMap<String, String>) -> Option<Claim> {
    let of = |key: &str| parameters.get(key).cloned();
    let namespace = of("csi.storage.k8s.io/pvc/namespace")?;
    Some(Claim { namespace, name: of("csi.storage.k8s.io/pvc/name")? })
}

impl TryFrom<csi::CreateVolumeRequest> for CreateVolume {
    type Error = Error;

    fn try_from(request: csi::CreateVolumeRequest) -> Result<Self> {
        let name = Name::new(request.name)?;
        let capabilities = capabilities(request.volume_capabilities)?;
        if let Some(key) = request.mutable_parameters.keys().next() {
            return Err(Error::Invalid(format!(
                "mutable parameter {key:?} is unknown: no parameter can be modified"
            )));
        }
        let range = range(request.capacity_range)?;
        let source = request.volume_content_source.map(source).transpose()?;
        if nfs::is_nfs(&request.parameters) {
            let class = nfs::Class::parse(&request.parameters)?;
            let secrets = secret_options(&request.secrets)?;
            return Ok(Self::OnShare(CreateOnShare { name, range, capabilities, class, source, secrets }));
        }
        let class = Class::parse(&request.parameters)?;
        let topology = requirement(request.accessibility_requirements);
        let claim = claim(&request.parameters);
        Ok(Self::Local(CreateLocal { name, range, capabilities, class, source, topology, claim }))
    }
}

impl TryFrom<csi::DeleteVolumeRequest> for DeleteVolume {
    type Error = Error;

    fn try_from(request: csi::DeleteVolumeRequest) -> Result<Self> {
        let secrets = secret_options(&request.secrets)?;
        Ok(Self { id: required("volume_id", request.volume_id)?, secrets })
    }
}

impl TryFrom<csi::ValidateVolumeCapabilitiesRequest> for ValidateVolume {
    type Error = Error;

    fn try_from(request: csi::ValidateVolumeCapabilitiesRequest) -> Result<Self> {
        Ok(Self {
            id: required("volume_id", request.volume_id)?,
            capabilities: capabilities(request.volume_capabilities)?,
            context: request.volume_context,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        })
    }
}

impl TryFrom<csi::ListVolumesRequest> for ListVolumes {
    type Error = Error;

    fn try_from(request: csi::ListVolumesRequest) -> Result<Self> {
        Ok(Self { page: page(request.max_entries, request.starting_token)? })
    }
}

impl TryFrom<csi::ListSnapshotsRequest> for ListSnapshots {
    type Error = Error;

    fn try_from(request: csi::ListSnapshotsRequest) -> Result<Self> {
        Ok(Self {
            page: page(request.max_entries, request.starting_token)?,
            source_id: request.source_volume_id,
            id: request.snapshot_id,
        })
    }
}

impl TryFrom<csi::GetCapacityRequest> for GetCapacity {
    type Error = Error;

    fn try_from(request: csi::GetCapacityRequest) -> Result<Self> {
        Ok(Self {
            capabilities: request.volume_capabilities.into_iter().map(capability).collect::<Result<_>>()?,
            class: match nfs::is_nfs(&request.parameters) {
                true => nfs::Class::parse(&request.parameters).map(AnyClass::OnShare),
                false => Class::parse(&request.parameters).map(AnyClass::Local),
            },
            topology: request.accessible_topology.map(|topology| topology.segments),
        })
    }
}

impl TryFrom<csi::CreateSnapshotRequest> for CreateSnapshot {
    type Error = Error;

    fn try_from(request: csi::CreateSnapshotRequest) -> Result<Self> {
        let name = Name::new(request.name)?;
        let source_id = required("source_volume_id", request.source_volume_id)?;
        parameters::check_snapshot_parameters(&request.parameters)?;
        let secrets = secret_options(&request.secrets)?;
        Ok(Self { name, source_id, topology: requirement(request.accessibility_requirements), secrets })
    }
}

impl TryFrom<csi::DeleteSnapshotRequest> for DeleteSnapshot {
    type Error = Error;

    fn try_from(request: csi::DeleteSnapshotRequest) -> Result<Self> {
        let secrets = secret_options(&request.secrets)?;
        Ok(Self { id: required("snapshot_id", request.snapshot_id)?, secrets })
    }
}

impl TryFrom<csi::GetSnapshotRequest> for GetSnapshot {
    type Error = Error;

    fn try_from(request: csi::GetSnapshotRequest) -> Result<Self> {
        Ok(Self { id: required("snapshot_id", request.snapshot_id)? })
    }
}

impl TryFrom<csi::ControllerExpandVolumeRequest> for ExpandVolume {
    type Error = Error;

    fn try_from(request: csi::ControllerExpandVolumeRequest) -> Result<Self> {
        let id = required("volume_id", request.volume_id)?;
        if request.capacity_range.is_none() {
            return Err(missing("capacity_range"));
        }
        let capability = request.volume_capability.map(capability).transpose()?;
        let secrets = secret_options(&request.secrets)?;
        Ok(Self { id, range: range(request.capacity_range)?, capability, secrets })
    }
}

impl TryFrom<csi::ControllerGetVolumeRequest> for GetVolume {
    type Error = Error;

    fn try_from(request: csi::ControllerGetVolumeRequest) -> Result<Self> {
        Ok(Self { id: required("volume_id", request.volume_id)? })
    }
}

impl TryFrom<csi::ControllerGetVolumeHealthRequest> for GetVolumeHealth {
    type Error = Error;

    fn try_from(request: csi::ControllerGetVolumeHealthRequest) -> Result<Self> {
        Ok(Self { id: required("volume_id", request.volume_id)? })
    }
}

impl TryFrom<csi::ControllerListVolumeHealthRequest> for ListHealth {
    type Error = Error;

    fn try_from(request: csi::ControllerListVolumeHealthRequest) -> Result<Self> {
        Ok(Self { page: page(request.max_entries, request.starting_token)? })
    }
}

impl TryFrom<csi::NodeStageVolumeRequest> for Stage {
    type Error = Error;

    fn try_from(request: csi::NodeStageVolumeRequest) -> Result<Self> {
        Ok(Self {
            id: required("volume_id", request.volume_id)?,
            staging: TargetPath::new("staging_target_path", request.staging_target_path)?,
            capability: capability(request.volume_capability.ok_or_else(|| missing("volume_capability"))?)?,
            context: nfs_context(&request.volume_context)?,
            secret_options: secret_options(&request.secrets)?,
        })
    }
}

impl TryFrom<csi::NodeUnstageVolumeRequest> for Unstage {
    type Error = Error;

    fn try_from(request: csi::NodeUnstageVolumeRequest) -> Result<Self> {
        Ok(Self {
            id: required("volume_id", request.volume_id)?,
            staging: TargetPath::new("staging_target_path", request.staging_target_path)?,
        })
    }
}

impl TryFrom<csi::NodePublishVolumeRequest> for Publish {
    type Error = Error;

    fn try_from(request: csi::NodePublishVolumeRequest) -> Result<Self> {
        let staging = match request.staging_target_path.as_str() {
            "" => None,
            _ => Some(TargetPath::new("staging_target_path", request.staging_target_path)?),
        };
        Ok(Self {
            id: required("volume_id", request.volume_id)?,
            staging,
            target: TargetPath::new("target_path", request.target_path)?,
            capability: capability(request.volume_capability.ok_or_else(|| missing("volume_capability"))?)?,
            read_only: request.readonly,
            context: nfs_context(&request.volume_context)?,
            secret_options: secret_options(&request.secrets)?,
        })
    }
}

impl TryFrom<csi::NodeUnpublishVolumeRequest> for Unpublish {
    type Error = Error;

    fn try_from(request: csi::NodeUnpublishVolumeRequest) -> Result<Self> {
        Ok(Self {
            id: required("volume_id", request.volume_id)?,
            target: TargetPath::new("target_path", request.target_path)?,
        })
    }
}

impl TryFrom<csi::NodeGetVolumeStatsRequest> for GetStats {
    type Error = Error;

    fn try_from(request: csi::NodeGetVolumeStatsRequest) -> Result<Self> {
        Ok(Self {
            id: required("volume_id", request.volume_id)?,
            path: TargetPath::new("volume_path", request.volume_path)?,
        })
    }
}

impl TryFrom<csi::NodeGetVolumeHealthRequest> for NodeHealth {
    type Error = Error;

    fn try_from(request: csi::NodeGetVolumeHealthRequest) -> Result<Self> {
        let optional = |field: &str, path: String| match path.as_str() {
            "" => Ok(None),
            _ => TargetPath::new(field, path).map(Some),
        };
        Ok(Self {
            id: required("volume_id", request.volume_id)?,
            published: optional("volume_publish_path", request.volume_publish_path)?,
            staged: optional("staging_target_path", request.staging_target_path)?,
        })
    }
}

impl TryFrom<csi::NodeExpandVolumeRequest> for ExpandNode {
    type Error = Error;

    fn try_from(request: csi::NodeExpandVolumeRequest) -> Result<Self> {
        Ok(Self {
            id: required("volume_id", request.volume_id)?,
            path: TargetPath::new("volume_path", request.volume_path)?,
            range: range(request.capacity_range)?,
            capability: request.volume_capability.map(capability).transpose()?,
        })
    }
}

/// A request without fields.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

macro_rules! nothing {
    ($($request:ident)*) => {$(
        impl TryFrom<csi::$request> for Nothing {
            type Error = Error;

            fn try_from(_: csi::$request) -> Result<Self> {
                Ok(Self)
            }
        }
    )*};
}

nothing! {
    GetPluginInfoRequest
    GetPluginCapabilitiesRequest
    ProbeRequest
    ControllerGetCapabilitiesRequest
    NodeGetStorageHealthRequest
    NodeGetCapabilitiesRequest
    NodeGetInfoRequest
}
