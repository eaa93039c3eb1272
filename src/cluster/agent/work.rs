//! Carries out, step by step, what [`plan`](super::plan) decides for one object.
//!
//! Each step writes one thing. Who dies between two of them is followed by somebody who asks the same question
//! and finds the next one.

use super::{
    super::api::{FINALIZER, Failure, HEALTHY, Phase},
    Agent,
    index::Index,
    kind::Kind,
    look::Found,
    plan::{Action, Facts, View, plan},
    queue::{Outcome, Pace, Work},
    status::{self, Health, Report},
};
use crate::{
    error::{Error, Result},
    failpoint,
    service::{self, Service},
    volume::Key,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time;

/// More than any path through [`plan`] has; then something writes against us, and it is tried later.
const STEPS: usize = 16;

/// What takes longer is told.
const A_WHILE: Duration = Duration::from_secs(1);

/// Works on the objects of one kind.
pub struct Keeper<K> {
    pub agent: Arc<Agent>,
    pub api: Api<K>,
    pub index: Arc<Index>,
}

impl<K> fmt::Debug for Keeper<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

/// What is known of an object.
pub enum Known<K> {
    /// From a watch: it may have changed since.
    Heard(Arc<K>),
    /// As the API server has it.
    Fresh(Arc<K>),
    /// There is none.
    Gone,
    /// It has to be looked up.
    Unknown,
}

/// What a step leads to.
pub enum Step<K> {
    Then(Known<K>),
    End(Outcome),
}

/// Whether nothing is gained by trying again, and nothing was left behind: which nobody knows of work that panicked.
fn is_final(error: &Error) -> bool {
    error.is_final() && !matches!(error, Error::Internal(_))
}

fn pace(error: &Error) -> Pace {
    if matches!(error, Error::Busy(_)) { Pace::Soon } else { Pace::Slow }
}

impl<K: Kind> Work for Keeper<K> {
    type Item = K;

    async fn work(&self, name: &str, item: Option<K>) -> Outcome {
        let mut known = item.map_or(Known::Unknown, |object| Known::Heard(Arc::new(object)));
        for _ in 0..STEPS {
            if self.agent.is_stopping() {
                return Outcome::Done;
            }
            known = match self.step(name, known).await {
                Ok(Step::Then(known)) => known,
                Ok(Step::End(outcome)) => return outcome,
                // Somebody else has written, or deleted it.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                    Known::Unknown
                }
                Err(error) => {
                    self.agent.complaints.about(&format!("{} {name}", K::plural(&())), &error);
                    return Outcome::Again(Pace::Soon);
                }
            };
        }
        Outcome::Again(Pace::Slow)
    }
}

impl<K: Kind> Keeper<K> {
    async fn step(&self, name: &str, known: Known<K>) -> kube::Result<Step<K>> {
        let (object, fresh) = match known {
            Known::Heard(object) => (object, false),
            Known::Fresh(object) => (object, true),
            Known::Gone => return self.announce(name).await,
            Known::Unknown => {
                let found = self.agent.in_turn(self.api.get_opt(name)).await?;
                return Ok(Step::Then(found.map_or(Known::Gone, |object| Known::Fresh(Arc::new(object)))));
            }
        };
        if object.node_name() != self.agent.node_name {
            // The same name was made there while its data here had no object.
            let error = Error::Incompatible(format!("the object is of node {}", object.node_name()));
            self.agent
                .complaints
                .about_disk(&format!("{} {name} on this node stays unannounced", K::KIND), &error);
            return Ok(Step::End(Outcome::Done));
        }
        let (key, flaw) = match object.key() {
            Ok(key) => (Some(key), object.check(key).err()),
            Err(error) => (None, Some(error)),
        };
        let found = self.look(&object, key).await;
        let view = object.view(flaw.is_some());
        let facts = match &found {
            Found::Present { store, record, .. } => Facts::Present {
                elsewhere: object.store().is_some_and(|noted| noted != store),
                small: object.is_small(record),
            },
            Found::Absent => Facts::Absent,
            Found::Unknown(_) => Facts::Unknown,
        };
        let action = plan(&view, facts);
        if matches!(action, Action::Make | Action::Grow | Action::Remove) && !fresh {
            // What was heard may be withdrawn by now, or be of another object of that name.
            return Ok(Step::Then(Known::Unknown));
        }
        tracing::debug!(object = name, ?action, ?view, "next step");
        match (action, found, key) {
            (Action::Nothing, ..) => Ok(Step::End(Outcome::Done)),
            (Action::Accept, ..) => self.accept(&object).await,
            (Action::Make, _, Some(key)) => self.make(&object, &view, key).await,
            (Action::Grow, Found::Present { store, record, health, .. }, _) => {
                self.grow(&object, &view, store, record, health).await
            }
            (Action::Confirm, Found::Present { store, record, health, .. }, _) => {
                self.confirm(&object, &view, &store, &record, health).await
            }
            (Action::Remove, _, Some(key)) => self.remove(&object, key).await,
            (Action::Release, ..) => self.release(&object, &view).await,
            (Action::LetGo, found, _) => self.let_go(&object, &found).await,
            (Action::Mourn, found, _) => self.mourn(&object, &view, &found).await,
            (Action::Doubt, Found::Unknown(error), _) => self.doubt(&object, &view, &error).await,
            (Action::Refuse, ..) => self.refuse(&object, &view, flaw.as_ref()).await,
            // What `plan` decides fits what it was told.
            (Action::Make | Action::Grow | Action::Confirm | Action::Remove | Action::Doubt, ..) => {
                Ok(Step::End(Outcome::Again(Pace::Slow)))
            }
        }
    }

    async fn accept(&self, object: &K) -> kube::Result<Step<K>> {
        let mut finalizers = object.finalizers().to_vec();
        finalizers.push(FINALIZER.to_owned());
        let accepted = self.set_finalizers(object, &finalizers).await?;
        failpoint!("agent.accepted");
        Ok(Step::Then(Known::Fresh(Arc::new(accepted))))
    }

    async fn make(&self, object: &Arc<K>, view: &View, key: Key) -> kube::Result<Step<K>> {
        let began = Instant::now();
        let (object, made) = self.make_while_telling(Arc::clone(object)).await?;
        self.agent.figures.ended(K::KIND, "create", &made, began);
        let object = &object;
        failpoint!("agent.made");
        let Err(error) = made else {
            self.agent.node_changed.notify_one();
            return match self.look(object, Some(key)).await {
                Found::Present { store, record, health, .. } => {
                    self.confirm(object, view, &store, &record, health).await
                }
                Found::Absent | Found::Unknown(_) => Ok(Step::End(Outcome::Again(Pace::Soon))),
            };
        };
        if matches!(error, Error::Busy(_)) {
            return Ok(Step::End(Outcome::Again(Pace::Soon)));
        }
        let over = is_final(&error) && self.is_nothing_left(key, &error).await;
        let phase = if over { Phase::Failed } else { Phase::Pending };
        let reported = self.report(object, &Report::failed(phase, Failure::from(&error))).await?;
        failpoint!("agent.failure-recorded");
        if reported.is_some() && over {
            self.agent.events.warning(object.object_ref(&()), "Create", error.reason(), error.chain());
        }
        Ok(Step::End(if over { Outcome::Done } else { Outcome::Again(pace(&error)) }))
    }

    /// Makes it, and says so when that takes a while.
    async fn make_while_telling(&self, object: Arc<K>) -> kube::Result<(Arc<K>, Result<()>)> {
        let making = Arc::clone(&object);
        let work = move |service: &Service| making.make(service);
        let room = if object.is_long() { &self.agent.long } else { &self.agent.short };
        let mut making = std::pin::pin!(self.agent.with(room, work));
        tokio::select! {
            made = &mut making => return Ok((object, made)),
            () = time::sleep(A_WHILE) => {}
        }
        let told = self.report(&object, &Report::new(Phase::Pending, "Making", "it is being made")).await;
        // Whatever came of that: nobody else works on the object before this has ended.
        let made = making.await;
        Ok((told?.map_or(object, Arc::new), made))
    }

    /// A failure is final once nothing of the attempt is left; data of somebody else is none of it.
    async fn is_nothing_left(&self, key: Key, error: &Error) -> bool {
        if matches!(error, Error::Incompatible(_)) {
            return true;
        }
        let left = self.agent.short(move |service| K::is_in_reach(service.store(), key)).await;
        matches!(left, Ok(false))
    }

    async fn confirm(
        &self,
        object: &Arc<K>,
        view: &View,
        store: &str,
        record: &K::Record,
        health: Health,
    ) -> kube::Result<Step<K>> {
        if self.report(object, &here::<K>(view, store, record, health.clone())).await?.is_some() {
            failpoint!("agent.recorded");
            self.tell_recovery(object, view, health);
        }
        Ok(Step::End(Outcome::Done))
    }

    /// What people want to hear of between two reports.
    fn tell_recovery(&self, object: &K, view: &View, health: Health) {
        let told = object.condition(HEALTHY).filter(|condition| condition.status == "False");
        let was_ill = told.map(|condition| condition.reason.as_str());
        match health {
            Health::Ill(reason, message) if was_ill != Some(reason) => {
                self.agent.events.warning(object.object_ref(&()), "Look", reason, message);
            }
            Health::Well if was_ill.is_some() || view.phase == Phase::Lost => {
                let note = "its data is there again".to_owned();
                self.agent.events.normal(object.object_ref(&()), "Look", "Found", note);
            }
            Health::Well | Health::Ill(..) => {}
        }
    }

    async fn grow(
        &self,
        object: &Arc<K>,
        view: &View,
        store: String,
        record: K::Record,
        health: Health,
    ) -> kube::Result<Step<K>> {
        let growing = Arc::clone(object);
        let work = move |service: &Service| {
            let outcome = growing.grow(service, &record);
            Ok((outcome, record))
        };
        let began = Instant::now();
        let (outcome, record) = match self.agent.short(work).await {
            Ok((outcome, record)) => (outcome, Some(record)),
            Err(error) => (Err(error), None),
        };
        self.agent.figures.ended(K::KIND, "expand", &outcome, began);
        failpoint!("agent.grown");
        self.agent.node_changed.notify_one();
        let (Err(error), Some(record)) = (outcome, record) else {
            // What it is now is read from disk.
            let Ok(key) = object.key() else { return Ok(Step::End(Outcome::Done)) };
            return match self.look(object, Some(key)).await {
                Found::Present { store, record, health, .. } => {
                    self.confirm(object, view, &store, &record, health).await
                }
                Found::Absent | Found::Unknown(_) => Ok(Step::End(Outcome::Again(Pace::Soon))),
            };
        };
        let report =
            Report { failure: Some(Failure::from(&error)), ..here::<K>(view, &store, &record, health) };
        if self.report(object, &report).await?.is_some() {
            self.agent.events.warning(object.object_ref(&()), "Expand", error.reason(), error.chain());
        }
        // The slow beat tries again what is final: room may come.
        Ok(Step::End(if is_final(&error) { Outcome::Done } else { Outcome::Again(pace(&error)) }))
    }

    async fn remove(&self, object: &Arc<K>, key: Key) -> kube::Result<Step<K>> {
        let began = Instant::now();
        let removed = self.agent.short(move |service| K::remove(service, key)).await;
        self.agent.figures.ended(K::KIND, "delete", &removed, began);
        failpoint!("agent.removed");
        let Err(error) = removed else {
            self.agent.node_changed.notify_one();
            return Ok(Step::Then(Known::Fresh(Arc::clone(object))));
        };
        if matches!(error, Error::Busy(_)) {
            return Ok(Step::End(Outcome::Again(Pace::Soon)));
        }
        let reported = self.report(object, &Report::failed(Phase::Deleting, Failure::from(&error))).await?;
        if reported.is_some() {
            self.agent.events.warning(object.object_ref(&()), "Delete", error.reason(), error.chain());
        }
        Ok(Step::End(Outcome::Again(pace(&error))))
    }

    async fn release(&self, object: &Arc<K>, view: &View) -> kube::Result<Step<K>> {
        let mut object = Arc::clone(object);
        if !view.deleting {
            let report = Report::new(Phase::Deleting, "Deleted", "nothing of it is left on this node");
            if let Some(reported) = self.report(&object, &report).await? {
                object = Arc::new(reported);
            }
            failpoint!("agent.removal-recorded");
        }
        if view.accepted {
            self.drop_finalizer(&object).await?;
            failpoint!("agent.released");
        }
        Ok(Step::End(Outcome::Done))
    }

    async fn let_go(&self, object: &K, found: &Found<K::Record>) -> kube::Result<Step<K>> {
        self.drop_finalizer(object).await?;
        failpoint!("agent.let-go");
        if !matches!(found, Found::Absent) {
            let note = "the object was deleted without a wish to delete the data: it stays on the node, and is \
                        announced again as Orphaned";
            self.agent.events.warning(object.object_ref(&()), "Delete", "DataKept", note.to_owned());
        }
        Ok(Step::End(Outcome::Done))
    }

    async fn mourn(&self, object: &K, view: &View, found: &Found<K::Record>) -> kube::Result<Step<K>> {
        let noted = object.store().unwrap_or_default();
        let message = match found {
            Found::Present { store, pool, .. } => format!(
                "it lay in store {noted}, but pool {pool:?} carries store {store}: mount the disk that it was on; \
                 what is there now was left alone"
            ),
            _ => format!(
                "its data is not on this node any more (it lay in store {noted}): mount the disk that it was on, \
                 or restore the pool from a backup; nothing is made in its place"
            ),
        };
        let failure = Failure { reason: "Lost".into(), ..Failure::from(&Error::Damaged(message.clone())) };
        let health = Some(Health::Ill("Lost", message.clone()));
        let report = Report { health, ..Report::failed(Phase::Lost, failure) };
        let reported = self.report(object, &report).await?;
        failpoint!("agent.loss-recorded");
        if reported.is_some() && view.phase != Phase::Lost {
            self.agent.events.warning(object.object_ref(&()), "Look", "Lost", message);
        }
        Ok(Step::End(Outcome::Done))
    }

    async fn doubt(&self, object: &K, view: &View, error: &Error) -> kube::Result<Step<K>> {
        let ailment = service::out_of_reach(error);
        let health = Some(Health::Ill(ailment.reason, ailment.message));
        let report = Report { health, ..Report::new(view.phase, error.reason(), error.chain()) };
        if self.report(object, &report).await?.is_some() {
            self.agent.events.warning(object.object_ref(&()), "Look", error.reason(), error.chain());
        }
        // The slow beat looks again.
        Ok(Step::End(Outcome::Done))
    }

    async fn refuse(&self, object: &K, view: &View, flaw: Option<&Error>) -> kube::Result<Step<K>> {
        let Some(flaw) = flaw else { return Ok(Step::End(Outcome::Done)) };
        let phase = if view.ever { view.phase } else { Phase::Failed };
        if self.report(object, &Report::failed(phase, Failure::from(flaw))).await?.is_some() {
            self.agent.events.warning(object.object_ref(&()), "Read", flaw.reason(), flaw.chain());
        }
        Ok(Step::End(Outcome::Done))
    }

    /// Writes a status unless it says the same already; gives the object as it is then.
    async fn report(&self, object: &K, report: &Report) -> kube::Result<Option<K>> {
        let Some(status) = status::patch(object, report) else { return Ok(None) };
        let name = object.name_any();
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": object.resource_version() },
            "status": status,
        }));
        let params = PatchParams::default();
        let written = self.agent.in_turn(self.api.patch_status(&name, &params, &patch)).await?;
        self.index.wrote(&name, written.resource_version());
        Ok(Some(written))
    }

    async fn drop_finalizer(&self, object: &K) -> kube::Result<()> {
        let finalizers: Vec<_> =
            object.finalizers().iter().filter(|each| *each != FINALIZER).cloned().collect();
        self.set_finalizers(object, &finalizers).await.map(drop)
    }

    /// Only as long as the object is the one that was looked at.
    async fn set_finalizers(&self, object: &K, finalizers: &[String]) -> kube::Result<K> {
        let name = object.name_any();
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": object.resource_version(), "finalizers": finalizers },
        }));
        let params = PatchParams::default();
        let written = self.agent.in_turn(self.api.patch(&name, &params, &patch)).await?;
        self.index.wrote(&name, written.resource_version());
        Ok(written)
    }
}

/// What is said of data that is there.
fn here<K: Kind>(view: &View, store: &str, record: &K::Record, health: Health) -> Report {
    let (phase, reason, message) = match view.orphaned {
        false => (Phase::Ready, "Made", ""),
        true => {
            (Phase::Orphaned, "Orphaned", "found on this node without an object; nobody has claimed it yet")
        }
    };
    Report {
        ready: true,
        health: Some(health),
        store: Some(store.to_owned()),
        answer: K::answer(record),
        ..Report::new(phase, reason, message)
    }
}
