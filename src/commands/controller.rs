//! `wharf controller`: Identity and Controller for a whole cluster.

use super::{
    chain,
    serve::{self, Role},
    standalone,
};
use crate::{
    cluster::{
        client,
        controller::{Controller, Settings, cluster_uid},
    },
    config::ControllerArgs,
    rpc::{Offer, metrics::Metrics},
    server::{self, Endpoint, Shutdown},
    service::{self, Service},
};
use kube::Client;
use std::{sync::Arc, time::Duration};
use tokio::{task, time};

/// Requests that wait for agents hold a thread each: the sidecars send up to a hundred each.
const THREADS: usize = 512;
/// An API server that is away is asked again after this time.
const AGAIN: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT. An error is one sentence that says what to change.
pub fn run(arguments: &ControllerArgs) -> Result<(), String> {
    // Said before anything is asked.
    let _: Endpoint =
        arguments.role.endpoint.parse().map_err(|error: server::socket::EndpointError| chain(&error))?;
    serve::to_the_end(serve::runtime_with(THREADS)?, serve(arguments))
}

async fn serve(arguments: &ControllerArgs) -> Result<(), String> {
    let shutdown = server::shutdown_signal().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let client = client::connect(arguments.cluster.kubeconfig.as_deref()).await?;
    let Some(owner) = owner(&client, shutdown.clone()).await else { return Ok(()) };
    let settings = Settings {
        namespace: arguments.cluster.namespace.clone(),
        driver_name: arguments.role.driver_name.clone(),
        node_gone_after: Duration::from_secs(arguments.node_gone_after),
        unclaimed_after: Duration::from_secs(arguments.unclaimed_after),
    };
    let controller = Arc::new(Controller::start(client, settings));
    let mut shares = standalone::shares(&[], Some(&owner), "controller");
    shares.limits = shares.limits.with_mounting(Duration::from_secs(arguments.role.mount_timeout));
    let config = service::Config { pools: &[], node_id: "controller", max_volumes: 0, shares };
    let service = Service::new(&config).map_err(|error| error.chain())?;
    let service = Arc::new(service.with_nodes(Arc::clone(&controller) as Arc<dyn service::Nodes>));
    let mut metrics = Metrics::new(Arc::clone(&service));
    controller.register(metrics.registry());
    task::spawn(controller.tend(Arc::clone(&service)));
    let role = Role {
        endpoint: &arguments.role.endpoint,
        driver_name: &arguments.role.driver_name,
        metrics_address: arguments.role.metrics_address,
        metrics,
        offer: Offer { controller: true, node: false },
        service,
    };
    role.serve_until(shutdown).await
}

/// Whose the cluster's volumes on shares are, for as long as the cluster lives. `None`: it is to end before that is
/// known.
async fn owner(client: &Client, shutdown: Shutdown) -> Option<String> {
    let asked = async {
        loop {
            match cluster_uid(client).await {
                Ok(uid) => return uid,
                Err(error) => tracing::warn!(error = error.chain(), "not serving yet"),
            }
            time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        owner = asked => Some(owner),
        () = shutdown.draining() => None,
    }
}
