//! How `wharf node` makes itself known to the kubelet: a second socket, in a directory that the kubelet watches.
//!
//! The kubelet asks there who is there, calls NodeGetInfo on the driver's own socket, and says what came of it. It
//! drops a driver whose registration socket vanishes, so that stays when the process ends, and asks again when it is
//! bound anew.

use super::{chain, print};
use crate::{
    config::NodeArgs,
    os::socket::{self, Occupant},
    rpc::registration::{self, Verdict},
    server::{self, Endpoint, Shutdown, shutdown::Trigger, socket::EndpointError},
};
use std::{future, path::Path, time::Duration};
use tokio::{net::UnixListener, time};
use tonic::service::Routes;

/// How long a socket that somebody removed may be missed.
const LOOK: Duration = Duration::from_secs(5);

/// The kubelet finds a new socket within a second; after this it looks somewhere else.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the kubelet is told, and where it asks.
#[derive(Debug)]
pub struct Registration {
    driver_name: String,
    /// Where the kubelet asks.
    socket: Endpoint,
    /// The path of the driver's own socket, as the kubelet sees it.
    endpoint: String,
}

impl Registration {
    /// As the flags have it. An error is one sentence that says what to change.
    pub fn of(arguments: &NodeArgs) -> Result<Self, String> {
        let directory = &arguments.kubelet_dir;
        if !directory.is_absolute() {
            return Err(format!("--kubelet-dir must be absolute, {directory:?} is not"));
        }
        let driver_name = arguments.role.driver_name.clone();
        let default = || directory.join("plugins").join(&driver_name).join("csi.sock");
        let endpoint = arguments.kubelet_endpoint.clone().unwrap_or_else(default);
        let endpoint = socket_at(&endpoint).map_err(|error| format!("--kubelet-endpoint: {error}"))?;
        let endpoint = endpoint.path().display().to_string();
        let registry = directory.join("plugins_registry");
        let socket = socket_at(&registry.join(format!("{driver_name}-reg.sock")))
            .map_err(|error| format!("--kubelet-dir: {error}"))?;
        if !registry.is_dir() {
            return Err(format!(
                "directory {registry:?} does not exist: mount the one of the host there, or give --kubelet-dir \
                 the directory that this host's kubelet uses"
            ));
        }
        Ok(Self { driver_name, socket, endpoint })
    }

    /// Makes the socket anew. Nobody may listen there: the kubelet takes one driver of each name.
    pub fn listen(&self) -> Result<UnixListener, String> {
        let path = self.socket.path();
        if matches!(socket::occupant(path), Ok(Occupant::LiveSocket)) {
            return Err(format!(
                "another process registers a driver {:?} on {path:?}: end it (an earlier install, or \
                 node-driver-registrar), or let it do that with --register=false",
                self.driver_name
            ));
        }
        server::listen(&self.socket).map_err(|error| chain(&error))
    }

    /// Answers the kubelet until `shutdown`, and begins that itself when the kubelet refuses the driver: this is an
    /// error, since it does not ask again before the process is started anew.
    pub async fn serve(
        self,
        listener: UnixListener,
        trigger: &Trigger,
        shutdown: Shutdown,
    ) -> Result<(), String> {
        let (routes, verdict) = registration::routes(&self.driver_name, &self.endpoint);
        let ended = tokio::select! {
            ended = self.keep_serving(listener, routes, &shutdown) => ended,
            () = self.follow(&verdict, trigger) => Ok(()),
        };
        match verdict.refusal() {
            Some(reason) => Err(format!(
                "the kubelet refuses the driver {:?}, and asks again only after a restart: {}",
                self.driver_name,
                print::plain(&reason)
            )),
            None => ended,
        }
    }

    /// Binds again when the socket is gone: without it the kubelet has no driver.
    async fn keep_serving(
        &self,
        mut listener: UnixListener,
        routes: Routes,
        shutdown: &Shutdown,
    ) -> Result<(), String> {
        loop {
            let serving = server::serve(listener, routes.clone(), shutdown.clone(), server::GRACE);
            tokio::select! {
                ended = serving => return match ended {
                    Ok(_) => Ok(()),
                    Err(error) => Err(format!("the registration with the kubelet failed: {}", chain(&error))),
                },
                () = vanished(self.socket.path()) => {}
            }
            tracing::warn!(path = ?self.socket.path(), "somebody removed the registration socket: making it anew");
            listener = self.listen()?;
        }
    }

    /// What has to happen with what the kubelet says. Never returns: the server ends when the kubelet has its answer.
    async fn follow(&self, verdict: &Verdict, trigger: &Trigger) {
        if time::timeout(PATIENCE, verdict.refused()).await.is_err() {
            if !verdict.is_known() {
                tracing::warn!(
                    path = ?self.socket.path(),
                    "no kubelet has asked for the driver yet: is --kubelet-dir the directory of this host's?"
                );
            }
            verdict.refused().await;
        }
        trigger.drain();
        future::pending::<()>().await;
    }
}

fn socket_at(path: &Path) -> Result<Endpoint, String> {
    let text = path.to_str().ok_or_else(|| format!("{path:?} is not UTF-8"))?;
    text.parse().map_err(|error: EndpointError| chain(&error))
}

/// Returns when there is nothing at `path` any more.
async fn vanished(path: &Path) {
    loop {
        time::sleep(LOOK).await;
        if matches!(path.try_exists(), Ok(false)) {
            return;
        }
    }
}
