//! Removal: one rename into trash is intent and commit, so that it works at 0 bytes free; purging
//! comes later and can be resumed.

use super::{DATA, IMAGE, Kind, Pool, pool::PATIENCE};
use crate::{
    error::{Doing, Error, Result},
    failpoint,
    os::{self, btrfs, file, lock::Mode, tree},
    volume::Key,
};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How many entries of trash went, and how many could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emptied {
    /// Removed.
    pub gone: usize,
    /// Still there, each with a line in the log.
    pub left: usize,
}

impl Pool {
    /// Makes a volume or snapshot cease to exist, durably. The caller holds its lock and has proven
    /// that nobody uses it.
    pub fn remove(&self, kind: Kind, key: Key) -> Result<()> {
        self.verify()?;
        let doing = || format!("deleting {kind} {key} from pool {:?}", self.name());
        let place = self.directory(kind, key);
        self.move_to_trash(&place, kind, key).doing(doing)?;
        failpoint!("trash.renamed");
        if kind == Kind::Volume {
            self.ledger().remove(key);
        }
        let durable = self.commit_renames(kind).doing(doing);
        failpoint!("trash.durable");
        self.janitor().kick();
        durable.map_err(Error::after_commit)
    }

    /// At 0 bytes free there is room in trash for a few names (XFS: as many as fit into the inode): what is
    /// there already is waited for.
    fn move_to_trash(&self, place: &Path, kind: Kind, key: Key) -> os::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file::rename_new(place, &self.trash_place(kind, key)) {
                Err(e) if e.is_no_space() && self.janitor().is_freeing() && Instant::now() < deadline => {
                    self.janitor().wait_until_idle(deadline.saturating_duration_since(Instant::now()));
                    thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    /// Moves an unfinished object out of tmp; absent is fine.
    pub(super) fn discard(&self, draft: &Path, kind: Kind, key: Key) -> Result<()> {
        match file::rename_new(draft, &self.trash_place(kind, key)) {
            Err(e) if e.is_not_found() => Ok(()),
            result => {
                result.doing(|| format!("discarding the unfinished {kind} {key}"))?;
                self.janitor().kick();
                Ok(())
            }
        }
    }

    /// A name that no earlier removal of the same key can have left there.
    pub(super) fn trash_place(&self, kind: Kind, key: Key) -> PathBuf {
        let unique = Uuid::new_v4().simple();
        self.home().join("trash").join(format!("{}.{unique}", kind.draft_name(key)))
    }

    /// Start-up: whatever is in tmp and not being worked on is left over from a killed process.
    pub(super) fn sweep(&self) -> Result<()> {
        let tmp = self.home().join("tmp");
        for name in file::list(&tmp).doing(|| format!("listing {}", tmp.display()))? {
            let Some((kind, key)) = name.to_str().and_then(Kind::parse_draft) else {
                tracing::warn!(entry = %tmp.join(&name).display(), "unknown entry in tmp, left alone");
                continue;
            };
            let Some(_lock) = self.try_lock(kind, key, Mode::Exclusive)? else { continue };
            tracing::info!(pool = self.name(), %kind, %key, "discarding what an interrupted request left");
            if let Err(error) = self.discard(&tmp.join(&name), kind, key) {
                // The next attempt at the same object discards it, or says why it cannot.
                tracing::warn!(entry = %tmp.join(&name).display(), error = error.chain(), "left in tmp");
            }
        }
        Ok(())
    }

    /// Empties trash. What cannot be removed stays and is reported.
    pub fn purge(&self) -> Result<Emptied> {
        self.verify()?;
        let trash = self.home().join("trash");
        let mut emptied = Emptied::default();
        for name in file::list(&trash).doing(|| format!("listing {}", trash.display()))? {
            let Some(key) = name.to_str().and_then(trashed_key) else {
                tracing::warn!(entry = %trash.join(&name).display(), "unknown entry in trash, left alone");
                continue;
            };
            let Some(_lock) = self.try_lock(Kind::Trash, key, Mode::Exclusive)? else { continue };
            match self.purge_one(&trash, &name, &mut self.log_progress(&name)) {
                Ok(()) => emptied.gone += 1,
                Err(error) => {
                    emptied.left += 1;
                    tracing::warn!(entry = %trash.join(&name).display(), error = error.chain(), "cannot purge yet");
                }
            }
        }
        Ok(emptied)
    }

    /// A deleted btrfs subvolume gives its blocks back some time later; a file in it does with the next
    /// commit, so that the next volume finds the room.
    fn free_image(&self, object: &Path) -> Result<()> {
        let data = object.join(DATA);
        let image = data.join(IMAGE);
        let doing = || format!("purging {}", image.display());
        if !self.abilities().btrfs || !file::stat(&image).doing(doing)?.is_some_and(|stat| stat.is_file) {
            return Ok(());
        }
        btrfs::set_read_only(&data, false).doing(doing)?;
        failpoint!("trash.writable");
        file::remove_file(&image).doing(doing)
    }

    /// How many removed objects wait for their purge.
    pub fn trash_entries(&self) -> u64 {
        file::list(&self.home().join("trash")).map_or(0, |names| names.len() as u64)
    }

    /// The caller holds the entry's lock.
    pub(super) fn purge_one(&self, trash: &Path, name: &OsStr, progress: &mut dyn FnMut(u64)) -> Result<()> {
        failpoint!("trash.purging");
        if let Err(error) = self.free_image(&trash.join(name)) {
            tracing::debug!(entry = ?name, error = error.chain(), "its space comes back later");
        }
        failpoint!("trash.image-freed");
        tree::remove(trash, name, progress).doing(|| format!("purging {}", trash.join(name).display()))
    }

    fn log_progress<'a>(&'a self, name: &'a OsStr) -> impl FnMut(u64) + 'a {
        let mut reported = 0;
        move |entries| {
            if entries >= reported + 100_000 {
                reported = entries;
                tracing::info!(pool = self.name(), entry = ?name, entries, "purging");
            }
        }
    }
}

/// `<uuid>[.snap].<unique>`
pub(super) fn trashed_key(name: &str) -> Option<Key> {
    let (draft, _) = name.rsplit_once('.')?;
    Kind::parse_draft(draft).map(|(_, key)| key)
}
