//! What the objects of a cluster say that somebody should look at, for a command: volumes that nothing names, what agents
//! have found, and tombstones. Without a watch, and without the controller.

use super::objects::{Deleted, answer, delete, every, get, patch};
use crate::{
    cluster::api::{
        Desired, FINALIZER, LocalObject, LocalSnapshot, LocalVolume, UNCLAIMED, kubernetes::Node,
    },
    error::Result,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client, ResourceExt, api::ListParams, core::DeserializeGuard};
use serde_json::json;
use std::{collections::HashSet, fmt, time::SystemTime};

/// One object.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// Of what kind, and why it is one.
    pub what: What,
    /// Where its data lies, or lay.
    pub node: String,
    /// How large it says that it is.
    pub bytes: Option<u64>,
    /// Since when it is left over.
    pub since: Option<SystemTime>,
    object: Object,
}

/// Why an object is left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The controller says that nothing names it.
    Unclaimed,
    /// An agent has found it on its disk, and nobody has asked for it since.
    Orphaned,
    /// It is deleted, and its node is gone: there is nobody who would purge the data and let the object go.
    Tombstone,
}

#[derive(Clone, Debug)]
enum Object {
    Volume(Box<LocalVolume>),
    Snapshot(Box<LocalSnapshot>),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Object::Volume(object) => write!(f, "localvolume/{}", object.name_any()),
            Object::Snapshot(object) => write!(f, "localsnapshot/{}", object.name_any()),
        }
    }
}

impl Leftover {
    /// `volume` or `snapshot`.
    pub fn noun(&self) -> &'static str {
        match &self.object {
            Object::Volume(_) => LocalVolume::NOUN,
            Object::Snapshot(_) => LocalSnapshot::NOUN,
        }
    }

    /// Takes a tombstone away: only what is to be `Absent`, as it is now, and while its node is gone. Gives why it
    /// stays, if it does.
    pub async fn clear(&self, client: &Client) -> Result<Option<String>> {
        match &self.object {
            Object::Volume(object) => clear(client, object.as_ref()).await,
            Object::Snapshot(object) => clear(client, object.as_ref()).await,
        }
    }
}

/// Whether a node has its object.
pub async fn is_node(client: &Client, name: &str) -> Result<bool> {
    let nodes = Api::<Node>::all(client.clone());
    Ok(get(&nodes, name, "node").await?.is_some())
}

/// All that is left over, in the order of nodes and names. `unreadable` is told of objects that this driver does not
/// understand.
pub async fn find(client: &Client, mut unreadable: impl FnMut(String)) -> Result<Vec<Leftover>> {
    // Objects first: a node that comes meanwhile is seen.
    let mut found = Vec::new();
    all(client, &mut unreadable, |object| found.extend(of_volume(object))).await?;
    all(client, &mut unreadable, |object| found.extend(of_snapshot(object))).await?;
    if found.iter().any(|one| one.what == What::Tombstone) {
        let nodes = nodes(client).await?;
        found.retain(|one| one.what != What::Tombstone || !nodes.contains(&one.node));
    }
    found.sort_by_cached_key(|one| (one.node.clone(), one.to_string()));
    Ok(found)
}

fn of_volume(object: LocalVolume) -> Option<Leftover> {
    let bytes = object.status.as_ref().and_then(|status| u64::try_from(status.size_bytes?).ok());
    let (what, since) = match object.desired() {
        Desired::Absent => (What::Tombstone, deleted(&object)),
        Desired::Present if object.is_unclaimed() => {
            let since = object.condition(UNCLAIMED).and_then(|condition| at(&condition.last_transition_time));
            (What::Unclaimed, since)
        }
        Desired::Present if is_orphaned(&object) => (What::Orphaned, announced(&object)),
        Desired::Present => return None,
    };
    let node = object.node_name().to_owned();
    Some(Leftover { what, node, bytes, since, object: Object::Volume(Box::new(object)) })
}

fn of_snapshot(object: LocalSnapshot) -> Option<Leftover> {
    let (what, since) = match object.desired() {
        Desired::Absent => (What::Tombstone, deleted(&object)),
        Desired::Present if is_orphaned(&object) => (What::Orphaned, announced(&object)),
        Desired::Present => return None,
    };
    let node = object.node_name().to_owned();
    Some(Leftover { what, node, bytes: None, since, object: Object::Snapshot(Box::new(object)) })
}

/// One that is on its way out is announced again, if there is anything.
fn is_orphaned<K: LocalObject>(object: &K) -> bool {
    object.is_orphaned() && !object.is_deleted()
}

fn announced<K: LocalObject>(object: &K) -> Option<SystemTime> {
    object.meta().creation_timestamp.as_ref().and_then(at)
}

fn deleted<K: LocalObject>(object: &K) -> Option<SystemTime> {
    object.meta().deletion_timestamp.as_ref().and_then(at)
}

fn at(time: &Time) -> Option<SystemTime> {
    Some(time.0.into())
}

/// Shows each object of a kind.
async fn all<K: LocalObject>(
    client: &Client,
    mut unreadable: impl FnMut(String),
    mut show: impl FnMut(K),
) -> Result<()> {
    let api = &Api::<DeserializeGuard<K>>::all(client.clone());
    let list = |page| async move { api.list(&page).await };
    every(list, &format!("listing {}", K::plural(&())), |object: DeserializeGuard<K>| match object.0 {
        Ok(object) => show(object),
        Err(invalid) => {
            let (kind, name) = (K::kind(&()).to_lowercase(), invalid.metadata.name.unwrap_or_default());
            unreadable(format!("{kind}/{name} cannot be read; is it of a newer version? {}", invalid.error));
        }
    })
    .await
}

async fn nodes(client: &Client) -> Result<HashSet<String>> {
    let api = Api::<Node>::all(client.clone());
    let listed = answer(api.list_metadata(&ListParams::default())).await;
    let listed = listed.map_err(|trouble| trouble.doing("listing nodes"))?;
    Ok(listed.items.iter().map(ResourceExt::name_any).collect())
}

/// Each write names what it was decided on; whoever writes meanwhile wins.
async fn clear<K: LocalObject>(client: &Client, seen: &K) -> Result<Option<String>> {
    let api = Api::<K>::all(client.clone());
    let changed = || Ok(Some("it was changed meanwhile: run it again".to_owned()));
    if is_node(client, seen.node_name()).await? {
        return Ok(Some(format!("node {} is back: its agent purges the data", seen.node_name())));
    }
    let name = seen.name_any();
    let Some(mut object) = get(&api, &name, K::NOUN).await? else { return Ok(None) };
    if object.uid() != seen.uid() || object.desired() != Desired::Absent {
        return changed();
    }
    if !object.is_deleted() {
        // Whoever wrote the wish died before this.
        match delete(&api, &object, object.resource_version()).await? {
            Deleted::Gone => return Ok(None),
            Deleted::Changed => return changed(),
            Deleted::Leaving => match get(&api, &name, K::NOUN).await? {
                Some(leaving) if leaving.uid() == seen.uid() => object = leaving,
                _ => return Ok(None),
            },
        }
    }
    let mut others = object.finalizers().to_vec();
    others.retain(|finalizer| finalizer != FINALIZER);
    match patch(&api, &object, json!({ "metadata": { "finalizers": others } })).await? {
        None => changed(),
        Some(_) if others.is_empty() => Ok(None),
        Some(_) => Ok(Some(format!("it has finalizers of others: {}", others.join(", ")))),
    }
}
