//! Events about objects, for people who look at one.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time};

/// Events that are written at once.
const AT_ONCE: usize = 4;
/// An API server that is silent for so long keeps the others waiting no longer.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest note that an event takes.
const LONGEST: usize = 1000;

/// Publishes in the background: an event that cannot be written holds nothing up.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    room: Arc<Semaphore>,
}

impl Events {
    /// `instance` tells those of one role apart.
    pub fn new(client: Client, role: &str, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: role.to_owned(), instance };
        Self { recorder: Recorder::new(client, reporter), room: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// As it should be.
    pub fn normal(&self, about: ObjectReference, action: &str, reason: &str, note: String) {
        self.publish(about, EventType::Normal, action, reason, note);
    }

    /// Somebody should look.
    pub fn warning(&self, about: ObjectReference, action: &str, reason: &str, note: String) {
        tracing::warn!(object = about.name, reason, "{note}");
        self.publish(about, EventType::Warning, action, reason, note);
    }

    fn publish(
        &self,
        about: ObjectReference,
        type_: EventType,
        action: &str,
        reason: &str,
        mut note: String,
    ) {
        note.truncate(note.floor_char_boundary(LONGEST));
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let Self { recorder, room } = self.clone();
        tokio::spawn(async move {
            let _room = room.acquire().await;
            match time::timeout(LIMIT, recorder.publish(&event, &about)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, reason = event.reason, "an event was not written"),
                Err(_) => tracing::debug!(reason = event.reason, "an event was not written in time"),
            }
        });
    }
}
