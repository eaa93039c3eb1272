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
/// What failed, or passed something over, comes again after so many seconds; then with the next round.
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
    due: BTreeMap<String, (Task, Instant)>,
    running: BTreeSet<String>,
    ended: bool,
}

#[derive(Clone, Debug)]
struct Task {
    at: At,
    what: What,
    /// How often it has been done in vain.
    tries: usize,
}

/// The later ones do what the earlier ones do, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// What was deleted goes.
    Purge,
    /// And what dead controllers left.
    Sweep,
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
                    self.enqueue(at, What::Sweep);
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
        self.enqueue(at, What::Sweep);
    }

    /// What was deleted there is purged, soon.
    pub(super) fn purge(&self, at: &At) {
        self.enqueue(at, What::Purge);
    }

    fn enqueue(&self, at: &At, what: What) {
        self.tasks.lock().add(Task { at: at.clone(), what, tries: 0 }, Instant::now());
        self.tasks.changed.notify_all();
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.tasks.lock().ended = true;
        self.tasks.changed.notify_all();
    }
}

impl Waiting {
    /// One for each share, which does what all that were asked for do, as soon as the first of them.
    fn add(&mut self, task: Task, when: Instant) {
        match self.due.get_mut(&task.at.to_string()) {
            Some((there, due)) => {
                let what = there.what.max(task.what);
                let tries = there.tries.min(task.tries);
                (*there, *due) = (Task { what, tries, ..task }, when.min(*due));
            }
            None => {
                self.due.insert(task.at.to_string(), (task, when));
            }
        }
    }

    /// One at a time for each share: a server that hangs keeps one thread.
    fn take(&mut self, now: Instant) -> Option<Task> {
        let Self { due, running, .. } = self;
        let mut idle = due.iter().filter(|(name, (_, when))| *when <= now && !running.contains(*name));
        let name = idle.next().map(|(name, _)| name.clone())?;
        let (task, _) = due.remove(&name)?;
        running.insert(name);
        Some(task)
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
                all.into_iter().for_each(|at| waiting.add(Task { at, what: What::Sweep, tries: 0 }, now));
            }
            if let Some(task) = waiting.take(now) {
                return Some(task);
            }
            let next = waiting.due.values().map(|(_, when)| *when).filter(|when| *when > now).min();
            let wait = next.map_or(round, |next| next.min(round)).saturating_duration_since(now);
            waiting = self.changed.wait_timeout(waiting, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn ended(&self, task: Task, again: bool) {
        let mut waiting = self.lock();
        waiting.running.remove(&task.at.to_string());
        if let Some(seconds) = AGAIN.get(task.tries).filter(|_| again) {
            let tries = task.tries + 1;
            waiting.add(Task { tries, ..task }, Instant::now() + Duration::from_secs(*seconds));
        }
        self.changed.notify_all();
    }
}

fn look_after(tasks: &Arc<Tasks>, remote: &Arc<Remote>, known: &Weak<Known>) {
    while let Some(task) = tasks.next(known) {
        let (theirs, remote, mine) = (Arc::clone(tasks), Arc::clone(remote), task.clone());
        let work = move || {
            let again = is_to_be_done_again(&remote, &mine);
            theirs.ended(mine, again);
        };
        if let Err(error) = thread::Builder::new().name("share upkeep".into()).spawn(work) {
            tracing::warn!(%error, "no thread to purge a share");
            tasks.ended(task, true);
        }
    }
}

fn is_to_be_done_again(remote: &Remote, Task { at, what, .. }: &Task) -> bool {
    let done = match what {
        What::Purge => remote.purge(&at.reach()),
        What::Sweep => remote.sweep(&at.reach()),
    };
    match done {
        Ok(purge) => purge.passed_over > 0,
        Err(error) => {
            tracing::warn!(share = %at, error = error.chain(), "what was deleted or left on a share is still there");
            true
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::volume::nfs::{Connection, Share};

    fn task(what: What, tries: usize) -> Task {
        let share = Share::parse("nas:/data").unwrap();
        Task { at: At { share, connection: Connection::default() }, what, tries }
    }

    #[test]
    fn what_is_asked_for_twice_is_done_once() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.add(task(What::Sweep, 2), now + Duration::from_secs(9));
        assert!(waiting.take(now).is_none(), "not yet");
        waiting.add(task(What::Purge, 0), now);
        let both = waiting.take(now).unwrap();
        assert_eq!((both.what, both.tries), (What::Sweep, 0), "a sweep purges, too");
        assert!(waiting.due.is_empty());
        waiting.add(task(What::Purge, 0), now);
        assert!(waiting.take(now).is_none(), "one at a time");
    }

    #[test]
    fn what_was_in_vain_comes_again_ever_later_and_is_then_left_to_the_next_round() {
        let tasks = Tasks::default();
        for (tries, seconds) in AGAIN.into_iter().enumerate() {
            let before = Instant::now();
            tasks.ended(task(What::Sweep, tries), true);
            let (name, (again, when)) = tasks.lock().due.pop_first().unwrap();
            assert_eq!((&*name, again.what, again.tries), ("nas:/data", What::Sweep, tries + 1));
            let wait = when - before;
            assert!(wait >= Duration::from_secs(seconds) && wait < Duration::from_secs(seconds + 1));
        }
        tasks.ended(task(What::Sweep, AGAIN.len()), true);
        tasks.ended(task(What::Sweep, 0), false);
        assert!(tasks.lock().due.is_empty());
    }
}
