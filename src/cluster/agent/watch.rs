//! Hears of objects, and compares them with the disk now and then.

use super::{
    super::api::Desired,
    Agent,
    index::{Index, Seen, differences},
    kind::Kind,
    queue::Queue,
    work::Keeper,
};
use crate::{error::Result, service::Service};
use futures_util::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::watcher::{self, DefaultBackoff, Event},
};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{sync::Notify, time};

/// Between two comparisons of objects with the disk that nothing asks for.
const BEAT: Duration = Duration::from_secs(60);
/// Objects that are read at once.
const PAGE: u32 = 100;
/// Between two attempts to watch a kind that is not served.
const NOT_SERVED: Duration = Duration::from_secs(2);

/// One kind of object on this node.
pub struct Watch<K: Kind> {
    agent: Arc<Agent>,
    index: Arc<Index>,
    queue: Queue<Keeper<K>>,
    compare: Notify,
}

/// Names on disk, and whether every pool was read.
type Disk = (HashSet<String>, bool);

impl<K: Kind> Watch<K> {
    pub fn new(agent: &Arc<Agent>) -> Self {
        let figures = agent.figures.of(K::KIND);
        let index = Arc::clone(&figures.index);
        let keeper = Keeper {
            agent: Arc::clone(agent),
            api: Api::all(agent.client.clone()),
            index: Arc::clone(&index),
        };
        let queue = Queue::new(keeper, figures.queued.clone());
        Self { agent: Arc::clone(agent), index, queue, compare: Notify::new() }
    }

    /// Until it is dropped.
    pub async fn run(&self) {
        tokio::join!(self.listen(), self.beat(), self.queue.stay_small());
    }

    async fn listen(&self) {
        loop {
            self.follow(self.agent.client.clone()).await;
            // A kind that comes back is another one: what was there before says nothing.
            self.index.unlist();
            time::sleep(NOT_SERVED).await;
        }
    }

    /// Returns when the kind is not served.
    async fn follow(&self, client: Client) {
        let selector = format!("spec.nodeName={}", self.agent.node_name);
        let config = watcher::Config::default().fields(&selector).page_size(PAGE);
        let events = kube::runtime::watcher(Api::<DeserializeGuard<K>>::all(client), config);
        let mut events = std::pin::pin!(events);
        let mut backoff = DefaultBackoff::default();
        let mut listed = HashSet::new();
        let subject = format!("watching {}", K::plural(&()));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if !matches!(event, Event::Init) {
                        self.agent.complaints.settled(&subject);
                    }
                    self.hear(event, &mut listed);
                }
                Err(error) => {
                    self.agent.complaints.about_watch(&subject, &error);
                    if is_not_served(&error) {
                        return;
                    }
                    time::sleep(backoff.next().unwrap_or(NOT_SERVED)).await;
                }
            }
        }
    }

    fn hear(&self, event: Event<DeserializeGuard<K>>, listed: &mut HashSet<String>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert(object.name_any());
                self.changed(object);
            }
            Event::InitDone => {
                for name in self.index.list(listed) {
                    self.queue.put(&name, None);
                }
                tracing::info!(objects = listed.len(), "watching {}", K::plural(&()));
                listed.clear();
                self.compare.notify_one();
                // The kinds may be new ones, without this node.
                self.agent.node_changed.notify_one();
            }
            Event::Apply(object) => self.changed(object),
            Event::Delete(object) => self.gone(&object),
        }
    }

    fn changed(&self, object: DeserializeGuard<K>) {
        let name = object.name_any();
        match object.0 {
            Ok(mut object) => {
                self.index.set(&name, Seen::of(&object));
                if !self.index.is_own(&name, object.meta().resource_version.as_deref()) {
                    object.managed_fields_mut().clear();
                    self.queue.put(&name, Some(object));
                }
            }
            Err(invalid) => {
                self.index.set(&name, Seen::default());
                let note = format!(
                    "this driver cannot read the object, and leaves it and its data alone: {}; is it of a newer version?",
                    invalid.error
                );
                let reference = DeserializeGuard::<K>(Err(invalid)).object_ref(&());
                self.agent.events.warning(reference, "Read", "Unreadable", note);
            }
        }
    }

    fn gone(&self, object: &DeserializeGuard<K>) {
        let name = object.name_any();
        self.index.remove(&name);
        let wanted_gone = object.0.as_ref().is_ok_and(|object| object.desired() == Desired::Absent);
        if !wanted_gone {
            // Its data, if there is any, gets another object.
            self.queue.put(&name, None);
        }
    }

    async fn beat(&self) {
        loop {
            tokio::select! {
                () = self.compare.notified() => {}
                () = time::sleep(BEAT) => {}
            }
            // Objects first: what is made meanwhile is on disk and among them, or is taken for new and found to exist.
            let Some(objects) = self.index.all() else { continue };
            match self.agent.short(disk::<K>).await {
                Ok((names, whole)) => {
                    for name in differences(&objects, &names, whole) {
                        self.queue.put(&name, None);
                    }
                }
                Err(error) => self.agent.complaints.about_disk("the pools cannot be compared", &error),
            }
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what runs on a blocking thread may fail")]
fn disk<K: Kind>(service: &Service) -> Result<Disk> {
    let mut names = HashSet::new();
    let mut whole = true;
    for (name, pool) in service.store().pools() {
        let keys = pool.and_then(|pool| {
            pool.verify()?;
            pool.keys(K::KIND)
        });
        match keys {
            Ok(keys) => names.extend(keys.iter().map(ToString::to_string)),
            Err(error) => {
                tracing::debug!(pool = name, error = error.chain(), "left out of a comparison");
                whole = false;
            }
        }
    }
    Ok((names, whole))
}

fn is_not_served(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code,
        watcher::Error::WatchError(status) => status.code,
        _ => 0,
    };
    code == 404
}
