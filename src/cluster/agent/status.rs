//! What the agent writes into an object's status.

use super::{
    super::api::{Failure, HEALTHY, Phase},
    kind::Kind,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use serde_json::{Map, Value, json};

/// The condition that every object has.
pub const READY: &str = "Ready";

/// Whether data can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Well,
    /// Why not: one word, and more for people.
    Ill(&'static str, String),
}

/// What is to be said.
#[derive(Clone, Debug)]
pub struct Report {
    pub phase: Phase,
    /// Whether the data is there and can be used; the condition `Ready`.
    pub ready: bool,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
    pub failure: Option<Failure>,
    /// What a look at the data has shown; the condition `Healthy` of kinds that can be ill. `None`: nobody has looked.
    pub health: Option<Health>,
    /// The store it lies in, where it is there.
    pub store: Option<String>,
    /// What the kind tells of it.
    pub answer: Map<String, Value>,
}

impl Report {
    /// A state without data, or without news of it.
    pub fn new(phase: Phase, reason: &str, message: impl Into<String>) -> Self {
        Self {
            phase,
            ready: false,
            reason: reason.to_owned(),
            message: message.into(),
            failure: None,
            health: None,
            store: None,
            answer: Map::new(),
        }
    }

    /// The same, because of an error.
    pub fn failed(phase: Phase, failure: Failure) -> Self {
        Self { failure: Some(failure.clone()), ..Self::new(phase, &failure.reason, failure.message) }
    }
}

/// The longest message that a condition takes.
const LONGEST: usize = 32_768;

/// The patch that makes a status say this; `None`: it does already.
pub fn patch<K: Kind>(object: &K, report: &Report) -> Option<Value> {
    let generation = object.meta().generation;
    let old = object.status();
    let mut conditions = object.reported().map(|reported| reported.conditions.to_vec()).unwrap_or_default();
    set(&mut conditions, READY, report.ready, &report.reason, &report.message, generation);
    match report.health.as_ref().filter(|_| K::IS_USED) {
        Some(Health::Well) => set(&mut conditions, HEALTHY, true, "Usable", "", generation),
        Some(Health::Ill(reason, message)) => {
            set(&mut conditions, HEALTHY, false, reason, message, generation);
        }
        None => {}
    }
    let mut new = report.answer.clone();
    new.insert("phase".into(), json!(report.phase));
    new.insert("observedGeneration".into(), json!(generation.unwrap_or(0)));
    new.insert("failure".into(), json!(report.failure));
    new.insert("conditions".into(), json!(conditions));
    if let Some(store) = &report.store {
        new.insert("store".into(), json!(store));
    }
    // `null` takes a field away, and is what an absent one is.
    let same = new.iter().all(|(key, value)| old.get(key).unwrap_or(&Value::Null) == value);
    (!same).then_some(Value::Object(new))
}

/// Sets one condition; the others are left as they are.
fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    is_true: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
) {
    let status = if is_true { "True" } else { "False" };
    let at = conditions.iter().position(|condition| condition.type_ == type_);
    let since = at
        .and_then(|at| conditions.get(at))
        .filter(|condition| condition.status == status)
        .map_or_else(|| Time(now()), |condition| condition.last_transition_time.clone());
    let mut message = message.to_owned();
    message.truncate(message.floor_char_boundary(LONGEST));
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since,
        observed_generation: generation,
    };
    match at.and_then(|at| conditions.get_mut(at)) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// The clock's time, to the second: that is what objects hold, and what is compared with them.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::super::api::{LocalSnapshot, LocalSnapshotSpec, LocalSnapshotStatus};
    use super::*;
    use crate::error::Error;

    fn object() -> LocalSnapshot {
        let spec = LocalSnapshotSpec {
            node_name: "n".into(),
            name: "s".into(),
            source_volume_id: "v".into(),
            desired: Default::default(),
        };
        let mut object = LocalSnapshot::new("6f9619ff-8b86-d011-b42d-00c04fc964ff", spec);
        object.metadata.generation = Some(3);
        object
    }

    fn apply(object: &mut LocalSnapshot, report: &Report) -> bool {
        let Some(Value::Object(patch)) = patch(object, report) else { return false };
        let Value::Object(mut status) = object.status.as_ref().map_or(json!({}), |status| json!(status))
        else {
            unreachable!()
        };
        status.extend(patch);
        status.retain(|_, value| !value.is_null());
        object.status = Some(serde_json::from_value::<LocalSnapshotStatus>(Value::Object(status)).unwrap());
        true
    }

    #[test]
    fn a_status_is_written_once_and_keeps_what_others_wrote() {
        let mut object = object();
        let stranger = json!([{ "type": "Unclaimed", "status": "True", "reason": "X", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
        object.status = Some(LocalSnapshotStatus {
            conditions: serde_json::from_value(stranger).unwrap(),
            ..Default::default()
        });
        let error = Error::NoSpace("full".into());
        let failed = Report::failed(Phase::Failed, Failure::from(&error));
        assert!(apply(&mut object, &failed));
        assert!(!apply(&mut object, &failed), "nothing is left to write");
        let status = object.status.clone().unwrap();
        assert_eq!((status.phase, status.observed_generation), (Phase::Failed, 3));
        assert_eq!(status.failure.unwrap().reason, "NoSpace");
        let conditions: Vec<_> = status.conditions.iter().map(|c| (&c.type_[..], &c.reason[..])).collect();
        assert_eq!(conditions, [("Unclaimed", "X"), ("Ready", "NoSpace")]);

        // Nobody uses a snapshot: it is there or it is not.
        let health = Some(Health::Ill("ImageMissing", "gone".to_owned()));
        assert!(!apply(&mut object, &Report { health, ..failed }));
        let ready = Report { ready: true, store: Some("u".into()), ..Report::new(Phase::Ready, "Made", "") };
        assert!(apply(&mut object, &ready));
        let status = object.status.clone().unwrap();
        assert_eq!((status.failure, status.store), (None, Some("u".into())));
        // Where the store is not known it stays on record.
        assert!(apply(&mut object, &Report::new(Phase::Lost, "Lost", "gone")));
        assert_eq!(object.status.unwrap().store.as_deref(), Some("u"));
    }

    #[test]
    fn a_condition_changes_its_time_with_its_status_alone() {
        let mut conditions = Vec::new();
        let is = |conditions: &mut _, ready, reason, generation| {
            set(conditions, READY, ready, reason, "", Some(generation));
        };
        is(&mut conditions, false, "Making", 1);
        let long_ago = Time(Timestamp::from_second(1).unwrap());
        conditions[0].last_transition_time = long_ago.clone();
        is(&mut conditions, false, "Busy", 2);
        assert_eq!((conditions.len(), &conditions[0].last_transition_time), (1, &long_ago));
        is(&mut conditions, true, "Made", 2);
        assert_ne!(conditions[0].last_transition_time, long_ago);
    }
}
