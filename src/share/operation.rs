//! What helpers are asked for and answer: the store's protocol, carried out where the share is mounted.

use super::{
    copy::Abilities,
    helper::Context,
    store::{
        self, Bounds, Flaw, Identity, Leftover, NewSnapshot, NewVolume, OnDelete, Page, Place, Purge,
        SnapshotRecord, Usage, VolumeRecord,
    },
};
use crate::{
    error::{Doing as _, Error, Result},
    os::{
        nfs::{self, Powers, Version},
        space::Space,
    },
    volume::Key,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How often a long copy is mentioned in the log.
const TELLING: Duration = Duration::from_secs(10);

/// A store that was open for long may be stale: what fails so quickly is tried once more with a fresh one.
const QUICKLY: Duration = Duration::from_secs(2);

/// So many records are read between two signs of life.
const STRETCH: usize = 256;

/// What is to be done, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The cluster: others' volumes and snapshots do not exist for it.
    pub cluster: String,
    /// What.
    pub work: Work,
}

/// What can be done on a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Make a volume.
    CreateVolume(Box<NewVolume>),
    /// Make a volume cease to exist.
    DeleteVolume(Key),
    /// Delete a directory that no record knows; the key names it in trash.
    DeleteUnrecorded {
        /// For its name in trash.
        key: Key,
        /// The directory.
        place: Place,
        /// What becomes of it.
        on_delete: OnDelete,
    },
    /// Write down a volume's new sizes.
    ResizeVolume {
        /// Which.
        key: Key,
        /// Asked for.
        required_bytes: u64,
        /// Told.
        size_bytes: u64,
    },
    /// Look a volume up.
    Volume(Key),
    /// List volumes.
    Volumes {
        /// Those with greater keys.
        after: Option<Key>,
        /// At most so many.
        limit: usize,
    },
    /// What is wrong with a volume.
    Flaw(Key),
    /// Count what a volume holds.
    Usage {
        /// Which.
        key: Key,
        /// At most so many names.
        entries: u64,
        /// At most so long.
        time: Duration,
    },
    /// Make a snapshot.
    CreateSnapshot(Box<NewSnapshot>),
    /// Make a snapshot cease to exist.
    DeleteSnapshot(Key),
    /// Look a snapshot up.
    Snapshot(Key),
    /// List snapshots.
    Snapshots {
        /// Those with greater keys.
        after: Option<Key>,
        /// At most so many.
        limit: usize,
    },
    /// How much room there is.
    Space,
    /// Discard what dead workers left, and empty the trash.
    Sweep,
    /// Empty the trash.
    Purge,
    /// Look for what belongs to nothing.
    Leftovers,
    /// Remove one finding.
    PurgeLeftover(Box<Leftover>),
    /// Bring the store to this driver's version.
    Migrate,
    /// What this host may do on the share.
    Examine,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// A volume; `None`: there is none.
    Volume(Option<Box<VolumeRecord>>),
    /// Volumes.
    Volumes(Page<VolumeRecord>),
    /// What is wrong with one.
    Flaw(Option<Flaw>),
    /// What one holds.
    Usage(Option<Usage>),
    /// A snapshot; `None`: there is none.
    Snapshot(Option<Box<SnapshotRecord>>),
    /// Snapshots.
    Snapshots(Page<SnapshotRecord>),
    /// Room.
    Space(Space),
    /// What was removed for good, and what could not be.
    Purge(Purge),
    /// Findings.
    Leftovers(Vec<Leftover>),
    /// Why a finding stays; `None`: it is gone.
    Stays(Option<String>),
    /// The version that the store had.
    Version(u32),
    /// What this host may do.
    Examined(Examined),
}

/// A share as this host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examined {
    /// The version of the protocol that was mounted; `None`: it is no NFS.
    pub version: Option<Version>,
    /// What may be done in the share's root.
    pub powers: Powers,
    /// The identity of the store; `None`: there is none yet.
    pub store: Option<Uuid>,
    /// How much room there is.
    pub space: Space,
}

/// What a helper calls for each operation. It opens the store when it is first needed and keeps it open.
pub fn handler() -> impl Fn(&Path, Order, &Context) -> Result<Answer> + Send + Sync + 'static {
    let stores = Stores::default();
    move |root, order, context| stores.carry_out(root, &order, context)
}

/// The store, open for each cluster that asks: one, but for tests and tools.
#[derive(Debug, Default)]
struct Stores(Mutex<HashMap<String, Arc<store::Share>>>);

impl Stores {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<store::Share>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, root: &Path, order: &Order, context: &Context) -> Result<Answer> {
        match order.work {
            Work::Space => return store::space(root).map(Answer::Space),
            Work::Migrate => return store::migrate(root).map(Answer::Version),
            Work::Examine => return examine(root, order, context).map(Answer::Examined),
            _ => {}
        }
        let begun = Instant::now();
        let kept = self.open().contains_key(&order.cluster);
        let result = self.attempt(root, order, context);
        let again = matches!(result, Err(Error::Unavailable(_))) && kept && begun.elapsed() < QUICKLY;
        if again && !context.is_stopping() { self.attempt(root, order, context) } else { result }
    }

    fn attempt(&self, root: &Path, order: &Order, context: &Context) -> Result<Answer> {
        let Some(store) = self.store(root, order, context)? else { return nowhere(&order.work) };
        let result = work(&store, &order.work, context);
        if result.as_ref().is_err_and(store::is_open) {
            // What is held open may be stale. With the last who uses it this instance ends, and what it left is nobody's.
            let mut open = self.open();
            if open.get(&order.cluster).is_some_and(|known| Arc::ptr_eq(known, &store)) {
                open.remove(&order.cluster);
            }
        }
        result
    }

    /// `None`: there is no store, and this work needs none.
    fn store(&self, root: &Path, order: &Order, context: &Context) -> Result<Option<Arc<store::Share>>> {
        if let Some(store) = self.open().get(&order.cluster) {
            return Ok(Some(Arc::clone(store)));
        }
        // Outside of the lock: opening may hang.
        let identity = Identity::new(&order.cluster)?;
        let opened = match makes_store(&order.work) {
            true => store::Share::open_or_make(root, &identity).map(Some),
            false => store::Share::open(root, &identity),
        };
        let opened = match opened {
            Err(error @ Error::Unavailable(_)) => {
                if nfs::ask(root).is_err_and(|error| error.is_stale()) {
                    // The mount's own root: no other attempt here can succeed.
                    tracing::warn!(
                        share = context.share(),
                        "the share was replaced on its server: mounting anew"
                    );
                    context.give_up();
                }
                return Err(error);
            }
            opened => opened?,
        };
        // Of two at once the first counts for both: what one process does at a time is known to one store.
        Ok(opened
            .map(|store| Arc::clone(self.open().entry(order.cluster.clone()).or_insert(Arc::new(store)))))
    }
}

/// Whether it is worth a store where there is none.
fn makes_store(work: &Work) -> bool {
    match work {
        Work::CreateVolume(wanted) => wanted.source.is_none(),
        Work::DeleteUnrecorded { on_delete, .. } => *on_delete != OnDelete::Retain,
        _ => false,
    }
}

/// Where there is no store, nothing exists.
fn nowhere(work: &Work) -> Result<Answer> {
    let absent = |what: &str| Err(Error::NotFound(format!("{what} does not exist on the share")));
    match work {
        Work::CreateVolume(wanted) => absent(&format!("the source of volume {}", wanted.key)),
        Work::CreateSnapshot(wanted) => absent(&format!("volume {}", wanted.volume)),
        Work::ResizeVolume { key, .. } | Work::Flaw(key) | Work::Usage { key, .. } => {
            absent(&format!("volume {key}"))
        }
        Work::Volume(_) => Ok(Answer::Volume(None)),
        Work::Snapshot(_) => Ok(Answer::Snapshot(None)),
        Work::Volumes { .. } => Ok(Answer::Volumes(Page::default())),
        Work::Snapshots { .. } => Ok(Answer::Snapshots(Page::default())),
        Work::Sweep | Work::Purge => Ok(Answer::Purge(Purge::default())),
        Work::Leftovers => Ok(Answer::Leftovers(Vec::new())),
        Work::PurgeLeftover(_) => Ok(Answer::Stays(None)),
        Work::DeleteVolume(_)
        | Work::DeleteSnapshot(_)
        | Work::DeleteUnrecorded { .. }
        | Work::Space
        | Work::Migrate
        | Work::Examine => Ok(Answer::Done),
    }
}

fn work(store: &store::Share, work: &Work, context: &Context) -> Result<Answer> {
    let mut moving = |done| context.progress(done, 0);
    Ok(match work {
        Work::CreateVolume(wanted) => {
            let mut copying = copying(context, format!("filling volume {}", wanted.key));
            let made = store.create_volume(wanted, abilities(context), &mut copying)?;
            Answer::Volume(Some(Box::new(made)))
        }
        Work::DeleteVolume(key) => store.delete_volume(*key).map(|()| Answer::Done)?,
        Work::DeleteUnrecorded { key, place, on_delete } => {
            store.delete_unrecorded(*key, place, *on_delete).map(|()| Answer::Done)?
        }
        Work::ResizeVolume { key, required_bytes, size_bytes } => {
            let record = store.resize_volume(*key, *required_bytes, *size_bytes)?;
            Answer::Volume(Some(Box::new(record)))
        }
        Work::Volume(key) => Answer::Volume(store.own_volume(*key)?.map(Box::new)),
        Work::Volumes { after, limit } => {
            Answer::Volumes(listed(*after, *limit, &mut moving, |after, limit| store.volumes(after, limit))?)
        }
        Work::Flaw(key) => Answer::Flaw(store.flaw(*key)?),
        Work::Usage { key, entries, time } => {
            let bounds = Bounds { entries: *entries, until: Instant::now() + *time };
            Answer::Usage(store.usage(*key, bounds, &mut moving)?)
        }
        Work::CreateSnapshot(wanted) => {
            let mut copying = copying(context, format!("making snapshot {}", wanted.key));
            let made = store.create_snapshot(wanted, abilities(context), &mut copying)?;
            Answer::Snapshot(Some(Box::new(made)))
        }
        Work::DeleteSnapshot(key) => store.delete_snapshot(*key).map(|()| Answer::Done)?,
        Work::Snapshot(key) => Answer::Snapshot(store.own_snapshot(*key)?.map(Box::new)),
        Work::Snapshots { after, limit } => {
            Answer::Snapshots(listed(*after, *limit, &mut moving, |after, limit| {
                store.snapshots(after, limit)
            })?)
        }
        Work::Sweep => Answer::Purge(store.sweep(&mut moving)?),
        Work::Purge => Answer::Purge(store.purge(&mut moving)?),
        Work::Leftovers => Answer::Leftovers(store.leftovers(&mut moving)?),
        Work::PurgeLeftover(leftover) => Answer::Stays(store.purge_leftover(leftover, &mut moving)?),
        Work::Space | Work::Migrate | Work::Examine => {
            return Err(Error::Internal("this work needs no store".into()));
        }
    })
}

/// What a mount of this version can do for a copy.
fn abilities(context: &Context) -> Abilities {
    match context.version() {
        Some(Version::V4_2) => Abilities { reflink: true, server_copy: true },
        Some(_) => Abilities::default(),
        None => Abilities { reflink: true, server_copy: false },
    }
}

/// Shows that a copy moves, and ends it with the driver.
fn copying(context: &Context, what: String) -> impl FnMut(u64) -> bool + '_ {
    let (begun, mut told) = (Instant::now(), Instant::now());
    move |bytes| {
        context.progress(bytes, 0);
        if told.elapsed() >= TELLING {
            told = Instant::now();
            let seconds = begun.elapsed().as_secs();
            tracing::info!(share = context.share(), bytes, seconds, "{what}");
        }
        !context.is_stopping()
    }
}

/// A page in stretches, each a sign of life.
fn listed<T>(
    mut after: Option<Key>,
    limit: usize,
    moving: &mut dyn FnMut(u64),
    list: impl Fn(Option<Key>, usize) -> Result<Page<T>>,
) -> Result<Page<T>> {
    let (mut whole, limit) = (Page::default(), limit.max(1));
    loop {
        let page = list(after, STRETCH.min(limit - whole.entries.len()))?;
        whole.entries.extend(page.entries);
        whole.damaged.extend(page.damaged);
        whole.after = page.after;
        moving(whole.entries.len() as u64);
        if page.after.is_none() || whole.entries.len() >= limit {
            return Ok(whole);
        }
        after = page.after;
    }
}

fn examine(root: &Path, order: &Order, context: &Context) -> Result<Examined> {
    let powers = nfs::examine(root).doing(|| "looking what may be done on the share".into())?;
    let store = match store::Share::open(root, &Identity::new(&order.cluster)?) {
        // Somebody else's root made it, and this one may not look.
        Err(Error::Forbidden(_)) => None,
        opened => opened?.map(|store| store.store()),
    };
    Ok(Examined { version: context.version(), powers, store, space: store::space(root)? })
}
