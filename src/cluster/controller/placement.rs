//! Where a new volume goes: pure functions over what is known of nodes.

use super::machines::takes_volumes;
use crate::{
    cluster::api::{Desired, LocalObject, LocalVolume, Phase, PoolStatus, StorageNode, kubernetes::Node},
    error::{Error, Result},
    volume::{
        Class, Layout, LimitMode, NodeName, size,
        topology::{Requirement, covers},
    },
};
use k8s_openapi::jiff::Timestamp;
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
        match first.and_then(node_of) {
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

    /// Whether any node that has ever reported has the class's pool, and can do what it asks of it. INVALID_ARGUMENT: none
    /// has, which is for a person to mend.
    pub(super) fn can_have(&self, class: &Class) -> Result<()> {
        let pools =
            self.offers.iter().filter_map(|offer| offer.status.as_ref()).flat_map(|status| &status.pools);
        let mut names: Vec<&str> = pools.clone().map(|pool| pool.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Err(Error::Unavailable(
                "no node has told of a pool yet: see the driver's pods on the nodes, and their --pool".into(),
            ));
        }
        if !names.contains(&class.pool()) {
            return Err(Error::Invalid(format!(
                "no node has a pool called {:?}; there are {}: name one of them in the StorageClass, or give \
                 nodes this pool",
                class.pool(),
                names.join(", ")
            )));
        }
        // What a pool that is away could do is not known.
        let mut own = pools.filter(|pool| pool.name == class.pool());
        match own.all(|pool| pool.uuid.is_some() && !can(pool, class)) {
            false => Ok(()),
            true => Err(Error::Invalid(format!(
                "no node can limit directories in its pool {:?}: use layout image (a hard limit on any filesystem), \
                 pools on XFS or ext4 with `prjquota` or on btrfs with qgroups, or limit: advisory (no limit at all)",
                class.pool()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::topology::TOPOLOGY_KEY;
    use serde_json::{Value, json};

    const GIB: u64 = 1 << 30;

    fn of<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn node(name: &str, ready: &str, cordoned: bool) -> Arc<Node> {
        of(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "spec": { "unschedulable": cordoned },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] } }))
    }

    fn offer(name: &str, available: u64, pool: &Value) -> Arc<StorageNode> {
        let mut all = json!({ "name": "default", "uuid": "u", "capacityBytes": 100 * GIB,
            "availableBytes": available, "directoryLimits": true });
        for (key, value) in pool.as_object().unwrap() {
            all[key] = value.clone();
        }
        of(
            json!({ "apiVersion": "wharf.csi.dev/v1alpha1", "kind": "StorageNode", "metadata": { "name": name },
            "spec": {}, "status": { "observedTime": "2026-01-01T12:00:00Z", "pools": [all] } }),
        )
    }

    fn volume(name: &str, node: &str, phase: &str, made: &str, bytes: u64) -> Arc<LocalVolume> {
        of(json!({ "apiVersion": "wharf.csi.dev/v1alpha1", "kind": "LocalVolume",
            "metadata": { "name": name, "creationTimestamp": made },
            "spec": { "nodeName": node, "name": name, "pool": "default", "access": "Mount",
                "requiredBytes": bytes },
            "status": { "phase": phase } }))
    }

    struct World {
        nodes: Vec<Arc<Node>>,
        offers: Vec<Arc<StorageNode>>,
        volumes: Vec<Arc<LocalVolume>>,
        flights: HashMap<String, Flight>,
    }

    impl World {
        /// Three nodes with 10, 20 and 30 GiB.
        fn new() -> Self {
            let names = ["a", "b", "c"];
            Self {
                nodes: names.iter().map(|name| node(name, "True", false)).collect(),
                offers: names
                    .iter()
                    .zip([10, 20, 30])
                    .map(|(n, room)| offer(n, room * GIB, &json!({})))
                    .collect(),
                volumes: Vec::new(),
                flights: HashMap::new(),
            }
        }

        fn sites(&self, class: &Class) -> Vec<Site> {
            let alive = |name: &str| name != "dead";
            let view = View {
                nodes: &self.nodes,
                offers: &self.offers,
                volumes: &self.volumes,
                flights: &self.flights,
                alive: &alive,
            };
            view.sites(class, "pvc-1")
        }

        fn order(&self) -> Vec<(String, u64)> {
            let sites = self.sites(&Class::default());
            sites.into_iter().map(|site| (site.node_name, site.room / GIB)).collect()
        }
    }

    fn names(sites: &[Site]) -> Vec<&str> {
        sites.iter().map(|site| site.node_name.as_str()).collect()
    }

    fn requirement(requisite: &[&str], preferred: &[&str]) -> Requirement {
        let all = |names: &[&str]| {
            names.iter().map(|name| [(TOPOLOGY_KEY.to_owned(), (*name).to_owned())].into()).collect()
        };
        Requirement { requisite: all(requisite), preferred: all(preferred) }
    }

    #[test]
    fn the_roomiest_comes_first_and_what_is_on_its_way_counts() {
        let mut world = World::new();
        assert_eq!(world.order(), [("c".into(), 30), ("b".into(), 20), ("a".into(), 10)]);
        // Being made; made since the node told; made before; no size asked; given up.
        world.volumes = vec![
            volume("1", "c", "Pending", "2026-01-01T11:00:00Z", 9 * GIB),
            volume("2", "c", "Ready", "2026-01-01T12:00:01Z", 4 * GIB),
            volume("3", "c", "Ready", "2026-01-01T11:00:00Z", 9 * GIB),
            volume("4", "b", "Pending", "2026-01-01T11:00:00Z", 0),
            volume("5", "b", "Failed", "2026-01-01T12:30:00Z", 9 * GIB),
        ];
        assert_eq!(world.order(), [("b".into(), 19), ("c".into(), 17), ("a".into(), 10)]);
        let flight = |node: &str| Flight { node_name: node.into(), pool: "default".into(), bytes: 5 * GIB };
        // One that the watch shows by now is not counted twice.
        world.flights = [("1".to_owned(), flight("c")), ("9".to_owned(), flight("b"))].into();
        assert_eq!(world.order(), [("c".into(), 17), ("b".into(), 14), ("a".into(), 10)]);
    }

    #[test]
    fn nodes_that_cannot_take_it_are_left_out() {
        let mut world = World::new();
        world.nodes = vec![node("a", "Unknown", false), node("b", "True", true), node("c", "True", false)];
        world.nodes.push(node("dead", "True", false));
        world.offers.push(offer("dead", 90 * GIB, &json!({})));
        world.offers.push(offer("without-node", 90 * GIB, &json!({})));
        assert_eq!(world.order(), [("c".into(), 30)]);
        world.offers = vec![offer("c", GIB, &json!({ "uuid": null }))];
        assert!(world.order().is_empty(), "a pool that cannot be used");
        world.offers = vec![offer("c", GIB, &json!({ "directoryLimits": false }))];
        let class = |limit| Class { layout: Layout::Directory, limit, ..Class::default() };
        assert!(world.sites(&class(None)).is_empty());
        assert_eq!(world.sites(&class(Some(LimitMode::Advisory))).len(), 1);
        assert_eq!(world.order().len(), 1);
    }

    #[test]
    fn ties_are_spread_by_the_name() {
        let world =
            World { offers: ["a", "b", "c"].map(|n| offer(n, GIB, &json!({}))).into(), ..World::new() };
        let alive = |_: &str| true;
        let view = View {
            nodes: &world.nodes,
            offers: &world.offers,
            volumes: &[],
            flights: &HashMap::new(),
            alive: &alive,
        };
        let first = |name: &str| view.sites(&Class::default(), name)[0].node_name.clone();
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for n in 0..300 {
            assert_eq!(first(&format!("pvc-{n}")), first(&format!("pvc-{n}")));
            *count.entry(first(&format!("pvc-{n}"))).or_default() += 1;
        }
        assert!(count.len() == 3 && count.values().all(|n| *n > 60), "{count:?}");
    }

    #[test]
    fn who_decides_where() {
        let name = |text: &str| NodeName::parse(text).unwrap();
        let both = requirement(&["a", "b"], &["b", "a"]);
        assert_eq!(Way::of(Some(name("a")), &both, true), Way::Source(name("a")));
        assert_eq!(Way::of(None, &both, true), Way::Chosen(name("b")));
        assert_eq!(Way::of(None, &both, false), Way::Walk);
        assert_eq!(Way::of(None, &Requirement::default(), true), Way::Walk);
    }

    #[test]
    fn what_may_be_tried() {
        let world = World::new();
        let try_ = |way: &Way, requirement: &Requirement, bytes: u64, spent: &[String]| {
            candidates(world.sites(&Class::default()), way, requirement, Some(bytes * GIB), spent)
        };
        let (anywhere, some) = (Requirement::default(), requirement(&["a", "b"], &["a", "b"]));
        let on = |text: &str| NodeName::parse(text).unwrap();
        let found = |way: &Way, requirement: &Requirement, bytes| {
            try_(way, requirement, bytes, &[]).map(|sites| names(&sites).join(" ")).unwrap_or_default()
        };
        assert_eq!(found(&Way::Walk, &anywhere, 1), "c b a");
        assert_eq!(found(&Way::Walk, &some, 1), "b a");
        assert_eq!(found(&Way::Walk, &anywhere, 15), "c b");
        assert_eq!(found(&Way::Chosen(on("a")), &some, 1), "a");
        assert_eq!(found(&Way::Chosen(on("a")), &some, 11), "");
        assert_eq!(found(&Way::Source(on("b")), &some, 1), "b");
        // Its node finds out whether a copy needs room of its own.
        assert_eq!(found(&Way::Source(on("b")), &some, 99), "b");
        assert_eq!(found(&Way::Source(on("c")), &some, 1), "");
        let spent = ["c".to_owned(), "b".to_owned()];
        assert_eq!(names(&try_(&Way::Walk, &anywhere, 1, &spent).unwrap()), ["a"]);
        for refused in [
            try_(&Way::Walk, &anywhere, 99, &[]),
            try_(&Way::Walk, &requirement(&["z"], &[]), 1, &[]),
            try_(&Way::Chosen(on("c")), &anywhere, 1, &spent),
            try_(&Way::Walk, &anywhere, 1, &["a".into(), "b".into(), "c".into()]),
        ] {
            assert!(matches!(refused, Err(Error::NoSpace(_))), "{refused:?}");
        }
        assert_eq!(names(&within(world.sites(&Class::default()), some.requisite.first())), ["a"]);
        assert_eq!(within(world.sites(&Class::default()), None).len(), 3);
    }

    #[test]
    fn a_class_that_no_node_can_have_is_for_a_person_to_mend() {
        let world = World::new();
        let alive = |_: &str| true;
        let can_have = |offers: &[Arc<StorageNode>], class: &Class| {
            let view =
                View { nodes: &world.nodes, offers, volumes: &[], flights: &HashMap::new(), alive: &alive };
            view.can_have(class)
        };
        let (image, fast) = (Class::default(), Class { pool: Some("fast".into()), ..Class::default() });
        let limited = Class { layout: Layout::Directory, ..Class::default() };
        let advisory = Class { limit: Some(LimitMode::Advisory), ..limited.clone() };
        let told = |offers: &[Arc<StorageNode>], class: &Class| {
            let refused = can_have(offers, class).unwrap_err();
            assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
            refused.chain()
        };
        assert!(can_have(&world.offers, &image).is_ok() && can_have(&world.offers, &limited).is_ok());
        assert!(told(&world.offers, &fast).contains("there are default"));
        assert!(matches!(can_have(&[], &fast), Err(Error::Unavailable(_))));
        let unlimited = [offer("a", GIB, &json!({ "directoryLimits": false }))];
        assert!(told(&unlimited, &limited).contains("advisory"));
        assert!(can_have(&unlimited, &advisory).is_ok() && can_have(&unlimited, &image).is_ok());
        // It may when it is back.
        let away = offer("b", GIB, &json!({ "directoryLimits": false, "uuid": null }));
        assert!(can_have(&[unlimited[0].clone(), away], &limited).is_ok());
    }
}
