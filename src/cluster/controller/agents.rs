//! Which agents are alive: each renews a Lease.
//!
//! A renewal counts from the moment at which it was seen here, so the clocks of nodes do not matter, but for what was
//! there before this process: there the Lease's own time has to do.

use super::{
    mirror::Complaints,
    objects::{chain, get},
};
use crate::error::Result;
use futures_util::StreamExt;
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::task::{self, JoinHandle};

/// How an agent's Lease is called: this, and its Node's name.
const PREFIX: &str = "wharf-node-";
/// Where a Lease does not say how long it lasts.
const LASTS: Duration = Duration::from_secs(40);
/// How much later than here it may be at a node.
const SKEW: Duration = Duration::from_secs(5);
/// After the API server was away, agents need this long to renew.
const SETTLING: Duration = Duration::from_secs(15);
/// A watch that fails is tried again within this time: kube's `default_backoff` is 30 s at most, and as much of jitter.
const INTERRUPTED: Duration = Duration::from_secs(60);

/// Whether an agent can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It has renewed its Lease in time.
    Alive,
    /// It has not, or has none.
    Dead,
    /// It cannot be told yet: the API server is, or was until now, away.
    Unknown,
}

/// All agents.
#[derive(Debug)]
pub(super) struct Agents {
    api: Api<Lease>,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By the name of the Node.
    renewals: HashMap<String, Renewal>,
    listed: bool,
    /// Leases may look old until then.
    settling: Option<Instant>,
    /// Those of a list that is still coming in.
    listing: Vec<String>,
    /// Why nothing has been listed yet, as far as that is known.
    trouble: String,
}

#[derive(Clone, Copy, Debug)]
struct Renewal {
    time: Option<Timestamp>,
    /// `None`: it was too old when it was first seen.
    seen: Option<Instant>,
    lasts: Duration,
}

impl Agents {
    /// Watches the Leases in the driver's namespace.
    pub(super) fn watch(client: Client, namespace: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (leases, notes) = (api.clone(), Arc::clone(&seen));
        let task = task::spawn(async move {
            let mut complaints = Complaints::default();
            let mut events = Box::pin(watcher(leases, watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => lock(&notes).take(event, Instant::now(), Timestamp::now()),
                    Err(error) => {
                        lock(&notes).interrupted(Instant::now(), chain(&error));
                        complaints.add("leases", &error);
                    }
                }
            }
        });
        Self { api, seen, task }
    }

    /// Why they have not been listed yet, as far as that is known; `None`: they have.
    pub(super) fn why_unlisted(&self) -> Option<String> {
        let seen = lock(&self.seen);
        (!seen.listed).then(|| seen.trouble.clone())
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// As far as the watch has seen.
    pub(super) fn glance(&self, node_name: &str) -> Liveness {
        lock(&self.seen).of(node_name, Instant::now())
    }

    /// The same, and where the watch does not show it alive the API server is asked: the watch may be behind.
    pub(super) async fn look(&self, node_name: &str) -> Result<Liveness> {
        let glance = self.glance(node_name);
        if glance == Liveness::Alive {
            return Ok(glance);
        }
        let lease = get(&self.api, &format!("{PREFIX}{node_name}"), "agent").await?;
        let mut seen = lock(&self.seen);
        if let Some(lease) = lease {
            seen.note(&lease, false, Instant::now(), Timestamp::now());
        }
        Ok(seen.of(node_name, Instant::now()))
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn take(&mut self, event: Event<Lease>, now: Instant, clock: Timestamp) {
        match event {
            Event::Apply(lease) => self.note(&lease, true, now, clock),
            Event::Delete(lease) => {
                if let Some(node) = lease.name_any().strip_prefix(PREFIX) {
                    self.renewals.remove(node);
                }
            }
            Event::Init => self.listing.clear(),
            Event::InitApply(lease) => {
                self.note(&lease, false, now, clock);
                self.listing.push(lease.name_any());
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing);
                self.renewals.retain(|node, _| listed.contains(&format!("{PREFIX}{node}")));
                // Listed again: the watch was broken for long, and so was perhaps the way of all agents.
                self.settling = self.listed.then(|| now + SETTLING).max(self.settling);
                self.listed = true;
            }
        }
    }

    /// Nothing is heard for a while, and agents may not be heard either. A watch that is taken up where it was
    /// interrupted does not say so.
    fn interrupted(&mut self, now: Instant, why: String) {
        self.trouble = why;
        self.settling = Some(now + INTERRUPTED + SETTLING);
    }

    fn note(&mut self, lease: &Lease, watched: bool, now: Instant, clock: Timestamp) {
        let name = lease.name_any();
        let Some(node) = name.strip_prefix(PREFIX) else { return };
        let Some(spec) = &lease.spec else { return };
        let time = spec.renew_time.as_ref().map(|time| time.0);
        let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = lasts.map_or(LASTS, Duration::from_secs);
        let known = self.renewals.get(node).copied();
        let seen = match known {
            Some(known) if known.time == time => known.seen,
            // Renewed while it was watched or known: it is alive now, whatever its clock says.
            Some(_) => Some(now),
            None if watched => Some(now),
            None => time.and_then(|time| first_seen(time, lasts, now, clock)),
        };
        // An agent that ends gives its Lease up.
        let given_up = spec.holder_identity.as_deref().is_none_or(str::is_empty);
        let seen = seen.filter(|_| !given_up);
        self.renewals.insert(node.to_owned(), Renewal { time, seen, lasts });
    }

    fn of(&self, node_name: &str, now: Instant) -> Liveness {
        if !self.listed {
            return Liveness::Unknown;
        }
        let renewal = self.renewals.get(node_name);
        let seen = renewal.and_then(|renewal| Some((renewal.seen?, renewal.lasts)));
        match seen {
            Some((seen, lasts)) if now.saturating_duration_since(seen) <= lasts => Liveness::Alive,
            _ if renewal.is_some() && self.settling.is_some_and(|until| now < until) => Liveness::Unknown,
            _ => Liveness::Dead,
        }
    }
}

/// What was there before: `None` if it was too old then, or from a clock that is not to be trusted.
fn first_seen(time: Timestamp, lasts: Duration, now: Instant, clock: Timestamp) -> Option<Instant> {
    let age = clock.duration_since(time);
    let Ok(age) = Duration::try_from(age) else {
        // It says that it was renewed after now.
        return (age.unsigned_abs() <= SKEW).then_some(now);
    };
    (age <= lasts).then(|| now.checked_sub(age).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime};
    use kube::api::ObjectMeta;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(node: &str, renewed: Timestamp) -> Lease {
        Lease {
            metadata: ObjectMeta { name: Some(format!("{PREFIX}{node}")), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some("pod".into()),
                lease_duration_seconds: Some(40),
                renew_time: Some(MicroTime(renewed)),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn an_agent_lives_as_long_as_it_renews() {
        let (now, clock) = (Instant::now(), Timestamp::now());
        let mut seen = Seen::default();
        assert_eq!(seen.of("a", now), Liveness::Unknown);
        seen.take(Event::Init, now, clock);
        seen.take(Event::InitApply(lease("a", clock - 30 * SECOND)), now, clock);
        seen.take(Event::InitApply(lease("old", clock - 41 * SECOND)), now, clock);
        seen.take(Event::InitApply(lease("ahead", clock + 600 * SECOND)), now, clock);
        seen.take(Event::InitDone, now, clock);
        assert_eq!(seen.of("a", now), Liveness::Alive);
        for dead in ["old", "ahead", "none"] {
            assert_eq!(seen.of(dead, now), Liveness::Dead, "{dead}");
        }
        assert_eq!(seen.of("a", now + 11 * SECOND), Liveness::Dead);
        // Its clock may be wrong: that it changes is what counts.
        seen.take(Event::Apply(lease("old", clock - 31 * SECOND)), now + 20 * SECOND, clock);
        assert_eq!(seen.of("old", now + 59 * SECOND), Liveness::Alive);
        assert_eq!(seen.of("old", now + 61 * SECOND), Liveness::Dead);
        seen.take(Event::Delete(lease("old", clock)), now, clock);
        assert_eq!(seen.of("old", now + 21 * SECOND), Liveness::Dead);
    }

    #[test]
    fn a_lease_that_is_given_up_is_over() {
        let (now, clock) = (Instant::now(), Timestamp::now());
        let mut seen = Seen { listed: true, ..Seen::default() };
        seen.take(Event::Apply(lease("a", clock)), now, clock);
        assert_eq!(seen.of("a", now), Liveness::Alive);
        let mut given_up = lease("a", clock + SECOND);
        given_up.spec.as_mut().unwrap().holder_identity = None;
        seen.take(Event::Apply(given_up), now, clock);
        assert_eq!(seen.of("a", now), Liveness::Dead);
    }

    #[test]
    fn after_the_api_server_was_away_nobody_is_dead_at_once() {
        let (now, clock) = (Instant::now(), Timestamp::now());
        let mut seen = Seen::default();
        for at in [now, now + 600 * SECOND] {
            seen.take(Event::Init, at, clock);
            seen.take(Event::InitApply(lease("a", clock)), at, clock);
            seen.take(Event::InitDone, at, clock);
        }
        let again = now + 600 * SECOND;
        assert_eq!(seen.of("a", again), Liveness::Unknown);
        assert_eq!(seen.of("never-there", again), Liveness::Dead);
        assert_eq!(seen.of("a", again + SETTLING), Liveness::Dead);
        // The watch need not be made anew for it.
        let later = again + 600 * SECOND;
        seen.interrupted(later, String::new());
        assert_eq!(seen.of("a", later + INTERRUPTED), Liveness::Unknown);
        seen.take(Event::Apply(lease("b", clock)), later + INTERRUPTED, clock);
        assert_eq!(seen.of("a", later + INTERRUPTED), Liveness::Unknown, "the others come one by one");
        assert_eq!(seen.of("a", later + INTERRUPTED + SETTLING), Liveness::Dead);
    }
}
