//! `wharf volumes`: what is on pools and shares. Nothing is written there.

mod pools;
mod shares;

use super::{Outcome, Store, exit_code, print};
use crate::{
    config::{Output, VolumesArgs},
    service::Severity,
    volume::{Key, LimitMode, Provisioning, Shape, Source},
};
use pools::PoolReport;
use serde::Serialize;
use shares::{OnShare, ShareReport};
use std::path::PathBuf;

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    pools: Vec<PoolReport>,
    shares: Vec<ShareReport>,
    volumes: Vec<Row>,
    snapshots: Vec<Row>,
}

/// A volume or a snapshot. What a damaged record does not tell is left out, and so is what has no meaning where
/// it is.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    store: Store,
    id: String,
    uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(flatten)]
    shape: Option<Shape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provisioning: Option<Provisioning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<LimitMode>,
    #[serde(flatten)]
    on_share: Option<OnShare>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owned: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promised: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loop_device: Option<u32>,
    mounts: Vec<PathBuf>,
    health: &'static str,
    ailments: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
}

impl Row {
    /// Nothing is known but that it is there.
    fn new(store: Store, key: Key) -> Self {
        Self {
            store,
            id: String::new(),
            uuid: key.to_string(),
            name: None,
            shape: None,
            provisioning: None,
            limit: None,
            on_share: None,
            size: None,
            owned: None,
            promised: None,
            loop_device: None,
            mounts: Vec::new(),
            health: "healthy",
            ailments: Vec::new(),
            source: None,
            created: None,
        }
    }

    fn damaged(store: Store, key: Key, reason: String) -> Self {
        Self { health: Severity::Inaccessible.as_str(), ailments: vec![reason], ..Self::new(store, key) }
    }
}

fn source(source: Source) -> String {
    match source {
        Source::Snapshot(key) => format!("snapshot {key}"),
        Source::Volume(key) => format!("volume {key}"),
    }
}

/// Lists every pool and share that can be looked at; the exit code says whether all could.
pub fn run(arguments: &VolumesArgs) -> Outcome {
    let mut report = Report::default();
    pools::list(&arguments.pools, &mut report)?;
    shares::list(&arguments.on, &mut report)?;
    match arguments.output {
        Output::Json => print::json(&report)?,
        Output::Table => show(&report),
    }
    let failed = report.failures();
    for (what, error) in &failed {
        eprintln!("wharf: {what} cannot be listed: {}", print::plain(error));
    }
    Ok(exit_code(failed.is_empty()))
}

impl Report {
    fn failures(&self) -> Vec<(String, &str)> {
        let mut failures = Vec::new();
        for pool in &self.pools {
            failures.extend(pool.error.as_deref().map(|error| (format!("pool {:?}", pool.name), error)));
        }
        for share in &self.shares {
            failures.extend(share.error.as_deref().map(|error| (format!("share {}", share.share), error)));
        }
        failures
    }
}

fn show(report: &Report) {
    let columns = [
        ("STORE", false),
        ("KIND", false),
        ("UUID", false),
        ("NAME", false),
        ("WHAT", false),
        ("SIZE", true),
        ("OWNED", true),
        ("PROMISED", true),
        ("ATTACHED", false),
        ("HEALTH", false),
        ("SOURCE", false),
        ("CREATED", false),
    ];
    let volumes = report.volumes.iter().map(|row| cells("volume", row));
    let snapshots = report.snapshots.iter().map(|row| cells("snapshot", row));
    let rows: Vec<_> = volumes.chain(snapshots).collect();
    if !rows.is_empty() {
        print::table(&columns, rows);
        print::line("");
    }
    for row in report.volumes.iter().chain(&report.snapshots) {
        for ailment in &row.ailments {
            print::line(format_args!("{} {}: {}", row.uuid, row.health, print::plain(ailment)));
        }
    }
    report.pools.iter().for_each(pools::show);
    report.shares.iter().for_each(shares::show);
}

fn cells(kind: &str, row: &Row) -> Vec<String> {
    let size = |bytes: Option<u64>| bytes.map_or("-".to_owned(), print::bytes);
    vec![
        row.store.to_string(),
        kind.to_owned(),
        row.uuid.clone(),
        row.name.as_deref().map_or("-".to_owned(), print::plain),
        what(row),
        size(row.size),
        size(row.owned),
        size(row.promised),
        attached(row),
        row.health.to_owned(),
        row.source.clone().unwrap_or_else(|| "-".to_owned()),
        row.created.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// `thick image with ext4`, `directory, enforced limit`, `directory team/pvc-1, retained`.
fn what(row: &Row) -> String {
    if let Some(on_share) = &row.on_share {
        return shares::what(on_share);
    }
    let Some(shape) = row.shape else { return "-".to_owned() };
    let provisioning = match row.provisioning {
        Some(Provisioning::Thick) => "thick ",
        Some(Provisioning::Thin) => "thin ",
        None => "",
    };
    let limit = match row.limit {
        Some(LimitMode::Enforced) => ", limit enforced",
        Some(LimitMode::Advisory) => ", limit advisory",
        None => "",
    };
    format!("{provisioning}{shape}{limit}")
}

fn attached(row: &Row) -> String {
    let mounts = || print::count(row.mounts.len(), "mount");
    match (row.loop_device, row.mounts.len()) {
        (None, 0) => "-".to_owned(),
        (None, _) => mounts(),
        (Some(number), 0) => format!("loop{number}"),
        (Some(number), _) => format!("loop{number}, {}", mounts()),
    }
}
