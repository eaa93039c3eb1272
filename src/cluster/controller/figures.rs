//! What the controller counts, for metrics: objects that somebody should look at, and agents that did not answer.

use super::Controller;
use crate::cluster::api::{Desired, LocalObject};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge},
    registry::Registry,
};
use std::{fmt, sync::Arc};

/// Waits for agents that ended without an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Unanswered(Family<Why, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

impl Unanswered {
    /// Time was up.
    pub(super) fn late(&self) {
        self.0.get_or_create(&Why { reason: "late" }).inc();
    }

    /// The agent does not renew its Lease.
    pub(super) fn dead(&self) {
        self.0.get_or_create(&Why { reason: "dead" }).inc();
    }
}

impl Controller {
    /// Adds its figures to what is served.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register(
            "controller_unanswered_waits",
            "Waits for an agent that ended without its answer",
            self.unanswered.0.clone(),
        );
        registry.register_collector(Box::new(Objects(Arc::clone(self))));
    }

    /// Deleted, as far as anybody asks, and kept for a node that is gone.
    fn tombstones<'a, K: LocalObject + 'a>(&self, objects: impl Iterator<Item = &'a Arc<K>>) -> usize {
        let is_tombstone = |object: &&Arc<K>| {
            object.desired() == Desired::Absent && self.machines.mirror.get(object.node_name()).is_none()
        };
        objects.filter(is_tombstone).count()
    }
}

/// Counted at each scrape, from what the watches have seen: the same in every replica.
#[derive(Debug)]
struct Objects(Arc<Controller>);

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let controller = &self.0;
        // Without all nodes everything looks like a tombstone.
        if !controller.unlisted().is_empty() {
            return Ok(());
        }
        let volumes = controller.volumes.mirror.all();
        let unclaimed =
            volumes.iter().filter(|object| object.is_unclaimed() && object.desired() == Desired::Present);
        let count = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        count(unclaimed.count()).encode(encoder.encode_descriptor(
            "controller_unclaimed_volumes",
            "Ready volumes that neither a PersistentVolume nor a claim names.",
            None,
            MetricType::Gauge,
        )?)?;
        let tombstones = [
            ("volume", controller.tombstones(volumes.iter())),
            ("snapshot", controller.tombstones(controller.snapshots.mirror.all().iter())),
        ];
        let mut family = encoder.encode_descriptor(
            "controller_tombstones",
            "Deleted volumes and snapshots that wait for a node that is gone.",
            None,
            MetricType::Gauge,
        )?;
        for (kind, found) in tombstones {
            count(found).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        Ok(())
    }
}
