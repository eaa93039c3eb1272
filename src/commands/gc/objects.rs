//! Leftovers among a cluster's objects. What nothing names is shown and stays; tombstones go where somebody
//! says that their node never comes back.

use super::{Finding, Row, Store};
use crate::{
    cluster::{
        client,
        controller::leftovers::{self, Leftover, What},
    },
    config::ObjectArgs,
    error::Result,
};
use kube::Client;
use std::{path::Path, sync::Arc};
use tokio::runtime::{self, Runtime};

/// The way to the API server.
struct Cluster {
    runtime: Runtime,
    client: Client,
}

/// One, and the way to it.
pub(super) struct InCluster {
    cluster: Arc<Cluster>,
    leftover: Leftover,
    /// Its node is the one that never comes back.
    given_up: bool,
}

/// Looks through the objects, if that is asked for.
pub(super) fn find(arguments: &ObjectArgs) -> std::result::Result<Vec<Finding>, String> {
    if !arguments.cluster && arguments.node.is_none() {
        return Ok(Vec::new());
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let client = runtime.block_on(client::connect(arguments.kubeconfig.as_deref()))?;
    let cluster = Arc::new(Cluster { runtime, client });
    if let Some(node) = &arguments.node {
        refuse_known(&cluster, node)?;
    }
    let look = leftovers::find(&cluster.client, |what| eprintln!("wharf: {what}"));
    let look = cluster.runtime.block_on(look);
    let mut found =
        look.map_err(|error| format!("the cluster cannot be looked through: {}", error.chain()))?;
    let is_given_up =
        |one: &Leftover| one.what == What::Tombstone && Some(&one.node) == arguments.node.as_ref();
    found.retain(|one| arguments.cluster || is_given_up(one));
    let in_cluster = |leftover| {
        let given_up = is_given_up(&leftover);
        Finding::InCluster(InCluster { cluster: Arc::clone(&cluster), leftover, given_up })
    };
    Ok(found.into_iter().map(in_cluster).collect())
}

/// What is deleted on a node that is there, or comes back, is for its agent.
fn refuse_known(cluster: &Cluster, node: &str) -> std::result::Result<(), String> {
    let known = cluster.runtime.block_on(leftovers::is_node(&cluster.client, node));
    match known.map_err(|error| format!("node {node} cannot be looked up: {}", error.chain()))? {
        false => Ok(()),
        true => Err(format!(
            "node {node} is in the cluster: its agent purges what is deleted there. --node is for one that never comes \
             back; if that is so, `kubectl delete node {node}` first"
        )),
    }
}

impl InCluster {
    pub(super) fn row(&self) -> Row {
        let Leftover { what, node, bytes, since, .. } = &self.leftover;
        let (what, reason) = match what {
            What::Unclaimed => (
                "unclaimed volume".to_owned(),
                Some("no PersistentVolume has its handle: make one to use or delete the data".to_owned()),
            ),
            What::Orphaned => (
                format!("orphaned {}", self.leftover.noun()),
                Some(format!(
                    "found on its node, and nobody asks for it: make a {} with its handle to use or delete the data",
                    if self.leftover.noun() == "volume" {
                        "PersistentVolume"
                    } else {
                        "VolumeSnapshotContent"
                    }
                )),
            ),
            What::Tombstone => (
                format!("tombstone of a {}", self.leftover.noun()),
                (!self.given_up).then(|| format!("for node {node}, should it come back; see --node")),
            ),
        };
        let place = self.leftover.to_string();
        Row::new(Store::Node(node.clone()), what, Path::new(&place), *bytes, *since, reason)
    }

    /// Why it stays; `None`: it is gone.
    pub(super) fn purge(&self) -> Result<Option<String>> {
        self.cluster.runtime.block_on(self.leftover.clear(&self.cluster.client))
    }
}
