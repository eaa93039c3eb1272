//! Snapshots on a share: a copy of each file, complete or not there.

use super::{
    Kind, Share,
    create::Origin,
    fault::OnShare,
    names::{Draft, Trashed, What, deleting, of_deleting, of_key},
    object::{DATA, RECORD, Snapshot},
    record::{NewSnapshot, SnapshotRecord, VERSION, VolumeRecord},
};
use crate::{
    error::{Error, Result},
    failpoint,
    os::directory::Directory,
    share::copy::{self, Abilities},
    store::sealed,
    volume::{Key, Source, record::Timestamp},
};
use std::ffi::OsStr;

impl Share {
    /// Makes the snapshot, or finds the one that an earlier request of the same name made. `progress` gets
    /// the bytes copied and says whether to go on.
    pub fn create_snapshot(
        &self,
        wanted: &NewSnapshot,
        abilities: Abilities,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<SnapshotRecord> {
        let _turn = self.begin(Kind::Snapshot, wanted.key)?;
        if let Some(record) = self.settle_snapshot(wanted)? {
            return Ok(record);
        }
        let (_, volume) = self.ready(wanted.volume)?;
        let origin = self.origin(Source::Volume(wanted.volume))?;
        if !self.bin_drafts_of(wanted.key, What::Snapshot)? {
            return Err(Error::Busy(format!(
                "snapshot {} is being made by another controller; try again",
                wanted.key
            )));
        }
        let draft = Draft { key: wanted.key, what: What::Snapshot, worker: self.worker };
        let made = self.copy_snapshot(wanted, &volume, &origin, draft, abilities, progress);
        match made {
            Ok(Some(record)) => Ok(record),
            Ok(None) => {
                self.bin_draft(draft)?;
                self.settle_snapshot(wanted)?.ok_or_else(|| {
                    Error::Busy(format!("snapshot {} changes too quickly; try again", wanted.key))
                })
            }
            Err(error) => Err(self.after(error, || self.bin_draft(draft))),
        }
    }

    /// What has the name already: the answer, or `None` when nothing is in the way.
    fn settle_snapshot(&self, wanted: &NewSnapshot) -> Result<Option<SnapshotRecord>> {
        let Some(found) = self.look_for_snapshot(wanted.key)? else { return Ok(None) };
        let Some(record) = &found.record else {
            return self.finish_deletion(wanted.key, &found.directory).map(|()| None);
        };
        if record.cluster != self.identity.cluster() {
            return Err(Error::Incompatible(format!(
                "snapshot {:?} on the share belongs to another cluster ({}): use another name",
                record.name, record.cluster
            )));
        }
        if record.volume != wanted.volume {
            return Err(Error::Incompatible(format!(
                "a snapshot of this name exists for another volume ({}): use another name",
                record.volume_id
            )));
        }
        Ok(Some(record.clone()))
    }

    /// `None`: another controller's came first.
    fn copy_snapshot(
        &self,
        wanted: &NewSnapshot,
        volume: &VolumeRecord,
        origin: &Origin,
        draft: Draft,
        abilities: Abilities,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<SnapshotRecord>> {
        let doing = || format!("making snapshot {}", wanted.key);
        let created = Timestamp::now();
        let directory = self.new_draft(draft)?;
        directory.create_dir(OsStr::new(DATA), 0o700).on_share(doing)?;
        failpoint!("share.snapshot-begun");
        let lost = || Error::Busy(format!("{}: another has taken it away; try again", doing()));
        let data = directory.enter(OsStr::new(DATA)).on_share(doing)?.ok_or_else(lost)?;
        let copied = copy::tree(&origin.content, &data, abilities, &mut self.beating(progress));
        failpoint!("share.snapshot-copied");
        self.check_origin(origin)?;
        copied?;
        let record = SnapshotRecord {
            version: VERSION,
            name: wanted.name.clone(),
            key: wanted.key,
            cluster: self.identity.cluster().to_owned(),
            id: wanted.id.clone(),
            volume: volume.key,
            volume_id: volume.id.clone(),
            fileid: data.own_stat().on_share(doing)?.inode.number,
            asked_bytes: volume.asked_size(),
            created,
        };
        directory.write(OsStr::new(RECORD), &sealed::seal(&record)?).on_share(doing)?;
        failpoint!("share.snapshot-recorded");
        data.sync().and_then(|()| directory.sync()).on_share(doing)?;
        Ok(self.commit_snapshot(&record, draft)?.then_some(record))
    }

    fn commit_snapshot(&self, record: &SnapshotRecord, draft: Draft) -> Result<bool> {
        let doing = || format!("putting snapshot {} in its place", record.key);
        let renamed = self.tmp.rename(&draft.name(), &self.snapshots, &of_key(record.key));
        failpoint!("share.snapshot-renamed");
        match renamed {
            Ok(()) => {}
            Err(e) if e.is_not_empty() || e.is_already_there() => return Ok(false),
            // Carried out twice, or taken away.
            Err(e) if e.is_not_found() => {
                let found = self.look_for_snapshot(record.key)?.and_then(|found| found.record);
                if found.as_ref() != Some(record) {
                    return Err(Error::Busy(format!(
                        "{}: another controller took this one for dead; try again",
                        doing()
                    )));
                }
            }
            Err(e) => return Err(e).on_share(doing),
        }
        self.snapshots.sync().and_then(|()| self.tmp.sync()).on_share(doing).map_err(Error::after_commit)?;
        failpoint!("share.snapshot-durable");
        Ok(true)
    }

    /// Makes a snapshot cease to exist; absent is fine.
    pub fn delete_snapshot(&self, key: Key) -> Result<()> {
        let _turn = self.begin(Kind::Snapshot, key)?;
        let Some(Snapshot { directory, record }) = self.look_for_snapshot(key)? else { return Ok(()) };
        if let Some(record) = record {
            if record.cluster != self.identity.cluster() {
                return Err(Error::Refused(format!(
                    "snapshot {:?} on the share belongs to another cluster ({}): delete it there",
                    record.name, record.cluster
                )));
            }
            let doing = || format!("deleting snapshot {key}");
            match directory.rename(OsStr::new(RECORD), &directory, &deleting(self.tag())) {
                Err(e) if e.is_not_found() || e.is_stale() => {}
                result => result.and_then(|()| directory.sync()).on_share(doing)?,
            }
            failpoint!("share.snapshot-unmade");
        }
        self.finish_deletion(key, &directory)
    }

    /// From a snapshot without a record to nothing.
    pub(super) fn finish_deletion(&self, key: Key, directory: &Directory) -> Result<()> {
        let doing = || format!("deleting snapshot {key}");
        let data = OsStr::new(DATA);
        let stat = match directory.stat(data) {
            Err(e) if e.is_stale() => None,
            stat => stat.on_share(doing)?,
        };
        if let Some(stat) = stat {
            let (what, fileid, tag) = (What::Snapshot, stat.inode.number, self.tag());
            self.bin(directory, data, Trashed { key, what, fileid, tag, purger: None })?;
        }
        failpoint!("share.snapshot-binned");
        for name in super::object::list(directory)? {
            if of_deleting(&name).is_some() {
                directory.remove_file(&name).on_share(doing)?;
            }
        }
        failpoint!("share.snapshot-record-removed");
        self.clear(Kind::Snapshot, key, directory)
    }

    /// Opens what is to be copied: a volume or snapshot that exists and is the own cluster's.
    pub(super) fn origin(&self, source: Source) -> Result<Origin> {
        match self.open_origin(source) {
            // It may have been deleted between two looks: then the next look says so.
            Err(Error::Refused(_) | Error::Damaged(_)) => self.open_origin(source),
            opened => opened,
        }
    }

    fn open_origin(&self, source: Source) -> Result<Origin> {
        match source {
            Source::Volume(key) => {
                let (_, record) = self.ready(key)?;
                let content = self.open_root_of(&record)?;
                Ok(Origin { source, content, incarnation: Some(record.incarnation) })
            }
            Source::Snapshot(key) => {
                let unknown = || Error::NotFound(format!("snapshot {key} does not exist on the share"));
                let found = self.look_for_snapshot(key)?.ok_or_else(unknown)?;
                let own = |record: &SnapshotRecord| record.cluster == self.identity.cluster();
                let record = found.record.filter(own).ok_or_else(unknown)?;
                let content = found.directory.enter(OsStr::new(DATA));
                let content = content.on_share(|| format!("opening snapshot {key}"))?;
                let damaged =
                    || Error::Damaged(format!("the content of snapshot {key} is gone or another's"));
                let content = content.ok_or_else(damaged)?;
                let stat = content.own_stat().on_share(|| format!("opening snapshot {key}"))?;
                if stat.inode.number != record.fileid {
                    return Err(damaged());
                }
                Ok(Origin { source, content, incarnation: None })
            }
        }
    }

    /// After a copy: what was copied is still what it was.
    pub(super) fn check_origin(&self, origin: &Origin) -> Result<()> {
        let now = match self.origin(origin.source) {
            // A volume whose directory is no longer its own is as good as gone.
            Err(Error::Refused(why)) => return Err(Error::NotFound(format!("the source changed: {why}"))),
            now => now?,
        };
        let number = |directory: &Directory| {
            directory
                .own_stat()
                .map(|stat| stat.inode.number)
                .on_share(|| "looking at the source again".into())
        };
        if now.incarnation != origin.incarnation || number(&now.content)? != number(&origin.content)? {
            return Err(Error::NotFound("the source was deleted while it was copied".into()));
        }
        Ok(())
    }
}
