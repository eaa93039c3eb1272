//! The cluster's Nodes: which there are, which can take volumes, and since when one is gone.

use super::{mirror::Mirror, objects};
use crate::{cluster::api::kubernetes::Node, error::Result, volume::NodeName};
use kube::{Api, Client, Resource, ResourceExt};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// All Nodes.
#[derive(Debug)]
pub(super) struct Machines {
    api: Api<Node>,
    pub(super) mirror: Mirror<Node>,
    /// Since when this process knows that a Node is not there. A restart begins anew: it is a time at least.
    missing: Mutex<HashMap<String, Instant>>,
}

impl Machines {
    pub(super) fn watch(client: Client, quiet: &Arc<Notify>) -> Self {
        let api = Api::all(client.clone());
        Self { api, mirror: Mirror::start(client, quiet, trim), missing: Mutex::default() }
    }

    /// The name of the Node with this topology value; `None`: there is none now.
    pub(super) fn name_of(&self, node: &NodeName) -> Option<String> {
        // Nearly always they are the same.
        if self.mirror.get(node.as_str()).is_some() {
            return Some(node.as_str().to_owned());
        }
        let all = self.mirror.all();
        all.iter().map(|found| found.name_any()).find(|name| NodeName::of_node(name) == *node)
    }

    /// Forgets those that are back: were they to go again, it would be for less long than since the first time.
    pub(super) fn notice_returns(&self) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|name, _| self.mirror.get(name).is_none());
    }

    /// For how long there has been no such Node; `None`: there is one.
    pub(super) async fn missing_for(&self, node_name: &str) -> Result<Option<Duration>> {
        let is_there = self.mirror.get(node_name).is_some()
            || objects::get(&self.api, node_name, "node").await?.is_some();
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if is_there {
            missing.remove(node_name);
            return Ok(None);
        }
        Ok(Some(missing.entry(node_name.to_owned()).or_insert_with(Instant::now).elapsed()))
    }
}

/// New volumes may go there: it is ready and not cordoned.
pub(super) fn takes_volumes(node: &Node) -> bool {
    let ready = node.status.conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True");
    !node.spec.unschedulable && ready && node.meta().deletion_timestamp.is_none()
}

/// Of each Node only what is asked for.
fn trim(node: &mut Node) {
    node.metadata.annotations = None;
    node.metadata.labels = None;
    node.status.conditions.retain(|condition| condition.type_ == "Ready");
}
