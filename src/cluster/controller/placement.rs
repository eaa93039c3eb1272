//! Where a new volume goes: pure functions over what is known of nodes.

use super::{machines::takes_volumes, objects::Wished};
use crate::{
    cluster::api::{Desired, LocalVolume, Phase, PoolStatus, StorageNode},
    error::{Error, Result},
    volume::{
        Class, Layout, LimitMode, NodeName, size,
        topology::{Requirement, covers},
    },
};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{Resource, ResourceExt};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use uuid::Uuid;

/// What is known.
pub(super) struct View<'a> {
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) offers: &'a [Arc<StorageNode>],
    pub(super) volumes: &'a [Arc<LocalVolume>],
    /// What this process has written and the watch has not shown yet, by the object's name.
    pub(super) flights: &'a HashMap<String, Flight>,
    /// Whether the agent of a node is.
    pub(super) alive: &'a dyn Fn(&str) -> bool,
}

/// A volume on its way to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) node_name: String,
    pub(super) pool: String,
    pub(super) bytes: u64,
}

/// A pool that could take a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) node_name: String,
    pub(super) node: NodeName,
    /// What is free there, less what is on its way.
    pub(super) room: u64,
    /// As its node tells.
    pub(super) largest: u64,
}

/// How the nodes to try are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Where the source of the first content lies.
    Source(NodeName),
    /// Where the scheduler wants it.
    Chosen(NodeName),
    /// Wherever the requirement allows it, by free room.
    Walk,
}

impl Way {
    /// `selected`: the scheduler has chosen a node for the claim, so the first of the preferred is that one.
    pub(super) fn of(source: Option<NodeName>, requirement: &Requirement, selected: bool) -> Self {
        if let Some(node) = source {
            return Self::Source(node);
        }
        let first = requirement.preferred.first().filter(|_| selected);
        match first.and_then(|segments| node_of(segments)) {
            Some(node) => Self::Chosen(node),
            None => Self::Walk,
        }
    }
}

fn node_of(segments: &BTreeMap<String, String>) -> Option<NodeName> {
    let key = crate::volume::topology::TOPOLOGY_KEY;
    let (_, value) = segments.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?;
    NodeName::parse(value)
}

impl View<'_> {
    /// Live, ready, schedulable nodes that have the class's pool, and can do what it asks of it; the best first.
    pub(super) fn sites(&self, class: &Class, name: &str) -> Vec<Site> {
        let mut sites: Vec<Site> = self
            .offers
            .iter()
            .filter(|offer| self.takes_volumes(&offer.name_any()))
            .filter_map(|offer| self.site(offer, class))
            .collect();
        sites.sort_by_cached_key(|site| {
            let tie = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{name}/{}", site.node_name).as_bytes());
            (std::cmp::Reverse(site.room), tie)
        });
        sites
    }

    fn takes_volumes(&self, node_name: &str) -> bool {
        let node = self.nodes.iter().find(|node| node.meta().name.as_deref() == Some(node_name));
        node.is_some_and(|node| takes_volumes(node)) && (self.alive)(node_name)
    }

    fn site(&self, offer: &StorageNode, class: &Class) -> Option<Site> {
        let status = offer.status.as_ref()?;
        let pool = status.pools.iter().find(|pool| pool.name == class.pool())?;
        if !can(pool, class) {
            return None;
        }
        let node_name = offer.name_any();
        let observed = status.observed_time.as_ref().map(|time| time.0);
        let available = u64::try_from(pool.available_bytes).unwrap_or_default();
        let room = available.saturating_sub(self.in_flight(&node_name, class.pool(), observed));
        Some(Site {
            node: NodeName::of_node(&node_name),
            node_name,
            room,
            largest: u64::try_from(pool.capacity_bytes).unwrap_or_default(),
        })
    }

    /// What a node's figures do not hold yet: volumes that are not made, or were since.
    fn in_flight(&self, node_name: &str, pool: &str, observed: Option<Timestamp>) -> u64 {
        let written = self.volumes.iter().filter(|volume| {
            volume.spec.node_name == node_name && volume.spec.pool == pool && is_uncounted(volume, observed)
        });
        let known: u64 = written.map(|volume| bytes_of(volume)).sum();
        let is_new = |name: &str| !self.volumes.iter().any(|volume| volume.name_any() == name);
        let flying = self
            .flights
            .iter()
            .filter(|(name, flight)| flight.node_name == node_name && flight.pool == pool && is_new(name));
        known.saturating_add(flying.map(|(_, flight)| flight.bytes).sum())
    }

    /// Whether any node that has ever reported has such a pool; and those that there are.
    pub(super) fn knows_pool(&self, pool: &str) -> Result<()> {
        let pools =
            self.offers.iter().filter_map(|offer| offer.status.as_ref()).flat_map(|status| &status.pools);
        let mut names: Vec<&str> = pools.map(|pool| pool.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        match names {
            names if names.contains(&pool) => Ok(()),
            names if names.is_empty() => Err(Error::Unavailable(
                "no node has told of a pool yet: see the driver's pods on the nodes, and their --pool".into(),
            )),
            names => Err(Error::Invalid(format!(
                "no node has a pool called {pool:?}; there are {}: name one of them in the StorageClass, or give \
                 nodes this pool",
                names.join(", ")
            ))),
        }
    }
}

fn can(pool: &PoolStatus, class: &Class) -> bool {
    let limited = class.limit.unwrap_or(LimitMode::Enforced) == LimitMode::Enforced;
    pool.uuid.is_some() && (class.layout == Layout::Image || pool.directory_limits || !limited)
}

fn is_uncounted(volume: &LocalVolume, observed: Option<Timestamp>) -> bool {
    let new =
        volume.meta().creation_timestamp.as_ref().zip(observed).is_none_or(|(made, seen)| made.0 >= seen);
    let making = matches!(volume.phase(), None | Some(Phase::Pending));
    let promised = volume.phase() == Some(Phase::Ready) && new;
    volume.spec.desired == Desired::Present && (making || promised)
}

fn bytes_of(volume: &LocalVolume) -> u64 {
    let size =
        volume.status.as_ref().and_then(|status| status.size_bytes).unwrap_or(volume.spec.required_bytes);
    match u64::try_from(size).unwrap_or_default() {
        0 => size::DEFAULT,
        bytes => bytes,
    }
}

/// Which of the sites may be tried, in this order. `bytes`: what the volume needs; `None`: its node finds that out.
pub(super) fn candidates(
    sites: Vec<Site>,
    way: &Way,
    requirement: &Requirement,
    bytes: Option<u64>,
    spent: &[String],
) -> Result<Vec<Site>> {
    let allowed = |node: &NodeName| requirement.allows(node);
    match way {
        Way::Source(node) if !allowed(node) => Err(Error::NoSpace(format!(
            "the source lies on node {node}, which the topology requirement leaves out: allow it in the class's \
             allowedTopologies"
        ))),
        Way::Source(node) => only(sites, node, spent, "the source"),
        Way::Chosen(node) => {
            only(sites, node, spent, "the scheduler's choice").and_then(|sites| with_room(sites, bytes))
        }
        Way::Walk => {
            let sites: Vec<_> = sites.into_iter().filter(|site| allowed(&site.node)).collect();
            if sites.is_empty() {
                return Err(Error::NoSpace(
                    "no node that the topology requirement allows has the pool and is ready, schedulable and running \
                     the driver"
                        .into(),
                ));
            }
            let sites = sites.into_iter().filter(|site| !spent.contains(&site.node_name)).collect();
            with_room(sites, bytes)
        }
    }
}

fn only(sites: Vec<Site>, node: &NodeName, spent: &[String], what: &str) -> Result<Vec<Site>> {
    let site = sites.into_iter().find(|site| site.node == *node && !spent.contains(&site.node_name));
    site.map(|site| vec![site]).ok_or_else(|| {
        Error::NoSpace(format!(
            "node {node}, {what}, has no such pool, or is not ready, schedulable and running the driver"
        ))
    })
}

fn with_room(sites: Vec<Site>, bytes: Option<u64>) -> Result<Vec<Site>> {
    let most = sites.first().map_or(0, |site| site.room);
    let sites: Vec<_> =
        sites.into_iter().filter(|site| bytes.is_none_or(|bytes| site.room >= bytes)).collect();
    if sites.is_empty() {
        return Err(Error::NoSpace(format!(
            "no node has room for {} bytes in this pool; the most that is free is {most}",
            bytes.unwrap_or_default()
        )));
    }
    Ok(sites)
}

/// Those of a topology segment; `None`: all.
pub(super) fn within(sites: Vec<Site>, segments: Option<&BTreeMap<String, String>>) -> Vec<Site> {
    sites.into_iter().filter(|site| segments.is_none_or(|segments| covers(segments, &site.node))).collect()
}
