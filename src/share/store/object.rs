//! Volumes and snapshots by their keys: what state they are in.

use super::{
    Key, Kind, Share,
    fault::OnShare,
    names::{Worker, of_deleting, of_key},
    record::{SnapshotRecord, VERSION, VolumeRecord},
};
use crate::{
    error::{Error, Result},
    os::directory::Directory,
    store::sealed,
};
use serde::de::DeserializeOwned;
use std::ffi::OsStr;

/// The name of a finished object's record.
pub const RECORD: &str = "record.json";
/// The name of a snapshot's content.
pub const DATA: &str = "data";
const LIMIT: u64 = 64 << 10;
/// How often a look is repeated because the record changed its name meanwhile.
const TRIES: u32 = 8;

/// A volume's directory in `volumes`, open: later calls meet this very one.
#[derive(Debug)]
pub(super) struct Volume {
    pub directory: Directory,
    pub state: State,
}

/// What is in it.
#[derive(Debug)]
pub(super) enum State {
    /// The volume exists.
    Ready(VolumeRecord),
    /// A worker is making it, or discarding what another did not finish.
    Creating(VolumeRecord, Worker),
    /// Nothing that counts.
    Dead,
}

/// A snapshot's directory in `snapshots`, open.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub directory: Directory,
    /// `None`: its deletion has begun.
    pub record: Option<SnapshotRecord>,
}

impl Share {
    /// Looks a volume up; `None`: nothing has its name.
    pub(super) fn look(&self, key: Key) -> Result<Option<Volume>> {
        for _ in 0..TRIES {
            let Some(directory) = self.enter(Kind::Volume, key)? else { return Ok(None) };
            if let Some(record) = read::<VolumeRecord>(&directory, OsStr::new(RECORD), key)? {
                return Ok(Some(Volume { directory, state: State::Ready(record) }));
            }
            let names = list(&directory)?;
            let creating =
                names.iter().find_map(|name| Worker::of_creating(name).map(|worker| (name, worker)));
            match creating {
                Some((name, worker)) => {
                    if let Some(record) = read(&directory, name, key)? {
                        let state = State::Creating(record, worker);
                        return Ok(Some(Volume { directory, state }));
                    }
                }
                // It became ready between the two looks.
                None if names.iter().any(|name| name == RECORD) => {}
                None => return Ok(Some(Volume { directory, state: State::Dead })),
            }
        }
        Err(Error::Busy(format!("volume {key} changes too quickly to look at it; try again")))
    }

    /// Looks a snapshot up; `None`: nothing has its name.
    pub(super) fn look_for_snapshot(&self, key: Key) -> Result<Option<Snapshot>> {
        let Some(directory) = self.enter(Kind::Snapshot, key)? else { return Ok(None) };
        let record = read(&directory, OsStr::new(RECORD), key)?;
        Ok(Some(Snapshot { directory, record }))
    }

    fn enter(&self, kind: Kind, key: Key) -> Result<Option<Directory>> {
        self.directory(kind).enter(&of_key(key)).on_share(|| format!("looking for {kind} {key}"))
    }

    /// Like [`Share::clear`]; false: the directory is still there, since something that counts is in it.
    pub(super) fn is_cleared(&self, kind: Kind, key: Key, directory: &Directory) -> Result<bool> {
        self.clear(kind, key, directory)?;
        let doing = || format!("looking whether {kind} {key} is gone");
        let Some(there) = self.directory(kind).stat(&of_key(key)).on_share(doing)? else { return Ok(true) };
        match directory.own_stat() {
            Err(e) if e.is_stale() => Ok(true),
            own => own.map(|own| own.inode.number != there.inode.number).on_share(doing),
        }
    }

    /// Takes away an object's directory that holds nothing which counts. Another, newer one cannot be hit:
    /// it is not empty.
    pub(super) fn clear(&self, kind: Kind, key: Key, directory: &Directory) -> Result<()> {
        let doing = || format!("removing what is left of {kind} {key}");
        let parent = self.directory(kind);
        match parent.remove_dir(&of_key(key)) {
            Err(e) if e.is_not_empty() || e.is_already_there() => {}
            result => return result.and_then(|()| parent.sync()).on_share(doing),
        }
        for name in list(directory)? {
            let counts = name == RECORD
                || name == DATA
                || Worker::of_creating(&name).is_some()
                || of_deleting(&name).is_some();
            if !counts {
                match directory.remove_file(&name) {
                    // Somebody on this host still reads what was removed (NFS); it goes by itself.
                    Err(e) if e.is_busy() => {}
                    result => result.on_share(doing)?,
                }
            }
        }
        match parent.remove_dir(&of_key(key)) {
            Err(e) if e.is_not_empty() || e.is_already_there() => Ok(()),
            result => result.and_then(|()| parent.sync()).on_share(doing),
        }
    }
}

/// The names in an object's directory; one that was removed meanwhile has none.
pub(super) fn list(directory: &Directory) -> Result<Vec<std::ffi::OsString>> {
    match directory.list() {
        Err(e) if e.is_stale() || e.is_not_found() => Ok(Vec::new()),
        names => names.on_share(|| format!("listing {}", directory.path().display())),
    }
}

/// Reads a record, which must be `key`'s.
fn read<R: DeserializeOwned + Keyed>(directory: &Directory, name: &OsStr, key: Key) -> Result<Option<R>> {
    let path = directory.path().join(name);
    let damaged = |reason: &str| {
        Error::Damaged(format!(
            "{} {reason}; it was left alone: restore it from a backup, or move its directory out of the store",
            path.display()
        ))
    };
    let bytes = match directory.read(name, LIMIT) {
        Err(e) if e.is_stale() => return Ok(None),
        Err(e) if e.is_symlink() || matches!(e, crate::os::Error::Unexpected(_)) => {
            return Err(damaged(&format!("cannot be a record ({e})")));
        }
        bytes => bytes.on_share(|| format!("reading {}", path.display()))?,
    };
    let Some(bytes) = bytes else { return Ok(None) };
    let record: R = sealed::open(&bytes, VERSION).map_err(|reason| damaged(&reason))?;
    if record.key() != key {
        return Err(damaged("is the record of another object"));
    }
    Ok(Some(record))
}

/// What stands in a directory named after its key.
trait Keyed {
    fn key(&self) -> Key;
}

impl Keyed for VolumeRecord {
    fn key(&self) -> Key {
        self.key
    }
}

impl Keyed for SnapshotRecord {
    fn key(&self) -> Key {
        self.key
    }
}
