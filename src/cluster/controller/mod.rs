//! `wharf controller`: what an orchestrator asks of local volumes becomes objects, and agents' answers become its own.
//!
//! It keeps nothing: all that it knows is in the API server, and two of them do no harm to each other. Each write says
//! what it was decided on; who loses reads again. A step that is cut off is taken up by the same request.

mod agents;
mod capability;
mod capacity;
mod claims;
mod create;
mod delete;
mod expand;
mod figures;
mod giving_up;
mod health;
pub mod leftovers;
mod list;
mod machines;
mod mirror;
mod objects;
mod placement;
mod snapshot;
mod tending;
mod unclaimed;
mod wait;

use super::{
    api::{LocalSnapshot, LocalVolume, StorageNode, kubernetes::Node},
    events::Events,
    quiet::stay_small,
};
use crate::{
    error::{Error, Result},
    os,
    service::{
        Capacity, CreateLocal, CreateSnapshot, ExpandVolume, Expanded, GetCapacity, Health, Listed, Nodes,
        Page, Snapshot, ValidateVolume, Volume,
    },
    volume::{Class, Key, SnapshotId, VolumeId},
};
pub use claims::cluster_uid;

use agents::Agents;
use figures::Unanswered;
use kube::Client;
use machines::Machines;
use mirror::Mirror;
use objects::Objects;
use placement::{Flight, View};
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::Notify, time};
use unclaimed::Alone;

/// For the first lists.
const LISTING: Duration = Duration::from_secs(10);

/// What differs between installations.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the agents' Leases.
    pub namespace: String,
    /// As PersistentVolumes name it.
    pub driver_name: String,
    /// After its Node object has been away for so long, a node is taken for gone.
    pub node_gone_after: Duration,
    /// A volume that has been ready for so long without a PersistentVolume and a claim is `Unclaimed`.
    pub unclaimed_after: Duration,
}

/// Local volumes on all nodes of a cluster.
pub struct Controller {
    runtime: Handle,
    client: Client,
    settings: Settings,
    volumes: Objects<LocalVolume>,
    snapshots: Objects<LocalSnapshot>,
    offers: Mirror<StorageNode>,
    machines: Machines,
    agents: Agents,
    flights: Flights,
    events: Events,
    alone: Alone,
    unanswered: Unanswered,
    /// Notified of each call's end and of all that is heard.
    quiet: Arc<Notify>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Controller {
    /// Begins to watch; inside a runtime.
    pub fn start(client: Client, settings: Settings) -> Self {
        let quiet = Arc::<Notify>::default();
        let offers = Mirror::start(client.clone(), &quiet, |_| {});
        Self {
            runtime: Handle::current(),
            volumes: Objects::new(client.clone(), &quiet),
            snapshots: Objects::new(client.clone(), &quiet),
            offers,
            machines: Machines::watch(client.clone(), &quiet),
            agents: Agents::watch(client.clone(), &settings.namespace),
            flights: Flights::default(),
            // The host tells two of them apart: they never share one.
            events: Events::new(client.clone(), "wharf-controller", os::host::name().ok()),
            alone: Alone::default(),
            unanswered: Unanswered::default(),
            settings,
            client,
            quiet,
        }
    }

    /// See [`stay_small`].
    pub async fn stay_small(&self) {
        stay_small(&self.quiet, || {}).await;
    }

    /// Called on threads that may block.
    fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = self.runtime.block_on(work);
        self.quiet.notify_one();
        outcome
    }

    /// Before everything is listed once, nothing can be said of it: after a start that is a moment.
    async fn listed(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let missing = self.unlisted();
            if missing.is_empty() {
                return Ok(());
            }
            if began.elapsed() >= LISTING {
                return Err(Error::Unavailable(format!(
                    "the API server has not told of these yet: {}; see the driver's roles (RBAC), its \
                     CustomResourceDefinitions and its log",
                    missing.join(", ")
                )));
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn unlisted(&self) -> Vec<String> {
        let parts = [
            ("localvolumes", self.volumes.mirror.why_unlisted()),
            ("localsnapshots", self.snapshots.mirror.why_unlisted()),
            ("storagenodes", self.offers.why_unlisted()),
            ("nodes", self.machines.mirror.why_unlisted()),
            ("leases", self.agents.why_unlisted()),
        ];
        let missing = parts.into_iter().filter_map(|(what, why)| Some((what, why?)));
        missing
            .map(|(what, why)| if why.is_empty() { what.to_owned() } else { format!("{what} ({why})") })
            .collect()
    }

    /// Refuses a class that no node can have, if that can be told.
    fn check_class(&self, view: &View<'_>, class: &Class) -> Result<()> {
        match view.can_have(class) {
            Err(Error::Invalid(why)) if !self.offers.is_whole() => Err(Error::Unavailable(format!(
                "{why}. But there are StorageNodes that this driver cannot read, as its log says: update the driver"
            ))),
            checked => checked,
        }
    }

    /// What placement goes by, as it is now.
    fn view(&self) -> Known {
        Known {
            nodes: self.machines.mirror.all(),
            offers: self.offers.all(),
            volumes: self.volumes.mirror.all(),
            flights: self.flights.all(),
        }
    }
}

/// Held while it is looked at.
struct Known {
    nodes: Vec<Arc<Node>>,
    offers: Vec<Arc<StorageNode>>,
    volumes: Vec<Arc<LocalVolume>>,
    flights: HashMap<String, Flight>,
}

impl Known {
    fn with<'a>(&'a self, alive: &'a dyn Fn(&str) -> bool) -> View<'a> {
        View {
            nodes: &self.nodes,
            offers: &self.offers,
            volumes: &self.volumes,
            flights: &self.flights,
            alive,
        }
    }
}

/// Volumes that calls of this process are making: between the write and the watch that shows it, nothing else knows.
#[derive(Clone, Debug, Default)]
struct Flights(Arc<Mutex<HashMap<String, Flight>>>);

/// Ends with the call.
#[derive(Debug)]
struct InFlight {
    flights: Flights,
    name: String,
}

impl Flights {
    fn start(&self, name: &str, flight: Flight) -> InFlight {
        self.lock().insert(name.to_owned(), flight);
        InFlight { flights: self.clone(), name: name.to_owned() }
    }

    fn all(&self) -> HashMap<String, Flight> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.name);
    }
}

impl Nodes for Controller {
    fn create_volume(&self, request: &CreateLocal) -> Result<Volume> {
        self.block_on(self.create(request))
    }

    fn volume_of(&self, key: Key) -> Result<Option<VolumeId>> {
        let found = self.block_on(self.volumes.look(&key.to_string()))?;
        found.map(|object| object.id()).transpose()
    }

    fn delete_volume(&self, id: &VolumeId) -> Result<()> {
        self.block_on(self.delete(&self.volumes, id.key, &id.node, &id.to_string()))
    }

    fn create_snapshot(&self, request: &CreateSnapshot, source: &VolumeId) -> Result<Snapshot> {
        self.block_on(self.cut(request, source))
    }

    fn delete_snapshot(&self, id: &SnapshotId) -> Result<()> {
        self.block_on(self.delete(&self.snapshots, id.key, &id.node, &id.to_string()))
    }

    fn expand_volume(&self, id: &VolumeId, request: &ExpandVolume) -> Result<Expanded> {
        self.block_on(self.expand(id, request))
    }

    fn volume(&self, id: &VolumeId) -> Result<Volume> {
        self.block_on(self.one_volume(id))
    }

    fn snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        self.block_on(self.one_snapshot(id))
    }

    fn volumes(&self, page: &Page) -> Result<Listed<Volume>> {
        self.block_on(self.listed())?;
        self.list_volumes(page)
    }

    fn snapshots(&self, page: &Page, source: Option<Key>) -> Result<Listed<Snapshot>> {
        self.block_on(self.listed())?;
        self.list_snapshots(page, source)
    }

    fn validate(&self, id: &VolumeId, request: &ValidateVolume) -> Result<Option<String>> {
        self.block_on(self.validate_volume(id, request))
    }

    fn capacity(&self, class: &Class, request: &GetCapacity) -> Capacity {
        self.capacity_of(class, request)
    }

    fn volume_health(&self, id: &VolumeId) -> Result<Health> {
        self.block_on(self.health_of(id))
    }

    fn list_health(&self, page: &Page) -> Result<Listed<Health>> {
        self.block_on(self.listed())?;
        self.unhealthy(page)
    }

    /// An API server that is away comes back without a restart of this process.
    fn probe(&self) -> Result<()> {
        let ended = self.volumes.mirror.has_ended()
            || self.snapshots.mirror.has_ended()
            || self.offers.has_ended()
            || self.machines.mirror.has_ended()
            || self.agents.has_ended();
        match ended {
            true => Err(Error::Refused("a watch has ended, by a bug of the driver; see its log".into())),
            false => Ok(()),
        }
    }
}
