//! CreateVolume on a share.
//!
//! 1. The root is made in tmp, so that its inode is known; the record, which names it, is renamed into
//!    `volumes`: one of several wins.
//! 2. The directory is claimed.
//! 3. The root is filled and renamed to its place.
//! 4. The record gets its final name: the volume exists.

use super::{
    Kind, Share,
    fault::{OnShare, is_open},
    names::{Draft, What, of_key},
    object::{RECORD, State, Volume},
    place::Aim,
    record::{NewVolume, OnDelete, VERSION, VolumeRecord},
};
use crate::{
    error::{Error, Result},
    failpoint,
    os::{directory::Directory, file},
    share::copy::{self, Abilities},
    store::sealed,
    volume::{Source, record::Timestamp},
};
use std::ffi::OsStr;
use uuid::Uuid;

/// Root mode of a new directory.
const MODE: u32 = 0o755;
/// How often the work starts anew because something changed under it.
const TRIES: u32 = 4;

/// What is to stand at a volume's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// A new directory, where none is, or an empty one that is replaced.
    Make,
    /// The directory that is there: its inode.
    Adopt(u64),
}

impl Share {
    /// Makes the volume, or finds the one that an earlier request of the same name made. `progress` gets
    /// the bytes copied and says whether to go on.
    pub fn create_volume(
        &self,
        wanted: &NewVolume,
        abilities: Abilities,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<VolumeRecord> {
        let _turn = self.begin(Kind::Volume, wanted.key)?;
        for _ in 0..TRIES {
            if let Some(found) = self.look(wanted.key)? {
                if let Some(record) = self.settle_found(wanted, &found)? {
                    return Ok(record);
                }
                continue;
            }
            if let Some(record) = self.make(wanted, abilities, progress)? {
                return Ok(record);
            }
        }
        Err(Error::Busy(format!("volume {} changes too quickly; try again", wanted.key)))
    }

    /// What has the name already: the answer, or `None` when it is out of the way.
    fn settle_found(&self, wanted: &NewVolume, found: &Volume) -> Result<Option<VolumeRecord>> {
        match &found.state {
            State::Ready(record) => {
                self.check_own(record, "use another name")?;
                wanted.check_same(record)?;
                Ok(Some(record.clone()))
            }
            State::Creating(record, by) => {
                if record.cluster != self.identity.cluster() || self.is_anothers(*by)? {
                    return Err(being_made(wanted));
                }
                self.discard(found, record, *by)?;
                Ok(None)
            }
            State::Dead => self.clear(Kind::Volume, wanted.key, &found.directory).map(|()| None),
        }
    }

    /// Only the own cluster's volumes are touched.
    pub(super) fn check_own(&self, record: &VolumeRecord, way_out: &str) -> Result<()> {
        if record.cluster == self.identity.cluster() {
            return Ok(());
        }
        Err(Error::Incompatible(format!(
            "volume {:?} on the share belongs to another cluster ({}): {way_out}",
            record.name, record.cluster
        )))
    }

    /// `None`: another worker's record came first.
    fn make(
        &self,
        wanted: &NewVolume,
        abilities: Abilities,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<VolumeRecord>> {
        let plan = self.plan(wanted)?;
        let source = wanted.source.map(|source| self.origin(source)).transpose()?;
        let draft = Draft { key: wanted.key, what: What::Root, worker: self.worker };
        let made = self.begin_root(wanted, plan, draft).and_then(|record| {
            let volume = self.publish(&record)?;
            Ok(volume.map(|volume| (record, volume)))
        });
        let (record, volume) = match made {
            Ok(Some(made)) => made,
            Ok(None) => return self.bin_draft(draft).map(|()| None),
            Err(error) => return Err(self.after(error, || self.undo_begun(draft))),
        };
        let done = self.finish(wanted, plan, &record, &volume, source.as_ref(), abilities, progress);
        match done {
            Ok(()) => Ok(Some(record)),
            Err(error) => Err(self.after(error, || self.discard(&volume, &record, self.worker).map(drop))),
        }
    }

    /// Whatever of a record that was to be published is there.
    fn undo_begun(&self, draft: Draft) -> Result<()> {
        self.bin_draft(draft)?;
        self.bin_draft(Draft { what: What::Record, ..draft })?;
        match self.look(draft.key)? {
            Some(volume) => match &volume.state {
                State::Creating(record, by) if *by == self.worker => {
                    self.discard(&volume, record, *by).map(drop)
                }
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// A final error is given only when nothing is left.
    pub(super) fn after(&self, error: Error, undo: impl FnOnce() -> Result<()>) -> Error {
        if is_open(&error) {
            return error;
        }
        match undo() {
            Ok(()) => error,
            Err(left) => Error::Unavailable(format!(
                "{}; and it could not be undone yet ({}): the same request again does both",
                error.chain(),
                left.chain()
            )),
        }
    }

    /// What stands at the place now decides; after the claim it must still be so.
    fn plan(&self, wanted: &NewVolume) -> Result<Plan> {
        let place = &wanted.root;
        let Some((above, stat)) = self.standing(place, Aim::Wanted)? else { return Ok(Plan::Make) };
        let refuse = |why: &str| {
            Err(Error::Incompatible(format!(
                "directory {:?} of the share {why}: give another `subDir`, or move it away",
                place.to_string()
            )))
        };
        if stat.is_symlink() {
            return Err(Error::Invalid(format!(
                "directory {:?} of the share is a symlink",
                place.to_string()
            )));
        }
        if !stat.is_dir {
            return refuse("exists and is no directory");
        }
        let doing = || format!("looking into directory {:?}", place.to_string());
        let entered = above.enter(place.split().1);
        let entered = match entered {
            Err(e) if e.is_elsewhere() => {
                let text = format!("directory {:?} of the share leaves the filesystem", place.to_string());
                return Err(Error::Invalid(text));
            }
            entered => entered.on_share(doing)?,
        };
        let Some(directory) = entered else { return Ok(Plan::Make) };
        let empty = match directory.is_empty() {
            // Who may not look into it cannot call it empty.
            Err(e) if e.is_denied() => false,
            outcome => outcome.on_share(doing)?,
        };
        match (empty, wanted.on_delete, wanted.source) {
            (true, _, Some(_)) => Ok(Plan::Make),
            (false, _, Some(_)) => refuse("is not empty, so nothing can be restored into it"),
            (true, ..) | (_, OnDelete::Retain, _) => Ok(Plan::Adopt(stat.inode.number)),
            (false, ..) => refuse("exists and is not empty, and only `onDelete: retain` takes it as it is"),
        }
    }

    /// Makes the root in tmp, except where one is adopted.
    fn begin_root(&self, wanted: &NewVolume, plan: Plan, draft: Draft) -> Result<VolumeRecord> {
        let (fileid, adopted) = match plan {
            Plan::Adopt(fileid) => (fileid, true),
            Plan::Make => {
                let root = self.new_draft(draft)?;
                if wanted.source.is_none() {
                    set_owner(wanted, &root, Some(MODE))?;
                }
                let stat =
                    root.own_stat().on_share(|| format!("looking at the root of volume {}", wanted.key))?;
                (stat.inode.number, false)
            }
        };
        failpoint!("share.root-begun");
        Ok(VolumeRecord {
            version: VERSION,
            name: wanted.name.clone(),
            key: wanted.key,
            incarnation: Uuid::new_v4(),
            cluster: self.identity.cluster().to_owned(),
            creator: self.identity.instance(),
            id: wanted.id.clone(),
            root: wanted.root.clone(),
            fileid,
            adopted,
            on_delete: wanted.on_delete,
            owner: wanted.owner,
            source: wanted.source,
            required_bytes: wanted.required_bytes,
            size_bytes: wanted.size_bytes,
            context: wanted.context.clone(),
            created: Timestamp::now(),
        })
    }

    /// An empty directory in tmp.
    pub(super) fn new_draft(&self, draft: Draft) -> Result<Directory> {
        let name = draft.name();
        let doing = || format!("starting {}", self.tmp.path().join(&name).display());
        match self.tmp.create_dir(&name, 0o700) {
            // What an earlier attempt of this worker left.
            Err(e) if e.is_already_there() => {
                self.bin_draft(draft)?;
                self.tmp.create_dir(&name, 0o700).on_share(doing)?;
            }
            made => made.on_share(doing)?,
        }
        failpoint!("share.draft-made");
        let lost = || Error::Busy(format!("{}: another has taken it away; try again", doing()));
        self.tmp.enter(&name).on_share(doing)?.ok_or_else(lost)
    }

    /// Puts the unfinished record into its place; `None`: another stands there.
    fn publish(&self, record: &VolumeRecord) -> Result<Option<Volume>> {
        let doing = || format!("writing the record of volume {}", record.key);
        let draft = Draft { key: record.key, what: What::Record, worker: self.worker };
        let directory = self.new_draft(draft)?;
        directory.write(&self.worker.creating(), &sealed::seal(record)?).on_share(doing)?;
        failpoint!("share.record-written");
        directory.sync().on_share(doing)?;
        let renamed = self.tmp.rename(&draft.name(), &self.volumes, &of_key(record.key));
        failpoint!("share.published");
        match renamed {
            Ok(()) => {}
            Err(e) if e.is_not_empty() || e.is_already_there() => {
                return self.bin_draft(draft).map(|()| None);
            }
            // Carried out twice, or taken away.
            Err(e) if e.is_not_found() => match self.look(record.key)? {
                Some(Volume { state: State::Creating(found, by), .. })
                    if found.incarnation == record.incarnation && by == self.worker => {}
                _ => return Ok(None),
            },
            Err(e) => return Err(e).on_share(doing),
        }
        self.volumes.sync().and_then(|()| self.tmp.sync()).on_share(doing)?;
        failpoint!("share.published-durably");
        Ok(Some(Volume { directory, state: State::Creating(record.clone(), self.worker) }))
    }

    /// From the published record to a volume that exists.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn finish(
        &self,
        wanted: &NewVolume,
        plan: Plan,
        record: &VolumeRecord,
        volume: &Volume,
        source: Option<&Origin>,
        abilities: Abilities,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        self.claim(record)?;
        if self.plan(wanted)? != plan {
            return Err(Error::Busy(format!(
                "directory {:?} of the share has just changed; try again",
                record.root.to_string()
            )));
        }
        failpoint!("share.plan-holds");
        if let Some(source) = source {
            self.fill(wanted, source, abilities, progress)?;
        }
        if plan == Plan::Make {
            self.put_in_place(record)?;
        }
        self.make_ready(record, &volume.directory)
    }

    fn fill(
        &self,
        wanted: &NewVolume,
        source: &Origin,
        abilities: Abilities,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let draft = Draft { key: wanted.key, what: What::Root, worker: self.worker };
        let lost = || being_made(wanted);
        let doing = || format!("filling volume {}", wanted.key);
        let root = self.tmp.enter(&draft.name()).on_share(doing)?.ok_or_else(lost)?;
        let copied = copy::tree(&source.content, &root, abilities, &mut self.beating(progress));
        failpoint!("share.filled");
        // A source that was deleted meanwhile explains whatever went wrong.
        self.check_origin(source)?;
        copied?;
        set_owner(wanted, &root, None)?;
        root.sync().on_share(doing)
    }

    fn put_in_place(&self, record: &VolumeRecord) -> Result<()> {
        let place = &record.root;
        let doing = || format!("putting directory {:?} in its place", place.to_string());
        let draft = Draft { key: record.key, what: What::Root, worker: self.worker };
        let vanished = || Error::Busy(format!("{}: what is above it has just vanished; try again", doing()));
        let above = self.above(place, Aim::Wanted, true)?.ok_or_else(vanished)?;
        let renamed = self.tmp.rename(&draft.name(), &above, place.split().1);
        failpoint!("share.placed");
        match renamed {
            Ok(()) => {}
            Err(e) if e.is_elsewhere() => {
                let text = format!("directory {:?} of the share leaves the filesystem", place.to_string());
                return Err(Error::Invalid(text));
            }
            Err(e) if e.is_not_empty() || e.is_already_there() || e.is_no_directory() => {
                return Err(Error::Incompatible(format!(
                    "{}: something else has come to stand there; give another `subDir`, or move it away",
                    doing()
                )));
            }
            // Carried out twice, or taken away: what stands there tells.
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e).on_share(doing),
        }
        let stands = above.stat(place.split().1).on_share(doing)?;
        if stands.is_none_or(|stat| stat.inode.number != record.fileid) {
            return Err(Error::Busy(format!("{}: another controller has taken it away; try again", doing())));
        }
        above.sync().and_then(|()| self.tmp.sync()).on_share(doing)?;
        failpoint!("share.placed-durably");
        Ok(())
    }

    fn make_ready(&self, record: &VolumeRecord, directory: &Directory) -> Result<()> {
        let doing = || format!("finishing volume {}", record.key);
        let renamed = directory.rename(&self.worker.creating(), directory, OsStr::new(RECORD));
        failpoint!("share.ready");
        match renamed {
            Ok(()) => {}
            Err(e) if e.is_not_found() || e.is_stale() => {
                let ready = match self.look(record.key)? {
                    Some(Volume { state: State::Ready(found), .. }) => {
                        found.incarnation == record.incarnation
                    }
                    _ => false,
                };
                if !ready {
                    return Err(Error::Busy(format!(
                        "{}: another controller took this one for dead; try again",
                        doing()
                    )));
                }
            }
            Err(e) => return Err(e).on_share(doing),
        }
        directory.sync().on_share(doing).map_err(Error::after_commit)?;
        failpoint!("share.ready-durably");
        Ok(())
    }
}

/// Where first content comes from, open.
#[derive(Debug)]
pub(super) struct Origin {
    pub source: Source,
    pub content: Directory,
    /// Of the volume; a snapshot's content tells it apart by itself.
    pub incarnation: Option<Uuid>,
}

fn set_owner(wanted: &NewVolume, root: &Directory, default: Option<u32>) -> Result<()> {
    let owner = wanted.owner;
    let doing = || format!("setting owner and mode of volume {}", wanted.key);
    file::set_owner(root.file(), owner.uid, owner.gid, owner.mode.or(default)).on_share(doing)
}

fn being_made(wanted: &NewVolume) -> Error {
    Error::Busy(format!("volume {} is being made by another controller; try again", wanted.key))
}
