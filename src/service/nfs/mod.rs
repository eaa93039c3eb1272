//! Volumes on NFS shares, the controller's side: what each RPC means there.
//!
//! Nothing here touches a share: [`Remote`] has that done by helper processes, with deadlines.

mod capacity;
mod create;
mod delete;
mod expand;
mod health;
mod janitor;
mod list;
pub mod node;
mod snapshot;
mod usage;

pub use create::{CreateOnShare, check_capability};
pub use health::ailment;
pub(in crate::service) use list::{Part, Position};

use crate::{
    error::{Error, Result},
    os::child::Launcher,
    share::{Limits, Owner, Remote, ServerStatus, Share, node::Patience, store::VolumeRecord},
    volume::{
        Key,
        nfs::{self, AnySnapshotId, AnyVolumeId, Connection, Settings},
    },
};
use capacity::Capacities;
use janitor::Janitor;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};
use usage::Counts;

/// How shares are used.
#[derive(Clone, Debug)]
pub struct Config {
    /// Looked through from the start: for lists, capacity and what dead controllers have left.
    pub shares: Vec<At>,
    /// Whose the volumes are: others' on the same shares are neither listed nor deleted.
    pub owner: Owner,
    /// Starts this binary as a share's helper.
    pub launcher: Launcher,
    /// How much, and how long.
    pub limits: Limits,
}

/// A share, and how its server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Which.
    pub share: nfs::Share,
    /// How.
    pub connection: Connection,
}

impl At {
    /// With the mount options of a request's secrets, which are stronger than those in the id.
    fn with(&self, secrets: &Settings) -> Result<Self> {
        if secrets.is_empty() {
            return Ok(self.clone());
        }
        let settings = Settings::parse_list(&self.connection.to_string())?.overridden_by(secrets.clone());
        Ok(Self { share: self.share.clone(), connection: settings.resolve()?.connection().clone() })
    }

    fn reach(&self) -> Share {
        Share::nfs(&self.share, &self.connection)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.share.fmt(f)
    }
}

/// Everything that a request about a volume on a share needs.
#[derive(Debug)]
pub struct Shares {
    remote: Arc<Remote>,
    known: Arc<Known>,
    capacities: Capacities,
    janitor: Janitor,
}

/// The shares that were given or used since the start. The last way in which one was reached is remembered.
#[derive(Debug, Default)]
struct Known(Mutex<BTreeMap<nfs::Share, Connection>>);

impl Known {
    fn all(&self) -> Vec<At> {
        let known = self.lock();
        known
            .iter()
            .map(|(share, connection)| At { share: share.clone(), connection: connection.clone() })
            .collect()
    }

    /// Whether it is new.
    fn note(&self, at: &At) -> bool {
        self.lock().insert(at.share.clone(), at.connection.clone()).is_none()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<nfs::Share, Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shares {
    /// Both sides, the controller's and the node's. Starts nothing but threads: helpers come with the first use of a share.
    pub fn new(config: &Config) -> (Self, node::Node) {
        let remote = Arc::new(Remote::new(config.launcher.clone(), config.limits, config.owner.clone()));
        release_orphans(Arc::clone(&remote));
        let known = Arc::new(Known::default());
        let janitor = Janitor::new(Arc::clone(&remote), Arc::clone(&known));
        config.shares.iter().filter(|at| known.note(at)).for_each(|at| janitor.sweep(at));
        let counts = Box::new(Counts::new(Arc::clone(&remote), Arc::clone(&known)));
        let patience = Patience { mounting: config.limits.mounting, ..Patience::default() };
        let node = node::Node::new(config.launcher.clone(), config.limits, patience, counts);
        (Self { capacities: Capacities::new(Arc::clone(&remote)), remote, known, janitor }, node)
    }

    /// Long copies stop at the next piece and leave nothing behind.
    pub fn stop(&self) {
        self.remote.stop();
    }

    /// What each server has in use.
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.remote.servers()
    }

    /// As if a request had named it; not before it is known whose volumes these are.
    pub fn look_after(&self, at: &At) {
        if self.remote.owner().name().is_ok() {
            self.uses(at);
        }
    }

    /// Notes that a share is used; the first time what dead controllers left there is looked for.
    fn uses(&self, at: &At) -> Share {
        if self.known.note(at) {
            self.janitor.sweep(at);
        }
        at.reach()
    }

    /// A volume of this driver's that must exist.
    fn known_volume(&self, id: &nfs::VolumeId) -> Result<(At, VolumeRecord)> {
        let at = At { share: id.share.clone(), connection: id.connection.clone() };
        let record = self.remote.volume(&self.uses(&at), id.key)?;
        Ok((at, record.ok_or_else(|| unknown(id))?))
    }
}

/// A driver that was killed while a server was silent may have left helpers that hang, and its container does not end
/// before they do. Forcing them off takes seconds, for which nothing waits.
fn release_orphans(remote: Arc<Remote>) {
    let work = move || match remote.release_orphans() {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "helpers of an earlier driver hung and were released"),
        Err(error) => tracing::warn!(error = error.chain(), "cannot look for helpers of an earlier driver"),
    };
    if let Err(error) = thread::Builder::new().name("orphans".into()).spawn(work) {
        tracing::warn!(%error, "no thread that looks for helpers of an earlier driver");
    }
}

fn unknown(id: &impl fmt::Display) -> Error {
    Error::NotFound(format!("volume {:?} does not exist", id.to_string()))
}

/// What an id says about a share; a volume on a node is not for these.
pub(super) enum OnShare {
    /// Of this driver.
    Volume(nfs::VolumeId),
    /// Of csi-driver-nfs, without a record.
    Legacy(nfs::LegacyVolumeId),
}

impl OnShare {
    /// `None`: it is on a node, or no id.
    pub(super) fn parse(id: &str) -> Option<Self> {
        match AnyVolumeId::parse(id)? {
            AnyVolumeId::Local(_) => None,
            AnyVolumeId::Nfs(id) => Some(Self::Volume(id)),
            AnyVolumeId::Legacy(id) => Some(Self::Legacy(id)),
        }
    }
}

/// As [`OnShare`], of snapshots.
pub(super) enum SnapshotOnShare {
    /// Of this driver.
    Snapshot(nfs::SnapshotId),
    /// Of csi-driver-nfs: an archive.
    Legacy(nfs::LegacySnapshotId),
}

impl SnapshotOnShare {
    /// `None`: it is on a node, or no id.
    pub(super) fn parse(id: &str) -> Option<Self> {
        match AnySnapshotId::parse(id)? {
            AnySnapshotId::Local(_) => None,
            AnySnapshotId::Nfs(id) => Some(Self::Snapshot(id)),
            AnySnapshotId::Legacy(id) => Some(Self::Legacy(id)),
        }
    }
}

fn at_of(share: &nfs::Share, connection: &Connection) -> At {
    At { share: share.clone(), connection: connection.clone() }
}

/// csi-driver-nfs does not say in an id how the server is reached: the best of version 4.
fn at_of_legacy(share: &nfs::Share) -> At {
    At { share: share.clone(), connection: Connection::default() }
}

/// Of the volume that a source names.
fn key_of(id: &str) -> Option<Key> {
    AnyVolumeId::parse(id).map(|id| id.key())
}
