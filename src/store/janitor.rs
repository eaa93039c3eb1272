//! The worker of a pool: empties trash when there is some, and brings promises up to date.

use super::{Pool, trash::Emptied};
use crate::error::Result;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, Once, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

/// How long a quiet pool is left alone. Thin images and directories change without the driver.
const PERIOD: Duration = Duration::from_secs(60);

/// Handle to the worker thread, which starts with the first kick and ends with the pool.
#[derive(Debug)]
pub struct Janitor {
    pool: Weak<Pool>,
    started: Once,
    signal: std::sync::Arc<Signal>,
}

#[derive(Debug, Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    working: bool,
    ended: bool,
    /// When something was purged last.
    purged: Option<Instant>,
}

/// How long the filesystem may take to give back what was purged.
const SETTLING: Duration = Duration::from_secs(10);

impl Signal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Janitor {
    pub(super) fn new(pool: Weak<Pool>) -> Self {
        Self { pool, started: Once::new(), signal: std::sync::Arc::default() }
    }

    /// There is something in trash.
    pub fn kick(&self) {
        self.signal.state().wanted = true;
        self.signal.changed.notify_all();
        self.started.call_once(|| {
            let (pool, signal) = (self.pool.clone(), self.signal.clone());
            let spawned = thread::Builder::new().name("janitor".into()).spawn(move || work(&pool, &signal));
            if let Err(error) = spawned {
                tracing::error!(%error, "cannot start the purge of trash; it will be done after a restart");
            }
        });
    }

    /// Whether more room may appear without anybody deleting anything more.
    pub fn is_freeing(&self) -> bool {
        let state = self.signal.state();
        state.wanted || state.working || state.purged.is_some_and(|at| at.elapsed() < SETTLING)
    }

    /// Returns when trash has been gone through once after this call, or time is up.
    pub fn wait_until_idle(&self, limit: Duration) -> bool {
        self.kick();
        let deadline = Instant::now() + limit;
        let mut state = self.signal.state();
        while state.wanted || state.working {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.signal.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.signal.state().ended = true;
        self.signal.changed.notify_all();
    }
}

fn work(pool: &Weak<Pool>, signal: &Signal) {
    let (mut promises, mut retry) = (Promises::default(), Retry::default());
    loop {
        let mut state = signal.state();
        if !state.wanted && !state.ended {
            // What was purged counts as shared until the filesystem has let go of it.
            let settled = state.purged.and_then(|at| (at + SETTLING).checked_duration_since(Instant::now()));
            let limit = promises.due().unwrap_or(PERIOD).min(settled.unwrap_or(PERIOD)).min(retry.pause());
            state = signal.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.ended {
            return;
        }
        let asked = std::mem::take(&mut state.wanted);
        state.working = true;
        drop(state);
        // Without a pool there is nothing left to do.
        if let Some(pool) = pool.upgrade() {
            let emptied = keep_house(&pool, &mut promises, asked);
            retry.after(emptied);
            if emptied.gone > 0 {
                signal.state().purged = Some(Instant::now());
            }
        }
        signal.state().working = false;
        signal.changed.notify_all();
    }
}

/// An error is one log line and a later try; a bug in one pass must not end all later ones.
fn keep_house(pool: &Pool, promises: &mut Promises, asked: bool) -> Emptied {
    let pass = AssertUnwindSafe(|| {
        let emptied = pool.purge()?;
        promises.changed |= emptied.gone > 0 || !asked;
        promises.refresh(pool).map(|()| emptied)
    });
    match catch_unwind(pass) {
        Ok(Ok(emptied)) => return emptied,
        Ok(Err(error)) => {
            tracing::warn!(
                pool = pool.name(),
                error = error.chain(),
                "housekeeping failed, trying again later"
            );
        }
        Err(_) => tracing::error!(pool = pool.name(), "housekeeping hit a bug, trying again later"),
    }
    // Later, not at once and for ever.
    promises.changed = false;
    Emptied::default()
}

/// What could not be removed is tried again: soon, then less and less often.
#[derive(Default)]
struct Retry {
    failures: u32,
}

impl Retry {
    fn after(&mut self, emptied: Emptied) {
        self.failures = if emptied.left > 0 { self.failures + 1 } else { 0 };
    }

    /// 1 s, 4 s, 16 s, then as long as a quiet pool is left alone.
    fn pause(&self) -> Duration {
        match self.failures {
            0 => PERIOD,
            failures => Duration::from_secs(4_u64.saturating_pow(failures - 1)).min(PERIOD),
        }
    }
}

/// When to look again at what volumes own. That reads every record of those that owe something, so with
/// thousands of them it must not follow each deletion: it may take a tenth of the time.
#[derive(Default)]
struct Promises {
    /// Something was purged, or a while has passed, since they were looked at.
    changed: bool,
    not_before: Option<Instant>,
}

impl Promises {
    fn due(&self) -> Option<Duration> {
        let wait = self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        self.changed.then_some(wait.min(PERIOD))
    }

    fn refresh(&mut self, pool: &Pool) -> Result<()> {
        if self.due() != Some(Duration::ZERO) {
            return Ok(());
        }
        self.changed = false;
        let start = Instant::now();
        let result = pool.refresh_promises();
        self.not_before = Some(Instant::now() + start.elapsed() * 9);
        result
    }
}
