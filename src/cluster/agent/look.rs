//! Looks what lies on disk for an object, and announces what has none.

use super::{
    super::api::{Desired, FINALIZER, ORPHANED_LABEL},
    kind::Kind,
    queue::Outcome,
    status::Health,
    work::{Keeper, Known, Step},
};
use crate::{
    error::{Error, Result},
    failpoint,
    service::Service,
    store::Pool,
    volume::Key,
};
use kube::{ResourceExt, api::PostParams};
use std::sync::Arc;

/// What lies on disk.
pub enum Found<R> {
    Present { store: String, pool: String, record: R, health: Health },
    Absent,
    Unknown(Error),
}

impl<R> Found<R> {
    /// A record, or why there is none that can be used.
    pub fn of<K: Kind<Record = R>>(found: Result<Option<(Arc<Pool>, R)>>) -> Self {
        match found {
            Ok(Some((pool, record))) => {
                let health = K::ailment(&pool, &record)
                    .map_or(Health::Well, |ailment| Health::Ill(ailment.reason, ailment.message));
                Self::Present {
                    store: pool.store().to_string(),
                    pool: pool.name().to_owned(),
                    record,
                    health,
                }
            }
            Ok(None) => Self::Absent,
            Err(error) => Self::Unknown(error),
        }
    }
}

impl<K: Kind> Keeper<K> {
    /// What lies on disk for an object. Where data is to go, every pool must have been asked.
    pub async fn look(&self, object: &Arc<K>, key: Option<Key>) -> Found<K::Record> {
        let Some(key) = key else { return Found::Absent };
        let object = Arc::clone(object);
        let look = move |service: &Service| {
            let store = service.store();
            let everywhere = object.desired() == Desired::Absent;
            let found = if everywhere { K::find_anywhere(store, key) } else { object.find(store, key) };
            Ok(Found::of::<K>(found))
        };
        self.agent.short(look).await.unwrap_or_else(Found::Unknown)
    }

    /// There is no object of that name: what lies on disk under it gets one.
    pub async fn announce(&self, name: &str) -> kube::Result<Step<K>> {
        let Some(key) = Key::parse(name) else { return Ok(Step::End(Outcome::Done)) };
        let node_name = self.agent.node_name.clone();
        let look = move |service: &Service| {
            let found = K::find_anywhere(service.store(), key)?;
            Ok(found.map(|(pool, record)| K::announcement(&record, &pool, &node_name)))
        };
        let mut object: K = match self.agent.short(look).await {
            Ok(Some(object)) => object,
            Ok(None) => return Ok(Step::End(Outcome::Done)),
            Err(error) => {
                self.agent.complaints.about_disk(&format!("{} {name} cannot be announced", K::KIND), &error);
                return Ok(Step::End(Outcome::Done));
            }
        };
        object.finalizers_mut().push(FINALIZER.to_owned());
        object.labels_mut().insert(ORPHANED_LABEL.to_owned(), "true".to_owned());
        match self.agent.in_turn(self.api.create(&PostParams::default(), &object)).await {
            Ok(created) => {
                failpoint!("agent.announced");
                self.index.wrote(name, created.resource_version());
                let note = "found on this node without an object, and announced".to_owned();
                self.agent.events.normal(created.object_ref(&()), "Look", "Announced", note);
                Ok(Step::Then(Known::Fresh(Arc::new(created))))
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Step::Then(Known::Unknown)),
            // The kind is not served, or on its way out: all is compared again when it is back.
            Err(kube::Error::Api(status)) if is_not_served(&status) => Ok(Step::End(Outcome::Done)),
            Err(error) => Err(error),
        }
    }
}

/// A kind that does not exist, or is being deleted.
fn is_not_served(status: &kube::core::Status) -> bool {
    matches!(status.code, 404 | 405) || (status.is_forbidden() && status.message.contains("terminating"))
}
