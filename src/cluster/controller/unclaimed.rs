//! Volumes that are ready, and that neither a PersistentVolume nor a claim names: said, and never deleted.
//!
//! A provisioner that dies between CreateVolume's answer and its PersistentVolume is followed by one that asks again,
//! as long as there is the claim. Without it nobody ever will.

use super::Controller;
use crate::{
    cluster::api::{LocalObject, LocalVolume, Phase, UNCLAIMED},
    error::Result,
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Since when this process has seen volumes without a PersistentVolume, by the uid of their objects. A restart begins
/// anew: it is a time at least.
#[derive(Debug, Default)]
pub(super) struct Alone(Mutex<HashMap<String, Instant>>);

impl Alone {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of these, that are all there are now, have been alone for so long.
    fn for_long(&self, now: &[Arc<LocalVolume>], limit: Duration) -> Vec<Arc<LocalVolume>> {
        let mut since = self.lock();
        let uids: HashSet<_> = now.iter().filter_map(|object| object.uid()).collect();
        since.retain(|uid, _| uids.contains(uid));
        let mut is_long = |object: &LocalVolume| {
            object.uid().is_some_and(|uid| since.entry(uid).or_insert_with(Instant::now).elapsed() >= limit)
        };
        now.iter().filter(|object| is_long(object)).cloned().collect()
    }
}

impl Controller {
    /// Marks what has been alone for long, and takes the mark off what is so no more. `handles`: of all
    /// PersistentVolumes of this driver. Another controller may do the same: who writes second finds it written.
    pub(super) async fn tell_unclaimed(&self, handles: &HashSet<String>) -> Result<()> {
        let (named, alone): (Vec<_>, Vec<_>) = self
            .volumes
            .mirror
            .all()
            .into_iter()
            .partition(|object| object.id().is_ok_and(|id| handles.contains(&id.to_string())));
        for object in named.iter().filter(|object| object.is_unclaimed()) {
            self.unmark(object).await?;
        }
        let alone: Vec<_> = alone.into_iter().filter(|object| is_unneeded(object)).collect();
        let mut found = self.alone.for_long(&alone, self.settings.unclaimed_after);
        found.retain(|object| !object.is_unclaimed());
        if found.is_empty() {
            return Ok(());
        }
        let claims = self.claims().await?;
        for object in found.iter().filter(|object| !is_made_for(object, &claims)) {
            self.mark(object).await?;
        }
        Ok(())
    }

    async fn mark(&self, object: &LocalVolume) -> Result<()> {
        let message = format!(
            "no PersistentVolume has the handle {}, and the claim that it was made for is gone: nothing in the cluster \
             uses or deletes it. It stays: make a PersistentVolume with this handle to use the data, or to delete it \
             by its claim",
            object.id()?
        );
        let condition = Condition {
            type_: UNCLAIMED.to_owned(),
            status: "True".to_owned(),
            reason: "NoPersistentVolume".to_owned(),
            message: message.clone(),
            last_transition_time: Time(Timestamp::now()),
            observed_generation: object.metadata.generation,
        };
        if let Some(marked) = self.set_unclaimed(object, Some(condition)).await? {
            self.events.warning(marked.object_ref(&()), "Look", UNCLAIMED, message);
        }
        Ok(())
    }

    async fn unmark(&self, object: &LocalVolume) -> Result<()> {
        if let Some(unmarked) = self.set_unclaimed(object, None).await? {
            let note = "a PersistentVolume has its handle".to_owned();
            self.events.normal(unmarked.object_ref(&()), "Look", "Claimed", note);
        }
        Ok(())
    }

    /// A list is replaced as a whole, so what the agent writes is lost unless this is about the object as it is now.
    /// `None`: it is not; the next look comes.
    async fn set_unclaimed(
        &self,
        object: &LocalVolume,
        condition: Option<Condition>,
    ) -> Result<Option<LocalVolume>> {
        let mut conditions = object.status.clone().unwrap_or_default().conditions;
        conditions.retain(|condition| condition.type_ != UNCLAIMED);
        conditions.extend(condition);
        self.volumes.patch_status(object, json!({ "status": { "conditions": conditions } })).await
    }
}

/// It is there, as somebody asked for, and nobody wants it gone.
fn is_unneeded(object: &LocalVolume) -> bool {
    let is_there = object.phase() == Some(Phase::Ready) && object.id().is_ok();
    is_there && !object.is_leaving() && !object.is_orphaned()
}

/// The provisioner's name for a volume ends with the uid of its claim.
fn is_made_for(object: &LocalVolume, claims: &HashSet<String>) -> bool {
    let name = &object.spec.name;
    let uid = name.len().checked_sub(UID).and_then(|at| name.get(at..));
    uid.is_some_and(|uid| claims.contains(uid))
}

/// The length of a uid.
const UID: usize = 36;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::delete::StandIn, *};
    use crate::volume::Key;

    fn volume(uid: &str) -> Arc<LocalVolume> {
        let key = Key::parse("6f9619ff-8b86-d011-b42d-00c04fc964ff").unwrap();
        let mut object = LocalVolume::stand_in(key, "node");
        object.metadata.uid = Some(uid.to_owned());
        Arc::new(object)
    }

    #[test]
    fn only_what_stays_alone_is_found() {
        let alone = Alone::default();
        let (a, b) = (volume("a"), volume("b"));
        let limit = Duration::from_millis(50);
        let found = |now: &[Arc<LocalVolume>]| {
            let found = alone.for_long(now, limit);
            found.iter().map(|object| object.uid().unwrap()).collect::<Vec<_>>()
        };
        assert!(found(&[a.clone(), b.clone()]).is_empty());
        std::thread::sleep(limit);
        assert_eq!(found(std::slice::from_ref(&a)), ["a"]);
        assert_eq!(found(&[a, b]), ["a"], "the other was named in between");
    }

    #[test]
    fn a_claim_is_known_by_its_uid() {
        let uid = "0f8b3a52-2f0e-4d3f-9c1a-6a54a1b2c3d4";
        let claims = HashSet::from([uid.to_owned()]);
        let mut object = LocalVolume::clone(&volume("a"));
        for (name, known) in
            [(format!("pvc-{uid}"), true), (uid.to_owned(), true), ("pvc-1".to_owned(), false)]
        {
            object.spec.name = name;
            assert_eq!(is_made_for(&object, &claims), known, "{}", object.spec.name);
        }
        object.spec.name = format!("ä{}", &uid[1..]);
        assert!(!is_made_for(&object, &claims), "not cut inside a letter");
    }
}
