//! How a name is given up that an object stands for: what nothing is left of, what was never more than an attempt, and what
//! is on its way out. And how what an agent has found is taken over instead.

use super::{
    Controller,
    create::Step,
    delete::UNKNOWN,
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
    pub(super) async fn withdraw(&self, object: &LocalVolume) -> Result<bool> {
        match self.volumes.delete_unchanged(object).await? {
            Deleted::Gone => Ok(true),
            Deleted::Changed => Ok(false),
            Deleted::Leaving => {
                failpoint!("cluster.create.withdrawn");
                self.wait_gone(&self.volumes, object, LEAVING).await
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
        } else if self.is_stranded(object).await? {
            self.let_go(object).await?;
            return Ok(Step::Again);
        }
        match self.wait_gone(&self.volumes, object, LEAVING).await? {
            true => Ok(Step::Again),
            false => Err(Error::Busy(format!(
                "volume {} is being deleted on node {}; the same request later makes it anew",
                object.name_any(),
                object.node_name()
            ))),
        }
    }

    /// Given up by [`Self::release`], on a node that is gone for good: nobody there lets it go. A deletion that somebody has
    /// asked for stays, for the node to carry out should it come back.
    async fn is_stranded(&self, object: &LocalVolume) -> Result<bool> {
        if !object.is_accepted() || !self.is_gone_for_good(object.node_name()).await? {
            return Ok(false);
        }
        let is_asked_for =
            object.desired() == Desired::Absent && (!is_an_attempt(object) || object.spec.name == UNKNOWN);
        Ok(!is_asked_for && !self.has_persistent_volume(&object.id()?.to_string()).await?)
    }

    /// Gives up what nobody has been told of, with a node that is gone for good.
    pub(super) async fn give_up_with_node(&self, object: &LocalVolume) -> Result<bool> {
        let gone = !object.was_there() && self.is_gone_for_good(object.node_name()).await?;
        Ok(gone && self.release(object).await?)
    }

    /// Gives a name up that sits on a node where it may not be. Only what nobody can have data in: a volume that was
    /// never ready, or whose Node is gone, and that no PersistentVolume names.
    pub(super) async fn release(&self, object: &LocalVolume) -> Result<bool> {
        let gone = self.is_gone_for_good(object.node_name()).await?;
        if !is_an_attempt(object) && !gone {
            return Ok(false);
        }
        if self.has_persistent_volume(&object.id()?.to_string()).await? {
            return Ok(false);
        }
        if gone || !object.is_accepted() {
            // As it was read: its agent may have come back.
            return match self.volumes.delete_unchanged(object).await? {
                Deleted::Changed => Err(still_running::<LocalVolume>(&object.name_any())),
                Deleted::Gone => Ok(true),
                Deleted::Leaving => {
                    failpoint!("cluster.create.released");
                    self.let_go(object).await.map(|()| true)
                }
            };
        }
        if object.has_failed() {
            // Without a wish about data: that of somebody else may be why it has failed.
            return match self.withdraw(object).await? {
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

    /// Takes the agent's finalizer off an object whose Node is gone for good.
    async fn let_go(&self, object: &LocalVolume) -> Result<()> {
        let Some(now) = self.volumes.get(&object.name_any()).await? else { return Ok(()) };
        let is_another = now.uid() != object.uid() || now.desired() != object.desired();
        if is_another || !self.is_gone_for_good(now.node_name()).await? {
            return Ok(());
        }
        let others: Vec<_> = now.finalizers().iter().filter(|one| *one != FINALIZER).collect();
        self.volumes.patch(&now, json!({ "metadata": { "finalizers": others } })).await?;
        failpoint!("cluster.create.let-go");
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
            return Err(Error::Busy(format!(
                "{noun} {name} was found on node {node}, and the agent there has yet to report it; the same request \
                 again takes it up"
            )));
        }
        tracing::info!(noun, name, node, "found on a disk, and asked for");
        let labels = json!({ "metadata": { "labels": { ORPHANED_LABEL: null } } });
        objects.patch(object, labels).await.map(drop)
    }
}

/// All there can be is an attempt, which nobody has been told of; what an agent has found is more than that.
fn is_an_attempt(object: &LocalVolume) -> bool {
    !object.was_there() && !object.is_orphaned()
}
