//! `wharf node`: Identity and Node on one socket, and the node's agent.

use super::{
    serve::{self, Role},
    standalone,
};
use crate::{
    cluster::{agent, client},
    config::{NodeArgs, check_pools},
    os,
    rpc::Offer,
    server,
    service::{self, Service},
};
use std::{sync::Arc, time::Duration};

/// Serves until SIGTERM or SIGINT. An error is one sentence that says what to change.
pub fn run(arguments: &NodeArgs) -> Result<(), String> {
    check_pools(&arguments.pools)?;
    os::loopdev::ignore_lease_signals();
    let mut shares = standalone::shares(&[], None, &arguments.node_id);
    shares.limits = shares.limits.with_mounting(Duration::from_secs(arguments.role.mount_timeout));
    let config = service::Config {
        pools: &arguments.pools,
        node_id: &arguments.node_id,
        max_volumes: arguments.max_volumes,
        shares,
    };
    let service = Arc::new(Service::new(&config).map_err(|error| error.chain())?);
    serve::to_the_end(serve::runtime()?, with_agent(arguments, service))
}

async fn with_agent(arguments: &NodeArgs, service: Arc<Service>) -> Result<(), String> {
    let shutdown = server::shutdown_signal().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let client = client::connect(arguments.cluster.kubeconfig.as_deref()).await?;
    let settings = agent::Settings {
        node_name: arguments.node_id.clone(),
        namespace: arguments.cluster.namespace.clone(),
    };
    let agent = agent::run(client, Arc::clone(&service), settings, shutdown.clone());
    tokio::spawn(agent);
    let role = Role {
        endpoint: &arguments.role.endpoint,
        driver_name: &arguments.role.driver_name,
        metrics_address: arguments.role.metrics_address,
        offer: Offer { controller: false, node: true },
        service,
    };
    role.serve_until(shutdown).await
}
