//! DeleteVolume and DeleteSnapshot: the wish is written down, and the node that the id names carries it out.
//!
//! Without an object one is made for it: objects may be lost, by a definition that was deleted, and the data may still
//! be there.

use super::{
    Controller,
    agents::Liveness,
    objects::Objects,
    wait::{Ended, LEAVING, nobody},
};
use crate::{
    cluster::api::{
        Desired, FINALIZER, LocalObject, LocalSnapshot, LocalSnapshotSpec, LocalVolume, LocalVolumeSpec,
        VolumeAccess,
    },
    error::{Error, Result},
    failpoint,
    volume::{Key, NodeName},
};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Renaming into the trash is quick; what takes longer is not going to happen soon.
const DELETING: Duration = Duration::from_secs(50);
/// An answer that was there before this call may be about to be given anew.
const OLD_ANSWER: Duration = Duration::from_secs(3);

/// What the driver's name for a volume or snapshot is where nothing but its id is known any more.
const UNKNOWN: &str = "unknown";

/// Takes the place of an object that is lost.
pub(super) trait StandIn: LocalObject {
    /// Has the node's agent delete what it may still have.
    fn stand_in(key: Key, node_name: &str) -> Self;
    /// Whether it is one.
    fn is_stand_in(&self) -> bool;
}

impl StandIn for LocalVolume {
    fn stand_in(key: Key, node_name: &str) -> Self {
        let spec = LocalVolumeSpec {
            node_name: node_name.to_owned(),
            name: UNKNOWN.to_owned(),
            pool: UNKNOWN.to_owned(),
            parameters: BTreeMap::new(),
            access: VolumeAccess::Mount,
            filesystem: None,
            required_bytes: 0,
            limit_bytes: 0,
            source: None,
            desired: Desired::Absent,
        };
        with_finalizer(Self::new(&key.to_string(), spec))
    }

    fn is_stand_in(&self) -> bool {
        self.spec.name == UNKNOWN
    }
}

impl StandIn for LocalSnapshot {
    fn stand_in(key: Key, node_name: &str) -> Self {
        let spec = LocalSnapshotSpec {
            node_name: node_name.to_owned(),
            name: UNKNOWN.to_owned(),
            source_volume_id: UNKNOWN.to_owned(),
            desired: Desired::Absent,
        };
        with_finalizer(Self::new(&key.to_string(), spec))
    }

    fn is_stand_in(&self) -> bool {
        self.spec.name == UNKNOWN
    }
}

/// It stays until its agent has looked, however long that takes.
fn with_finalizer<K: Resource>(mut object: K) -> K {
    object.finalizers_mut().push(FINALIZER.to_owned());
    object
}

impl Controller {
    /// `id` is for messages.
    pub(super) async fn delete<K: StandIn>(
        &self,
        objects: &Objects<K>,
        key: Key,
        node: &NodeName,
        id: &str,
    ) -> Result<()> {
        let name = key.to_string();
        let began = Instant::now();
        while began.elapsed() < DELETING {
            let Some(object) = objects.get(&name).await? else {
                if self.deleted_without_object(objects, key, node).await? {
                    return Ok(());
                }
                continue;
            };
            if NodeName::of_node(object.node_name()) != *node {
                return self.refuse_elsewhere(&object, node, id).await;
            }
            let Some(object) = self.wish_absent(objects, &object).await? else { continue };
            if !object.is_deleted() {
                failpoint!("cluster.delete.wished");
                objects.delete_this(&object).await?;
                failpoint!("cluster.delete.deleted");
            }
            let left = DELETING.saturating_sub(began.elapsed());
            if self.await_gone(objects, &object, left).await? {
                failpoint!("cluster.delete.gone");
                return Ok(());
            }
        }
        Err(Error::Busy(format!(
            "{} {id} is still being deleted; repeat the same request to wait for it",
            K::NOUN
        )))
    }

    /// Writes that there is to be no data, and sees to it that the object stays until its agent has looked.
    /// `None`: it is not what it was.
    pub(super) async fn wish_absent<K: LocalObject>(
        &self,
        objects: &Objects<K>,
        object: &K,
    ) -> Result<Option<K>> {
        let held = object.is_accepted() || object.is_deleted();
        if object.desired() == Desired::Absent && held {
            return Ok(Some(object.clone()));
        }
        let mut finalizers = object.finalizers().to_vec();
        if !held {
            finalizers.push(FINALIZER.to_owned());
        }
        let change =
            json!({ "metadata": { "finalizers": finalizers }, "spec": { "desired": Desired::Absent } });
        objects.patch(object, change).await
    }

    /// `Ok(false)`: there is an object now, look again.
    async fn deleted_without_object<K: StandIn>(
        &self,
        objects: &Objects<K>,
        key: Key,
        node: &NodeName,
    ) -> Result<bool> {
        self.listed().await?;
        let node_name = self.node_called(node)?;
        failpoint!("cluster.delete.no-object");
        let made = objects.create(&K::stand_in(key, &node_name)).await?;
        failpoint!("cluster.delete.stand-in");
        if made.is_some() {
            tracing::info!(
                noun = K::NOUN,
                %key,
                node = node_name,
                "there was no object for what is to be deleted; its node is asked all the same"
            );
        }
        Ok(false)
    }

    /// The name of an id's node. An id has a hash where the name is long, and a StorageNode outlives its Node.
    fn node_called(&self, node: &NodeName) -> Result<String> {
        if let Some(name) = self.machines.name_of(node) {
            return Ok(name);
        }
        let offers = self.offers.all();
        if let Some(name) =
            offers.iter().map(|offer| offer.name_any()).find(|name| NodeName::of_node(name) == *node)
        {
            return Ok(name);
        }
        match node.is_hash() {
            false => Ok(node.as_str().to_owned()),
            true => Err(Error::Unavailable(format!(
                "{node} stands for a node with a long name, and there is none, nor a StorageNode of one: without its \
                 name nobody can be asked to delete the data"
            ))),
        }
    }

    /// Two nodes cannot have objects of one name. It is not this id that the object stands for, so it is left alone.
    async fn refuse_elsewhere<K: LocalObject>(&self, object: &K, node: &NodeName, id: &str) -> Result<()> {
        self.listed().await?;
        let named = self.node_called(node).unwrap_or_else(|_| node.as_str().to_owned());
        if self.is_gone_for_good(&named).await? {
            tracing::warn!(
                id,
                "deleted on a node that is gone; should it come back, `wharf volumes` shows there what is left of it"
            );
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "{id} names node {node}, but the object of this name is for node {}: delete that one first",
            object.node_name()
        )))
    }

    /// Waits for the agent; `Ok(false)`: look again.
    async fn await_gone<K: LocalObject>(
        &self,
        objects: &Objects<K>,
        object: &K,
        limit: Duration,
    ) -> Result<bool> {
        let before = object.failure_now().map(|error| error.chain());
        let began = Instant::now();
        let answer = |object: &K| {
            let error = object.failure_now()?;
            let is_new = before.as_ref() != Some(&error.chain());
            (is_new || began.elapsed() >= OLD_ANSWER).then_some(error)
        };
        match self.wait(objects, object, limit, answer).await? {
            Ended::Gone => Ok(true),
            Ended::Decided(error) => Err(error),
            Ended::Late => Ok(false),
            Ended::Dead => match self.is_gone_for_good(object.node_name()).await? {
                // Its agent finds the wish should it ever come back.
                true => {
                    self.tell_tombstone(object);
                    Ok(true)
                }
                false => Err(nobody(object)),
            },
        }
    }

    /// It is deleted for whoever asked, and its data may lie on a disk all the same.
    fn tell_tombstone<K: LocalObject>(&self, object: &K) {
        let node = object.node_name();
        let note = format!(
            "deleted, but node {node} is gone and has not purged the data: the object stays, for the node to purge it \
             should it come back; when it never will, `wharf gc --node {node} --apply` takes the object away"
        );
        self.events.warning(object.object_ref(&()), "Delete", "NodeGone", note);
    }

    /// Whether the Node has been away for the time after which it is taken for gone, and its agent is dead.
    pub(super) async fn is_gone_for_good(&self, node_name: &str) -> Result<bool> {
        let missing = self.machines.missing_for(node_name).await?;
        let long = missing.is_some_and(|time| time >= self.settings.node_gone_after);
        Ok(long && self.agents.look(node_name).await? == Liveness::Dead)
    }

    /// For what is on its way out and must be out before something else can be.
    pub(super) async fn wait_until_out<K: LocalObject>(
        &self,
        objects: &Objects<K>,
        object: &K,
    ) -> Result<()> {
        match self.wait_gone(objects, object, LEAVING).await? {
            true => Ok(()),
            false => Err(Error::Busy(format!(
                "{} {} is being deleted on node {}; the same request later makes it anew",
                K::NOUN,
                object.name_any(),
                object.node_name()
            ))),
        }
    }
}
