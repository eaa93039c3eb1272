//! `wharf standalone`: all three CSI services on one socket.

use super::share_helper;
use crate::{
    config::{StandaloneArgs, check_pools},
    os,
    rpc::{self, Offer, metrics::Metrics},
    server::{self, End, Endpoint, Shutdown},
    service::{
        self, Service,
        nfs::{self, At},
    },
    share::Limits,
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, runtime, task};
use uuid::Uuid;

/// Threads for work that blocks. A request that finds none free waits; probes of dead devices cannot
/// use up memory. Enough for several silent NFS servers at once, beside local work.
const BLOCKING_THREADS: usize = 192;

/// Serves until SIGTERM or SIGINT. An error is one sentence that says what to change.
pub fn run(arguments: &StandaloneArgs) -> Result<(), String> {
    check_pools(&arguments.pools)?;
    os::loopdev::ignore_lease_signals();
    let node_id = match &arguments.node_id {
        Some(node_id) if !node_id.is_empty() && node_id.len() <= 192 => node_id.clone(),
        Some(_) => return Err("--node-id must have 1 to 192 bytes".into()),
        None => os::host::name().map_err(|error| chain(&error))?,
    };
    let endpoint: Endpoint =
        arguments.endpoint.parse().map_err(|error: server::socket::EndpointError| chain(&error))?;
    let mut shares = shares(&arguments.shares, arguments.owner.as_deref(), &node_id);
    shares.limits = shares.limits.with_mounting(Duration::from_secs(arguments.mount_timeout));
    let config = service::Config {
        pools: &arguments.pools,
        node_id: &node_id,
        max_volumes: arguments.max_volumes,
        shares,
    };
    let service = Service::new(&config).map_err(|error| error.chain())?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let end = runtime.block_on(serve(arguments, &endpoint, Arc::new(service)));
    // Work that is still running loses nothing by being cut off: that is what kill -9 does, too.
    runtime.shutdown_timeout(Duration::from_secs(1));
    end
}

/// How this machine uses shares.
pub fn shares(shares: &[At], owner: Option<&str>, node_id: &str) -> nfs::Config {
    nfs::Config {
        shares: shares.to_vec(),
        owner: owner.map_or_else(|| default_owner(node_id), str::to_owned),
        launcher: share_helper::launcher(),
        limits: Limits::default(),
    }
}

/// Two machines never have the same one, and one machine keeps its own.
pub fn default_owner(node_id: &str) -> String {
    let machine = os::host::machine_id().unwrap_or_else(|| node_id.to_owned());
    Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{machine}.wharf.csi.dev").as_bytes()).to_string()
}

async fn serve(arguments: &StandaloneArgs, endpoint: &Endpoint, service: Arc<Service>) -> Result<(), String> {
    let metrics = Arc::new(Metrics::new(Arc::clone(&service)));
    if let Some(address) = arguments.metrics_address {
        serve_metrics(address, Arc::clone(&metrics)).await?;
    }
    let offer = Offer { controller: true, node: true };
    let routes = rpc::routes(Arc::clone(&service), &arguments.driver_name, metrics, offer);
    let listener = server::listen(endpoint).map_err(|error| chain(&error))?;
    let shutdown = server::shutdown_signal().map_err(|error| format!("cannot wait for signals: {error}"))?;
    stop_copies(shutdown.clone(), Arc::clone(&service));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        endpoint = arguments.endpoint,
        node = service.node_id(),
        driver = arguments.driver_name,
        "serving Identity, Controller and Node"
    );
    match server::serve(listener, routes, shutdown, server::GRACE).await {
        Ok(End::Drained) => tracing::info!("every call was answered; ending"),
        Ok(End::Abandoned) => {
            tracing::warn!("ending with calls still running; they are picked up after the restart")
        }
        Err(error) => return Err(format!("the server failed: {}", chain(&error))),
    }
    Ok(())
}

/// Long copies end at the next piece, so that draining is short.
fn stop_copies(shutdown: Shutdown, service: Arc<Service>) {
    task::spawn(async move {
        shutdown.draining().await;
        service.stop();
    });
}

async fn serve_metrics(address: SocketAddr, metrics: Arc<Metrics>) -> Result<(), String> {
    use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error: io::Error| format!("--metrics-address {address} cannot be used: {error}"))?;
    let scrape = move || async move {
        let rendered = task::spawn_blocking(move || metrics.render()).await;
        match rendered {
            Ok(Ok(text)) => {
                ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                    .into_response()
            }
            _ => {
                (axum::http::StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be rendered").into_response()
            }
        }
    };
    let routes = Router::new().route("/metrics", get(scrape));
    task::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    Ok(())
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
