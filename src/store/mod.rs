//! What stands on disk below a pool, and the protocol that keeps it whole (design in docs/format.md).
//!
//! ```text
//! <home>/format.json                      version and identity of the store
//! <home>/lock                             byte-range locks
//! <home>/volumes/<key>/{record.json,data} the directory exists ⇔ the volume exists
//! <home>/snapshots/<key>/{record.json,data}
//! <home>/tmp/<key>[.snap]                 in the making
//! <home>/trash/<key>[.snap].<unique>      removed, being purged
//! ```

mod draft;
mod durability;
mod format;
mod janitor;
mod ledger;
mod leftovers;
mod pool;
mod promise;
pub(crate) mod sealed;
mod survey;
mod trash;

use crate::{
    error::{Error, Result},
    os::lock::{Guard, Mode},
    volume::{Key, SnapshotRecord, VolumeRecord},
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub use draft::Draft;
pub use ledger::Reservation;
pub use leftovers::{Fate, Leftover, Purged, What};
pub use pool::{Abilities, Pool, PoolConfig};
pub use survey::{Survey, survey};

/// Name of an object's record in its directory.
pub const RECORD: &str = "record.json";
/// Name of an object's content in its directory.
pub const DATA: &str = "data";
/// Name of the image in [`DATA`].
pub const IMAGE: &str = "disk.img";

/// What a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A volume.
    Volume,
    /// A snapshot.
    Snapshot,
    /// Something that was removed; only its purge is locked.
    Trash,
}

impl Kind {
    /// The directory of finished objects.
    fn directory(self) -> &'static str {
        match self {
            Self::Volume => "volumes",
            Self::Snapshot => "snapshots",
            Self::Trash => "trash",
        }
    }

    /// The entry in tmp.
    fn draft_name(self, key: Key) -> String {
        match self {
            Self::Snapshot => format!("{key}.snap"),
            Self::Volume | Self::Trash => key.to_string(),
        }
    }

    /// The reverse of [`Kind::draft_name`].
    fn parse_draft(name: &str) -> Option<(Self, Key)> {
        match name.strip_suffix(".snap") {
            Some(key) => Key::parse(key).map(|key| (Self::Snapshot, key)),
            None => Key::parse(name).map(|key| (Self::Volume, key)),
        }
    }

    /// The byte of the lock file for the pool's project ids: of no kind.
    const PROJECTS: u64 = 3;

    /// The byte for the node's agent: of no kind either, and of another "key".
    const AGENT: u64 = 7;

    /// The byte of the lock file: a volume and a snapshot of the same name do not meet.
    fn offset(self, key: Key) -> u64 {
        let (high, _) = key.uuid().as_u64_pair();
        let kind = match self {
            Self::Volume => 0,
            Self::Snapshot => 1,
            Self::Trash => 2,
        };
        (high << 2 & (i64::MAX as u64)) | kind
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
            Self::Trash => "trash of",
        })
    }
}

/// The right to work on one object, in every pool: the same name could be asked for in two.
#[derive(Debug)]
pub struct Lock {
    _guards: Vec<Guard>,
}

/// All pools of this process.
#[derive(Debug)]
pub struct Store {
    pools: BTreeMap<String, Slot>,
}

/// A pool whose disk was missing at start is opened as soon as it is there.
#[derive(Debug)]
struct Slot {
    config: PoolConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Open(Arc<Pool>),
    /// When the next attempt is due, and why the last one failed.
    Closed(Instant, String),
}

/// Between two attempts to open a pool that could not be opened.
const RETRY: Duration = Duration::from_secs(2);

impl Slot {
    fn get(&self) -> Result<Arc<Pool>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let unavailable =
            |why: &str| Err(Error::Unavailable(format!("pool {:?} cannot be used: {why}", self.config.name)));
        match &*state {
            State::Open(pool) if !pool.is_back_elsewhere() => return Ok(Arc::clone(pool)),
            State::Open(pool) => tracing::info!(pool = pool.name(), "its disk is back, as another device"),
            State::Closed(due, why) if *due > Instant::now() => return unavailable(why),
            State::Closed(..) => {}
        }
        match Pool::open(&self.config) {
            Ok(pool) => {
                *state = State::Open(Arc::clone(&pool));
                Ok(pool)
            }
            Err(error) => {
                let why = error.chain();
                *state = State::Closed(Instant::now() + RETRY, why.clone());
                unavailable(&why)
            }
        }
    }
}

impl Store {
    /// Opens what can be opened. Fails only when no pool can: one bad disk of many is reported by
    /// NodeGetStorageHealth and in metrics, the others work.
    pub fn open(configs: &[PoolConfig]) -> Result<Self> {
        let (store, failed) = Self::open_any(configs)?;
        match failed {
            Some(error) if store.open_pools().next().is_none() => Err(error),
            _ => Ok(store),
        }
    }

    /// The same when not even one pool can be opened: each is tried again when it is needed. Returns the first error
    /// beside.
    pub fn open_any(configs: &[PoolConfig]) -> Result<(Self, Option<Error>)> {
        let pools: BTreeMap<_, _> = configs
            .iter()
            .map(|config| {
                let state = Mutex::new(State::Closed(Instant::now(), String::new()));
                (config.name.clone(), Slot { config: config.clone(), state })
            })
            .collect();
        let store = Self { pools };
        let mut first = None;
        for slot in store.pools.values() {
            if let Err(error) = slot.get() {
                tracing::error!(pool = slot.config.name, error = error.chain(), "a pool cannot be used");
                first.get_or_insert(error);
            }
        }
        store.refuse_twins().map(|()| (store, first))
    }

    /// One store under two names would lock against itself for ever.
    fn refuse_twins(&self) -> Result<()> {
        let mut seen: BTreeMap<uuid::Uuid, String> = BTreeMap::new();
        for pool in self.open_pools() {
            if let Some(other) = seen.insert(pool.store(), pool.name().to_owned()) {
                return Err(Error::Invalid(format!(
                    "pools {other:?} and {:?} are the same store at two paths: configure it once",
                    pool.name()
                )));
            }
        }
        Ok(())
    }

    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Result<Arc<Pool>> {
        let Some(slot) = self.pools.get(name) else {
            let known: Vec<_> = self.pools.keys().map(String::as_str).collect();
            return Err(Error::Invalid(format!(
                "pool {name:?} is unknown; this node has {}",
                known.join(", ")
            )));
        };
        slot.get()
    }

    /// Every pool: its name, and the pool or why it cannot be used.
    pub fn pools(&self) -> impl Iterator<Item = (&str, Result<Arc<Pool>>)> {
        self.pools.iter().map(|(name, slot)| (name.as_str(), slot.get()))
    }

    fn open_pools(&self) -> impl Iterator<Item = Arc<Pool>> {
        self.pools.values().filter_map(|slot| slot.get().ok())
    }

    /// Locks an object, or says that somebody else works on it.
    pub fn lock(&self, kind: Kind, key: Key, mode: Mode) -> Result<Lock> {
        let mut guards = Vec::new();
        for pool in self.open_pools() {
            match pool.try_lock(kind, key, mode) {
                Ok(Some(guard)) => guards.push(guard),
                Ok(None) => {
                    return Err(Error::Busy(format!(
                        "another operation on {kind} {key} is running; try again"
                    )));
                }
                // A pool that has vanished has no lock file; what needs it says so when it looks there.
                Err(error) if pool.verify().is_err() => {
                    tracing::debug!(pool = pool.name(), error = error.chain(), "cannot lock");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Lock { _guards: guards })
    }

    /// The right to be the only agent of these pools; `None`: another process is.
    pub fn lock_agent(&self) -> Result<Option<Lock>> {
        let mut guards = Vec::new();
        for pool in self.open_pools() {
            match pool.lock_agent() {
                Ok(Some(guard)) => guards.push(guard),
                Ok(None) => return Ok(None),
                Err(error) if pool.verify().is_err() => {
                    tracing::debug!(pool = pool.name(), error = error.chain(), "cannot lock");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Lock { _guards: guards }))
    }

    /// Looks for a volume in every pool.
    pub fn volume(&self, key: Key) -> Result<Option<(Arc<Pool>, VolumeRecord)>> {
        self.find(|pool| pool.volume(key))
    }

    /// Looks for a volume in the pools that can be reached: enough before making a new one, whose name
    /// belongs to one class and so to one pool.
    pub fn volume_in_reach(&self, key: Key) -> Result<Option<(Arc<Pool>, VolumeRecord)>> {
        for pool in self.open_pools().filter(|pool| pool.verify().is_ok()) {
            if let Some(record) = pool.volume(key)? {
                return Ok(Some((pool, record)));
            }
        }
        Ok(None)
    }

    /// Looks for a snapshot in every pool.
    pub fn snapshot(&self, key: Key) -> Result<Option<(Arc<Pool>, SnapshotRecord)>> {
        self.find(|pool| pool.snapshot(key))
    }

    /// Looks for a snapshot in the pools that can be reached, as [`Store::volume_in_reach`] does.
    pub fn snapshot_in_reach(&self, key: Key) -> Result<Option<(Arc<Pool>, SnapshotRecord)>> {
        for pool in self.open_pools().filter(|pool| pool.verify().is_ok()) {
            if let Some(record) = pool.snapshot(key)? {
                return Ok(Some((pool, record)));
            }
        }
        Ok(None)
    }

    /// "Not there" is only said when every pool could be asked: a Delete answered OK while a disk is
    /// away would leak the volume.
    fn find<T>(&self, look: impl Fn(&Pool) -> Result<Option<T>>) -> Result<Option<(Arc<Pool>, T)>> {
        let mut unreachable = None;
        for slot in self.pools.values() {
            match slot.get().and_then(|pool| pool.verify().map(|()| pool)) {
                Ok(pool) => {
                    if let Some(found) = look(&pool)? {
                        return Ok(Some((pool, found)));
                    }
                }
                Err(error) => {
                    unreachable.get_or_insert(error);
                }
            }
        }
        unreachable.map_or(Ok(None), Err)
    }
}
