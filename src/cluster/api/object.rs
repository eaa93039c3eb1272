//! What objects of volumes and of snapshots have alike: a wish about data of one node, written by the controller, and
//! what that node's agent reports of it.

use super::{Desired, FINALIZER, Failure, LocalSnapshot, LocalVolume, ORPHANED_LABEL, Phase};
use crate::error::Error;
use k8s_openapi::{ClusterResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// What every status has.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// Where it stands.
    pub phase: Phase,
    /// The generation of the object that this speaks of.
    pub observed_generation: i64,
    /// The orchestrator's id for it, once it was there.
    pub id: Option<&'a str>,
    /// The identity of the store it lies in.
    pub store: Option<&'a str>,
    /// Why the wish of this generation is not fulfilled.
    pub failure: Option<&'a Failure>,
    /// As they stand in the object.
    pub conditions: &'a [Condition],
}

/// A LocalVolume or a LocalSnapshot.
pub trait LocalObject:
    Resource<DynamicType = (), Scope = ClusterResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// What its data is, as messages call it.
    const NOUN: &'static str;

    /// The Node on whose disk the data lies.
    fn node_name(&self) -> &str;

    /// Whether there is to be data.
    fn desired(&self) -> Desired;

    /// `None`: its agent has said nothing yet.
    fn reported(&self) -> Option<Reported<'_>>;

    /// `None`: its agent has said nothing yet.
    fn phase(&self) -> Option<Phase> {
        self.reported().map(|reported| reported.phase)
    }

    /// The identity of the store it lies in, since it was there for the first time.
    fn store(&self) -> Option<&str> {
        self.reported()?.store
    }

    /// A condition of its status.
    fn condition(&self, type_: &str) -> Option<&Condition> {
        self.reported()?.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Why a wish, of this or an earlier generation, is not fulfilled.
    fn failure(&self) -> Option<&Failure> {
        self.reported()?.failure
    }

    /// An agent has taken it on: from then on there may be side effects.
    fn is_accepted(&self) -> bool {
        self.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// It is being deleted.
    fn is_deleted(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }

    /// It is being deleted, or its data is to be.
    fn is_leaving(&self) -> bool {
        self.desired() == Desired::Absent || self.is_deleted()
    }

    /// An agent has found it on its disk, and nobody has asked for it since.
    fn is_orphaned(&self) -> bool {
        self.labels().contains_key(ORPHANED_LABEL)
    }

    /// There was data once, as its agent has reported: nothing may ever be made in its place.
    fn was_there(&self) -> bool {
        self.reported().is_some_and(|reported| {
            let phase = matches!(reported.phase, Phase::Ready | Phase::Lost | Phase::Orphaned);
            phase || reported.store.is_some() || reported.id.is_some()
        })
    }

    /// Counts the changes of its wish; unlike a resource version it tells nothing of reports.
    fn generation(&self) -> i64 {
        self.meta().generation.unwrap_or_default()
    }

    /// What was reported speaks of the wish as it stands now.
    fn is_answered(&self) -> bool {
        self.reported().is_some_and(|reported| reported.observed_generation == self.generation())
    }

    /// The agent's answer to the wish as it stands now, where that is a refusal.
    fn failure_now(&self) -> Option<Error> {
        self.failure().filter(|_| self.is_answered()).map(Error::from)
    }

    /// The agent says that it cannot be made, and that nothing of it is left.
    fn has_failed(&self) -> bool {
        self.phase() == Some(Phase::Failed) && self.failure_now().is_some()
    }
}

impl LocalObject for LocalVolume {
    const NOUN: &'static str = "volume";

    fn node_name(&self) -> &str {
        &self.spec.node_name
    }

    fn desired(&self) -> Desired {
        self.spec.desired
    }

    fn reported(&self) -> Option<Reported<'_>> {
        self.status.as_ref().map(|status| Reported {
            phase: status.phase,
            observed_generation: status.observed_generation,
            id: status.volume_id.as_deref(),
            store: status.store.as_deref(),
            failure: status.failure.as_ref(),
            conditions: &status.conditions,
        })
    }
}

impl LocalObject for LocalSnapshot {
    const NOUN: &'static str = "snapshot";

    fn node_name(&self) -> &str {
        &self.spec.node_name
    }

    fn desired(&self) -> Desired {
        self.spec.desired
    }

    fn reported(&self) -> Option<Reported<'_>> {
        self.status.as_ref().map(|status| Reported {
            phase: status.phase,
            observed_generation: status.observed_generation,
            id: status.snapshot_id.as_deref(),
            store: status.store.as_deref(),
            failure: status.failure.as_ref(),
            conditions: &status.conditions,
        })
    }
}
