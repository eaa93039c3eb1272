//! What a watch has seen of one kind of objects, and who waits for which of them.
//!
//! One watch for a kind, however many requests wait. It may be behind: what it shows is never the last word. An object
//! that this driver cannot read is not shown, and hides no other.

use super::objects::chain;
use futures_util::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Notify,
    task::{self, JoinHandle},
};

/// Objects that are read at once.
const PAGE: u32 = 100;
/// A watch that fails is told of again after this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Objects of one kind.
pub(super) struct Mirror<K> {
    seen: Arc<Seen<K>>,
    task: JoinHandle<()>,
}

/// By their names; `None`: it cannot be read.
type Objects<K> = HashMap<String, Option<Arc<K>>>;

struct Seen<K> {
    objects: RwLock<Objects<K>>,
    bells: Bells,
    listed: AtomicBool,
    /// Why nothing has been listed yet, as far as that is known.
    trouble: Mutex<String>,
}

impl<K> fmt::Debug for Mirror<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("objects", &self.seen.read().len()).finish_non_exhaustive()
    }
}

impl<K> Mirror<K>
where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Watches until it is dropped, and notifies `quiet` of all that it hears; `trim` takes away what nobody asks for.
    pub(super) fn start(client: Client, quiet: &Arc<Notify>, trim: impl Fn(&mut K) + Send + 'static) -> Self {
        let seen = Arc::new(Seen::default());
        let api = Api::<DeserializeGuard<K>>::all(client);
        let mut events = watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff().boxed();
        let (writer, quiet) = (Arc::clone(&seen), Arc::clone(quiet));
        let task = task::spawn(async move {
            let (mut complaints, mut listing) = (Complaints::default(), HashMap::new());
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        writer.take(event, &mut listing, &trim);
                        quiet.notify_one();
                    }
                    Err(error) => {
                        complaints.add(&K::plural(&()), &error);
                        *writer.trouble() = chain(&error);
                    }
                }
            }
        });
        Self { seen, task }
    }

    /// Why they have not been listed yet, as far as that is known; `None`: they have.
    pub(super) fn why_unlisted(&self) -> Option<String> {
        (!self.seen.listed.load(Ordering::Acquire)).then(|| self.seen.trouble().clone())
    }

    /// Whether nobody watches any more, which only a bug can bring about.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<K>> {
        self.seen.read().get(name).cloned().flatten()
    }

    pub(super) fn all(&self) -> Vec<Arc<K>> {
        self.seen.read().values().flatten().cloned().collect()
    }

    /// Whether there are none but those that are shown.
    pub(super) fn is_whole(&self) -> bool {
        self.seen.read().values().all(Option::is_some)
    }

    /// Rings when something happens to the object of this name.
    pub(super) fn bell(&self, name: &str) -> Arc<Notify> {
        self.seen.bells.of(name)
    }
}

impl<K> Drop for Mirror<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Default for Seen<K> {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            bells: Bells::default(),
            listed: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }
}

impl<K> Seen<K> {
    fn read(&self) -> RwLockReadGuard<'_, Objects<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects<K>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource<DynamicType = ()>> Seen<K> {
    /// `listing`: what has come of a list that is not whole yet; until it is, what was seen before stands.
    fn take(&self, event: Event<DeserializeGuard<K>>, listing: &mut Objects<K>, trim: impl Fn(&mut K)) {
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(object) => {
                listing.insert(object.name_any(), readable(object, trim));
            }
            Event::InitDone => {
                *self.write() = mem::take(listing);
                self.trouble().clear();
                self.listed.store(true, Ordering::Release);
                self.bells.ring_all();
            }
            Event::Apply(object) => {
                let name = object.name_any();
                self.write().insert(name.clone(), readable(object, trim));
                self.bells.ring(&name);
            }
            Event::Delete(object) => {
                let name = object.name_any();
                self.write().remove(&name);
                self.bells.ring(&name);
            }
        }
    }
}

/// `None`: this driver does not understand it, and says so.
fn readable<K: Resource<DynamicType = ()>>(
    object: DeserializeGuard<K>,
    trim: impl Fn(&mut K),
) -> Option<Arc<K>> {
    let name = object.name_any();
    match object.0 {
        Ok(mut object) => {
            // Who changed which field is of no use here, and the larger part of an object.
            object.managed_fields_mut().clear();
            trim(&mut object);
            Some(Arc::new(object))
        }
        Err(invalid) => {
            let kind = K::kind(&());
            tracing::warn!(%kind, name, error = %invalid.error, "this object cannot be read and is passed over; is it of a \
                newer version?");
            None
        }
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
