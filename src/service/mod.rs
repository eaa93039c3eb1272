//! What each RPC means: lock, look up, decide, act, verify. One file for each subject.
//!
//! Commands come in with their fields proven; answers are records and plain values. Nothing here
//! knows gRPC, and everything is synchronous: the RPC layer runs it on threads that may block.

mod answer;
mod capacity;
mod census;
mod create;
mod delete;
mod detach;
mod device;
mod expand;
mod health;
mod list;
pub mod nfs;
mod nodes;
mod probe;
mod publish;
mod snapshot;
mod stage;
mod stats;
mod target;

pub use answer::{Snapshot, Volume};
pub use capacity::{AnyClass, Capacity, GetCapacity, filesystem_for};
pub use census::{Census, PoolCensus};
pub use create::{Claim, CreateLocal, CreateVolume, Existing, SourceRequest, Wish};
pub use delete::{DeleteSnapshot, DeleteVolume};
pub use expand::{ExpandNode, ExpandVolume, Expanded};
pub use health::{
    Ailment, GetVolumeHealth, Health, ListHealth, Look, NodeHealth, PoolAilment, Severity, at_rest,
    out_of_reach, useless,
};
pub use list::{
    GetSnapshot, GetVolume, ListSnapshots, ListVolumes, Listed, Page, ValidateVolume, parse_token,
    token_after,
};
pub use nodes::Nodes;
pub use publish::{Publish, Unpublish};
pub use snapshot::CreateSnapshot;
pub use stage::{Stage, Unstage, check_shape};
pub use stats::{Amount, Figures, GetStats};
pub use target::TargetPath;

pub use crate::share::ServerStatus;

use crate::{
    error::{Error, Result},
    os::lock::Mode,
    store::{Kind, Lock, Pool, PoolConfig, Store},
    volume::{Key, NodeName, VolumeId, VolumeRecord},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Everything that a request needs.
#[derive(Debug)]
pub struct Service {
    store: Store,
    node_id: String,
    node: NodeName,
    max_volumes: i64,
    usage: stats::UsageCache,
    shares: nfs::Shares,
    nfs_node: nfs::node::Node,
    stopping: AtomicBool,
    /// Of use also while no pool can be used.
    without_pools: bool,
    nodes: Option<Arc<dyn Nodes>>,
}

/// What a service is made of.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    /// Its pools; none: there are no local volumes.
    pub pools: &'a [PoolConfig],
    /// As NodeGetInfo reports it.
    pub node_id: &'a str,
    /// 0: the CO decides.
    pub max_volumes: i64,
    /// How shares are used.
    pub shares: nfs::Config,
}

/// The key in an id; an id that does not parse names no volume.
fn known_key(id: &str) -> Result<Key> {
    let unknown = || Error::NotFound(format!("volume {id:?} does not exist"));
    VolumeId::parse(id).map(|id| id.key).ok_or_else(unknown)
}

impl Service {
    /// Opens the pools; one at least must be usable, if there are any.
    pub fn new(config: &Config<'_>) -> Result<Self> {
        let store = Store::open(config.pools)?;
        Ok(Self::over(store, config, config.pools.is_empty()))
    }

    /// The same for one node of many, where a disk that is away is no reason to serve no shares, and not to tell the
    /// others what is wrong.
    pub fn of_cluster_node(config: &Config<'_>) -> Result<Self> {
        let (store, _logged) = Store::open_any(config.pools)?;
        Ok(Self::over(store, config, true))
    }

    fn over(store: Store, config: &Config<'_>, without_pools: bool) -> Self {
        let (shares, nfs_node) = nfs::Shares::new(&config.shares);
        Self {
            store,
            node_id: config.node_id.to_owned(),
            node: NodeName::of_node(config.node_id),
            max_volumes: config.max_volumes,
            shares,
            usage: stats::UsageCache::default(),
            nfs_node,
            stopping: AtomicBool::new(false),
            without_pools,
            nodes: None,
        }
    }

    /// The same without local volumes of its own: they lie on other nodes.
    #[must_use]
    pub fn with_nodes(self, nodes: Arc<dyn Nodes>) -> Self {
        Self { nodes: Some(nodes), ..self }
    }

    fn nodes(&self) -> Option<&dyn Nodes> {
        self.nodes.as_deref()
    }

    /// The pools.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Looks after a share from now on: its volumes are listed, and what was left there is purged.
    pub fn look_after(&self, share: &nfs::At) {
        self.shares.look_after(share);
    }

    /// Whether local volumes lie on other nodes.
    pub fn has_nodes(&self) -> bool {
        self.nodes.is_some()
    }

    /// What the servers of shares have in use.
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.shares.servers()
    }

    /// As NodeGetInfo reports it.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// The topology value of this node.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// 0: the CO decides.
    pub fn max_volumes(&self) -> i64 {
        self.max_volumes
    }

    /// Long copies stop at the next piece and leave nothing behind.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.shares.stop();
    }

    /// Whether a request of the node that names a path is about a volume on a share. Mounts are read only where it
    /// is not known for a local one.
    fn is_on_share(&self, id: &str, path: Option<&Path>) -> bool {
        let local = VolumeId::parse(id).is_some_and(|id| !matches!(self.store.volume(id.key), Ok(None)));
        !local && self.nfs_node.concerns(id, path)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn lock_volume(&self, key: Key, mode: Mode) -> Result<Lock> {
        self.store.lock(Kind::Volume, key, mode)
    }

    /// A volume that must exist, from the id as the CO sent it.
    fn known_volume(&self, id: &str) -> Result<(Arc<Pool>, VolumeRecord)> {
        let key = known_key(id)?;
        self.store.volume(key)?.ok_or_else(|| {
            Error::NotFound(format!(
                "volume {id:?} does not exist: no pool here has it; if it was here, bring its disk back, or restore a \
                 snapshot or backup"
            ))
        })
    }
}
