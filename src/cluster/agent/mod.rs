//! The agent of one node: makes true what objects say about it, and says what is so.
//!
//! Objects hold wishes and answers; what exists is on disk. The agent keeps nothing that a restart would lose, and the
//! CSI node service needs nothing of it.

mod complaints;
mod figures;
mod index;
mod kind;
mod lease;
mod look;
mod node;
mod plan;
mod queue;
mod status;
mod watch;
mod work;

use super::{
    api::{LocalSnapshot, LocalVolume},
    events::Events,
};
use crate::{
    error::{Error, Result},
    server::Shutdown,
    service::Service,
    store,
};
use complaints::Complaints;
pub use figures::Figures;
use kube::Client;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    task, time,
};
use watch::Watch;

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of this machine's Node object, whose volumes it looks after.
    pub node_name: String,
    /// Where its Lease lives.
    pub namespace: String,
}

/// A request that takes longer has failed; the outcome is found out by asking.
const REQUEST: Duration = Duration::from_secs(30);
/// Pieces of work that are short, at once.
const SHORT: usize = 16;
/// Copies, at once: they hold up each other, and nothing else.
const LONG: usize = 16;
/// Requests about objects, at once.
const REQUESTS: usize = 16;
/// Between two looks for the end of another agent of this node.
const TAKE_OVER: Duration = Duration::from_millis(500);

/// What all parts of an agent use.
struct Agent {
    client: Client,
    service: Arc<Service>,
    node_name: String,
    events: Events,
    complaints: Complaints,
    figures: Arc<Figures>,
    /// Something was made, grown or deleted.
    node_changed: Notify,
    short: Semaphore,
    long: Semaphore,
    stopping: AtomicBool,
    /// Requests about objects, at once: each holds a connection while it waits.
    requests: Semaphore,
    /// While it is held no other process of this node is an agent. It goes with the last piece of work.
    alone: Arc<store::Lock>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("node_name", &self.node_name).finish_non_exhaustive()
    }
}

/// Works until the process is to stop. An API server that is away, refuses, or does not know the driver's kinds is
/// waited for.
pub async fn run(
    client: Client,
    service: Arc<Service>,
    settings: Settings,
    figures: Arc<Figures>,
    shutdown: Shutdown,
) {
    let alone = tokio::select! {
        alone = alone(&service) => alone,
        () = shutdown.draining() => return,
    };
    let agent = Arc::new(Agent {
        events: Events::new(client.clone(), "wharf-node", Some(settings.node_name.clone())),
        client,
        service,
        node_name: settings.node_name,
        complaints: Complaints::default(),
        figures,
        node_changed: Notify::new(),
        short: Semaphore::new(SHORT),
        long: Semaphore::new(LONG),
        stopping: AtomicBool::new(false),
        requests: Semaphore::new(REQUESTS),
        alone: Arc::new(alone),
    });
    let (volumes, snapshots) = (Watch::<LocalVolume>::new(&agent), Watch::<LocalSnapshot>::new(&agent));
    tokio::select! {
        () = volumes.run() => {}
        () = snapshots.run() => {}
        () = node::publish(&agent) => {}
        () = lease::keep(&agent, &settings.namespace) => {}
        () = shutdown.draining() => {}
    }
    agent.stopping.store(true, Ordering::Relaxed);
}

/// Waits until no other process of this node is an agent: an update may start a new one before the old one has ended.
async fn alone(service: &Arc<Service>) -> store::Lock {
    let complaints = Complaints::default();
    loop {
        let service = Arc::clone(service);
        match blocking(move || service.store().lock_agent()).await {
            Ok(Some(lock)) => return lock,
            Ok(None) => complaints.about_disk(
                "waiting",
                &Error::Busy("another process looks after this node's objects".into()),
            ),
            Err(error) => complaints.about_disk("waiting for the pools", &error),
        }
        time::sleep(TAKE_OVER).await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::Internal(format!("the work hit a bug in the driver: {error}"))),
    }
}

impl Agent {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A request to the API server.
    async fn within<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        match time::timeout(REQUEST, request).await {
            Ok(answer) => answer,
            Err(_) => Err(kube::Error::Service("no answer in time".into())),
        }
    }

    /// The same, in turn: with a thousand objects to write about, all at once would leave no descriptor to anything
    /// else in the process. What shows that the agent is alive waits for no others.
    async fn in_turn<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        let _room = self.requests.acquire().await;
        self.within(request).await
    }

    async fn short<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Service) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.with(&self.short, work).await
    }

    async fn with<T: Send + 'static>(
        &self,
        room: &Semaphore,
        work: impl FnOnce(&Service) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let closed = |_| Error::Unavailable("the agent is ending".into());
        let _room = room.acquire().await.map_err(closed)?;
        let (service, alone) = (Arc::clone(&self.service), Arc::clone(&self.alone));
        let work = move || {
            let outcome = work(&service);
            drop(alone);
            outcome
        };
        blocking(work).await
    }
}
