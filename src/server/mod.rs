//! How wharf listens: one unix socket per server, gRPC on it, and an orderly end.
//!
//! What is served is not known here: [`serve`] takes routes that are already built.

pub mod authority;
mod hpack;
pub mod shutdown;
pub mod socket;

pub use shutdown::{Shutdown, shutdown_signal, triggered_shutdown};
pub use socket::{Endpoint, listen};

use std::time::Duration;
use tokio::{net::UnixListener, time::sleep};
use tonic::{
    service::Routes,
    transport::{Error, Server},
};

/// How long running calls may take to finish: less than the 30 seconds that Kubernetes leaves a pod
/// between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(25);

/// How a server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum End {
    /// Every call was answered.
    Drained,
    /// Calls were still running when the grace period was over, or when a second signal came; their
    /// tasks go on until the runtime ends.
    Abandoned,
}

/// Serves `routes` on a socket of [`listen`] until `shutdown`.
///
/// Then nothing more is accepted, calls that are running finish, for `grace` at most, and the
/// connections are closed. The socket file stays: when it vanishes the kubelet drops the driver from
/// its CSINode at once, and the next start replaces it.
///
/// A layer goes around the routes: `Routes::from(routes.into_axum_router().layer(…))`.
pub async fn serve(
    listener: UnixListener,
    routes: Routes,
    shutdown: Shutdown,
    grace: Duration,
) -> Result<End, Error> {
    let server = Server::builder()
        // What the adapter around each connection counts on.
        .max_frame_size(authority::MAX_FRAME)
        .add_routes(routes)
        .serve_with_incoming_shutdown(socket::Incoming::new(listener), shutdown.draining());
    tokio::select! {
        ended = server => ended.map(|()| End::Drained),
        () = give_up(&shutdown, grace) => Ok(End::Abandoned),
    }
}

/// Returns when calls that are still running are no longer to be waited for.
async fn give_up(shutdown: &Shutdown, grace: Duration) {
    shutdown.draining().await;
    tokio::select! {
        () = sleep(grace) => tracing::warn!("calls were still running after {grace:?} and are abandoned"),
        () = shutdown.ending() => tracing::warn!("calls that are still running are abandoned"),
    }
}
