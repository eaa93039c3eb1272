//! What a watch has seen of one kind of objects, and who waits for which of them.
//!
//! One watch for a kind, however many requests wait. It may be behind: what it shows is never the last word.

use futures_util::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{self, Lookup, ObjectRef, Store},
        watcher,
        watcher::Event,
    },
};
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Notify,
    task::{self, JoinHandle},
};

/// A watch that fails is told of again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Objects of one kind.
pub(super) struct Mirror<K: Lookup<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    bells: Arc<Bells>,
    ready: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl<K: Lookup<DynamicType = ()> + Clone + 'static> fmt::Debug for Mirror<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("objects", &self.store.len()).finish_non_exhaustive()
    }
}

impl<K> Mirror<K>
where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Watches until it is dropped; `trim` takes away what nobody asks for.
    pub(super) fn start(
        api: Api<K>,
        config: watcher::Config,
        trim: impl FnMut(&mut K) + Send + 'static,
    ) -> Self {
        let (store, writer) = reflector::store();
        let (bells, ready) = (Arc::new(Bells::default()), Arc::new(AtomicBool::new(false)));
        let events = watcher(api, config).modify(trim).default_backoff();
        let mut events = Box::pin(reflector::reflector(writer, events));
        let (ring, listed) = (Arc::clone(&bells), Arc::clone(&ready));
        let task = task::spawn(async move {
            let mut complaints = Complaints::default();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(object) | Event::Delete(object)) => ring.ring(&object.name_any()),
                    Ok(Event::InitDone) => {
                        listed.store(true, Ordering::Release);
                        ring.ring_all();
                    }
                    Ok(Event::Init | Event::InitApply(_)) => {}
                    Err(error) => complaints.add(&K::plural(&()), &error),
                }
            }
        });
        Self { store, bells, ready, task }
    }

    /// Everything has been listed once.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether nobody watches any more, which only a bug can bring about.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name))
    }

    pub(super) fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// Rings when something happens to the object of this name.
    pub(super) fn bell(&self, name: &str) -> Arc<Notify> {
        self.bells.of(name)
    }
}

impl<K: Lookup<DynamicType = ()> + Clone + 'static> Drop for Mirror<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Those that somebody holds.
#[derive(Default)]
struct Bells(Mutex<HashMap<String, Weak<Notify>>>);

impl Bells {
    fn of(&self, name: &str) -> Arc<Notify> {
        let mut bells = self.lock();
        if let Some(bell) = bells.get(name).and_then(Weak::upgrade) {
            return bell;
        }
        bells.retain(|_, bell| bell.strong_count() > 0);
        let bell = Arc::new(Notify::new());
        bells.insert(name.to_owned(), Arc::downgrade(&bell));
        bell
    }

    fn ring(&self, name: &str) {
        if let Some(bell) = self.lock().get(name).and_then(Weak::upgrade) {
            bell.notify_waiters();
        }
    }

    fn ring_all(&self) {
        self.lock().values().filter_map(Weak::upgrade).for_each(|bell| bell.notify_waiters());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An API server that is away fails every few seconds: said once, and then now and then.
#[derive(Default)]
pub(super) struct Complaints(Option<Instant>);

impl Complaints {
    pub(super) fn add(&mut self, what: &str, error: &watcher::Error) {
        if self.0.is_none_or(|last| last.elapsed() >= TELL_AGAIN) {
            self.0 = Some(Instant::now());
            tracing::warn!(what, %error, "the watch of the API server is interrupted; trying again");
        }
    }
}
