//! What was thrown away: moved by one rename, purged later, and only if it is what was meant.

use super::{
    Share,
    fault::OnShare,
    names::{Draft, Trashed, What},
    record::VolumeRecord,
};
use crate::{
    error::{Error, Result},
    failpoint,
    os::{directory::Directory, tree},
};
use std::ffi::{OsStr, OsString};

/// What a purge came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Purge {
    /// Entries that are gone.
    pub gone: u64,
    /// Entries that stay, and why: a server that refuses (root_squash), something that was not meant.
    pub left: Vec<(String, String)>,
    /// What dead workers left of objects that another request of this process works on: for the next sweep.
    #[serde(default)]
    pub passed_over: u64,
}

impl Share {
    /// Moves a directory to trash under the name of the inode that is meant. Absent is fine. What else has
    /// come to stand there is put back.
    pub(super) fn bin(&self, from: &Directory, name: &OsStr, trashed: Trashed) -> Result<()> {
        let doing = || format!("moving {} to trash", from.path().join(name).display());
        let target = trashed.name();
        let moved = from.rename(name, &self.trash, &target);
        failpoint!("share.binned");
        match moved {
            Err(e) if e.is_not_found() => {}
            result => result.on_share(doing)?,
        }
        // A look of its own: the answer may have been to another call, and nothing is to rest on a guess.
        let arrived = self.trash.stat(&target).on_share(doing)?;
        if arrived.is_some_and(|stat| stat.inode.number != trashed.fileid) {
            self.trash.rename(&target, from, name).on_share(doing)?;
            return Err(Error::Busy(format!(
                "{} has just been replaced by another, which was left alone; try again",
                from.path().join(name).display()
            )));
        }
        from.sync().and_then(|()| self.trash.sync()).on_share(doing)?;
        failpoint!("share.binned-durably");
        Ok(())
    }

    /// Moves a draft to trash, by which its maker, if it is alive after all, cannot finish it.
    pub(super) fn bin_draft(&self, draft: Draft) -> Result<()> {
        let name = draft.name();
        let doing = || format!("discarding {}", self.tmp.path().join(&name).display());
        let Some(stat) = self.tmp.stat(&name).on_share(doing)? else { return Ok(()) };
        let Draft { key, what, worker } = draft;
        let fileid = stat.inode.number;
        self.bin(&self.tmp, &name, Trashed { key, what, fileid, tag: worker.tag, purger: None })
    }

    /// The name of a volume's root in trash.
    pub(super) fn trashed_root(&self, record: &VolumeRecord) -> Trashed {
        let tag = record.worker().tag;
        Trashed { key: record.key, what: What::Root, fileid: record.fileid, tag, purger: None }
    }

    /// Empties the own cluster's trash. `progress` gets the number of entries removed from the tree at hand.
    pub fn purge(&self, progress: &mut dyn FnMut(u64)) -> Result<Purge> {
        self.beat()?;
        let mut purge = Purge::default();
        for name in self.trash.list().on_share(|| "listing trash".into())? {
            progress(0);
            let Some(trashed) = Trashed::parse(&name).filter(|trashed| trashed.tag == self.tag()) else {
                continue;
            };
            match self.purge_one(&name, trashed, progress) {
                Ok(true) => purge.gone += 1,
                Ok(false) => {}
                Err(error @ Error::Unavailable(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(entry = ?name, error = error.chain(), "cannot purge yet");
                    purge.left.push((name.to_string_lossy().into_owned(), error.chain()));
                }
            }
        }
        Ok(purge)
    }

    /// Removes one entry, unless another process is at it. It first takes the entry's name for itself.
    pub(super) fn purge_one(
        &self,
        name: &OsStr,
        trashed: Trashed,
        progress: &mut dyn FnMut(u64),
    ) -> Result<bool> {
        let doing = || format!("purging {}", self.trash.path().join(name).display());
        if self.is_being_purged(trashed)? {
            return Ok(false);
        }
        let Some(own) = self.take_over(name, trashed)? else { return Ok(false) };
        failpoint!("share.purge-taken");
        let Some(stat) = self.trash.stat(&own).on_share(doing)? else { return Ok(false) };
        if stat.inode.number != trashed.fileid {
            return Err(not_meant(&self.trash, &own));
        }
        let mut beating = |entries| {
            if let Err(error) = self.beat() {
                tracing::debug!(error = error.chain(), "no heartbeat");
            }
            progress(entries);
        };
        tree::remove(self.trash.path(), &own, &mut beating).on_share(doing)?;
        failpoint!("share.purged");
        Ok(true)
    }

    /// Whether another living process purges it.
    pub(super) fn is_being_purged(&self, trashed: Trashed) -> Result<bool> {
        let Some(instance) = trashed.purger else { return Ok(false) };
        self.is_anothers(super::names::Worker { tag: trashed.tag, instance })
    }

    fn take_over(&self, name: &OsStr, trashed: Trashed) -> Result<Option<OsString>> {
        let own = Trashed { purger: Some(self.worker.instance), ..trashed }.name();
        if own == name {
            return Ok(Some(own));
        }
        match self.trash.rename(name, &self.trash, &own) {
            // Another was faster.
            Err(e) if e.is_not_found() => Ok(None),
            result => {
                result.on_share(|| format!("purging {}", self.trash.path().join(name).display()))?;
                Ok(Some(own))
            }
        }
    }
}

fn not_meant(trash: &Directory, name: &OsStr) -> Error {
    Error::Refused(format!(
        "{} is another directory than the one that was deleted, and was not touched: move it back to where it \
         belongs",
        trash.path().join(name).display()
    ))
}
