//! Volumes on NFS shares, the node's side: mounted once, bound for each pod, and taken away whatever the server does.
//!
//! This process never touches a path where a share is mounted, for it may never answer: what is mounted is read
//! from mountinfo, and everything else is done by children with deadlines.

mod expand;
mod health;
mod mounting;
mod notes;
mod place;
mod publish;
mod stage;
mod stats;

pub use stats::{Usage, Used};

use crate::{
    error::{Error, Result},
    os::child::Launcher,
    share::{Children, Limits, node::Patience},
    volume::nfs::AnyVolumeId,
};
use notes::Notes;
use place::{At, Place};
use stats::Last;
use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// What the node's RPCs need for volumes on shares.
#[derive(Debug)]
pub struct Node {
    children: Children,
    limits: Limits,
    busy: Arc<Mutex<HashSet<String>>>,
    notes: Notes,
    last: Last,
    usage: Box<dyn Usage>,
}

impl Node {
    /// `launcher` starts this binary as a child; `usage` knows what volumes hold.
    pub fn new(launcher: Launcher, limits: Limits, patience: Patience, usage: Box<dyn Usage>) -> Self {
        Self {
            children: Children::new(launcher, patience),
            limits,
            busy: Arc::default(),
            notes: Notes::default(),
            last: Last::default(),
            usage,
        }
    }

    /// Whether an RPC that names a path is about a volume on a share: what is mounted there decides, and where nothing
    /// is, the id. Handles that a person has chosen are no ids.
    pub(in crate::service) fn concerns(&self, id: &str, path: Option<&Path>) -> bool {
        !matches!(AnyVolumeId::parse(id), Some(AnyVolumeId::Local(_))) || is_share(path)
    }

    /// The same for Publish without a volume context, which is of no volume that nobody has staged.
    pub(in crate::service) fn has_staged(&self, id: &str, staging: Option<&Path>) -> bool {
        matches!(AnyVolumeId::parse(id), Some(AnyVolumeId::Nfs(_) | AnyVolumeId::Legacy(_)))
            || is_share(staging)
    }

    /// One thing at a time for each volume.
    fn busy(&self, id: &str) -> Result<Busy> {
        let fresh = self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        if !fresh {
            return Err(Error::Busy(format!(
                "another request for volume {id:?} is running; repeat this one"
            )));
        }
        Ok(Busy { all: Arc::clone(&self.busy), id: id.to_owned() })
    }
}

fn is_share(path: Option<&Path>) -> bool {
    path.is_some_and(|path| matches!(Place::at(path), Ok(At::Share(_))))
}

/// A volume that is worked on, until dropped.
struct Busy {
    all: Arc<Mutex<HashSet<String>>>,
    id: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// The server of a mount does not answer.
fn silent(place: &Place) -> Error {
    Error::Unavailable(format!(
        "server {} does not answer for what is mounted at {}: see whether it runs, then repeat",
        place.server(),
        place.mount.point.display()
    ))
}

/// The server no longer has what is mounted there: ESTALE.
fn is_stale(error: &Error) -> bool {
    matches!(error, Error::Os { source, .. } if source.is_stale())
}
