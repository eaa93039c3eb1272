//! What volumes hold: counted on their shares now and then, for NodeGetVolumeStats.

use super::{At, Known, node};
use crate::{
    error::Result,
    share::Remote,
    volume::{Key, nfs},
};
use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How old a figure gets before the tree is walked again; on each node a little more, so that all nodes do not
/// walk at once.
const FRESH: Duration = Duration::from_secs(3600);
const JITTER: u64 = 600;

/// How long after a walk that failed the next one may begin.
const AGAIN: Duration = Duration::from_secs(60);

/// The first answer waits this long for its walk: small trees are exact from the start.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many volumes are walked at a time.
const WALKS: usize = 4;

/// How many volumes' figures are remembered.
const MOST: usize = 16 << 10;

/// Counts by the helpers of shares.
#[derive(Debug)]
pub(super) struct Counts {
    remote: Arc<Remote>,
    known: Arc<Known>,
    figures: Arc<Figures>,
    fresh: Duration,
}

#[derive(Debug, Default)]
struct Figures {
    of: Mutex<HashMap<Key, Entry>>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    used: Option<node::Used>,
    due: Option<Instant>,
    walking: bool,
}

impl Figures {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    pub(super) fn new(remote: Arc<Remote>, known: Arc<Known>) -> Self {
        let jitter = Duration::from_secs(u64::from(Uuid::new_v4().as_fields().0) % JITTER);
        Self { remote, known, figures: Arc::default(), fresh: FRESH + jitter }
    }

    /// Whether a walk has to be begun, which is noted.
    fn begin(&self, key: Key) -> bool {
        let mut all = self.figures.lock();
        let walks = all.values().filter(|entry| entry.walking).count();
        if walks >= WALKS || (all.len() >= MOST && !all.contains_key(&key)) {
            return false;
        }
        let entry = all.entry(key).or_default();
        let begin = !entry.walking && entry.due.is_none_or(|due| due <= Instant::now());
        entry.walking |= begin;
        begin
    }

    fn walk(&self, id: &nfs::VolumeId) {
        let at = At { share: id.share.clone(), connection: id.connection.clone() };
        self.known.note(&at);
        let (remote, figures, key, fresh) =
            (Arc::clone(&self.remote), Arc::clone(&self.figures), id.key, self.fresh);
        let work = move || {
            let counted = count(&remote, &at, key);
            let mut all = figures.lock();
            let entry = all.entry(key).or_default();
            let wait = if counted.is_ok() { fresh } else { AGAIN };
            (entry.walking, entry.due) = (false, Some(Instant::now() + wait));
            match counted {
                Ok(used) => entry.used = used,
                Err(error) => {
                    tracing::warn!(volume = %key, share = %at, error = error.chain(), "cannot count what a volume holds");
                }
            }
            figures.changed.notify_all();
        };
        if let Err(error) = thread::Builder::new().name("usage".into()).spawn(work) {
            tracing::warn!(volume = %id, %error, "cannot count what a volume holds");
            self.figures.lock().remove(&id.key);
        }
    }
}

impl node::Usage for Counts {
    /// From memory, but for the first answer.
    fn of(&self, id: &nfs::VolumeId) -> Option<node::Used> {
        if self.begin(id.key) {
            self.walk(id);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut all = self.figures.lock();
        loop {
            let entry = all.get(&id.key).copied().unwrap_or_default();
            let left = deadline.saturating_duration_since(Instant::now());
            if entry.used.is_some() || !entry.walking || entry.due.is_some() || left.is_zero() {
                return entry.used;
            }
            all = self.figures.changed.wait_timeout(all, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// `None`: the server counts for each directory, or the volume is too large to be counted, or has no record.
fn count(remote: &Remote, at: &At, key: Key) -> Result<Option<node::Used>> {
    let Some(usage) = remote.usage(&at.reach(), key)? else { return Ok(None) };
    if usage.quota.is_some() {
        return Ok(None);
    }
    if !usage.complete {
        tracing::warn!(volume = %key, share = %at, files = usage.inodes, "too many files to count: the share's figures stand in");
        return Ok(None);
    }
    Ok(Some(node::Used { bytes: usage.bytes, inodes: usage.inodes, total: usage.size }))
}
