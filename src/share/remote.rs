//! The stores on shares as the driver's process uses them: each method is one call of a helper.

use super::{
    client::{Call, Limits, Share, Shares},
    operation::{Answer, Examined, Order, Work},
    owner::Owner,
    server::ServerStatus,
    store::{
        Flaw, Leftover, NewSnapshot, NewVolume, OnDelete, Page, Place, Purge, SnapshotRecord, Usage,
        VolumeRecord,
    },
};
use crate::{
    error::{Error, Result},
    os::{child::Launcher, space::Space},
    volume::Key,
};
use std::time::Duration;

/// For what is a few calls of the server.
const QUICK: Duration = Duration::from_secs(20);

/// For what goes on for long: without a sign of life.
const LONG: Duration = Duration::from_secs(60);

/// A volume is counted up to so many names,
const COUNTED: u64 = 100_000;
/// and so long.
const COUNTING: Duration = Duration::from_secs(30);

/// All shares, as one cluster sees them.
#[derive(Debug)]
pub struct Remote {
    shares: Shares<Order, Answer>,
    owner: Owner,
}

impl Remote {
    /// Nothing is mounted yet. `launcher` starts this binary so that it runs [`super::operation::handler`].
    pub fn new(launcher: Launcher, limits: Limits, owner: Owner) -> Self {
        Self { shares: Shares::new(launcher, limits), owner }
    }

    /// Whose volumes it makes and sees.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        self.shares.limits()
    }

    /// Makes a volume, or finds the one that an earlier request of the same name made. A source is copied by a
    /// helper of its own.
    pub fn create_volume(&self, share: &Share, wanted: NewVolume) -> Result<VolumeRecord> {
        let copies = wanted.source.is_some();
        let work = Work::CreateVolume(Box::new(wanted));
        let answer = if copies { self.copy(share, work)? } else { self.call(share, work, QUICK)? };
        volume(answer)?.ok_or_else(odd)
    }

    /// Makes a volume cease to exist; absent is fine. Its directory is in the trash then: see [`Self::purge`].
    pub fn delete_volume(&self, share: &Share, key: Key) -> Result<()> {
        done(self.call(share, Work::DeleteVolume(key), QUICK)?)
    }

    /// Deletes a directory that no record knows; absent is fine. The key names it in the trash.
    pub fn delete_unrecorded(
        &self,
        share: &Share,
        key: Key,
        place: Place,
        on_delete: OnDelete,
    ) -> Result<()> {
        done(self.call(share, Work::DeleteUnrecorded { key, place, on_delete }, QUICK)?)
    }

    /// Writes down the sizes that were last asked for.
    pub fn resize_volume(
        &self,
        share: &Share,
        key: Key,
        required_bytes: u64,
        size_bytes: u64,
    ) -> Result<VolumeRecord> {
        let work = Work::ResizeVolume { key, required_bytes, size_bytes };
        volume(self.call(share, work, QUICK)?)?.ok_or_else(odd)
    }

    /// A volume of this cluster.
    pub fn volume(&self, share: &Share, key: Key) -> Result<Option<VolumeRecord>> {
        volume(self.call(share, Work::Volume(key), QUICK)?)
    }

    /// At most `limit` volumes of this cluster, those with greater keys.
    pub fn volumes(&self, share: &Share, after: Option<Key>, limit: usize) -> Result<Page<VolumeRecord>> {
        match self.call(share, Work::Volumes { after, limit }, QUICK)? {
            Answer::Volumes(page) => Ok(page),
            _ => Err(odd()),
        }
    }

    /// What is wrong with a volume at rest; `None`: nothing. A server that gives no answer is a flaw, too.
    pub fn volume_health(&self, share: &Share, key: Key) -> Result<Option<Flaw>> {
        match self.call(share, Work::Flaw(key), QUICK) {
            Ok(Answer::Flaw(flaw)) => Ok(flaw),
            Ok(_) => Err(odd()),
            Err(error @ Error::Unavailable(_)) => Ok(Some(Flaw::Silent(error.chain()))),
            Err(Error::Os { doing, source }) if source.is_outcome_unknown() => {
                Ok(Some(Flaw::Silent(Error::Os { doing, source }.chain())))
            }
            Err(error) => Err(error),
        }
    }

    /// What a volume of any cluster holds, as far as that can be counted in half a minute; `None`: there is none.
    pub fn usage(&self, share: &Share, key: Key) -> Result<Option<Usage>> {
        match self.call(share, Work::Usage { key, entries: COUNTED, time: COUNTING }, QUICK)? {
            Answer::Usage(usage) => Ok(usage),
            _ => Err(odd()),
        }
    }

    /// Makes a snapshot, or finds the one that an earlier request of the same name made. Always by a helper of
    /// its own.
    pub fn create_snapshot(&self, share: &Share, wanted: NewSnapshot) -> Result<SnapshotRecord> {
        let answer = self.copy(share, Work::CreateSnapshot(Box::new(wanted)))?;
        snapshot(answer)?.ok_or_else(odd)
    }

    /// Makes a snapshot cease to exist; absent is fine.
    pub fn delete_snapshot(&self, share: &Share, key: Key) -> Result<()> {
        done(self.call(share, Work::DeleteSnapshot(key), QUICK)?)
    }

    /// A snapshot of this cluster.
    pub fn snapshot(&self, share: &Share, key: Key) -> Result<Option<SnapshotRecord>> {
        snapshot(self.call(share, Work::Snapshot(key), QUICK)?)
    }

    /// At most `limit` snapshots of this cluster, those with greater keys.
    pub fn snapshots(&self, share: &Share, after: Option<Key>, limit: usize) -> Result<Page<SnapshotRecord>> {
        match self.call(share, Work::Snapshots { after, limit }, QUICK)? {
            Answer::Snapshots(page) => Ok(page),
            _ => Err(odd()),
        }
    }

    /// How much room a share has.
    pub fn space(&self, share: &Share) -> Result<Space> {
        match self.call(share, Work::Space, QUICK)? {
            Answer::Space(space) => Ok(space),
            _ => Err(odd()),
        }
    }

    /// Whether the server answers, also where it has not lately.
    pub fn look(&self, share: &Share) -> Result<()> {
        self.shares.look(share).map_err(|error| on(share, error))
    }

    /// Discards what dead workers of this cluster left unfinished, and empties its trash.
    pub fn sweep(&self, share: &Share) -> Result<Purge> {
        purge(self.call(share, Work::Sweep, LONG)?)
    }

    /// Empties this cluster's trash: what was deleted is removed now.
    pub fn purge(&self, share: &Share) -> Result<Purge> {
        purge(self.call(share, Work::Purge, LONG)?)
    }

    /// What belongs to nothing.
    pub fn leftovers(&self, share: &Share) -> Result<Vec<Leftover>> {
        match self.call(share, Work::Leftovers, LONG)? {
            Answer::Leftovers(found) => Ok(found),
            _ => Err(odd()),
        }
    }

    /// Removes one finding; gives why it stays, if it does.
    pub fn purge_leftover(&self, share: &Share, leftover: Leftover) -> Result<Option<String>> {
        match self.call(share, Work::PurgeLeftover(Box::new(leftover)), LONG)? {
            Answer::Stays(reason) => Ok(reason),
            _ => Err(odd()),
        }
    }

    /// Brings a share's store to this driver's version; gives the version that it had.
    pub fn migrate(&self, share: &Share) -> Result<u32> {
        match self.call(share, Work::Migrate, LONG)? {
            Answer::Version(version) => Ok(version),
            _ => Err(odd()),
        }
    }

    /// What this host sees of a share and may do there. Leaves nothing behind.
    pub fn examine(&self, share: &Share) -> Result<Examined> {
        match self.call(share, Work::Examine, QUICK)? {
            Answer::Examined(examined) => Ok(examined),
            _ => Err(odd()),
        }
    }

    /// The driver is ending: nothing new is begun, and copies end as soon as they can.
    pub fn stop(&self) {
        self.shares.stop();
    }

    /// What each server has in use.
    pub fn servers(&self) -> Vec<ServerStatus> {
        self.shares.servers()
    }

    /// Releases helpers that hang since a driver was killed with its whole container; gives how many. Takes
    /// seconds for each: meant for a thread of its own after start-up.
    pub fn release_orphans(&self) -> Result<usize> {
        self.shares.release_orphans()
    }

    fn copy(&self, share: &Share, work: Work) -> Result<Answer> {
        let answer = self.order(work).and_then(|order| self.shares.copy(share, order, Call::within(LONG)));
        answer.map_err(|error| on(share, error))
    }

    fn call(&self, share: &Share, work: Work, limit: Duration) -> Result<Answer> {
        let answer = self.order(work).and_then(|order| self.shares.call(share, order, Call::within(limit)));
        answer.map_err(|error| on(share, error))
    }

    fn order(&self, work: Work) -> Result<Order> {
        Ok(Order { cluster: self.owner.name()?.to_owned(), work })
    }
}

/// Says on which share something failed: the helper knows no other.
fn on(share: &Share, mut error: Error) -> Error {
    let name = share.name();
    let text = match &mut error {
        Error::Invalid(text)
        | Error::NotFound(text)
        | Error::Incompatible(text)
        | Error::Busy(text)
        | Error::Refused(text)
        | Error::NotOffered(text)
        | Error::Forbidden(text)
        | Error::NoSpace(text)
        | Error::OutOfRange(text)
        | Error::Unavailable(text)
        | Error::BadToken(text)
        | Error::Damaged(text)
        | Error::Internal(text)
        | Error::Os { doing: text, .. } => text,
    };
    if !text.contains(&name) {
        text.insert_str(0, &format!("{name}: "));
    }
    error
}

fn volume(answer: Answer) -> Result<Option<VolumeRecord>> {
    match answer {
        Answer::Volume(record) => Ok(record.map(|record| *record)),
        _ => Err(odd()),
    }
}

fn snapshot(answer: Answer) -> Result<Option<SnapshotRecord>> {
    match answer {
        Answer::Snapshot(record) => Ok(record.map(|record| *record)),
        _ => Err(odd()),
    }
}

fn purge(answer: Answer) -> Result<Purge> {
    match answer {
        Answer::Purge(purge) => Ok(purge),
        _ => Err(odd()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as the others")]
fn done(answer: Answer) -> Result<()> {
    match answer {
        Answer::Done => Ok(()),
        _ => Err(odd()),
    }
}

fn odd() -> Error {
    Error::Internal("a helper answered something else than it was asked".into())
}
