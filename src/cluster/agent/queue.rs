//! Work on objects: each on one at a time, many side by side, again after a while where it did not succeed.

use crate::cluster::quiet::stay_small;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time};

/// How a piece of work went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is left to do until something changes.
    Done,
    /// To be tried again, later each time; a change is looked at at once.
    Again(Pace),
}

/// How fast work is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Somebody else works on it, or the API server did not answer.
    Soon,
    /// The cause may be away for long.
    Slow,
}

impl Pace {
    fn delay(self, attempt: u32) -> Duration {
        let (first, longest) = match self {
            Self::Soon => (Duration::from_millis(100), Duration::from_secs(5)),
            Self::Slow => (Duration::from_millis(500), Duration::from_secs(20)),
        };
        first.saturating_mul(1 << attempt.min(16)).min(longest)
    }
}

/// What carries the work out.
pub trait Work: Send + Sync + 'static {
    /// What a watch says about an object.
    type Item: Send + 'static;

    /// Works on what is called `name`. `item` is what was last heard of it; `None`: it has to be looked up.
    fn work(&self, name: &str, item: Option<Self::Item>) -> impl Future<Output = Outcome> + Send;
}

/// Objects that are being worked on, or wait to be.
pub struct Queue<W: Work>(Arc<Shared<W>>);

struct Shared<W: Work> {
    work: W,
    /// How many slots there are, for whoever wants to know.
    count: Gauge,
    slots: Mutex<HashMap<String, Slot<W::Item>>>,
    /// A slot is gone.
    ended: Notify,
}

struct Slot<I> {
    changed: Arc<Notify>,
    /// Heard since the work began.
    news: Option<Option<I>>,
}

impl<W: Work> Clone for Queue<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Work> Queue<W> {
    pub fn new(work: W, count: Gauge) -> Self {
        Self(Arc::new(Shared { work, count, slots: Mutex::default(), ended: Notify::new() }))
    }

    /// Something was heard of an object.
    pub fn put(&self, name: &str, item: Option<W::Item>) {
        let mut slots = self.0.slots();
        if let Some(slot) = slots.get_mut(name) {
            // What is known stays known when all that comes is the wish to look.
            if item.is_some() || slot.news.is_none() {
                slot.news = Some(item);
            }
            slot.changed.notify_one();
            return;
        }
        let changed = Arc::new(Notify::new());
        let slot = Slot { changed: Arc::clone(&changed), news: Some(item) };
        slots.insert(name.to_owned(), slot);
        self.0.count.inc();
        drop(slots);
        tokio::spawn(run(Arc::clone(&self.0), name.to_owned(), changed));
    }

    /// See [`stay_small`].
    pub async fn stay_small(&self) {
        stay_small(&self.0.ended, || self.0.slots().shrink_to_fit()).await;
    }
}

impl<W: Work> Shared<W> {
    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot<W::Item>>> {
        // Each use below leaves the map whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn news(&self, name: &str) -> Option<Option<W::Item>> {
        self.slots().get_mut(name).and_then(|slot| slot.news.take())
    }

    /// Ends the work on an object, unless something was heard of it meanwhile.
    fn finish(&self, name: &str) -> Option<Option<W::Item>> {
        let mut slots = self.slots();
        let news = slots.get_mut(name).and_then(|slot| slot.news.take());
        if news.is_some() {
            return news;
        }
        slots.remove(name);
        self.count.dec();
        self.ended.notify_one();
        None
    }
}

async fn run<W: Work>(shared: Arc<Shared<W>>, name: String, changed: Arc<Notify>) {
    let mut attempt = 0;
    let mut item = shared.news(&name).flatten();
    loop {
        match shared.work.work(&name, item.take()).await {
            Outcome::Done => match shared.finish(&name) {
                Some(news) => (attempt, item) = (0, news),
                None => return,
            },
            Outcome::Again(pace) => {
                tokio::select! {
                    () = time::sleep(pace.delay(attempt)) => attempt += 1,
                    () = changed.notified() => attempt = 0,
                }
                item = shared.news(&name).flatten();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::{
        sync::{mpsc, oneshot},
        time::Instant,
    };

    type Begun = (String, Option<u32>, oneshot::Sender<Outcome>);

    /// Says what it works on, and goes on when it is told to.
    struct Told(mpsc::UnboundedSender<Begun>);

    impl Work for Told {
        type Item = u32;

        async fn work(&self, name: &str, item: Option<u32>) -> Outcome {
            let (end, told) = oneshot::channel();
            self.0.send((name.to_owned(), item, end)).unwrap();
            told.await.unwrap()
        }
    }

    fn queue() -> (Queue<Told>, mpsc::UnboundedReceiver<Begun>) {
        let (sender, begun) = mpsc::unbounded_channel();
        (Queue::new(Told(sender), Gauge::default()), begun)
    }

    #[tokio::test]
    async fn one_object_is_worked_on_once_at_a_time_and_others_beside_it() {
        let (queue, mut begun) = queue();
        queue.put("a", Some(1));
        queue.put("b", Some(1));
        let (first, second) = (begun.recv().await.unwrap(), begun.recv().await.unwrap());
        assert_eq!([&first.0, &second.0], ["a", "b"]);
        queue.put("a", Some(2));
        queue.put("a", Some(3));
        queue.put("a", None);
        time::sleep(Duration::from_millis(50)).await;
        assert_eq!(queue.0.count.get(), 2);
        assert!(begun.try_recv().is_err(), "the first is still at it");
        first.2.send(Outcome::Done).unwrap();
        let again = begun.recv().await.unwrap();
        assert_eq!((again.0.as_str(), again.1), ("a", Some(3)), "the last that was heard");
        again.2.send(Outcome::Done).unwrap();
        second.2.send(Outcome::Done).unwrap();
        time::sleep(Duration::from_millis(50)).await;
        assert!(begun.try_recv().is_err());
        assert_eq!((queue.0.slots().len(), queue.0.count.get()), (0, 0), "nothing is kept of what is done");
    }

    #[tokio::test]
    async fn what_failed_is_tried_later_and_a_change_at_once() {
        let (queue, mut begun) = queue();
        queue.put("a", Some(1));
        let since = Instant::now();
        begun.recv().await.unwrap().2.send(Outcome::Again(Pace::Slow)).unwrap();
        let (_, item, end) = begun.recv().await.unwrap();
        assert_eq!(item, None, "it is looked up");
        assert!(since.elapsed() >= Duration::from_millis(500), "{:?}", since.elapsed());
        end.send(Outcome::Again(Pace::Slow)).unwrap();
        let since = Instant::now();
        queue.put("a", Some(2));
        assert_eq!(begun.recv().await.unwrap().1, Some(2));
        assert!(since.elapsed() < Duration::from_millis(900), "{:?}", since.elapsed());
    }

    #[test]
    fn waits_grow_to_a_limit() {
        for (pace, first, last) in [(Pace::Soon, 100, 5_000), (Pace::Slow, 500, 20_000)] {
            let waits: Vec<_> = (0..40).map(|attempt| pace.delay(attempt).as_millis()).collect();
            assert_eq!((waits[0], waits[39]), (first, last));
            assert!(waits.is_sorted());
        }
    }
}
