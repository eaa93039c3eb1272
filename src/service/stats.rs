//! NodeGetVolumeStats: the volume's own figures, never the pool's.

use super::{Service, TargetPath};
use crate::{
    backend::{attachment::Found, limits},
    error::{Doing, Result},
    os::{space, tree},
    store::{Kind, Pool},
    volume::{Access, Key, Layout, LimitMode, VolumeRecord},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// A NodeGetVolumeStats request.
#[derive(Clone, Debug)]
pub struct GetStats {
    /// As the CO sent it.
    pub id: String,
    /// Where it is published or staged.
    pub path: TargetPath,
}

/// One unit of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Everything.
    pub total: u64,
    /// What is in use.
    pub used: u64,
    /// What is left.
    pub available: u64,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// In bytes.
    pub bytes: Amount,
    /// Of a raw block volume nothing but the size is known.
    pub only_total: bool,
    /// In inodes; `None` where nothing counts them.
    pub inodes: Option<Amount>,
}

impl Service {
    /// Figures of a published or staged volume.
    pub fn stats(&self, request: &GetStats) -> Result<Figures> {
        if self.is_on_share(&request.id, request.path.absolute()) {
            return self.nfs_node.stats(request);
        }
        let figures = self.figures(request);
        // Where it was unmounted meanwhile these are not its figures, or an error that says nothing.
        self.at_path(&request.id, &request.path)?;
        figures
    }

    fn figures(&self, request: &GetStats) -> Result<Figures> {
        let (pool, record, found) = self.at_path(&request.id, &request.path)?;
        match (found, record.shape.layout) {
            (Found::Root(_), Layout::Image) => of_filesystem(request.path.as_path(), record.key),
            (Found::Root(_), Layout::Directory) => self.of_directory(&pool, &record),
            _ => {
                debug_assert_eq!(record.shape.access, Access::Block);
                let bytes = Amount { total: record.size_bytes, ..Amount::default() };
                Ok(Figures { bytes, only_total: true, inodes: None })
            }
        }
    }

    fn of_directory(&self, pool: &Arc<Pool>, record: &VolumeRecord) -> Result<Figures> {
        let data = pool.data(Kind::Volume, record.key);
        let total = record.size_bytes;
        let used = if record.limit == Some(LimitMode::Enforced) {
            limits::used(pool, record, &data)?
        } else {
            self.usage.of(record.key, &data)
        };
        let left = total.saturating_sub(used).min(pool.space()?.available);
        Ok(Figures { bytes: Amount { total, used, available: left }, only_total: false, inodes: None })
    }
}

fn of_filesystem(path: &Path, key: Key) -> Result<Figures> {
    let space = space::of(path).doing(|| format!("reading the figures of volume {key}"))?;
    let bytes = Amount {
        total: space.total,
        used: space.total.saturating_sub(space.free),
        available: space.available,
    };
    let inodes = (space.inodes > 0).then(|| Amount {
        total: space.inodes,
        used: space.inodes.saturating_sub(space.inodes_free),
        available: space.inodes_free,
    });
    Ok(Figures { bytes, only_total: false, inodes })
}

/// Used bytes of directories without a quota: walked in the background, at most every minute each, at
/// most so many entries; until the first walk is done the answer is 0.
#[derive(Debug, Default)]
pub struct UsageCache {
    known: Arc<Mutex<HashMap<Key, Entry>>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    used: u64,
    walked: Option<Instant>,
    walking: bool,
}

/// How old a figure may get before the tree is walked again.
const FRESH: Duration = Duration::from_secs(60);
/// A larger tree keeps its last figure.
const MOST_ENTRIES: u64 = 1_000_000;
/// The first answer waits this long for its walk: small trees are exact from the start.
const PATIENCE: Duration = Duration::from_millis(100);

impl UsageCache {
    fn of(&self, key: Key, data: &Path) -> u64 {
        let (entry, due) = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = known.entry(key).or_insert(Entry { used: 0, walked: None, walking: false });
            let due = !entry.walking && entry.walked.is_none_or(|at| at.elapsed() > FRESH);
            entry.walking |= due;
            (*entry, due)
        };
        if due {
            self.walk(key, data.to_owned(), entry.walked.is_none());
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&key).map_or(entry.used, |entry| entry.used)
    }

    fn walk(&self, key: Key, data: PathBuf, wait: bool) {
        let known = Arc::clone(&self.known);
        let (done, ended) = std::sync::mpsc::channel();
        let spawned = thread::Builder::new().name("usage".into()).spawn(move || {
            let usage = tree::usage(&data, MOST_ENTRIES);
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = known.get_mut(&key) {
                entry.walking = false;
                entry.walked = Some(Instant::now());
                match usage {
                    Ok(Some(usage)) => entry.used = usage.bytes,
                    Ok(None) => tracing::warn!(volume = %key, most = MOST_ENTRIES, "too many files to count"),
                    Err(error) => {
                        tracing::warn!(volume = %key, %error, "cannot count what a directory holds")
                    }
                }
            }
            drop(known);
            let _ = done.send(());
        });
        match spawned {
            Ok(_) if wait => drop(ended.recv_timeout(PATIENCE)),
            Ok(_) => {}
            Err(error) => tracing::warn!(volume = %key, %error, "cannot count what a directory holds"),
        }
    }

    /// The volume is gone.
    pub(super) fn forget(&self, key: Key) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
}
