//! gRPC: requests become commands, answers become responses, errors become codes.
//!
//! Every RPC goes through [`run::run`]; only this layer and `server` know tonic.

pub mod client;
mod controller;
mod identity;
pub mod metrics;
mod node;
mod parse;
#[cfg(feature = "cluster")]
pub mod registration;
mod respond;
mod run;
mod status;
mod subject;

use crate::service::Service;
use std::{fmt, sync::Arc};
use tonic::service::Routes;
use tower_http::catch_panic::CatchPanicLayer;

/// Messages and services of the CSI specification, generated from proto/csi.proto.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

pub use run::Runner;

/// Which services a process offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// CSI Controller.
    pub controller: bool,
    /// CSI Node.
    pub node: bool,
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.controller, self.node) {
            (true, true) => "Identity, Controller and Node",
            (true, false) => "Identity and Controller",
            (false, true) => "Identity and Node",
            (false, false) => "Identity",
        })
    }
}

/// The gRPC services over `service`.
pub fn routes(
    service: Arc<Service>,
    driver_name: &str,
    metrics: Arc<metrics::Metrics>,
    offer: Offer,
) -> Routes {
    let runner = Runner::new(service, metrics);
    let identity = identity::Identity::new(runner.clone(), driver_name);
    let mut routes = Routes::new(csi::identity_server::IdentityServer::new(identity));
    if offer.controller {
        let controller = controller::Controller(runner.clone());
        routes = routes.add_service(csi::controller_server::ControllerServer::new(controller));
    }
    if offer.node {
        routes = routes.add_service(csi::node_server::NodeServer::new(node::Node(runner)));
    }
    Routes::from(routes.into_axum_router().layer(CatchPanicLayer::custom(status::of_panic)))
}
