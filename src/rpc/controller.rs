//! The Controller service: what it can do, and one line for each RPC.

use super::{
    Runner,
    csi::{self, controller_server, controller_service_capability},
    parse::Nothing,
    run::run,
};
use crate::service::{Service, ValidateVolume};
use controller_service_capability::rpc::Type;
use tonic::{Request, Response, Status, async_trait};

pub struct Controller(pub Runner);

/// Attach is neither needed nor declared: a local volume is where its node is.
const CAPABILITIES: [Type; 12] = [
    Type::CreateDeleteVolume,
    Type::ListVolumes,
    Type::GetCapacity,
    Type::CreateDeleteSnapshot,
    Type::ListSnapshots,
    Type::CloneVolume,
    Type::ExpandVolume,
    Type::GetVolume,
    Type::SingleNodeMultiWriter,
    Type::GetSnapshot,
    Type::GetVolumeHealth,
    Type::ListVolumeHealth,
];

#[async_trait]
impl controller_server::Controller for Controller {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        run(&self.0, "CreateVolume", request, Service::create_volume).await
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        run(&self.0, "DeleteVolume", request, Service::delete_volume).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        let confirmed = csi::validate_volume_capabilities_response::Confirmed {
            volume_context: request.get_ref().volume_context.clone(),
            volume_capabilities: request.get_ref().volume_capabilities.clone(),
            parameters: request.get_ref().parameters.clone(),
            mutable_parameters: request.get_ref().mutable_parameters.clone(),
        };
        run(&self.0, "ValidateVolumeCapabilities", request, |service, command: &ValidateVolume| {
            Ok(match service.validate(command)? {
                None => csi::ValidateVolumeCapabilitiesResponse {
                    confirmed: Some(confirmed),
                    message: String::new(),
                },
                Some(message) => csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message },
            })
        })
        .await
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Result<Response<csi::ListVolumesResponse>, Status> {
        run(&self.0, "ListVolumes", request, Service::list_volumes).await
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Result<Response<csi::GetCapacityResponse>, Status> {
        run(&self.0, "GetCapacity", request, |service, command| Ok(service.capacity(command))).await
    }

    async fn controller_get_capabilities(
        &self,
        request: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        run(&self.0, "ControllerGetCapabilities", request, |_, Nothing| Ok(capabilities())).await
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        run(&self.0, "CreateSnapshot", request, Service::create_snapshot).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        run(&self.0, "DeleteSnapshot", request, Service::delete_snapshot).await
    }

    async fn list_snapshots(
        &self,
        request: Request<csi::ListSnapshotsRequest>,
    ) -> Result<Response<csi::ListSnapshotsResponse>, Status> {
        run(&self.0, "ListSnapshots", request, Service::list_snapshots).await
    }

    async fn get_snapshot(
        &self,
        request: Request<csi::GetSnapshotRequest>,
    ) -> Result<Response<csi::GetSnapshotResponse>, Status> {
        run(&self.0, "GetSnapshot", request, Service::get_snapshot).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Result<Response<csi::ControllerExpandVolumeResponse>, Status> {
        run(&self.0, "ControllerExpandVolume", request, Service::expand_volume).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeResponse>, Status> {
        run(&self.0, "ControllerGetVolume", request, Service::get_volume).await
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<csi::ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<csi::ControllerGetVolumeHealthResponse>, Status> {
        run(&self.0, "ControllerGetVolumeHealth", request, Service::volume_health).await
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<csi::ControllerListVolumeHealthRequest>,
    ) -> Result<Response<csi::ControllerListVolumeHealthResponse>, Status> {
        run(&self.0, "ControllerListVolumeHealth", request, Service::list_health).await
    }
}

fn capabilities() -> csi::ControllerGetCapabilitiesResponse {
    let one = |kind: Type| csi::ControllerServiceCapability {
        r#type: Some(controller_service_capability::Type::Rpc(controller_service_capability::Rpc {
            r#type: kind.into(),
        })),
    };
    csi::ControllerGetCapabilitiesResponse { capabilities: CAPABILITIES.into_iter().map(one).collect() }
}
