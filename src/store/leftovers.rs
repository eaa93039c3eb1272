//! What nobody needs any more, or nobody knows: for `wharf gc`.
//!
//! Looking changes nothing. What may be removed is what this driver makes and forgets by design: an
//! unfinished object, trash, a record's temporary file, each under the lock that its maker holds while
//! it works. So this is safe beside a running driver, and everything else is only reported.

use super::{
    DATA, IMAGE, Kind, Pool, RECORD,
    format::{DIRECTORIES, FORMAT, LOCK},
    trash::trashed_key,
};
use crate::{
    error::{Doing, Error, Result},
    os::{
        btrfs,
        file::{self, Inode, TEMPORARY},
        lock::Mode,
        loopdev, tree,
    },
    volume::Key,
};
use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Entries of a tree that are counted before its size is left unsaid.
const MOST_COUNTED: u64 = 100_000;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A volume or snapshot that was never finished.
    Unfinished(Kind, Key),
    /// A removed volume or snapshot that was not purged yet.
    Trash(Key),
    /// A record's successor that was not put in its place.
    Temporary(Kind, Key),
    /// A volume or snapshot whose record is lost or damaged.
    Damaged(Kind, Key),
    /// Nothing of this driver's.
    Stranger,
    /// A loop device that holds an image which is no volume's any more.
    Loop(u32),
    /// Qgroups that no subvolume belongs to.
    Qgroups(Vec<u64>),
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It may be removed.
    Purge,
    /// It stays, and why.
    Leave(String),
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// What it is.
    pub what: What,
    /// Where it is.
    pub place: PathBuf,
    /// Allocated bytes, where they could be counted.
    pub bytes: Option<u64>,
    /// When it came to be where it is.
    pub since: Option<SystemTime>,
    /// What becomes of it.
    pub fate: Fate,
}

/// The end of [`Pool::purge_leftover`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purged {
    /// It is gone.
    Gone,
    /// It stays after all, and why.
    Left(String),
}

impl Pool {
    /// Looks through the pool.
    pub fn leftovers(&self) -> Result<Vec<Leftover>> {
        let loops = loopdev::all().doing(|| format!("looking for loop devices on pool {:?}", self.name()))?;
        let numbers = loops.iter().map(|(number, _)| *number).collect();
        let loops = loops.into_iter().map(|(number, status)| (status.backing, number)).collect();
        let mut search = Search { pool: self, numbers, loops, found: Vec::new() };
        search.unfinished()?;
        search.trash()?;
        search.objects(Kind::Volume)?;
        search.objects(Kind::Snapshot)?;
        search.home()?;
        search.stray_loops()?;
        search.stray_qgroups()?;
        Ok(search.found)
    }

    /// Removes one finding that may be removed, looking again under its lock. `progress` gets the number
    /// of files removed.
    pub fn purge_leftover(&self, leftover: &Leftover, progress: &mut dyn FnMut(u64)) -> Result<Purged> {
        self.verify()?;
        if let Fate::Leave(reason) = &leftover.fate {
            return Ok(Purged::Left(reason.clone()));
        }
        match &leftover.what {
            What::Unfinished(kind, key) => self.purge_unfinished(*kind, *key, progress),
            What::Trash(key) => self.purge_trash(&leftover.place, *key, progress),
            What::Temporary(kind, key) => self.purge_temporary(*kind, *key),
            what => Err(Error::Internal(format!("{what:?} is never removed"))),
        }
    }

    /// By way of trash, as at a start: what is killed on the way is found there again.
    fn purge_unfinished(&self, kind: Kind, key: Key, progress: &mut dyn FnMut(u64)) -> Result<Purged> {
        let draft = self.home().join("tmp").join(kind.draft_name(key));
        let place = self.trash_place(kind, key);
        {
            let Some(_lock) = self.try_lock(kind, key, Mode::Exclusive)? else { return Ok(in_work()) };
            if let Some(number) = attached(&draft)? {
                return Ok(Purged::Left(still_attached(number)));
            }
            match file::rename_new(&draft, &place) {
                Err(e) if e.is_not_found() => return Ok(Purged::Gone),
                result => result.doing(|| format!("discarding the unfinished {kind} {key}"))?,
            }
        }
        self.purge_trash(&place, key, progress)
    }

    fn purge_trash(&self, place: &Path, key: Key, progress: &mut dyn FnMut(u64)) -> Result<Purged> {
        let Some(_lock) = self.try_lock(Kind::Trash, key, Mode::Exclusive)? else { return Ok(in_work()) };
        if let Some(number) = attached(place)? {
            return Ok(Purged::Left(still_attached(number)));
        }
        let (Some(trash), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(Error::Internal(format!("{} is no entry of trash", place.display())));
        };
        self.purge_one(trash, name, progress)?;
        Ok(Purged::Gone)
    }

    fn purge_temporary(&self, kind: Kind, key: Key) -> Result<Purged> {
        let Some(_lock) = self.try_lock(kind, key, Mode::Exclusive)? else { return Ok(in_work()) };
        if let Err(error) = self.read(kind, key) {
            return Ok(Purged::Left(error.chain()));
        }
        let place = self.temporary(kind, key);
        file::remove_file(&place).doing(|| format!("removing {}", place.display()))?;
        Ok(Purged::Gone)
    }

    fn read(&self, kind: Kind, key: Key) -> Result<()> {
        match kind {
            Kind::Snapshot => self.snapshot(key).map(drop),
            Kind::Volume | Kind::Trash => self.volume(key).map(drop),
        }
    }

    fn temporary(&self, kind: Kind, key: Key) -> PathBuf {
        self.directory(kind, key).join(format!("{RECORD}{TEMPORARY}"))
    }
}

/// A look through one pool.
struct Search<'a> {
    pool: &'a Pool,
    /// Every attached loop.
    numbers: Vec<u32>,
    /// By what it is attached to.
    loops: HashMap<Inode, u32>,
    found: Vec<Leftover>,
}

impl Search<'_> {
    /// Entries of tmp. Where the lock is free their maker is dead.
    fn unfinished(&mut self) -> Result<()> {
        for (name, (kind, key)) in self.known("tmp", Kind::parse_draft)? {
            let place = self.pool.home().join("tmp").join(name);
            let fate = self.fate(kind, key, &place, "it is being worked on")?;
            self.add(What::Unfinished(kind, key), place, fate);
        }
        Ok(())
    }

    fn trash(&mut self) -> Result<()> {
        for (name, key) in self.known("trash", trashed_key)? {
            let place = self.pool.home().join("trash").join(name);
            let fate = self.fate(Kind::Trash, key, &place, "it is being purged")?;
            self.add(What::Trash(key), place, fate);
        }
        Ok(())
    }

    /// Volumes or snapshots: those that cannot be read, and what a crash left beside the others' records.
    fn objects(&mut self, kind: Kind) -> Result<()> {
        for (_, key) in self.known(kind.directory(), Key::parse)? {
            if let Err(error) = self.pool.read(kind, key) {
                let place = self.pool.directory(kind, key);
                self.add(What::Damaged(kind, key), place, Fate::Leave(error.chain()));
                continue;
            }
            let place = self.pool.temporary(kind, key);
            if file::stat(&place).doing(|| format!("looking at {}", place.display()))?.is_some() {
                // While its record is being replaced the object is locked.
                let fate = self.fate(kind, key, &place, "it is being worked on")?;
                self.add(What::Temporary(kind, key), place, fate);
            }
        }
        Ok(())
    }

    fn home(&mut self) -> Result<()> {
        let known = |name: &str| {
            let first_format = format!("{FORMAT}{TEMPORARY}");
            let known =
                [FORMAT, LOCK, "lost+found", &first_format].contains(&name) || DIRECTORIES.contains(&name);
            known.then_some(())
        };
        for name in self.names(self.pool.home())? {
            if name.to_str().and_then(known).is_none() {
                self.stranger(self.pool.home().join(name));
            }
        }
        Ok(())
    }

    /// The directories in `directory` whose names can be read; everything else there is a stranger.
    fn known<T>(&mut self, directory: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<(OsString, T)>> {
        let directory = self.pool.home().join(directory);
        let mut known = Vec::new();
        for name in self.names(&directory)? {
            let place = directory.join(&name);
            let stat = file::stat(&place).doing(|| format!("looking at {}", place.display()))?;
            match (stat, name.to_str().and_then(&read)) {
                // Gone since it was listed.
                (None, _) => {}
                (Some(stat), Some(meaning)) if stat.is_dir => known.push((name, meaning)),
                _ => self.stranger(place),
            }
        }
        Ok(known)
    }

    fn names(&self, directory: &Path) -> Result<Vec<OsString>> {
        file::list(directory).doing(|| format!("listing {}", directory.display()))
    }

    /// Loops whose backing file is in this pool but belongs to no volume. The kernel's name of the file
    /// is only a hint, which is enough to report by.
    fn stray_loops(&mut self) -> Result<()> {
        for number in self.numbers.clone() {
            let backing =
                loopdev::backing_path(number).doing(|| format!("looking at loop device {number}"))?;
            let Some(backing) = backing else { continue };
            let Some(reason) = self.no_volume(&backing)? else { continue };
            let fate = Fate::Leave(format!(
                "{reason}, but something may still use it: unmount that, then `losetup -d /dev/loop{number}`"
            ));
            self.found.push(Leftover {
                what: What::Loop(number),
                place: backing.path,
                bytes: None,
                since: None,
                fate,
            });
        }
        Ok(())
    }

    /// Why a backing file is none of a volume's; `None`: it is one's, or lies elsewhere.
    fn no_volume(&self, backing: &loopdev::Backing) -> Result<Option<&'static str>> {
        let Ok(inside) = backing.path.strip_prefix(self.pool.home()) else { return Ok(None) };
        let mut parts = inside.iter().map(OsStr::to_str);
        let (top, name) = (parts.next().flatten(), parts.next().flatten());
        Ok(match (top, name.and_then(Kind::parse_draft)) {
            // While a volume is being made its maker may attach the image.
            (Some("tmp"), Some((kind, key))) if self.pool.try_lock(kind, key, Mode::Exclusive)?.is_none() => {
                None
            }
            (Some("tmp"), _) => Some("its image was never finished"),
            _ if backing.deleted => Some("its image was deleted"),
            (Some("trash"), _) => Some("its image is in trash"),
            (Some("snapshots"), _) => Some("its image is a snapshot's, which nobody ever attaches"),
            _ => None,
        })
    }

    fn stray_qgroups(&mut self) -> Result<()> {
        if !self.pool.abilities().btrfs {
            return Ok(());
        }
        let place = self.pool.home().to_owned();
        let strays = btrfs::stray_qgroups(&place)
            .doing(|| format!("looking for qgroups without a subvolume in pool {:?}", self.pool.name()))?;
        if !strays.is_empty() {
            let fate = Fate::Leave(
                "whose they were cannot be proven, and the kernel may still be freeing their blocks: \
                 `btrfs qgroup clear-stale` removes those that stay"
                    .into(),
            );
            self.found.push(Leftover { what: What::Qgroups(strays), place, bytes: None, since: None, fate });
        }
        Ok(())
    }

    /// The lock is given back at once: it only tells whether somebody works on it now.
    fn fate(&self, kind: Kind, key: Key, place: &Path, busy: &str) -> Result<Fate> {
        if self.pool.try_lock(kind, key, Mode::Exclusive)?.is_none() {
            return Ok(Fate::Leave(busy.into()));
        }
        let number = image_inode(place)?.and_then(|inode| self.loops.get(&inode));
        Ok(number.map_or(Fate::Purge, |number| Fate::Leave(still_attached(*number))))
    }

    fn stranger(&mut self, place: PathBuf) {
        let fate = Fate::Leave("it is nothing of this driver's: move it elsewhere".into());
        self.add(What::Stranger, place, fate);
    }

    fn add(&mut self, what: What, place: PathBuf, fate: Fate) {
        let stat = file::stat(&place).ok().flatten();
        let bytes = stat.and_then(|stat| match stat.is_dir {
            true => tree::usage(&place, MOST_COUNTED).ok().flatten().map(|usage| usage.bytes),
            false => Some(stat.allocated),
        });
        self.found.push(Leftover { what, place, bytes, since: stat.map(|stat| stat.changed), fate });
    }
}

fn in_work() -> Purged {
    Purged::Left("somebody works on it now".into())
}

fn still_attached(number: u32) -> String {
    format!(
        "its image is attached to /dev/loop{number}: unmount what uses it, then `losetup -d /dev/loop{number}`"
    )
}

/// The loop that holds the image of the object in this directory.
fn attached(object: &Path) -> Result<Option<u32>> {
    match image_inode(object)? {
        Some(inode) => {
            loopdev::find(inode).doing(|| format!("looking for the loop device of {}", object.display()))
        }
        None => Ok(None),
    }
}

fn image_inode(object: &Path) -> Result<Option<Inode>> {
    let image = object.join(DATA).join(IMAGE);
    Ok(file::stat(&image).doing(|| format!("looking at {}", image.display()))?.map(|stat| stat.inode))
}
