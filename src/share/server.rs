//! What one server may use: helpers, operations, and its breaker. Nothing of it is shared with another server.

use super::breaker::{Breaker, Pace};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) breaker: Breaker,
    helpers: Arc<Counter>,
    copies: Arc<Counter>,
    lost: Arc<Counter>,
    operations: Arc<Counter>,
}

/// What is in use now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Its name.
    pub server: String,
    /// Helper processes, those that hang included.
    pub helpers: usize,
    /// Helper processes that outlive SIGKILL until the server answers.
    pub lost: usize,
    /// Operations in flight.
    pub operations: usize,
    /// Requests are refused.
    pub open: bool,
}

impl Server {
    pub(super) fn new(name: &str, pace: Pace) -> Self {
        Self {
            name: name.to_owned(),
            breaker: Breaker::new(pace),
            helpers: Arc::default(),
            copies: Arc::default(),
            lost: Arc::default(),
            operations: Arc::default(),
        }
    }

    /// Room for one more helper; held until its process is gone.
    pub(super) fn helper(&self, most: usize) -> Option<Held> {
        Counter::hold(&self.helpers, most)
    }

    /// Room for one more helper that makes a copy. Counted apart: a copy may take hours.
    pub(super) fn copy(&self, most: usize) -> Option<Held> {
        Counter::hold(&self.copies, most)
    }

    /// Helpers of both kinds.
    pub(super) fn helpers(&self) -> usize {
        self.helpers.get() + self.copies.get()
    }

    /// Those that make copies.
    pub(super) fn copies(&self) -> usize {
        self.copies.get()
    }

    /// One more operation.
    pub(super) fn operation(&self, most: usize) -> Option<Held> {
        Counter::hold(&self.operations, most)
    }

    /// A helper that does not die.
    pub(super) fn lost(&self) -> Option<Held> {
        Counter::hold(&self.lost, usize::MAX)
    }

    /// Whether forgetting it loses nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.helpers() == 0 && self.operations.get() == 0 && !self.breaker.is_open()
    }

    pub(super) fn status(&self) -> ServerStatus {
        ServerStatus {
            server: self.name.clone(),
            helpers: self.helpers(),
            lost: self.lost.get(),
            operations: self.operations.get(),
            open: self.breaker.is_open(),
        }
    }
}

/// Counts what is held.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicUsize);

impl Counter {
    pub(super) fn hold(counter: &Arc<Self>, most: usize) -> Option<Held> {
        let more = |now: usize| (now < most).then(|| now + 1);
        counter.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Held(Arc::clone(counter)))
    }

    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// One of what a counter counts, until dropped.
#[derive(Debug)]
pub(super) struct Held(Arc<Counter>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}
