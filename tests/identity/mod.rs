//! A CSI Identity service, just enough to have something to serve.

use std::{path::Path, time::Duration};
use tokio::time::sleep;
use tonic::{Request, Response, Status, service::Routes, transport::Channel};

#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

use csi::{identity_client::IdentityClient, identity_server::Identity};

pub const NAME: &str = "interop.wharf.csi.dev";

/// Probe takes as long as the service was told, and panics when that is `None`.
pub struct Service {
    pub probe: Option<Duration>,
}

#[tonic::async_trait]
impl Identity for Service {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse { name: NAME.into(), ..Default::default() }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        sleep(self.probe.expect("a Probe that may be called")).await;
        Ok(Response::new(csi::ProbeResponse { ready: Some(true) }))
    }
}

pub fn routes(probe: Option<Duration>) -> Routes {
    Routes::new(csi::identity_server::IdentityServer::new(Service { probe }))
}

/// A client that connects when it is first used.
#[allow(dead_code, reason = "not every test has a client of its own")]
pub fn client(socket: &Path) -> IdentityClient<Channel> {
    let endpoint = format!("unix://{}", socket.display());
    IdentityClient::new(tonic::transport::Endpoint::try_from(endpoint).unwrap().connect_lazy())
}
