#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod crash;
mod create;
mod delete;
mod race;
mod snapshot;
mod squash;

use super::{
    Identity, Kind, NewSnapshot, NewVolume, OnDelete, Place, Share, SnapshotRecord, VolumeRecord,
    names::{CLAIM, Claim},
    object::State,
};
use crate::{
    error::{Error, Result},
    share::copy::Abilities,
    volume::{Key, Name, Owner, Source},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use uuid::Uuid;

fn identity(cluster: &str) -> Identity {
    Identity::new(cluster).unwrap()
}

/// Another controller of cluster `c`.
fn open(root: &Path) -> Share {
    Share::open_or_make(root, &identity("c")).unwrap()
}

/// A controller of another host, which cannot see that this one's processes end.
fn open_elsewhere(root: &Path) -> Share {
    Share::open_or_make(root, &Identity::elsewhere("c").unwrap()).unwrap()
}

/// A controller of the same host after another one has ended.
fn successor(root: &Path, dead: &Share) -> Share {
    dead.identity.end();
    open(root)
}

fn key(name: &str) -> Key {
    Key::of(&Name::new(name).unwrap())
}

fn place(path: &str) -> Place {
    Place::new(path.split('/').map(str::to_owned).collect()).unwrap()
}

fn volume(name: &str, root: &str, on_delete: OnDelete) -> NewVolume {
    NewVolume {
        name: name.into(),
        key: key(name),
        id: format!("nfs-{name}"),
        root: place(root),
        on_delete,
        owner: Owner::default(),
        source: None,
        required_bytes: 1 << 20,
        size_bytes: 1 << 20,
        context: [("share".to_owned(), "/x".to_owned())].into(),
    }
}

fn copy_of(name: &str, root: &str, source: Source) -> NewVolume {
    NewVolume { source: Some(source), ..volume(name, root, OnDelete::Delete) }
}

fn snapshot(name: &str, of: &str) -> NewSnapshot {
    NewSnapshot { name: name.into(), key: key(name), id: format!("nfs-snap-{name}"), volume: key(of) }
}

fn create(share: &Share, wanted: &NewVolume) -> Result<VolumeRecord> {
    share.create_volume(wanted, Abilities::default(), &mut |_| true)
}

fn cut(share: &Share, wanted: &NewSnapshot) -> Result<SnapshotRecord> {
    share.create_snapshot(wanted, Abilities::default(), &mut |_| true)
}

/// As an orchestrator does: again, as long as the answer is not final.
fn again<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..2000 {
        match attempt() {
            Err(Error::Busy(_)) => std::thread::sleep(std::time::Duration::from_millis(2)),
            outcome => return outcome,
        }
    }
    panic!("it never ended")
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// Everything in the tree of claims, directories that hold something left out.
fn claims(share: &Share) -> Vec<(PathBuf, Claim)> {
    let top = share.root().join(".wharf/claims");
    let (mut found, mut rest) = (Vec::new(), vec![top.clone()]);
    while let Some(directory) = rest.pop() {
        let inside = names(&directory);
        assert!(!inside.is_empty() || directory == top, "{directory:?} was left empty");
        for name in inside {
            if name.starts_with(CLAIM) {
                let place = directory.strip_prefix(&top).unwrap().to_owned();
                found.push((place, Claim::parse(name.as_ref()).unwrap()));
            } else {
                rest.push(directory.join(name));
            }
        }
    }
    found.sort_by_key(|(place, claim)| (place.clone(), claim.key));
    found
}

/// What always holds when nobody is at work, once the share was swept.
#[track_caller]
fn sound(share: &Share) {
    let purge = share.sweep(&mut |_| {}).unwrap();
    assert_eq!(purge.left, [], "something could not be purged");
    assert_eq!(share.leftovers(&mut |_| {}).unwrap(), []);
    let home = share.root().join(".wharf");
    let strangers: Vec<_> =
        names(&home.join("tmp")).into_iter().filter(|name| !name.ends_with(".alive")).collect();
    assert!(strangers.is_empty(), "left in tmp: {strangers:?}");
    assert_eq!(names(&home.join("trash")), [""; 0]);
    let mut expected = Vec::new();
    for record in share.volumes(None, 1000).unwrap().entries {
        share.open_root_of(&record).unwrap();
        assert_eq!(names(&home.join("volumes").join(record.key.to_string())), ["record.json"]);
        expected.push((record.root.path(), record.claim()));
    }
    expected.sort_by_key(|(place, claim)| (place.clone(), claim.key));
    assert_eq!(claims(share), expected);
    assert_eq!(names(&home.join("volumes")).len(), expected.len());
    for record in share.snapshots(None, 1000).unwrap().entries {
        let directory = home.join("snapshots").join(record.key.to_string());
        assert_eq!(names(&directory), ["data", "record.json"]);
    }
    assert_eq!(names(&home.join("snapshots")).len(), share.keys(Kind::Snapshot).unwrap().len());
}
