//! What stands on a share, and the protocol by which several controllers and clusters keep it whole.
//!
//! ```text
//! <share>/.wharf/format.json                       version and identity of the store
//! <share>/.wharf/volumes/<key>/record.json         the volume exists
//! <share>/.wharf/volumes/<key>/creating.<worker>   the same, as long as it is being made
//! <share>/.wharf/snapshots/<key>/{record.json,data}
//! <share>/.wharf/claims/a/b/c/.owner.…             directory a/b/c of the share belongs to a volume
//! <share>/.wharf/tmp/…                             in the making; heartbeats
//! <share>/.wharf/trash/…                           removed, being purged
//! ```
//!
//! A server may carry out a call long after its caller has given up. So every step that ends something is
//! a call that can succeed only once and only on what was meant: a rename of a name that is never used
//! again, a removal inside a directory that was opened before, an rmdir. RENAME_NOREPLACE does not exist on
//! NFS; that a rename onto a directory with something in it fails is what decides between two.
//!
//! Plain blocking functions on a directory: they run wherever a share may hang.

mod claim;
mod create;
mod delete;
mod discard;
mod fault;
mod format;
mod health;
mod leftovers;
mod list;
mod names;
mod object;
mod place;
mod record;
mod snapshot;
mod sweep;
mod trash;
mod worker;

pub use fault::is_open;
pub use format::{Format, VERSION as STORE_VERSION, migrate};
pub use health::{Bounds, Flaw, Usage};
pub use leftovers::{Fate, Leftover, What};
pub use list::{Page, space};
pub use record::{HOME, NewSnapshot, NewVolume, OnDelete, Place, SnapshotRecord, VERSION, VolumeRecord};
pub use trash::Purge;
pub use worker::Identity;

use crate::{
    error::{Error, Result},
    os::directory::Directory,
    volume::Key,
};
use fault::OnShare;
use names::{Tag, Worker};
use std::{
    collections::HashSet,
    ffi::OsStr,
    fmt,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;

/// A worker whose heartbeat is older, by the server's clock, is taken for dead.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A volume.
    Volume,
    /// A snapshot.
    Snapshot,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
        })
    }
}

/// A share with its store, open. After [`Error::Unavailable`] it is to be opened anew: what is held open
/// may be stale.
#[derive(Debug)]
pub struct Share {
    root: Directory,
    home: Directory,
    volumes: Directory,
    snapshots: Directory,
    claims: Directory,
    tmp: Directory,
    trash: Directory,
    format: Uuid,
    identity: Identity,
    worker: Worker,
    patience: Duration,
    /// What this process works on.
    busy: Mutex<HashSet<(Kind, Key)>>,
    /// The server's time at a moment of this host's.
    clock: Mutex<Option<(Instant, SystemTime)>>,
}

impl Share {
    /// Opens the store below the share that is mounted at `root`; `None`: there is none. Changes nothing.
    pub fn open(root: &Path, identity: &Identity) -> Result<Option<Self>> {
        let root = open_root(root)?;
        match format::read(&root)? {
            Some((home, format)) => Self::assemble(root, home, &format, identity).map(Some),
            None => Ok(None),
        }
    }

    /// Opens the store, and makes it where there is none.
    pub fn open_or_make(root: &Path, identity: &Identity) -> Result<Self> {
        let root = open_root(root)?;
        let worker = identity.worker();
        let (home, format) = match format::read(&root)? {
            Some(found) => found,
            None => format::make(&root, worker)?,
        };
        Self::assemble(root, home, &format, identity)
    }

    fn assemble(root: Directory, home: Directory, format: &Format, identity: &Identity) -> Result<Self> {
        let [volumes, snapshots, claims, tmp, trash] = format::open_parts(&home)?;
        Ok(Self {
            root,
            home,
            volumes,
            snapshots,
            claims,
            tmp,
            trash,
            format: format.uuid,
            identity: identity.clone(),
            worker: identity.worker(),
            patience: PATIENCE,
            busy: Mutex::default(),
            clock: Mutex::default(),
        })
    }

    /// The identity of the store.
    pub fn store(&self) -> Uuid {
        self.format
    }

    /// Where the share is mounted.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    fn tag(&self) -> Tag {
        self.worker.tag
    }

    fn directory(&self, kind: Kind) -> &Directory {
        match kind {
            Kind::Volume => &self.volumes,
            Kind::Snapshot => &self.snapshots,
        }
    }
}

fn open_root(root: &Path) -> Result<Directory> {
    Directory::open(root).on_share(|| format!("opening the share at {}", root.display()))
}

/// The directory must be there: the store has made it.
fn part(home: &Directory, name: &str) -> Result<Directory> {
    let found = home.enter(OsStr::new(name)).on_share(|| format!("opening {name} of the store"))?;
    found.ok_or_else(|| {
        Error::Damaged(format!(
            "the store at {} has lost its directory {name}: restore it from a backup",
            home.path().display()
        ))
    })
}

#[cfg(test)]
mod tests;
