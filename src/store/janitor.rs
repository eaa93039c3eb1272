//! The worker of a pool: empties trash when there is some, and brings promises up to date.

use super::Pool;
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
    loop {
        let mut state = signal.state();
        if !state.wanted && !state.ended {
            // What was purged counts as shared until the filesystem has let go of it.
            let settled = state.purged.and_then(|at| (at + SETTLING).checked_duration_since(Instant::now()));
            let quiet = settled.unwrap_or(PERIOD);
            state = signal.changed.wait_timeout(state, quiet).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.ended {
            return;
        }
        state.wanted = false;
        state.working = true;
        drop(state);
        // Without a pool there is nothing left to do; with it, an error is one log line and a later try.
        if let Some(pool) = pool.upgrade() {
            // A bug in one pass must not end all later ones.
            let pass =
                AssertUnwindSafe(|| pool.purge().and_then(|gone| pool.refresh_promises(None).map(|()| gone)));
            match catch_unwind(pass) {
                Ok(Ok(0)) => {}
                Ok(Ok(_)) => signal.state().purged = Some(Instant::now()),
                Ok(Err(error)) => {
                    tracing::warn!(
                        pool = pool.name(),
                        error = error.chain(),
                        "housekeeping failed, trying again later"
                    );
                }
                Err(_) => tracing::error!(pool = pool.name(), "housekeeping hit a bug, trying again later"),
            }
        }
        signal.state().working = false;
        signal.changed.notify_all();
    }
}
