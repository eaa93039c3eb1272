//! The Node service: what it can do, and one line for each RPC.

use super::{
    Runner,
    csi::{self, node_server, node_service_capability},
    parse::Nothing,
    respond,
    run::run,
};
use crate::service::Service;
use node_service_capability::rpc::Type;
use tonic::{Request, Response, Status, async_trait};

pub struct Node(pub Runner);

const CAPABILITIES: [Type; 6] = [
    Type::StageUnstageVolume,
    Type::GetVolumeStats,
    Type::ExpandVolume,
    Type::SingleNodeMultiWriter,
    Type::GetVolumeHealth,
    Type::GetStorageHealth,
];

#[async_trait]
impl node_server::Node for Node {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        run(&self.0, "NodeStageVolume", request, Service::stage).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        run(&self.0, "NodeUnstageVolume", request, Service::unstage).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        run(&self.0, "NodePublishVolume", request, Service::publish).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        run(&self.0, "NodeUnpublishVolume", request, Service::unpublish).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        run(&self.0, "NodeGetVolumeStats", request, Service::stats).await
    }

    async fn node_get_volume_health(
        &self,
        request: Request<csi::NodeGetVolumeHealthRequest>,
    ) -> Result<Response<csi::NodeGetVolumeHealthResponse>, Status> {
        run(&self.0, "NodeGetVolumeHealth", request, Service::node_volume_health).await
    }

    async fn node_get_storage_health(
        &self,
        request: Request<csi::NodeGetStorageHealthRequest>,
    ) -> Result<Response<csi::NodeGetStorageHealthResponse>, Status> {
        run(&self.0, "NodeGetStorageHealth", request, |service, Nothing| Ok(service.storage_health())).await
    }

    async fn node_expand_volume(
        &self,
        request: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        run(&self.0, "NodeExpandVolume", request, Service::expand_node).await
    }

    async fn node_get_capabilities(
        &self,
        request: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        run(&self.0, "NodeGetCapabilities", request, |_, Nothing| Ok(capabilities())).await
    }

    async fn node_get_info(
        &self,
        request: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        run(&self.0, "NodeGetInfo", request, |service, Nothing| {
            Ok(csi::NodeGetInfoResponse {
                node_id: service.node_id().to_owned(),
                max_volumes_per_node: service.max_volumes(),
                accessible_topology: Some(respond::topology(service.node())),
            })
        })
        .await
    }
}

fn capabilities() -> csi::NodeGetCapabilitiesResponse {
    let one = |kind: Type| csi::NodeServiceCapability {
        r#type: Some(node_service_capability::Type::Rpc(node_service_capability::Rpc {
            r#type: kind.into(),
        })),
    };
    csi::NodeGetCapabilitiesResponse { capabilities: CAPABILITIES.into_iter().map(one).collect() }
}
