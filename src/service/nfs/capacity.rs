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
            self.ask(at, thread::Builder::new());
        }
        Capacity { available: available.unwrap_or(size::MAX), largest: size::MAX, smallest: 0 }
    }

    fn asking(&self, at: &At) -> Asking {
        Asking { known: Arc::clone(&self.known), at: at.clone() }
    }

    fn ask(&self, at: &At, thread: thread::Builder) {
        let (remote, asking) = (Arc::clone(&self.remote), self.asking(at));
        let asking = thread.name("capacity".into()).spawn(move || {
            let answer = remote.space(&asking.at.reach());
            let mut known = lock(&asking.known);
            let entry = known.entry(asking.at.share.clone()).or_default();
            entry.asked = Some(Instant::now());
            match answer {
                Ok(space) => entry.available = Some(space.available),
                Err(error) => {
                    tracing::debug!(share = %asking.at, error = error.chain(), "no figures of a share");
                }
            }
        });
        if let Err(error) = asking {
            tracing::warn!(%error, "no thread to ask for the room of a share");
        }
    }
}

/// While it is there nobody else asks. It goes with the thread, and with one that could not be started.
struct Asking {
    known: Arc<Mutex<HashMap<nfs::Share, Entry>>>,
    at: At,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(entry) = lock(&self.known).get_mut(&self.at.share) {
            entry.asking = false;
        }
    }
}

fn lock(known: &Mutex<HashMap<nfs::Share, Entry>>) -> MutexGuard<'_, HashMap<nfs::Share, Entry>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        os::child::Launcher,
        share::{Limits, Owner},
        volume::nfs::Connection,
    };

    #[test]
    fn a_thread_that_does_not_start_does_not_end_the_asking() {
        let remote = Remote::new(Launcher::new(["none"]), Limits::default(), Owner::new("cluster"));
        let capacities = Capacities::new(Arc::new(remote));
        let at = At { share: nfs::Share::parse("nas:/data").unwrap(), connection: Connection::default() };
        lock(&capacities.known).insert(at.share.clone(), Entry { asking: true, ..Entry::default() });
        // More than any machine has.
        capacities.ask(&at, thread::Builder::new().stack_size(1 << 60));
        let entry = lock(&capacities.known)[&at.share];
        assert!(!entry.asking && entry.asked.is_none());
    }
}
