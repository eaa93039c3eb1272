//! What on a share belongs to nothing, for `wharf gc`. Looking changes nothing but the own heartbeat, by which
//! the server's clock is read; removing looks again.

use super::{
    Key, Kind, Share,
    fault::OnShare,
    format::PARTS,
    names::{Draft, Trashed, Worker, of_deleting},
    object::{State, Volume},
    place::Aim,
    sweep::kind_of,
};
use crate::{
    error::{Error, Result},
    os::{directory::Directory, tree},
};
use serde::{Deserialize, Serialize};
use std::{ffi::OsStr, path::PathBuf, time::SystemTime};

/// Entries of a tree that are counted before its size is left unsaid.
const MOST_COUNTED: u64 = 100_000;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A volume or snapshot that was never finished: an entry of tmp.
    Draft(String),
    /// A volume whose record was never finished.
    Unfinished(Key),
    /// A snapshot whose deletion was never finished.
    HalfDeleted(Key),
    /// An entry of trash.
    Trash(String),
    /// A volume whose record cannot be read.
    Damaged(Key),
    /// A volume whose directory is gone, or another.
    Lost(Key),
    /// Nothing of this driver's.
    Stranger,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It may be removed.
    Purge,
    /// It stays, and why.
    Leave(String),
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// What it is.
    pub what: What,
    /// Where it is, below the share's root.
    pub place: PathBuf,
    /// Allocated bytes, where they could be counted.
    pub bytes: Option<u64>,
    /// When it came to be where it is, by the server's clock.
    pub since: Option<SystemTime>,
    /// What becomes of it.
    pub fate: Fate,
}

impl Share {
    /// Looks for what the own cluster left, and for what nobody knows.
    /// `progress` gets the number of objects looked at in the part at hand.
    pub fn leftovers(&self, progress: &mut dyn FnMut(u64)) -> Result<Vec<Leftover>> {
        let mut found = Vec::new();
        self.left_in_tmp(&mut found)?;
        progress(0);
        self.left_in_trash(&mut found)?;
        self.left_volumes(&mut found, progress)?;
        self.left_snapshots(&mut found, progress)?;
        for name in names(&self.home)? {
            if !PARTS.iter().any(|part| name == *part) && name != "format.json" {
                found.push(stranger(self, &self.home, &name));
            }
        }
        Ok(found)
    }

    /// Removes one finding that may be removed; `None`: it is gone, else why it stays.
    pub fn purge_leftover(
        &self,
        leftover: &Leftover,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<String>> {
        if let Fate::Leave(reason) = &leftover.fate {
            return Ok(Some(reason.clone()));
        }
        match &leftover.what {
            What::Draft(name) => {
                let Some(draft) = Draft::parse(OsStr::new(name)) else { return Ok(Some(unknown())) };
                let _turn = self.begin(kind_of(draft.what), draft.key)?;
                if self.is_anothers(draft.worker)? {
                    return Ok(Some(in_work()));
                }
                self.bin_draft(draft)?;
            }
            What::Unfinished(key) => {
                let _turn = self.begin(Kind::Volume, *key)?;
                if let Some(found) = self.look(*key)?
                    && let State::Creating(record, by) = &found.state
                    && (self.is_anothers(*by)? || !self.discard(&found, record, *by)?)
                {
                    return Ok(Some(in_work()));
                }
            }
            What::HalfDeleted(key) => self.delete_snapshot(*key)?,
            What::Trash(name) => {
                let name = OsStr::new(name);
                let Some(trashed) = Trashed::parse(name) else { return Ok(Some(unknown())) };
                return match self.purge_one(name, trashed, progress)? {
                    true => Ok(None),
                    // Another process has it, or it went with the trash on the way of another finding.
                    false => Ok(self.is_in_trash(trashed)?.then(in_work)),
                };
            }
            What::Damaged(_) | What::Lost(_) | What::Stranger => return Ok(Some(unknown())),
        }
        // By way of trash: what is killed on the way is found there again.
        self.purge(progress).map(|_| None)
    }

    /// Whoever purges it.
    fn is_in_trash(&self, trashed: Trashed) -> Result<bool> {
        let same = |other: Trashed| Trashed { purger: trashed.purger, ..other } == trashed;
        Ok(names(&self.trash)?.iter().filter_map(|name| Trashed::parse(name)).any(same))
    }

    fn left_in_tmp(&self, found: &mut Vec<Leftover>) -> Result<()> {
        for name in names(&self.tmp)? {
            let own = self.tag();
            if let Some(draft) = Draft::parse(&name) {
                if draft.worker.tag == own {
                    let fate = match self.is_alive(draft.worker)? {
                        true => Fate::Leave(in_work()),
                        false => Fate::Purge,
                    };
                    let what = What::Draft(name.to_string_lossy().into_owned());
                    found.push(self.leftover(what, &self.tmp, &name, fate));
                }
            } else if Worker::of_heartbeat(&name).or(Worker::of_format(&name)).is_none() {
                found.push(stranger(self, &self.tmp, &name));
            }
        }
        Ok(())
    }

    fn left_in_trash(&self, found: &mut Vec<Leftover>) -> Result<()> {
        for name in names(&self.trash)? {
            let Some(trashed) = Trashed::parse(&name) else {
                found.push(stranger(self, &self.trash, &name));
                continue;
            };
            if trashed.tag != self.tag() {
                continue;
            }
            let stat = self.trash.stat(&name).on_share(|| "looking at trash".into())?;
            let fate = match stat {
                None => continue,
                Some(stat) if stat.inode.number != trashed.fileid => Fate::Leave(
                    "it is another directory than the one that was deleted: move it back to where it belongs"
                        .into(),
                ),
                Some(_) if self.is_being_purged(trashed)? => Fate::Leave("it is being purged".into()),
                Some(_) => Fate::Purge,
            };
            let what = What::Trash(name.to_string_lossy().into_owned());
            found.push(self.leftover(what, &self.trash, &name, fate));
        }
        Ok(())
    }

    fn left_volumes(&self, found: &mut Vec<Leftover>, progress: &mut dyn FnMut(u64)) -> Result<()> {
        for (number, key) in (1..).zip(self.keys(Kind::Volume)?) {
            progress(number);
            let name = super::names::of_key(key);
            let (what, fate) = match self.look(key) {
                Err(error @ Error::Damaged(_)) => (What::Damaged(key), Fate::Leave(error.chain())),
                Err(error) => return Err(error),
                Ok(Some(Volume { state: State::Creating(record, by), .. })) => {
                    if record.cluster != self.identity.cluster() {
                        continue;
                    }
                    let alive = self.is_alive(by)?;
                    (What::Unfinished(key), if alive { Fate::Leave(in_work()) } else { Fate::Purge })
                }
                Ok(Some(Volume { state: State::Ready(record), .. })) => {
                    if record.cluster != self.identity.cluster() {
                        continue;
                    }
                    let stands = self.standing(&record.root, Aim::Existing);
                    match stands {
                        Ok(Some((_, stat))) if stat.inode.number == record.fileid => continue,
                        Err(error @ Error::Unavailable(_)) => return Err(error),
                        _ => {}
                    }
                    let why = format!(
                        "its directory {:?} is gone or another: put it back, or delete the volume",
                        record.root.to_string()
                    );
                    (What::Lost(key), Fate::Leave(why))
                }
                Ok(_) => continue,
            };
            found.push(self.leftover(what, &self.volumes, &name, fate));
        }
        Ok(())
    }

    fn left_snapshots(&self, found: &mut Vec<Leftover>, progress: &mut dyn FnMut(u64)) -> Result<()> {
        for (number, key) in (1..).zip(self.keys(Kind::Snapshot)?) {
            progress(number);
            let name = super::names::of_key(key);
            match self.look_for_snapshot(key) {
                Err(error @ Error::Damaged(_)) => {
                    let fate = Fate::Leave(error.chain());
                    found.push(self.leftover(What::Damaged(key), &self.snapshots, &name, fate));
                }
                Err(error) => return Err(error),
                Ok(Some(snapshot)) if snapshot.record.is_none() => {
                    let names = super::object::list(&snapshot.directory)?;
                    if names.iter().any(|name| of_deleting(name) == Some(self.tag())) {
                        found.push(self.leftover(
                            What::HalfDeleted(key),
                            &self.snapshots,
                            &name,
                            Fate::Purge,
                        ));
                    }
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn leftover(&self, what: What, directory: &Directory, name: &OsStr, fate: Fate) -> Leftover {
        let path = directory.path().join(name);
        let stat = directory.stat(name).ok().flatten();
        let bytes = stat.and_then(|stat| match stat.is_dir {
            true => tree::usage(&path, MOST_COUNTED).ok().flatten().map(|usage| usage.bytes),
            false => Some(stat.allocated),
        });
        let place = path.strip_prefix(self.root.path()).unwrap_or(&path).to_owned();
        Leftover { what, place, bytes, since: stat.map(|stat| stat.changed), fate }
    }
}

fn names(directory: &Directory) -> Result<Vec<std::ffi::OsString>> {
    directory.list().on_share(|| format!("listing {}", directory.path().display()))
}

fn stranger(share: &Share, directory: &Directory, name: &OsStr) -> Leftover {
    let fate = Fate::Leave("it is nothing of this driver's: move it elsewhere".into());
    share.leftover(What::Stranger, directory, name, fate)
}

fn in_work() -> String {
    "somebody works on it now".into()
}

fn unknown() -> String {
    "it is never removed by itself".into()
}
