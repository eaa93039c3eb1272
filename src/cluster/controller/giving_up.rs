//! How a name is given up that an object stands for: what nothing is left of, what was never more than an attempt, and what
//! is on its way out. And how what an agent has found is taken over instead.

use super::{
    Controller,
    agents::Liveness,
    create::Step,
    delete::StandIn,
    objects::{Deleted, Objects},
    wait::{LEAVING, nobody, still_running},
};
use crate::{
    cluster::api::{Desired, FINALIZER, LocalObject, LocalVolume, ORPHANED_LABEL},
    error::{Error, Result},
    failpoint,
};
use kube::ResourceExt;
use serde_json::json;

impl Controller {
    /// Takes an object of which nothing is left on its node away. No data goes with it: the wish stays `Present`.
    /// `Ok(false)`: it is still there.
    pub(super) async fn withdraw<K: LocalObject>(&self, objects: &Objects<K>, object: &K) -> Result<bool> {
        match objects.delete_unchanged(object).await? {
            Deleted::Gone => Ok(true),
            Deleted::Changed => Ok(false),
            Deleted::Leaving => {
                failpoint!("cluster.withdrawn");
                self.wait_gone(objects, object, LEAVING).await
            }
        }
    }

    /// An earlier volume of this name is on its way out, or an attempt is that came to nothing.
    pub(super) async fn see_off(&self, object: &LocalVolume) -> Result<Step> {
        if !object.is_deleted() {
            let Some(object) = self.wish_absent(&self.volumes, object).await? else { return Ok(Step::Again) };
            failpoint!("cluster.create.old-wished");
            self.volumes.delete_this(&object).await?;
            failpoint!("cluster.create.old-deleted");
        } else if self.is_stranded(object).await?
            && !self.has_persistent_volume(&object.id()?.to_string()).await?
        {
            self.let_go(&self.volumes, object).await?;
            return Ok(Step::Again);
        }
        self.wait_until_out(&self.volumes, object).await?;
        Ok(Step::Again)
    }

    /// Given up before, on a node that is gone for good: nobody there lets it go. A deletion that somebody has asked for
    /// stays, for the node to carry out should it come back.
    pub(super) async fn is_stranded<K: StandIn>(&self, object: &K) -> Result<bool> {
        let is_asked_for =
            object.desired() == Desired::Absent && (!is_an_attempt(object) || object.is_stand_in());
        Ok(object.is_accepted() && !is_asked_for && self.is_gone_for_good(object.node_name()).await?)
    }

    /// Gives a volume's name up on its node. Only what nobody can have data in: what was never ready, or whose Node is
    /// gone, and what no PersistentVolume names. `Ok(false)`: it is not to be given up.
    pub(super) async fn release(&self, object: &LocalVolume) -> Result<bool> {
        let gone = self.is_gone_for_good(object.node_name()).await?;
        if !is_an_attempt(object) && !gone {
            return Ok(false);
        }
        if self.has_persistent_volume(&object.id()?.to_string()).await? {
            return Ok(false);
        }
        if gone || !object.is_accepted() {
            return self.drop_unchanged(&self.volumes, object).await.map(|()| true);
        }
        if object.has_failed() {
            // Without a wish about data: that of somebody else may be why it has failed.
            return match self.withdraw(&self.volumes, object).await? {
                true => Ok(true),
                false => Err(still_running::<LocalVolume>(&object.name_any())),
            };
        }
        if self.machines.missing_for(object.node_name()).await?.is_some() {
            // The wish would have nobody to carry it out; soon it is gone, or back.
            return Err(nobody(object));
        }
        match self.wish_absent(&self.volumes, object).await? {
            None => Err(still_running::<LocalVolume>(&object.name_any())),
            Some(object) => {
                failpoint!("cluster.create.given-up");
                self.volumes.delete_this(&object).await?;
                Ok(true)
            }
        }
    }

    /// Deletes it as it was read: its agent may have come back. No data goes with it.
    pub(super) async fn drop_unchanged<K: LocalObject>(
        &self,
        objects: &Objects<K>,
        object: &K,
    ) -> Result<()> {
        match objects.delete_unchanged(object).await? {
            Deleted::Changed => Err(still_running::<K>(&object.name_any())),
            Deleted::Gone => Ok(()),
            Deleted::Leaving => {
                failpoint!("cluster.released");
                self.let_go(objects, object).await
            }
        }
    }

    /// Takes the agent's finalizer off an object whose Node is gone for good.
    pub(super) async fn let_go<K: LocalObject>(&self, objects: &Objects<K>, object: &K) -> Result<()> {
        let Some(now) = objects.get(&object.name_any()).await? else { return Ok(()) };
        let is_another = now.uid() != object.uid() || now.desired() != object.desired();
        if is_another || !self.is_gone_for_good(now.node_name()).await? {
            return Ok(());
        }
        let others: Vec<_> = now.finalizers().iter().filter(|one| *one != FINALIZER).collect();
        objects.patch(&now, json!({ "metadata": { "finalizers": others } })).await?;
        failpoint!("cluster.let-go");
        Ok(())
    }

    /// What an agent found on its disk is somebody's: it is asked for by its own name, or its own id.
    pub(super) async fn adopt(&self, object: &LocalVolume) -> Result<()> {
        self.take_over(&self.volumes, object).await?;
        failpoint!("cluster.create.adopted");
        Ok(())
    }

    /// Takes the mark of what was found off an object. Not before its agent has reported it: until then the mark alone
    /// tells that there is data, in whose place nothing may be made.
    pub(super) async fn take_over<K: LocalObject>(&self, objects: &Objects<K>, object: &K) -> Result<()> {
        let (noun, name, node) = (K::NOUN, object.name_any(), object.node_name());
        if !object.was_there() {
            return match self.agents.look(node).await? {
                Liveness::Dead => Err(nobody(object)),
                Liveness::Alive | Liveness::Unknown => Err(Error::Busy(format!(
                    "{noun} {name} was found on node {node}, and the agent there has yet to report it; the same \
                     request again takes it up"
                ))),
            };
        }
        tracing::info!(noun, name, node, "found on a disk, and asked for");
        let labels = json!({ "metadata": { "labels": { ORPHANED_LABEL: null } } });
        objects.patch(object, labels).await.map(drop)
    }
}

/// All there can be is an attempt, which nobody has been told of; what an agent has found is more than that.
fn is_an_attempt<K: LocalObject>(object: &K) -> bool {
    !object.was_there() && !object.is_orphaned()
}
