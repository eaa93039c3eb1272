//! Undoing a volume that was not finished, one's own or a dead worker's.

use super::{
    Kind, Share,
    fault::OnShare,
    names::{Draft, What, Worker},
    object::Volume,
    place::Aim,
    record::VolumeRecord,
};
use crate::{error::Result, failpoint};

impl Share {
    /// Takes the unfinished volume away from whoever makes it, so that it can never become ready, and then
    /// everything it has. False: somebody else took it first, or it became ready.
    ///
    /// The caller has the volume's turn, but may have looked before it got it. Everything happens in the
    /// directory that was looked at: a newer volume of this name stands in another.
    pub(super) fn discard(&self, found: &Volume, record: &VolumeRecord, by: Worker) -> Result<bool> {
        let doing = || format!("discarding the unfinished volume {}", record.key);
        let (directory, own) = (&found.directory, self.worker.creating());
        if by == self.worker {
            // No rename decides here: another thread may have finished the volume since it was looked at.
            let unfinished = match directory.stat(&own) {
                Err(e) if e.is_stale() => None,
                stat => stat.on_share(doing)?,
            };
            if unfinished.is_none() {
                return Ok(false);
            }
        } else {
            match directory.rename(&by.creating(), directory, &own) {
                Err(e) if e.is_not_found() || e.is_stale() => return Ok(false),
                result => result.and_then(|()| directory.sync()).on_share(doing)?,
            }
            failpoint!("share.taken-over");
        }
        // First where the root comes from, then where it goes to: it cannot slip through.
        let worker = record.worker();
        self.bin_draft(Draft { key: record.key, what: What::Root, worker })?;
        failpoint!("share.discarded-draft");
        // Without the claim it was never put in place, or is gone from there: what stands there is another's, also
        // with the same inode number.
        if !record.adopted
            && self.has_claim(record)?
            && let Some((above, stat)) = self.standing(&record.root, Aim::Existing)?
            && stat.inode.number == record.fileid
        {
            self.bin(&above, record.root.split().1, self.trashed_root(record))?;
        }
        failpoint!("share.discarded-root");
        // The record before the claim, which is dead without it: the other way round, another volume could get
        // the directory while this record still means it.
        match directory.remove_file(&own).and_then(|()| directory.sync()) {
            // Whoever took it from here has removed the whole directory.
            Err(e) if e.is_stale() => {}
            result => result.on_share(doing)?,
        }
        failpoint!("share.discarded-record");
        self.release(record)?;
        self.clear(Kind::Volume, record.key, directory)?;
        Ok(true)
    }
}
