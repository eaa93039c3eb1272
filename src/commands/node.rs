//! `wharf node`: the CSI Node service of one node in a cluster, its registration with the kubelet, and its agent.
//!
//! CSI comes first and needs nobody else: neither the kubelet's answer nor the API server holds up a call.

use super::{
    chain,
    registration::Registration,
    serve::{self, Role},
    standalone,
};
use crate::{
    cluster::{agent, client},
    config::{NodeArgs, check_node_id, check_pools},
    os,
    rpc::{Offer, metrics::Metrics},
    server::{self, Endpoint, Shutdown, shutdown::Trigger, socket::EndpointError},
    service::{self, Service},
};
use std::{sync::Arc, time::Duration};
use tokio::{task, time};

/// Between two attempts to start the agent.
const PAUSE: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT. An error is one sentence that says what to change.
pub fn run(arguments: &NodeArgs) -> Result<(), String> {
    check_pools(&arguments.pools)?;
    check_node_id(&arguments.node_id)?;
    os::loopdev::ignore_lease_signals();
    // Said before a pool is touched.
    let _: Endpoint = arguments.role.endpoint.parse().map_err(|error: EndpointError| chain(&error))?;
    let registration = arguments.register.then(|| Registration::of(arguments)).transpose()?;
    let service = Arc::new(service(arguments)?);
    serve::to_the_end(serve::runtime()?, serve_node(arguments, service, registration))
}

fn service(arguments: &NodeArgs) -> Result<Service, String> {
    let mut shares = standalone::shares(&[], standalone::default_owner(&arguments.node_id));
    shares.limits = shares.limits.with_mounting(Duration::from_secs(arguments.role.mount_timeout));
    let config = service::Config {
        pools: &arguments.pools,
        node_id: &arguments.node_id,
        max_volumes: arguments.max_volumes,
        shares,
    };
    Service::of_cluster_node(&config).map_err(|error| error.chain())
}

/// The driver's own socket stands before the kubelet is told of it. At the end both stop to accept at the same time,
/// so that the kubelet is not sent to a socket on which nobody answers, and the calls that are running finish.
async fn serve_node(
    arguments: &NodeArgs,
    service: Arc<Service>,
    registration: Option<Registration>,
) -> Result<(), String> {
    let (trigger, shutdown) =
        server::triggered_shutdown().map_err(|error| format!("cannot wait for signals: {error}"))?;
    let (mut metrics, figures) = (Metrics::new(Arc::clone(&service)), Arc::<agent::Figures>::default());
    figures.register(metrics.registry());
    let role = Role {
        endpoint: &arguments.role.endpoint,
        driver_name: &arguments.role.driver_name,
        metrics_address: arguments.role.metrics_address,
        metrics,
        offer: Offer { controller: false, node: true },
        service: Arc::clone(&service),
    };
    let bound = role.bind().await?;
    task::spawn(run_agent(arguments.clone(), service, figures, shutdown.clone()));
    let Some(registration) = registration else { return bound.serve_until(shutdown).await };
    let listener = registration.listen()?;
    // Whichever ends first takes the other one along.
    let (csi, registered) = tokio::join!(
        then_drain(&trigger, bound.serve_until(shutdown.clone())),
        then_drain(&trigger, registration.serve(listener, &trigger, shutdown)),
    );
    registered.and(csi)
}

/// Beside CSI: what keeps the agent from its work is said, and tried again.
async fn run_agent(
    arguments: NodeArgs,
    service: Arc<Service>,
    figures: Arc<agent::Figures>,
    shutdown: Shutdown,
) {
    let client = loop {
        match client::connect(arguments.cluster.kubeconfig.as_deref()).await {
            Ok(client) => break client,
            Err(error) => tracing::error!(error, "local volumes of this node are not looked after"),
        }
        tokio::select! {
            () = time::sleep(PAUSE) => {}
            () = shutdown.draining() => return,
        }
    };
    let settings = agent::Settings {
        node_name: arguments.node_id.clone(),
        namespace: arguments.cluster.namespace.clone(),
    };
    agent::run(client, service, settings, figures, shutdown).await;
}

async fn then_drain<T>(trigger: &Trigger, work: impl Future<Output = T>) -> T {
    let end = work.await;
    trigger.drain();
    end
}
