//! What goes wrong again and again is logged now and then.

use crate::error::Error;
use kube::runtime::watcher;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Between two lines about the same subject.
const QUIET: Duration = Duration::from_secs(300);
/// More subjects than this are not told apart.
const MOST: usize = 100;

/// Subjects that something is wrong with.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<HashMap<String, (String, Instant)>>);

impl Complaints {
    fn known(&self) -> MutexGuard<'_, HashMap<String, (String, Instant)>> {
        // Each use below leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API server did not do as it was asked to.
    pub fn about(&self, subject: &str, error: &kube::Error) {
        let text = brief(error);
        if self.is_new(subject, &text) {
            tracing::warn!(error = text, "{subject}: no success with the API server; trying again");
        }
    }

    /// It let nothing be heard.
    pub fn about_watch(&self, subject: &str, error: &watcher::Error) {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => self.about(subject, error),
            // Versions that are too old: all is read anew.
            watcher::Error::WatchError(status) => tracing::debug!(error = status.message, "{subject}"),
            watcher::Error::NoResourceVersion => tracing::debug!(%error, "{subject}"),
        }
    }

    /// The disk could not be used.
    pub fn about_disk(&self, subject: &str, error: &Error) {
        let text = error.chain();
        if self.is_new(subject, &text) {
            tracing::warn!(error = text, "{subject}");
        }
    }

    /// It works again.
    pub fn settled(&self, subject: &str) {
        if self.known().remove(subject).is_some() {
            tracing::info!("{subject}: works again");
        }
    }

    fn is_new(&self, subject: &str, text: &str) -> bool {
        let mut known = self.known();
        known.retain(|_, (_, at)| at.elapsed() < QUIET);
        let told = known.get(subject).is_some_and(|(before, _)| before == text);
        if told || (known.len() >= MOST && !known.contains_key(subject)) {
            return false;
        }
        known.insert(subject.to_owned(), (text.to_owned(), Instant::now()));
        true
    }
}

/// Its own text repeats the whole answer.
fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_until_it_is_settled() {
        let complaints = Complaints::default();
        assert!(complaints.is_new("lease", "refused"));
        assert!(!complaints.is_new("lease", "refused"));
        assert!(complaints.is_new("lease", "forbidden"));
        assert!(complaints.is_new("node", "refused"));
        complaints.settled("lease");
        assert!(complaints.is_new("lease", "forbidden"));
        for n in 0..1000 {
            complaints.is_new(&n.to_string(), "x");
        }
        assert!(complaints.known().len() <= MOST);
    }
}
