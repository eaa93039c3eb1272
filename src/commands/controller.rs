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
    server::{self, Endpoint},
    service::{self, Service},
    share::Owner,
};
use kube::Client;
use std::{sync::Arc, time::Duration};
use tokio::{task, time};

/// Requests that wait for agents hold a thread each: the sidecars send up to a hundred each.
const THREADS: usize = 512;
/// An API server that is away is asked again after this time; then ever more rarely.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(10);

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
    let settings = Settings {
        namespace: arguments.cluster.namespace.clone(),
        driver_name: arguments.role.driver_name.clone(),
        node_gone_after: Duration::from_secs(arguments.node_gone_after),
        unclaimed_after: Duration::from_secs(arguments.unclaimed_after),
    };
    let controller = Arc::new(Controller::start(client.clone(), settings));
    let owner = Owner::to_be_found("the API server is being asked");
    let mut shares = standalone::shares(&[], owner.clone());
    shares.limits = shares.limits.with_mounting(Duration::from_secs(arguments.role.mount_timeout));
    let config = service::Config { pools: &[], node_id: "controller", max_volumes: 0, shares };
    let service = Service::new(&config).map_err(|error| error.chain())?;
    let service = Arc::new(service.with_nodes(Arc::clone(&controller) as Arc<dyn service::Nodes>));
    let mut metrics = Metrics::new(Arc::clone(&service));
    controller.register(metrics.registry());
    let tended = Arc::clone(&service);
    let quiet = Arc::clone(&controller);
    task::spawn(async move { quiet.stay_small().await });
    task::spawn(async move { tokio::join!(find(&owner, &client), controller.tend(tended)) });
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

/// Asks whose the cluster's volumes on shares are, for as long as the cluster lives. Requests are answered meanwhile: a
/// container that does not serve is killed, and an API server that is away or forbids it is not mended by that.
async fn find(owner: &Owner, client: &Client) {
    let mut pause = AGAIN;
    loop {
        match cluster_uid(client).await {
            Ok(uid) => return owner.found(&uid),
            Err(error) => {
                let why = error.chain();
                tracing::warn!(error = why, "volumes on shares cannot be served yet");
                owner.missing(&why);
            }
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_AT_MOST);
    }
}
