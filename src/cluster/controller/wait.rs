//! Waiting for an agent's answer: bounded, and only as long as the agent lives.

use super::{Controller, agents::Liveness, objects::Objects};
use crate::{
    cluster::api::LocalObject,
    error::{Error, Result},
};
use kube::ResourceExt;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// How often the agent's Lease is looked at meanwhile.
const BEAT: Duration = Duration::from_secs(1);
/// How often the API server is asked itself, should the watch be behind or broken.
const ASK: Duration = Duration::from_secs(5);

/// For what the agent does at once: clearing away, letting go.
pub(super) const LEAVING: Duration = Duration::from_secs(20);

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended<T> {
    /// What was waited for.
    Decided(T),
    /// The object is no more.
    Gone,
    /// Its agent has died.
    Dead,
    /// Time is up.
    Late,
}

impl Controller {
    /// Waits until `decide` has a value for the object, which must be as new as `since`; `limit` is the end in any case.
    pub(super) async fn wait<K: LocalObject, T>(
        &self,
        objects: &Objects<K>,
        since: &K,
        limit: Duration,
        decide: impl Fn(&K) -> Option<T>,
    ) -> Result<Ended<T>> {
        let (name, uid) = (since.name_any(), since.uid());
        let is_new = |object: &K| object.generation() >= since.generation();
        let bell = objects.mirror.bell(&name);
        let began = Instant::now();
        let (mut asked, mut shown) = (began, false);
        loop {
            let mut rung = Box::pin(bell.notified());
            rung.as_mut().enable();
            let mut found = objects.mirror.get(&name);
            let vanished = found.as_ref().is_none_or(|object| object.uid() != uid);
            shown |= !vanished;
            // The watch may not have seen it yet, or see no more: what it does not show is asked for.
            if asked.elapsed() >= ASK || (vanished && (shown || asked.elapsed() >= BEAT / 4)) {
                asked = Instant::now();
                found = objects.get(&name).await?.map(Arc::new);
                if found.as_ref().is_none_or(|object| object.uid() != uid) {
                    return Ok(Ended::Gone);
                }
            }
            let found = found.filter(|object| object.uid() == uid && is_new(object));
            if let Some(value) = found.as_deref().and_then(&decide) {
                return Ok(Ended::Decided(value));
            }
            if began.elapsed() >= limit {
                self.unanswered.late();
                return Ok(Ended::Late);
            }
            if self.agents.look(since.node_name()).await? == Liveness::Dead {
                self.unanswered.dead();
                return Ok(Ended::Dead);
            }
            let pause = BEAT.min(limit.saturating_sub(began.elapsed()));
            let pause = if vanished { pause.min(BEAT / 4) } else { pause };
            // Rung or not, it is looked at again.
            let _ = time::timeout(pause, rung).await;
        }
    }

    /// Waits until the object is gone. `Ok(false)`: it is not, and nobody can tell when it will be.
    pub(super) async fn wait_gone<K: LocalObject>(
        &self,
        objects: &Objects<K>,
        object: &K,
        limit: Duration,
    ) -> Result<bool> {
        Ok(matches!(self.wait(objects, object, limit, |_| None::<()>).await?, Ended::Gone))
    }
}

/// The work goes on; the same request again waits for it.
pub(super) fn still_running<K: LocalObject>(name: &str) -> Error {
    Error::Busy(format!(
        "{} {name} is still being worked on; repeat the same request to wait for it",
        K::NOUN
    ))
}

/// Nobody there who could go on.
pub(super) fn nobody<K: LocalObject>(object: &K) -> Error {
    Error::Unavailable(format!(
        "the agent on node {}, where {} {} lies, does not show that it is alive: start the driver's pod there",
        object.node_name(),
        K::NOUN,
        object.name_any()
    ))
}
