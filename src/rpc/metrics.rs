//! Prometheus metrics: what they are called, and what is measured for each RPC.

use super::run;
use crate::{
    os::host,
    service::{PoolCensus, ServerStatus, Service},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use std::{sync::Arc, time::Duration};
use tonic::Code;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodCode {
    method: &'static str,
    code: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    handled: Family<MethodCode, Counter>,
    durations: Family<MethodCode, Histogram>,
    in_flight: Family<Method, Gauge>,
}

/// Counts one RPC as running until it is dropped.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers everything; pools and volumes are read from `service` when somebody asks.
    pub fn new(service: Arc<Service>) -> Self {
        let mut registry = Registry::with_prefix("wharf");
        let handled = Family::default();
        registry.register("rpcs", "RPCs answered", handled.clone());
        let durations = Family::<MethodCode, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.0005, 2.0, 16)) // 0.5 ms to 16 s
        });
        registry.register_with_unit("rpc_duration", "How long RPCs took", Unit::Seconds, durations.clone());
        let in_flight = Family::default();
        registry.register("rpcs_in_flight", "RPCs being worked on", in_flight.clone());
        registry.register_collector(Box::new(Process));
        registry.register_collector(Box::new(Servers(Arc::clone(&service))));
        registry.register_collector(Box::new(Pools(service)));
        Self { registry, handled, durations, in_flight }
    }

    /// For what is counted elsewhere.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    pub(super) fn start(&self, method: &'static str) -> InFlight {
        let gauge = self.in_flight.get_or_create_owned(&Method { method });
        gauge.inc();
        InFlight(gauge)
    }

    pub(super) fn observe(&self, method: &'static str, code: Code, elapsed: Duration) {
        let labels = MethodCode { method, code: run::name(code) };
        self.handled.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(elapsed.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut body = String::new();
        text::encode(&mut body, &self.registry)?;
        Ok(body)
    }
}

/// What this process uses.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "CPU time of the driver, and of the programs that it has run";
        let mut cpu = encoder.encode_descriptor("cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for (of, whose) in [("driver", host::Whose::Own), ("programs", host::Whose::Children)] {
            let counter = ConstCounter::new(host::cpu_time(whose).as_secs_f64());
            counter.encode(cpu.encode_family(&[("of", of)])?)?;
        }
        if let Ok(bytes) = host::resident_bytes() {
            let resident = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            let help = "What of the driver is in memory";
            resident.encode(encoder.encode_descriptor(
                "resident_memory",
                help,
                Some(&Unit::Bytes),
                MetricType::Gauge,
            )?)?;
        }
        Ok(())
    }
}

/// What the servers of NFS shares have in use, read at each scrape.
#[derive(Debug)]
struct Servers(Arc<Service>);

impl Collector for Servers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let servers = self.0.servers();
        if servers.is_empty() {
            return Ok(());
        }
        type Of = fn(&ServerStatus) -> usize;
        let figures: [(&str, &str, Of); 4] = [
            ("server_helpers", "Helper processes for shares of an NFS server", |server| server.helpers),
            ("server_helpers_lost", "Those that outlive SIGKILL until the server answers", |server| {
                server.lost
            }),
            ("server_operations", "Operations on its shares that are being carried out", |server| {
                server.operations
            }),
            ("server_refusing", "1 while requests are refused because it does not answer", |server| {
                usize::from(server.open)
            }),
        ];
        for (name, help, figure) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for server in &servers {
                ConstGauge::new(i64::try_from(figure(server)).unwrap_or(i64::MAX))
                    .encode(family.encode_family(&[("server", server.server.as_str())])?)?;
            }
        }
        Ok(())
    }
}

type Figure = fn(&PoolCensus) -> u64;

/// Reads pools and volumes at each scrape: nothing is kept that could go stale.
#[derive(Debug)]
struct Pools(Arc<Service>);

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let census = self.0.census();
        let figures: [(&str, &str, Figure); 4] = [
            ("pool_size", "Size of the pool's filesystem", |pool| pool.total),
            ("pool_available", "What its filesystem has available", |pool| pool.available),
            ("pool_promised", "Promised to volumes that do not own it yet", |pool| pool.promised),
            ("pool_trash", "Removed volumes and snapshots that are not purged yet", |pool| pool.trash),
        ];
        for (name, help, figure) in figures {
            let unit = (name != "pool_trash").then_some(&Unit::Bytes);
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for pool in &census.pools {
                let gauge = ConstGauge::new(i64::try_from(figure(pool)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("pool", pool.name.as_str())])?)?;
            }
        }
        let mut up =
            encoder.encode_descriptor("pool_up", "1 if the pool can be used", None, MetricType::Gauge)?;
        for pool in &census.pools {
            let gauge = ConstGauge::new(i64::from(pool.up));
            gauge.encode(up.encode_family(&[("pool", pool.name.as_str())])?)?;
        }
        let mut volumes =
            encoder.encode_descriptor("volumes", "Volumes by layout and health", None, MetricType::Gauge)?;
        for ((pool, layout, health), count) in &census.volumes {
            let labels = [("pool", pool.as_str()), ("layout", *layout), ("health", *health)];
            ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX))
                .encode(volumes.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
