//! How volumes went whose server did not let them go in the usual way: for their health, until they are staged again.

use super::place::Place;
use crate::{
    service::health::{Ailment, Severity},
    share::Unmounted,
};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many volumes are remembered.
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<HashMap<String, Ailment>>);

impl Notes {
    /// Logs and remembers what was not plain.
    pub(super) fn unmounted(&self, id: &str, place: &Place, way: Unmounted) {
        let (severity, reason, what) = match way {
            Unmounted::Absent | Unmounted::Plainly => return,
            Unmounted::Lingering => {
                (Severity::Degraded, "UnmountLingers", "the kernel still waits for the server to let it go")
            }
            // Nobody knows whether there was any.
            Unmounted::ByForce => (
                Severity::Degraded,
                "UnmountForced",
                "it was forced off because the server did not answer: what had not been written yet is lost",
            ),
            Unmounted::Lazily => (
                Severity::Degraded,
                "UnmountLazy",
                "it was taken away while something used it, or the server did not answer: its users keep it",
            ),
        };
        let (path, server) = (place.mount.point.display().to_string(), place.server());
        tracing::warn!(volume = id, path, server, reason, "a volume did not go as usual: {what}");
        let message = format!("{path} of server {server}: {what}");
        let mut notes = self.lock();
        if notes.len() < MOST || notes.contains_key(id) {
            notes.insert(id.to_owned(), Ailment { severity, reason, message });
        }
    }

    /// It is mounted anew, and answers.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    pub(super) fn of(&self, id: &str) -> Option<Ailment> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ailment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
