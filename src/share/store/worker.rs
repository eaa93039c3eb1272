//! Who works on the share, and who of them is alive.
//!
//! A heartbeat is only for courtesy: it keeps two from doing the same work. That a worker which was wrongly
//! taken for dead does no harm is the doing of names that are used once.

use super::{
    Key, Kind, Share,
    fault::OnShare,
    names::{Tag, Worker},
};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;

/// How old a heartbeat gets while somebody works.
const BEAT: Duration = Duration::from_secs(10);

/// Who uses a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster: only its own volumes are listed, swept and deleted.
    pub cluster: String,
    /// The process: another for each start.
    pub instance: Uuid,
    /// Processes of this cluster that are known to have ended: what they left need not age.
    #[serde(default)]
    pub ended: BTreeSet<Uuid>,
}

impl Identity {
    pub(super) fn worker(&self) -> Worker {
        Worker { tag: Tag::of(&self.cluster), instance: self.instance }
    }
}

/// The right to work on one object, within this process.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    share: &'a Share,
    what: (Kind, Key),
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.share.busy().remove(&self.what);
    }
}

impl Share {
    fn busy(&self) -> MutexGuard<'_, std::collections::HashSet<(Kind, Key)>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to work on an object. With it, what this worker left of an earlier attempt is dead.
    pub(super) fn begin(&self, kind: Kind, key: Key) -> Result<Turn<'_>> {
        if !self.busy().insert((kind, key)) {
            return Err(Error::Busy(format!("another operation on {kind} {key} is running; try again")));
        }
        let turn = Turn { share: self, what: (kind, key) };
        self.beat()?;
        Ok(turn)
    }

    /// Shows that this process is at work, where it has not just done so. Long work does it by its progress.
    pub fn beat(&self) -> Result<()> {
        self.server_time().map(drop)
    }

    /// The server's clock, for which a file is touched now and then.
    fn server_time(&self) -> Result<SystemTime> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, time)) = *clock
            && at.elapsed() < BEAT.min(self.patience / 4)
        {
            return Ok(time + at.elapsed());
        }
        let at = Instant::now();
        let stat =
            self.tmp.touch(&self.worker.heartbeat()).on_share(|| "showing that work goes on".into())?;
        *clock = Some((at, stat.modified));
        Ok(stat.modified)
    }

    /// Whether another process is at work.
    pub(super) fn is_alive(&self, worker: Worker) -> Result<bool> {
        if worker.tag == self.tag() && self.identity.ended.contains(&worker.instance) {
            return Ok(false);
        }
        let now = self.server_time()?;
        let beat = self
            .tmp
            .stat(&worker.heartbeat())
            .on_share(|| "looking whether another controller works".into())?;
        Ok(beat.is_some_and(|beat| now.duration_since(beat.modified).map_or(true, |age| age < self.patience)))
    }

    /// Whether somebody else is at work; what this worker has left itself is nobody's. The caller has its turn.
    pub(super) fn is_anothers(&self, worker: Worker) -> Result<bool> {
        Ok(worker != self.worker && self.is_alive(worker)?)
    }

    /// Gives a copy's progress on, and shows that work goes on.
    pub(super) fn beating<'a>(
        &'a self,
        progress: &'a mut dyn FnMut(u64) -> bool,
    ) -> impl FnMut(u64) -> bool + 'a {
        move |bytes| {
            if let Err(error) = self.beat() {
                tracing::debug!(error = error.chain(), "no heartbeat");
            }
            progress(bytes)
        }
    }
}
