//! What an agent counts, for metrics.

use super::{super::api::Phase, index::Index};
use crate::{error::Result, store::Kind};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::{sync::Arc, time::Instant};

/// One process is one agent: they are there before it is.
#[derive(Debug)]
pub struct Figures {
    volumes: OfKind,
    snapshots: OfKind,
    outcomes: Family<Outcome, Counter>,
    durations: Family<Work, Histogram>,
}

/// Of the objects of one kind.
#[derive(Debug, Default)]
pub struct OfKind {
    /// What is known of them.
    pub index: Arc<Index>,
    /// How many are being worked on, or wait for it.
    pub queued: Gauge,
}

/// A piece of work on data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Work {
    kind: &'static str,
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    kind: &'static str,
    action: &'static str,
    result: &'static str,
}

const KINDS: [Kind; 2] = [Kind::Volume, Kind::Snapshot];

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Volume => "volume",
        Kind::Snapshot | Kind::Trash => "snapshot",
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            volumes: OfKind::default(),
            snapshots: OfKind::default(),
            outcomes: Family::default(),
            durations: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 4.0, 10)) // 1 ms to 262 s: some are copies
            }),
        }
    }
}

impl Figures {
    /// Adds them to what is served.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register(
            "agent_actions",
            "Pieces of work on the data of objects that have ended",
            self.outcomes.clone(),
        );
        registry.register_with_unit(
            "agent_action_duration",
            "How long they took",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register_collector(Box::new(Objects(Arc::clone(self))));
    }

    pub(super) fn of(&self, kind: Kind) -> &OfKind {
        match kind {
            Kind::Volume => &self.volumes,
            Kind::Snapshot | Kind::Trash => &self.snapshots,
        }
    }

    /// A piece of work has ended.
    pub(super) fn ended<T>(&self, kind: Kind, action: &'static str, outcome: &Result<T>, began: Instant) {
        let kind = label(kind);
        let result = match outcome {
            Ok(_) => "OK",
            Err(error) => error.reason(),
        };
        self.outcomes.get_or_create(&Outcome { kind, action, result }).inc();
        self.durations.get_or_create(&Work { kind, action }).observe(began.elapsed().as_secs_f64());
    }
}

/// Counted at each scrape.
#[derive(Debug)]
struct Objects(Arc<Figures>);

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut objects = encoder.encode_descriptor(
            "agent_objects",
            "Objects of this node by what they say last.",
            None,
            MetricType::Gauge,
        )?;
        for kind in KINDS {
            let counted = self.0.of(kind).index.phases();
            for phase in Phase::ALL {
                let count = counted.iter().filter(|one| **one == phase).count();
                let labels = [("kind", label(kind)), ("phase", phase.as_str())];
                ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX))
                    .encode(objects.encode_family(&labels)?)?;
            }
        }
        let mut queued = encoder.encode_descriptor(
            "agent_objects_queued",
            "Objects that are being worked on, or wait for the next attempt.",
            None,
            MetricType::Gauge,
        )?;
        for kind in KINDS {
            let count = self.0.of(kind).queued.get();
            ConstGauge::new(count).encode(queued.encode_family(&[("kind", label(kind))])?)?;
        }
        Ok(())
    }
}
