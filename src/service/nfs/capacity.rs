//! GetCapacity of a share: from a cache that never waits.

use super::{
    At, Shares, at_of,
    create::{check_capability, flags},
};
use crate::{
    service::Capacity,
    share::Remote,
    volume::{
        Capability,
        nfs::{self, Settings},
        size,
    },
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

impl Shares {
    /// Never fails: a class that no share can serve has no capacity.
    pub(in crate::service) fn capacity(&self, class: &nfs::Class, capabilities: &[Capability]) -> Capacity {
        let mut settings = Settings::default();
        for capability in capabilities {
            if check_capability(capability).is_err() {
                return Capacity::default();
            }
            settings = settings.overridden_by(flags(capability).unwrap_or_default());
        }
        match settings.overridden_by(class.options.clone()).resolve() {
            Ok(options) => self.capacities.of(&at_of(&class.share, options.connection())),
            Err(_) => Capacity::default(),
        }
    }
}

/// How old an answer gets before the server is asked again.
const FRESH: Duration = Duration::from_secs(60);

/// The room of each share that was asked about.
#[derive(Debug)]
pub(super) struct Capacities {
    remote: Arc<Remote>,
    known: Arc<Mutex<HashMap<nfs::Share, Entry>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    available: Option<u64>,
    asked: Option<Instant>,
    asking: bool,
}

impl Capacities {
    pub(super) fn new(remote: Arc<Remote>) -> Self {
        Self { remote, known: Arc::default() }
    }

    /// What is known of a share. Nothing yet: any size, since the server decides in the end and a wrong refusal
    /// would be believed.
    pub(super) fn of(&self, at: &At) -> Capacity {
        let (available, due) = {
            let mut known = lock(&self.known);
            let entry = known.entry(at.share.clone()).or_default();
            let due = !entry.asking && entry.asked.is_none_or(|asked| asked.elapsed() > FRESH);
            entry.asking |= due;
            (entry.available, due)
        };
        if due {
            self.ask(at);
        }
        Capacity { available: available.unwrap_or(size::MAX), largest: size::MAX, smallest: 0 }
    }

    fn ask(&self, at: &At) {
        let (remote, known, at) = (Arc::clone(&self.remote), Arc::clone(&self.known), at.clone());
        let asking = thread::Builder::new().name("capacity".into()).spawn(move || {
            let answer = remote.space(&at.reach());
            let mut known = lock(&known);
            let entry = known.entry(at.share.clone()).or_default();
            (entry.asking, entry.asked) = (false, Some(Instant::now()));
            match answer {
                Ok(space) => entry.available = Some(space.available),
                Err(error) => tracing::debug!(share = %at, error = error.chain(), "no figures of a share"),
            }
        });
        if let Err(error) = asking {
            tracing::warn!(%error, "no thread to ask for the room of a share");
        }
    }
}

fn lock(known: &Mutex<HashMap<nfs::Share, Entry>>) -> MutexGuard<'_, HashMap<nfs::Share, Entry>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
