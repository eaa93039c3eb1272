//! The kubelet's plugin registration: what it is told about the driver, and what it makes of it.

use super::status;
use std::future;
use tokio::sync::watch;
use tonic::{Request, Response, Status, async_trait, service::Routes};
use tower_http::catch_panic::CatchPanicLayer;

/// The messages and the service of the kubelet's plugin registration, generated from proto/pluginregistration.proto.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("pluginregistration");
}

use proto::registration_server;

/// As the kubelet calls plugins that speak CSI.
const TYPE: &str = "CSIPlugin";

/// The newest CSI that the kubelet asks for by number: every 1.x is compatible with it.
const CSI_VERSION: &str = "1.0.0";

/// How far the kubelet has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// It has not asked.
    Unknown,
    /// It asked, or uses the driver.
    Known,
    /// It said no, and this is why.
    Refused(String),
}

/// What the kubelet has said so far.
#[derive(Clone, Debug)]
pub struct Verdict(watch::Receiver<Progress>);

impl Verdict {
    /// Why the kubelet does not take the driver. It does not ask again, not even on another connection.
    pub fn refusal(&self) -> Option<String> {
        match &*self.0.borrow() {
            Progress::Refused(reason) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Whether the kubelet has asked who is there.
    pub fn is_known(&self) -> bool {
        *self.0.borrow() != Progress::Unknown
    }

    /// Returns when the kubelet refuses.
    pub async fn refused(&self) {
        let mut progress = self.0.clone();
        if progress.wait_for(|now| matches!(now, Progress::Refused(_))).await.is_err() {
            // Nobody is left whom it could tell.
            future::pending::<()>().await;
        }
    }
}

/// The service for a driver whose socket the kubelet finds at `endpoint`.
pub fn routes(driver_name: &str, endpoint: &str) -> (Routes, Verdict) {
    let (progress, verdict) = watch::channel(Progress::Unknown);
    let service = Registration { name: driver_name.to_owned(), endpoint: endpoint.to_owned(), progress };
    let routes = Routes::new(registration_server::RegistrationServer::new(service));
    let routes = routes.into_axum_router().layer(CatchPanicLayer::custom(status::of_panic));
    (Routes::from(routes), Verdict(verdict))
}

struct Registration {
    name: String,
    endpoint: String,
    progress: watch::Sender<Progress>,
}

#[async_trait]
impl registration_server::Registration for Registration {
    async fn get_info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::PluginInfo>, Status> {
        tracing::debug!(driver = self.name, "the kubelet asks who is there");
        self.progress.send_if_modified(|now| {
            let new = *now == Progress::Unknown;
            if new {
                *now = Progress::Known;
            }
            new
        });
        Ok(Response::new(proto::PluginInfo {
            r#type: TYPE.to_owned(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec![CSI_VERSION.to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<proto::RegistrationStatus>,
    ) -> Result<Response<proto::RegistrationStatusResponse>, Status> {
        let proto::RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!(driver = self.name, "registered with the kubelet");
        } else {
            tracing::error!(driver = self.name, reason = ?error, "the kubelet refuses the driver");
            self.progress.send_replace(Progress::Refused(error));
        }
        Ok(Response::new(proto::RegistrationStatusResponse {}))
    }
}
