//! Volumes and snapshots on shares, and where they are mounted on this host.

use super::{Report, Row, Store, source};
use crate::{
    commands::{
        chain, print,
        shares::{each, reach, reason, remote},
    },
    config::{ShareArgs, check_shares},
    error::{Error, Result},
    os::{
        mountinfo::{self, Mount},
        nfs::FILESYSTEMS,
    },
    service::nfs::{self, At},
    share::{
        Remote,
        store::{Flaw, OnDelete, Page, Place, SnapshotRecord, VolumeRecord},
    },
    volume::{Key, Source},
};
use serde::Serialize;
use std::path::PathBuf;

/// How many records are fetched at a time.
const CHUNK: usize = 500;

/// A share, and what of this owner is on it.
#[derive(Debug, Serialize)]
pub(super) struct ShareReport {
    pub(super) share: String,
    /// Whose volumes are listed.
    owner: String,
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
    total: u64,
    available: u64,
}

/// What only volumes on shares have.
#[derive(Debug, Serialize)]
pub(super) struct OnShare {
    /// Below the share.
    directory: String,
    /// It was there before the volume.
    adopted: bool,
    on_delete: OnDelete,
}

/// What is on one share.
struct Found {
    figures: Figures,
    volumes: Vec<Row>,
    snapshots: Vec<Row>,
}

/// Adds what is on every share that answers.
pub(super) fn list(arguments: &ShareArgs, report: &mut Report) -> std::result::Result<(), String> {
    if arguments.shares.is_empty() {
        return Ok(());
    }
    check_shares(&arguments.shares)?;
    let remote = remote(arguments.owner.as_deref())?;
    let mounts = mountinfo::read().map_err(|error| format!("cannot list mounts: {}", chain(&error)))?;
    let owner = remote.owner().name().map_err(|error| error.chain())?;
    let looked = each(&arguments.shares, |at| look(&remote, at, &mounts));
    for (at, outcome) in arguments.shares.iter().zip(looked) {
        let (error, figures) = match outcome {
            Ok(found) => {
                report.volumes.extend(found.volumes);
                report.snapshots.extend(found.snapshots);
                (None, Some(found.figures))
            }
            Err(error) => (Some(reason(at, &error)), None),
        };
        let share = ShareReport { share: at.to_string(), owner: owner.to_owned(), error, figures };
        report.shares.push(share);
    }
    Ok(())
}

fn look(remote: &Remote, at: &At, mounts: &[Mount]) -> Result<Found> {
    let share = reach(at);
    let volumes = all(|after| remote.volumes(&share, after, CHUNK), |record| record.key)?;
    let snapshots = all(|after| remote.snapshots(&share, after, CHUNK), |record| record.key)?;
    let space = remote.space(&share)?;
    let figures = Figures {
        volumes: volumes.entries.len() + volumes.damaged.len(),
        snapshots: snapshots.entries.len() + snapshots.damaged.len(),
        total: space.total,
        available: space.available,
    };
    let healthy = |record: VolumeRecord| {
        let flaw = match remote.volume_health(&share, record.key) {
            // One that gives no answer would be asked in vain about all others.
            Ok(Some(Flaw::Silent(why))) => return Err(Error::Unavailable(why)),
            // Deleted since it was listed.
            Err(Error::NotFound(_)) => return Ok(None),
            flaw => flaw?,
        };
        Ok(Some(volume(at, record, flaw, mounts)))
    };
    let damaged = |(key, why)| Row::damaged(Store::Share(at.to_string()), key, why);
    let mut rows =
        volumes.entries.into_iter().map(healthy).filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
    rows.extend(volumes.damaged.into_iter().map(damaged));
    let copies = snapshots.entries.into_iter().map(|record| snapshot(at, record));
    let copies = copies.chain(snapshots.damaged.into_iter().map(damaged)).collect();
    Ok(Found { figures, volumes: rows, snapshots: copies })
}

/// All pages in one.
fn all<T>(fetch: impl Fn(Option<Key>) -> Result<Page<T>>, key: impl Fn(&T) -> Key) -> Result<Page<T>> {
    let mut whole = Page::default();
    loop {
        let page = fetch(whole.after)?;
        whole.entries.extend(page.entries);
        whole.damaged.extend(page.damaged);
        // Each page begins behind the last: a helper that says otherwise would be asked for ever.
        whole.after = page.after.filter(|next| whole.entries.last().map(&key) == Some(*next));
        if whole.after.is_none() {
            return Ok(whole);
        }
    }
}

fn volume(at: &At, record: VolumeRecord, flaw: Option<Flaw>, mounts: &[Mount]) -> Row {
    let ailment = flaw.map(nfs::ailment);
    Row {
        mounts: mounted(at, &record.root, mounts),
        id: record.id,
        name: Some(record.name),
        on_share: Some(OnShare {
            directory: record.root.to_string(),
            adopted: record.adopted,
            on_delete: record.on_delete,
        }),
        size: Some(record.size_bytes),
        health: ailment.as_ref().map_or("healthy", |ailment| ailment.severity.as_str()),
        ailments: ailment
            .into_iter()
            .map(|ailment| format!("{}: {}", ailment.reason, ailment.message))
            .collect(),
        source: record.source.map(source),
        created: Some(print::time(record.created.system_time())),
        ..Row::new(Store::Share(at.to_string()), record.key)
    }
}

fn snapshot(at: &At, record: SnapshotRecord) -> Row {
    Row {
        id: record.id,
        name: Some(record.name),
        size: Some(record.asked_bytes),
        source: Some(source(Source::Volume(record.volume))),
        created: Some(print::time(record.created.system_time())),
        // Nobody has looked at its files.
        health: "unknown",
        ..Row::new(Store::Share(at.to_string()), record.key)
    }
}

/// Where this host shows a volume, as far as the server has the same name there.
fn mounted(at: &At, root: &Place, mounts: &[Mount]) -> Vec<PathBuf> {
    let whole = format!("{}/{root}", at.to_string().trim_end_matches('/'));
    let shows = |mount: &&Mount| {
        let inside = mount.root.to_string_lossy();
        FILESYSTEMS.contains(&mount.fstype.as_str())
            && format!("{}{}", mount.source, inside.trim_end_matches('/')) == whole
    };
    mounts.iter().filter(shows).map(|mount| mount.point.clone()).collect()
}

/// `directory team/pvc-1, adopted, retained`.
pub(super) fn what(on_share: &OnShare) -> String {
    let adopted = if on_share.adopted { ", adopted" } else { "" };
    let fate = match on_share.on_delete {
        OnDelete::Delete => "",
        OnDelete::Retain => ", retained",
        OnDelete::Archive => ", archived in the end",
    };
    format!("directory {}{adopted}{fate}", print::plain(&on_share.directory))
}

/// The line below the table.
pub(super) fn show(share: &ShareReport) {
    let Some(figures) = &share.figures else { return };
    print::line(format_args!(
        "share {}: {}, {} of owner {}; {} of {} are free",
        share.share,
        print::count(figures.volumes, "volume"),
        print::count(figures.snapshots, "snapshot"),
        share.owner,
        print::bytes(figures.available),
        print::bytes(figures.total)
    ));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::nfs::{Connection, Share};

    fn mount(source: &str, root: &str, fstype: &str) -> Mount {
        Mount {
            id: 1,
            device: 1,
            root: root.into(),
            point: format!("/mnt/{fstype}{root}").into(),
            options: String::new(),
            fstype: fstype.into(),
            source: source.into(),
            super_options: String::new(),
            propagation: String::new(),
        }
    }

    #[test]
    fn mounts_of_a_volume_and_of_nothing_else() {
        let root = Place::new(vec!["a".into(), "b".into()]).unwrap();
        for (share, source) in [("nas:/x", "nas:/x"), ("nas:/", "nas:"), ("fd00::1:/x", "[fd00::1]:/x")] {
            let at = At { share: Share::parse(share).unwrap(), connection: Connection::default() };
            let shown = [mount(&format!("{source}/a/b"), "/", "nfs4"), mount(source, "/a/b", "nfs")];
            let others = [
                mount(&format!("{source}/a/b"), "/", "fuse"),
                mount(&format!("{source}/a"), "/", "nfs4"),
                mount(&format!("{source}/a/b/c"), "/", "nfs4"),
                mount("other:/x/a/b", "/", "nfs4"),
            ];
            assert_eq!(mounted(&at, &root, &shown).len(), 2, "{share}");
            assert!(mounted(&at, &root, &others).is_empty(), "{share}");
        }
    }

    #[test]
    fn pages_end() {
        let key = |number: u128| Key::from_uuid(uuid::Uuid::from_u128(number));
        let fetch = |after: Option<Key>| {
            let next = if after.is_none() { 1 } else { 2 };
            Ok(Page { entries: vec![key(next)], damaged: Vec::new(), after: (next == 1).then(|| key(1)) })
        };
        assert_eq!(all(fetch, |key| *key).unwrap().entries, [key(1), key(2)]);
        let odd = |_| Ok(Page { entries: Vec::<Key>::new(), damaged: Vec::new(), after: Some(key(1)) });
        assert_eq!(all(odd, |key| *key).unwrap().entries, []);
    }
}
