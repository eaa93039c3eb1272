//! `wharf volumes`: what is on the pools. Nothing is written there.

use super::{Outcome, exit_code, print, standalone::chain};
use crate::{
    backend::directory,
    config::{Output, VolumesArgs, check_pools},
    os::{
        file::{self, Inode},
        loopdev,
        mountinfo::{self, Mount},
        reflink,
    },
    service,
    store::{Kind, Pool, PoolConfig},
    volume::{Key, Layout, LimitMode, Provisioning, Shape, SnapshotRecord, Source, VolumeRecord},
};
use serde::Serialize;
use std::{collections::HashMap, path::PathBuf};

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    pools: Vec<PoolReport>,
    volumes: Vec<Row>,
    snapshots: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct PoolReport {
    name: String,
    path: String,
    /// Why nothing of it is listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    figures: Option<Figures>,
}

/// In bytes.
#[derive(Debug, Serialize)]
struct Figures {
    volumes: usize,
    snapshots: usize,
    trash: u64,
    total: u64,
    available: u64,
    promised: u64,
    room: u64,
}

/// A volume or a snapshot. What a damaged record does not tell is left out.
#[derive(Debug, Serialize)]
struct Row {
    pool: String,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owned: Option<u64>,
    promised: u64,
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

/// Lists every pool that can be looked at; the exit code says whether all could.
pub fn run(arguments: &VolumesArgs) -> Outcome {
    check_pools(&arguments.pools)?;
    let attachments = Attachments::read()?;
    let mut report = Report::default();
    for config in &arguments.pools {
        let outcome = Pool::inspect(config).and_then(|pool| look(&pool, &attachments, &mut report));
        let (error, figures) = match outcome {
            Ok(figures) => (None, Some(figures)),
            Err(error) => (Some(error.chain()), None),
        };
        report.pools.push(describe(config, error, figures));
    }
    match arguments.output {
        Output::Json => print::json(&report)?,
        Output::Table => show(&report),
    }
    let failed: Vec<_> =
        report.pools.iter().filter_map(|pool| Some((&pool.name, pool.error.as_ref()?))).collect();
    for (name, error) in &failed {
        eprintln!("wharf: pool {name:?} cannot be listed: {}", print::plain(error));
    }
    Ok(exit_code(failed.is_empty()))
}

fn describe(config: &PoolConfig, error: Option<String>, figures: Option<Figures>) -> PoolReport {
    PoolReport { name: config.name.clone(), path: config.path.display().to_string(), error, figures }
}

fn look(pool: &Pool, attachments: &Attachments, report: &mut Report) -> crate::error::Result<Figures> {
    let (volumes, snapshots) = (pool.keys(Kind::Volume)?, pool.keys(Kind::Snapshot)?);
    let space = pool.space()?;
    let figures = Figures {
        volumes: volumes.len(),
        snapshots: snapshots.len(),
        trash: pool.trash_entries(),
        total: space.total,
        available: space.available,
        promised: pool.ledger().promised(),
        room: pool.room()?,
    };
    report.volumes.extend(volumes.into_iter().filter_map(|key| volume(pool, key, attachments)));
    report.snapshots.extend(snapshots.into_iter().filter_map(|key| snapshot(pool, key)));
    Ok(figures)
}

/// `None`: it was deleted since the pool was listed.
fn volume(pool: &Pool, key: Key, attachments: &Attachments) -> Option<Row> {
    let record = match pool.volume(key) {
        Ok(record) => record?,
        Err(error) => return Some(damaged(pool, key, error.chain())),
    };
    let ailments = match service::at_rest(pool, key, &record.node, service::Look::Thorough) {
        Ok((_, ailments)) => ailments,
        Err(error) => return Some(damaged(pool, key, error.chain())),
    };
    let promised = pool.ledger().of(key).bytes;
    let (loop_device, mounts) = attachments.of(pool, &record);
    let worst = ailments.iter().map(|ailment| ailment.severity).max();
    Some(Row {
        pool: pool.name().to_owned(),
        id: record.id().to_string(),
        uuid: key.to_string(),
        shape: Some(record.shape),
        provisioning: record.provisioning,
        limit: record.limit,
        size: Some(record.size_bytes),
        owned: Some(record.size_bytes.saturating_sub(promised)),
        promised,
        loop_device,
        mounts,
        health: worst.map_or("healthy", service::Severity::as_str),
        ailments: ailments
            .into_iter()
            .map(|ailment| format!("{}: {}", ailment.reason, ailment.message))
            .collect(),
        source: record.source.map(|source| match source {
            Source::Snapshot(key) => format!("snapshot {key}"),
            Source::Volume(key) => format!("volume {key}"),
        }),
        created: Some(print::time(record.created.system_time())),
        name: Some(record.name),
    })
}

fn snapshot(pool: &Pool, key: Key) -> Option<Row> {
    let record = match pool.snapshot(key) {
        Ok(record) => record?,
        Err(error) => return Some(damaged(pool, key, error.chain())),
    };
    let (owned, ailment) = match owned_by_snapshot(pool, &record) {
        Ok(owned) => (owned, None),
        Err(reason) => (None, Some(reason)),
    };
    Some(Row {
        pool: pool.name().to_owned(),
        id: record.id().to_string(),
        uuid: key.to_string(),
        shape: Some(record.shape),
        provisioning: record.provisioning,
        limit: None,
        size: Some(record.size_bytes),
        owned,
        promised: 0,
        loop_device: None,
        mounts: Vec::new(),
        health: if ailment.is_none() { "healthy" } else { service::Severity::DataLoss.as_str() },
        ailments: ailment.into_iter().collect(),
        source: Some(format!("volume {}", record.volume)),
        created: Some(print::time(record.created.system_time())),
        name: Some(record.name),
    })
}

/// What only this snapshot holds; nobody counts that for directories. An error is what is wrong with it.
fn owned_by_snapshot(pool: &Pool, record: &SnapshotRecord) -> Result<Option<u64>, String> {
    let data = pool.data(Kind::Snapshot, record.key);
    if record.shape.layout == Layout::Directory {
        return match file::stat(&data) {
            Ok(Some(_)) => Ok(None),
            Ok(None) => Err(format!("DirectoryMissing: {} is missing", data.display())),
            Err(error) => Err(chain(&error)),
        };
    }
    let image = pool.image(Kind::Snapshot, record.key);
    match file::open_for_reading(&image).and_then(|image| reflink::exclusive_bytes(&image)) {
        Ok(owned) => Ok(Some(owned)),
        Err(error) if error.is_not_found() => Err(format!("ImageMissing: {} is missing", image.display())),
        Err(error) => Err(chain(&error)),
    }
}

fn damaged(pool: &Pool, key: Key, reason: String) -> Row {
    Row {
        pool: pool.name().to_owned(),
        id: String::new(),
        uuid: key.to_string(),
        name: None,
        shape: None,
        provisioning: None,
        limit: None,
        size: None,
        owned: None,
        promised: pool.ledger().of(key).bytes,
        loop_device: None,
        mounts: Vec::new(),
        health: service::Severity::Inaccessible.as_str(),
        ailments: vec![reason],
        source: None,
        created: None,
    }
}

/// Loops and mounts, read once for all volumes.
struct Attachments {
    loops: HashMap<Inode, u32>,
    mounts: Vec<Mount>,
}

impl Attachments {
    fn read() -> Result<Self, String> {
        let loops = loopdev::all().map_err(|error| format!("cannot list loop devices: {}", chain(&error)))?;
        Ok(Self {
            loops: loops.into_iter().map(|(number, status)| (status.backing, number)).collect(),
            mounts: mountinfo::read().map_err(|error| format!("cannot list mounts: {}", chain(&error)))?,
        })
    }

    /// The loop of a volume, and where it is mounted in this mount namespace.
    fn of(&self, pool: &Pool, record: &VolumeRecord) -> (Option<u32>, Vec<PathBuf>) {
        let key = record.key;
        if record.shape.layout == Layout::Directory {
            let root = file::stat(&pool.data(Kind::Volume, key)).ok().flatten().map(|stat| stat.inode);
            let shows = |mount: &&Mount| {
                directory::key_of_root(&mount.root) == Some(key)
                    && file::stat(&mount.point).is_ok_and(|stat| stat.map(|stat| stat.inode) == root)
            };
            return (None, self.points(shows));
        }
        let image = file::stat(&pool.image(Kind::Volume, key)).ok().flatten();
        let Some(number) = image.and_then(|image| self.loops.get(&image.inode)).copied() else {
            return (None, Vec::new());
        };
        // The filesystem on the device, or binds of the device's node.
        let node = PathBuf::from(format!("/loop{number}"));
        let device = loopdev::device_number(number);
        (Some(number), self.points(|mount| mount.device == device || mount.root == node))
    }

    fn points(&self, shows: impl Fn(&&Mount) -> bool) -> Vec<PathBuf> {
        self.mounts.iter().filter(shows).map(|mount| mount.point.clone()).collect()
    }
}

fn show(report: &Report) {
    let columns = [
        ("POOL", false),
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
    for pool in &report.pools {
        let Some(figures) = &pool.figures else { continue };
        print::line(format_args!(
            "pool {}: {}, {}; {} of {} are free, {} of it promised, {} left for new volumes{}",
            pool.name,
            print::count(figures.volumes, "volume"),
            print::count(figures.snapshots, "snapshot"),
            print::bytes(figures.available),
            print::bytes(figures.total),
            print::bytes(figures.promised),
            print::bytes(figures.room),
            match figures.trash {
                0 => String::new(),
                trash => format!("; {trash} in trash"),
            }
        ));
    }
}

fn cells(kind: &str, row: &Row) -> Vec<String> {
    let size = |bytes: Option<u64>| bytes.map_or("-".to_owned(), print::bytes);
    vec![
        row.pool.clone(),
        kind.to_owned(),
        row.uuid.clone(),
        row.name.as_deref().map_or("-".to_owned(), print::plain),
        what(row),
        size(row.size),
        size(row.owned),
        print::bytes(row.promised),
        attached(row),
        row.health.to_owned(),
        row.source.clone().unwrap_or_else(|| "-".to_owned()),
        row.created.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// `thick image with ext4`, `directory, enforced limit`.
fn what(row: &Row) -> String {
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
