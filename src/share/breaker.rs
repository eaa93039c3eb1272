//! One breaker for each server: after failures requests are refused at once instead of waiting for their
//! deadlines, until one of them has found the server answering.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// When it opens, and how it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// That many failures in a row open it. An operation that hung does alone.
    pub failures: u32,
    /// So long after a failure nobody tries again.
    pub gap: Duration,
    /// So many requests wait for the gap and the try, all others are refused: whoever asks first after the server
    /// has come back gets its answer.
    pub waiting: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { failures: 3, gap: Duration::from_secs(1), waiting: 4 }
    }
}

/// Closed: requests go on. Open: they are refused, but for one at a time, the probe.
#[derive(Debug)]
pub struct Breaker {
    pace: Pace,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Since when; the last failure.
    open: Option<Instant>,
    probing: bool,
    waiting: usize,
}

/// The permission to go on.
#[derive(Debug)]
pub enum Pass<'a> {
    /// The breaker is closed.
    Free,
    /// The bearer finds out whether the server answers.
    Probe(Probe<'a>),
}

/// Dropped without [`Probe::succeeded`] it is a failure.
#[derive(Debug)]
pub struct Probe<'a> {
    breaker: &'a Breaker,
    answered: bool,
}

impl Breaker {
    /// A closed one.
    pub fn new(pace: Pace) -> Self {
        Self { pace, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests are refused.
    pub fn is_open(&self) -> bool {
        self.state().open.is_some()
    }

    /// Asks to go on; waits within `limit` if the answer is near and not too many wait already. `None`: refused.
    pub fn enter(&self, limit: Duration) -> Option<Pass<'_>> {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        loop {
            let Some(last) = state.open else { return Some(Pass::Free) };
            let now = Instant::now();
            let gap = (last + self.pace.gap).saturating_duration_since(now);
            if !state.probing && gap.is_zero() {
                state.probing = true;
                return Some(Pass::Probe(Probe { breaker: self, answered: false }));
            }
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() || state.waiting >= self.pace.waiting {
                return None;
            }
            let wait = if state.probing { left } else { left.min(gap) };
            state.waiting += 1;
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// The server has answered, whatever it said.
    pub fn succeeded(&self) {
        let mut state = self.state();
        (state.failures, state.open) = (0, None);
        self.changed.notify_all();
    }

    /// The server could not be reached.
    pub fn failed(&self) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.pace.failures {
            state.open = Some(Instant::now());
        }
    }

    /// An operation did not end and had to be forced.
    pub fn hung(&self) {
        let mut state = self.state();
        state.failures = state.failures.max(self.pace.failures);
        state.open = Some(Instant::now());
    }
}

impl Probe<'_> {
    /// The server answers: everybody goes on.
    pub fn succeeded(mut self) {
        self.answered = true;
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let mut state = self.breaker.state();
        state.probing = false;
        if self.answered {
            (state.failures, state.open) = (0, None);
        } else {
            state.open = Some(Instant::now());
        }
        self.breaker.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use std::{sync::Arc, thread};

    const GAP: Duration = Duration::from_millis(150);
    const LONG: Duration = Duration::from_secs(10);

    fn breaker() -> Breaker {
        Breaker::new(Pace { failures: 3, gap: GAP, waiting: 2 })
    }

    fn probe(breaker: &Breaker, limit: Duration) -> Probe<'_> {
        match breaker.enter(limit).unwrap() {
            Pass::Probe(probe) => probe,
            Pass::Free => panic!("closed"),
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_success_starts_anew() {
        let breaker = breaker();
        for _ in 0..5 {
            breaker.failed();
            breaker.failed();
            breaker.succeeded();
        }
        assert!(matches!(breaker.enter(Duration::ZERO), Some(Pass::Free)));
        (0..3).for_each(|_| breaker.failed());
        assert!(breaker.is_open() && breaker.enter(Duration::ZERO).is_none());
        let other = self::breaker();
        other.hung();
        assert!(other.enter(Duration::ZERO).is_none());
    }

    #[test]
    fn one_at_a_time_finds_out() {
        let breaker = breaker();
        breaker.hung();
        let begin = Instant::now();
        let first = probe(&breaker, LONG);
        assert!(begin.elapsed() >= GAP - Duration::from_millis(5));
        assert!(breaker.enter(Duration::ZERO).is_none(), "a second one");
        // What it does not say is a failure, after which the gap begins again.
        drop(first);
        assert!(breaker.enter(Duration::ZERO).is_none());
        probe(&breaker, LONG).succeeded();
        assert!(matches!(breaker.enter(Duration::ZERO), Some(Pass::Free)));
    }

    #[test]
    fn some_wait_for_the_probe_and_the_others_do_not() {
        let breaker = Arc::new(breaker());
        breaker.hung();
        let first = probe(&breaker, LONG);
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let breaker = Arc::clone(&breaker);
                thread::spawn(move || matches!(breaker.enter(LONG), Some(Pass::Free)))
            })
            .collect();
        while breaker.state().waiting < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        let begin = Instant::now();
        assert!(breaker.enter(LONG).is_none());
        assert!(begin.elapsed() < LONG / 2);
        first.succeeded();
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        assert_eq!(breaker.state().waiting, 0);
    }
}
