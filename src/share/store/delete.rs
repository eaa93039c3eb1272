//! DeleteVolume on a share, and what becomes of the directory.
//!
//! The root goes first, then the record, then the claim: as long as the record stands, the directory is
//! claimed, so that a rename which the server carries out late meets no newer volume.

use super::{
    Kind, Share,
    fault::OnShare,
    names::{Draft, Trashed, What},
    object::{RECORD, State, Volume},
    place::Aim,
    record::{OnDelete, Place, VolumeRecord},
};
use crate::{
    error::{Error, Result},
    failpoint,
    os::directory::Directory,
    store::sealed,
    volume::Key,
};
use std::{
    ffi::{OsStr, OsString},
    thread,
    time::Duration,
};
use uuid::Uuid;

/// linux/limits.h
const MAX_NAME: usize = 255;
/// How often a record is removed that others are just changing.
const TRIES: u32 = 8;
const STEP: Duration = Duration::from_millis(20);

impl Share {
    /// Makes a volume cease to exist; absent is fine.
    pub fn delete_volume(&self, key: Key) -> Result<()> {
        let _turn = self.begin(Kind::Volume, key)?;
        let Some(found) = self.look(key)? else { return Ok(()) };
        match &found.state {
            State::Ready(record) => {
                self.refuse_foreign(record)?;
                self.delete(&found, record)
            }
            State::Creating(record, by) => {
                self.refuse_foreign(record)?;
                if self.is_anothers(*by)? {
                    return Err(Error::Busy(format!(
                        "volume {key} is being made by another controller; try again"
                    )));
                }
                match self.discard(&found, record, *by)? {
                    true => Ok(()),
                    false => Err(changing(key)),
                }
            }
            // A record that has just come there is for the next attempt.
            State::Dead => match self.is_cleared(Kind::Volume, key, &found.directory)? {
                true => Ok(()),
                false => Err(changing(key)),
            },
        }
    }

    fn refuse_foreign(&self, record: &VolumeRecord) -> Result<()> {
        self.check_own(record, "delete it there").map_err(|error| Error::Refused(error.to_string()))
    }

    fn delete(&self, found: &Volume, record: &VolumeRecord) -> Result<()> {
        match record.on_delete {
            OnDelete::Delete => {
                self.take_away(record, |above, name| self.bin(above, name, self.trashed_root(record)))?
            }
            OnDelete::Archive => {
                self.take_away(record, |above, name| {
                    archive(above, name, record.fileid, record.incarnation)
                })?;
            }
            OnDelete::Retain => {}
        }
        failpoint!("share.root-gone");
        self.remove_record(record.key, &found.directory)?;
        failpoint!("share.record-gone");
        self.release(record)?;
        failpoint!("share.claim-released");
        Ok(())
    }

    /// Takes the record away, and the directory that it is in: a controller that changes the record at the same
    /// time has that directory open, and can put its record there as long as the directory stands.
    fn remove_record(&self, key: Key, directory: &Directory) -> Result<()> {
        let doing = || format!("deleting volume {key}");
        for _ in 0..TRIES {
            match directory.remove_file(OsStr::new(RECORD)) {
                Err(e) if e.is_stale() => return Ok(()),
                result => result.on_share(doing)?,
            }
            failpoint!("share.record-removed");
            match directory.sync() {
                Err(e) if e.is_stale() => return Ok(()),
                result => result.on_share(doing)?,
            }
            if self.is_cleared(Kind::Volume, key, directory)? {
                return Ok(());
            }
            // Or somebody on this host is just reading it, and it lives on under another name until then (NFS).
            thread::sleep(STEP);
        }
        Err(changing(key))
    }

    /// Does with the volume's directory what its end is. One that is gone already is fine, another is not.
    fn take_away(
        &self,
        record: &VolumeRecord,
        take: impl FnOnce(&Directory, &OsStr) -> Result<()>,
    ) -> Result<()> {
        let Some((above, stat)) = self.standing(&record.root, Aim::Existing)? else { return Ok(()) };
        if stat.inode.number != record.fileid {
            // Another controller has deleted the volume meanwhile, and the directory is another's.
            if self.volume(record.key)?.is_none_or(|found| found.incarnation != record.incarnation) {
                return Ok(());
            }
            return Err(Error::Refused(format!(
                "directory {:?} of the share is not the one that volume {:?} was given, and is left alone: move it \
                 away, or put the volume's own back",
                record.root.to_string(),
                record.name
            )));
        }
        take(&above, record.root.split().1)
    }

    /// Deletes a directory that no record knows, such as one of csi-driver-nfs. `key` names it in trash.
    /// Absent is fine; a directory that a volume of this driver's has, also above or below, is refused.
    pub fn delete_unrecorded(&self, key: Key, place: &Place, on_delete: OnDelete) -> Result<()> {
        let _turn = self.begin(Kind::Volume, key)?;
        self.refuse_claimed(place)?;
        let Some((above, stat)) = self.standing(place, Aim::Existing)? else { return Ok(()) };
        if !stat.is_dir {
            return Err(Error::Refused(format!("{:?} of the share is no directory", place.to_string())));
        }
        let (name, fileid) = (place.split().1, stat.inode.number);
        match on_delete {
            OnDelete::Retain => Ok(()),
            OnDelete::Archive => archive(&above, name, fileid, key.uuid()),
            OnDelete::Delete => {
                let tag = self.tag();
                self.bin(&above, name, Trashed { key, what: What::Root, fileid, tag, purger: None })
            }
        }
    }

    /// Writes down the sizes that were last asked for.
    pub fn resize_volume(&self, key: Key, required_bytes: u64, size_bytes: u64) -> Result<VolumeRecord> {
        let _turn = self.begin(Kind::Volume, key)?;
        let (found, mut record) = self.ready(key)?;
        if (record.required_bytes, record.size_bytes) == (required_bytes, size_bytes) {
            return Ok(record);
        }
        (record.required_bytes, record.size_bytes) = (required_bytes, size_bytes);
        let doing = || format!("writing the record of volume {key}");
        // The rename goes into the directory that was looked at: one that is carried out late never meets a newer
        // volume, and finds no directory any more when the volume is gone.
        let draft = Draft { key, what: What::Record, worker: self.worker };
        let directory = self.new_draft(draft)?;
        directory.write(OsStr::new(RECORD), &sealed::seal(&record)?).on_share(doing)?;
        failpoint!("share.resize-written");
        directory.rename(OsStr::new(RECORD), &found.directory, OsStr::new(RECORD)).on_share(doing)?;
        failpoint!("share.resized");
        self.tmp.remove_dir(&draft.name()).on_share(doing)?;
        found.directory.sync().on_share(doing)?;
        Ok(record)
    }

    /// A volume that exists and is the own cluster's.
    pub(super) fn ready(&self, key: Key) -> Result<(Volume, VolumeRecord)> {
        match self.look(key)? {
            Some(Volume { directory, state: State::Ready(record) })
                if record.cluster == self.identity.cluster() =>
            {
                Ok((Volume { directory, state: State::Ready(record.clone()) }, record))
            }
            _ => Err(Error::NotFound(format!("volume {key} does not exist on the share"))),
        }
    }

    /// What is in tmp of an object, this worker's or dead ones'; false: somebody else works on it.
    pub(super) fn bin_drafts_of(&self, key: Key, what: What) -> Result<bool> {
        for name in self.tmp.list().on_share(|| "listing tmp".into())? {
            let Some(draft) = Draft::parse(&name).filter(|draft| (draft.key, draft.what) == (key, what))
            else {
                continue;
            };
            // Another cluster's is its own affair: the rename into the place decides.
            if draft.worker.tag != self.tag() {
                continue;
            }
            if self.is_anothers(draft.worker)? {
                return Ok(false);
            }
            self.bin_draft(draft)?;
        }
        Ok(true)
    }
}

fn changing(key: Key) -> Error {
    Error::Busy(format!("volume {key} has just changed; try again"))
}

/// Gives a directory a name that no other volume ever has.
pub(super) fn archive(above: &Directory, name: &OsStr, fileid: u64, unique: Uuid) -> Result<()> {
    let text = name.to_string_lossy();
    let room = MAX_NAME - "archived-.".len() - unique.hyphenated().to_string().len();
    let kept = text.get(..text.floor_char_boundary(room)).unwrap_or_default();
    let target = OsString::from(format!("archived-{kept}.{}", unique.hyphenated()));
    let doing = || format!("archiving {}", above.path().join(name).display());
    // rename(2) would replace an empty directory without a word.
    if let Some(there) = above.stat(&target).on_share(doing)?
        && there.inode.number != fileid
    {
        return Err(Error::Refused(format!(
            "{} cannot be archived: {target:?} exists already; move it away",
            above.path().join(name).display()
        )));
    }
    match above.rename(name, above, &target) {
        Err(e) if e.is_not_found() => {}
        result => result.on_share(doing)?,
    }
    failpoint!("share.archived");
    // As in the bin: another may have come to stand there between the look and the rename.
    let arrived = above.stat(&target).on_share(doing)?;
    if arrived.is_some_and(|stat| stat.inode.number != fileid) {
        above.rename(&target, above, name).on_share(doing)?;
        return Err(Error::Busy(format!(
            "{} has just been replaced by another, which was left alone; try again",
            above.path().join(name).display()
        )));
    }
    above.sync().on_share(doing)
}
