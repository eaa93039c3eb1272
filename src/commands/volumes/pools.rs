//! Volumes and snapshots on pools, and where they are attached.

use super::{Report, Row, Store};
use crate::{
    backend::directory,
    commands::{chain, print},
    config::check_pools,
    os::{
        file::{self, Inode},
        loopdev,
        mountinfo::{self, Mount},
        reflink,
    },
    service,
    store::{Kind, Pool, PoolConfig},
    volume::{Key, Layout, SnapshotRecord, Source, VolumeRecord},
};
use serde::Serialize;
use std::{collections::HashMap, path::PathBuf};

/// A pool, and what is on it.
#[derive(Debug, Serialize)]
pub(super) struct PoolReport {
    pub(super) name: String,
    path: String,
    /// Why nothing of it is listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
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

/// Adds what is on every pool that can be looked at.
pub(super) fn list(pools: &[PoolConfig], report: &mut Report) -> Result<(), String> {
    check_pools(pools)?;
    let attachments = Attachments::read()?;
    for config in pools {
        let outcome = Pool::inspect(config).and_then(|pool| look(&pool, &attachments, report));
        let (error, figures) = match outcome {
            Ok(figures) => (None, Some(figures)),
            Err(error) => (Some(error.chain()), None),
        };
        report.pools.push(describe(config, error, figures));
    }
    Ok(())
}

/// The line below the table.
pub(super) fn show(pool: &PoolReport) {
    let Some(figures) = &pool.figures else { return };
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
        id: record.id().to_string(),
        shape: Some(record.shape),
        provisioning: record.provisioning,
        limit: record.limit,
        size: Some(record.size_bytes),
        owned: Some(record.size_bytes.saturating_sub(promised)),
        promised: Some(promised),
        loop_device,
        mounts,
        health: worst.map_or("healthy", service::Severity::as_str),
        ailments: ailments
            .into_iter()
            .map(|ailment| format!("{}: {}", ailment.reason, ailment.message))
            .collect(),
        source: record.source.map(super::source),
        created: Some(print::time(record.created.system_time())),
        name: Some(record.name),
        ..Row::new(on(pool), key)
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
        id: record.id().to_string(),
        shape: Some(record.shape),
        provisioning: record.provisioning,
        size: Some(record.size_bytes),
        owned,
        promised: Some(0),
        health: if ailment.is_none() { "healthy" } else { service::Severity::DataLoss.as_str() },
        ailments: ailment.into_iter().collect(),
        source: Some(super::source(Source::Volume(record.volume))),
        created: Some(print::time(record.created.system_time())),
        name: Some(record.name),
        ..Row::new(on(pool), key)
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
    Row { promised: Some(pool.ledger().of(key).bytes), ..Row::damaged(on(pool), key, reason) }
}

fn on(pool: &Pool) -> Store {
    Store::Pool(pool.name().to_owned())
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
