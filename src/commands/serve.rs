//! What every role does once it has a service: routes, metrics, a socket, signals, draining.

use super::chain;
use crate::{
    os,
    rpc::{self, Offer, metrics::Metrics},
    server::{self, End, Endpoint, Shutdown},
    service::Service,
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::{self, Runtime},
    task,
};
use tonic::service::Routes;

/// Threads for work that blocks. A request that finds none free waits; probes of dead devices cannot
/// use up memory. Enough for several silent NFS servers at once, beside local work.
const BLOCKING_THREADS: usize = 192;

/// A role, ready to be served.
pub struct Role<'a> {
    /// As `--endpoint` was given.
    pub endpoint: &'a str,
    /// As the Identity service reports it.
    pub driver_name: &'a str,
    /// Where metrics are served, if at all.
    pub metrics_address: Option<SocketAddr>,
    /// Of the service, and of what else the role does.
    pub metrics: Metrics,
    /// Which CSI services.
    pub offer: Offer,
    /// Behind all of them.
    pub service: Arc<Service>,
}

/// The runtime of a role that works on this host.
pub fn runtime() -> Result<Runtime, String> {
    runtime_with(BLOCKING_THREADS)
}

/// The runtime of a role, with so many threads for work that blocks.
pub fn runtime_with(blocking_threads: usize) -> Result<Runtime, String> {
    runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(blocking_threads)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))
}

/// Runs a role to its end. Work that is still running then loses nothing by being cut off: that is what kill -9
/// does, too.
pub fn to_the_end(runtime: Runtime, role: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let end = runtime.block_on(role);
    runtime.shutdown_timeout(Duration::from_secs(1));
    end
}

impl Role<'_> {
    /// Serves until SIGTERM or SIGINT. An error is one sentence that says what to change.
    pub async fn serve(self) -> Result<(), String> {
        let shutdown =
            server::shutdown_signal().map_err(|error| format!("cannot wait for signals: {error}"))?;
        self.serve_until(shutdown).await
    }

    /// The same for a role that waits for signals itself, too.
    pub async fn serve_until(self, shutdown: Shutdown) -> Result<(), String> {
        self.bind().await?.serve_until(shutdown).await
    }

    /// Makes the socket: from here on a request is not refused, it waits.
    pub async fn bind(self) -> Result<Bound, String> {
        let endpoint: Endpoint =
            self.endpoint.parse().map_err(|error: server::socket::EndpointError| chain(&error))?;
        let metrics = Arc::new(self.metrics);
        if let Some(address) = self.metrics_address {
            serve_metrics(address, Arc::clone(&metrics)).await?;
        }
        let routes = rpc::routes(Arc::clone(&self.service), self.driver_name, metrics, self.offer);
        let listener = server::listen(&endpoint).map_err(|error: os::Error| chain(&error))?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            endpoint = self.endpoint,
            node = self.service.node_id(),
            driver = self.driver_name,
            "serving {}",
            self.offer
        );
        Ok(Bound { listener, routes, service: self.service })
    }
}

/// A role that has its socket.
pub struct Bound {
    listener: UnixListener,
    routes: Routes,
    service: Arc<Service>,
}

impl Bound {
    /// Serves until `shutdown`, and lets the calls finish that are running then.
    pub async fn serve_until(self, shutdown: Shutdown) -> Result<(), String> {
        stop_copies(shutdown.clone(), self.service);
        match server::serve(self.listener, self.routes, shutdown, server::GRACE).await {
            Ok(End::Drained) => tracing::info!("every call was answered; ending"),
            Ok(End::Abandoned) => {
                tracing::warn!("ending with calls still running; they are picked up after the restart")
            }
            Err(error) => return Err(format!("the server failed: {}", chain(&error))),
        }
        Ok(())
    }
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
