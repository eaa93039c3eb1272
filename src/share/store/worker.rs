//! Who works on the share, and who of them is alive.
//!
//! A heartbeat is only for courtesy: it keeps two from doing the same work. That a worker which was wrongly
//! taken for dead does no harm is the doing of names that are used once.

use super::{
    Key, Kind, Share,
    fault::OnShare,
    names::{Tag, Worker},
};
use crate::{
    error::{Doing as _, Error, Result},
    os::presence::{Other, Presence},
};
use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;

/// How old a heartbeat gets while somebody works.
const BEAT: Duration = Duration::from_secs(10);

/// Who uses a share: a cluster, and one of its processes, which other processes of the same host see end.
#[derive(Clone, Debug)]
pub struct Identity {
    cluster: String,
    presence: Arc<Presence>,
}

impl Identity {
    /// A new instance of a cluster, which ends with the last copy of this.
    pub fn new(cluster: &str) -> Result<Self> {
        let presence =
            Presence::new().doing(|| "making itself known to other processes of the host".into())?;
        Ok(Self { cluster: cluster.to_owned(), presence: Arc::new(presence) })
    }

    /// One whose end nobody sees.
    #[cfg(test)]
    pub(super) fn elsewhere(cluster: &str) -> Result<Self> {
        let presence = Presence::of_another_host().doing(String::new)?;
        Ok(Self { cluster: cluster.to_owned(), presence: Arc::new(presence) })
    }

    /// Only this cluster's volumes are listed, swept and deleted.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Another for each opening of a store.
    pub fn instance(&self) -> Uuid {
        self.presence.instance()
    }

    pub(super) fn worker(&self) -> Worker {
        Worker { tag: Tag::of(&self.cluster), instance: self.instance() }
    }

    /// As if the process had ended.
    #[cfg(test)]
    pub(super) fn end(&self) {
        self.presence.end();
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
    /// On a full share it may not be possible, and is no reason not to delete.
    pub fn beat(&self) -> Result<()> {
        match self.server_time() {
            Err(error) if error.is_no_space() => {
                tracing::debug!(error = error.chain(), "no heartbeat");
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// The server's clock, for which a file is touched now and then, or tmp itself where there is no room for it.
    fn server_time(&self) -> Result<SystemTime> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, time)) = *clock
            && at.elapsed() < BEAT.min(self.patience / 4)
        {
            return Ok(time + at.elapsed());
        }
        let at = Instant::now();
        let touched = match self.tmp.touch(&self.worker.heartbeat()) {
            Err(e) if e.is_no_space() => self.tmp.touch_itself(),
            touched => touched,
        };
        let stat = touched.on_share(|| "showing that work goes on".into())?;
        *clock = Some((at, stat.modified));
        Ok(stat.modified)
    }

    /// Whether another process is at work.
    pub(super) fn is_alive(&self, worker: Worker) -> Result<bool> {
        // One that exists may hang all the same, or be wrongly named: then its heartbeat tells.
        if self.identity.presence.look_for(worker.instance) == Other::Ended {
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
