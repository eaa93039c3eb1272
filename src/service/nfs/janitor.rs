//! The thread that looks after shares: purges what was deleted, and finds what dead controllers have left.

use super::{At, Known};
use crate::{
    error::{Error, Result},
    share::Remote,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

/// How often all known shares are looked through.
const ROUND: Duration = Duration::from_secs(3600);
/// A purge that failed comes again after these; then with the next round.
const AGAIN: [u64; 4] = [1, 4, 16, 60];

/// Ends when dropped.
#[derive(Debug)]
pub(super) struct Janitor {
    tasks: Arc<Tasks>,
    /// Shares on which something may have been begun that nobody has finished: its end leaves trash.
    unsettled: Mutex<BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Tasks {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// By share; the way in which it is reached is the last one.
#[derive(Debug, Default)]
struct Waiting {
    sweeps: BTreeMap<String, At>,
    purges: BTreeMap<String, (At, usize, Instant)>,
    running: BTreeSet<String>,
    ended: bool,
}

enum Task {
    Sweep(At),
    Purge(At, usize),
}

impl Janitor {
    pub(super) fn new(remote: Arc<Remote>, known: Arc<Known>) -> Self {
        let tasks = Arc::new(Tasks::default());
        let theirs = Arc::clone(&tasks);
        let work = move || look_after(&theirs, &remote, &Arc::downgrade(&known));
        if let Err(error) = thread::Builder::new().name("share janitor".into()).spawn(work) {
            tracing::error!(%error, "no thread that purges shares: it is done after the next start");
        }
        Self { tasks, unsettled: Mutex::default() }
    }

    /// Looks at how a change on a share went: what was rolled back, or discarded for it, is purged.
    pub(super) fn made<T>(&self, at: &At, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Ok(_) => {
                // The sweep may have met this request at work, and left what is its own alone.
                if self.unsettled().remove(&at.to_string()) {
                    self.enqueue_sweep(at);
                }
            }
            // Somebody else is at work.
            Err(Error::Busy(_)) => {}
            // The helper has ended, or does not answer: should nobody repeat it, it is discarded all the same.
            Err(Error::Unavailable(_)) => self.sweep(at),
            _ => self.purge(at),
        }
        outcome
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What dead controllers have left there is discarded, soon.
    pub(super) fn sweep(&self, at: &At) {
        // Or by the next request that meets it.
        self.unsettled().insert(at.to_string());
        self.enqueue_sweep(at);
    }

    fn enqueue_sweep(&self, at: &At) {
        self.tasks.lock().sweeps.insert(at.to_string(), at.clone());
        self.tasks.changed.notify_all();
    }

    /// What was deleted there is purged, soon.
    pub(super) fn purge(&self, at: &At) {
        self.tasks.lock().purges.insert(at.to_string(), (at.clone(), 0, Instant::now()));
        self.tasks.changed.notify_all();
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.tasks.lock().ended = true;
        self.tasks.changed.notify_all();
    }
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing to do; `None`: the driver ends.
    fn next(&self, known: &Weak<Known>) -> Option<Task> {
        let mut round = Instant::now() + ROUND;
        let mut waiting = self.lock();
        loop {
            if waiting.ended {
                return None;
            }
            let now = Instant::now();
            if now >= round {
                round = now + ROUND;
                let all = known.upgrade().map_or_else(Vec::new, |known| known.all());
                waiting.sweeps.extend(all.into_iter().map(|at| (at.to_string(), at)));
            }
            let Waiting { sweeps, purges, running, .. } = &mut *waiting;
            // One at a time for each share: a server that hangs keeps one thread.
            let due = purges.iter().find(|(name, (.., when))| *when <= now && !running.contains(*name));
            if let Some(name) = due.map(|(name, _)| name.clone())
                && let Some((at, tries, _)) = purges.remove(&name)
            {
                running.insert(name);
                return Some(Task::Purge(at, tries));
            }
            if let Some(name) = sweeps.keys().find(|name| !running.contains(*name)).cloned()
                && let Some(at) = sweeps.remove(&name)
            {
                running.insert(name);
                return Some(Task::Sweep(at));
            }
            let next = purges.values().map(|(.., when)| *when).filter(|when| *when > now).min();
            let wait = next.map_or(round, |next| next.min(round)).saturating_duration_since(now);
            waiting = self.changed.wait_timeout(waiting, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn ended(&self, at: &At, again: Option<usize>) {
        let mut waiting = self.lock();
        waiting.running.remove(&at.to_string());
        if let Some(seconds) = again.and_then(|tries| AGAIN.get(tries)) {
            let next = (at.clone(), again.unwrap_or(0) + 1, Instant::now() + Duration::from_secs(*seconds));
            waiting.purges.entry(at.to_string()).or_insert(next);
        }
        self.changed.notify_all();
    }
}

fn look_after(tasks: &Arc<Tasks>, remote: &Arc<Remote>, known: &Weak<Known>) {
    while let Some(task) = tasks.next(known) {
        let (theirs, remote) = (Arc::clone(tasks), Arc::clone(remote));
        let at = match &task {
            Task::Sweep(at) | Task::Purge(at, _) => at.clone(),
        };
        let name = at.clone();
        let work = move || {
            let again = match task {
                Task::Sweep(at) => told(&at, remote.sweep(&at.reach()).map(drop)).map(|()| 0),
                Task::Purge(at, tries) => told(&at, remote.purge(&at.reach()).map(drop)).map(|()| tries),
            };
            theirs.ended(&at, again);
        };
        if let Err(error) = thread::Builder::new().name("share upkeep".into()).spawn(work) {
            tracing::warn!(%error, "no thread to purge a share");
            tasks.ended(&name, None);
        }
    }
}

/// `Some`: it has to be done again.
fn told(at: &At, outcome: Result<()>) -> Option<()> {
    match outcome {
        Ok(()) => None,
        Err(error) => {
            tracing::warn!(share = %at, error = error.chain(), "what was deleted or left on a share is still there");
            Some(())
        }
    }
}
