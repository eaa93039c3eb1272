//! The Identity service.

use super::{
    Runner,
    csi::{self, identity_server},
    parse::Nothing,
    run::run,
};
use tonic::{Request, Response, Status, async_trait};

pub struct Identity {
    runner: Runner,
    name: String,
}

impl Identity {
    pub fn new(runner: Runner, name: &str) -> Self {
        Self { runner, name: name.to_owned() }
    }
}

#[async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        request: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        let info = csi::GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: std::collections::BTreeMap::new(),
        };
        run(&self.runner, "GetPluginInfo", request, move |_, Nothing| Ok(info)).await
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let answer = capabilities();
        run(&self.runner, "GetPluginCapabilities", request, move |_, Nothing| Ok(answer)).await
    }

    async fn probe(
        &self,
        request: Request<csi::ProbeRequest>,
    ) -> Result<Response<csi::ProbeResponse>, Status> {
        run(&self.runner, "Probe", request, |service, Nothing| {
            service.probe().map(|()| csi::ProbeResponse { ready: Some(true) })
        })
        .await
    }
}

/// What the plugin can do as a whole. The specification wants the same answer from every process of it, also from one
/// that serves nodes alone.
fn capabilities() -> csi::GetPluginCapabilitiesResponse {
    use csi::plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion};
    let of_service = |kind: service::Type| Type::Service(Service { r#type: kind.into() });
    let expansion =
        |kind: volume_expansion::Type| Type::VolumeExpansion(VolumeExpansion { r#type: kind.into() });
    let all = [
        of_service(service::Type::ControllerService),
        of_service(service::Type::VolumeAccessibilityConstraints),
        of_service(service::Type::SnapshotAccessibilityConstraints),
        expansion(volume_expansion::Type::Online),
    ];
    let capabilities = all.into_iter().map(|r#type| csi::PluginCapability { r#type: Some(r#type) });
    csi::GetPluginCapabilitiesResponse { capabilities: capabilities.collect() }
}
