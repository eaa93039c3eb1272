//! Which directory of the share belongs to which volume.
//!
//! Announce, then look: whoever has made its claim and then sees no other has the directory, and of two at
//! once at least one sees the other. A claim's name holds the volume's incarnation, so that one whose volume
//! is gone can be removed without hitting a newer one.

use super::{
    Kind, Share,
    fault::OnShare,
    names::{CLAIM, Claim},
    object::State,
    place::Aim,
    record::{OnDelete, Place, VolumeRecord},
};
use crate::{
    error::{Error, Result},
    failpoint,
    os::directory::Directory,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a claim that came first waits for another to give way.
const GIVING_WAY: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(20);
/// How often directories of claims are made again that another has just removed.
const TRIES: u32 = 64;

/// A look at the claims around one directory.
#[derive(Debug)]
enum Verdict {
    /// Nobody else's.
    Clear,
    /// Taken: by what.
    Taken(String),
    /// Somebody is just trying; the lowest incarnation of all who are.
    Contested(Uuid),
}

/// Who asks.
struct Asking<'a> {
    place: &'a Place,
    /// `None`: nobody who wants to have it.
    volume: Option<&'a VolumeRecord>,
}

impl Share {
    /// Makes the record's directory its own, or says whose it is. On an error the claim may still stand.
    pub(super) fn claim(&self, record: &VolumeRecord) -> Result<()> {
        self.announce(record)?;
        failpoint!("share.claimed");
        let deadline = Instant::now() + GIVING_WAY;
        let asking = Asking { place: &record.root, volume: Some(record) };
        loop {
            match self.judge(&asking)? {
                Verdict::Clear => return Ok(()),
                Verdict::Taken(by) => return Err(taken(&record.root, &by)),
                Verdict::Contested(lowest) if lowest < record.incarnation || Instant::now() > deadline => {
                    return Err(Error::Busy(format!(
                        "directory {:?} of the share is just being taken by another volume; try again",
                        record.root.to_string()
                    )));
                }
                Verdict::Contested(_) => thread::sleep(STEP),
            }
        }
    }

    /// Fails when a volume has this directory, one above it or one below it.
    pub(super) fn refuse_claimed(&self, place: &Place) -> Result<()> {
        match self.judge(&Asking { place, volume: None })? {
            Verdict::Clear => Ok(()),
            Verdict::Taken(by) => {
                Err(Error::Refused(format!("directory {:?} of the share belongs to {by}", place.to_string())))
            }
            Verdict::Contested(_) => Err(Error::Busy(format!(
                "directory {:?} of the share is just being taken by a volume; try again",
                place.to_string()
            ))),
        }
    }

    fn announce(&self, record: &VolumeRecord) -> Result<()> {
        let (place, name) = (&record.root, record.claim().name());
        let doing = || format!("claiming directory {:?} of the share", place.to_string());
        for _ in 0..TRIES {
            let Some(directory) = self.make_claims_of(place)? else { continue };
            match directory.create_dir(&name, 0o700) {
                // No other has this name: it is from an earlier try.
                Ok(()) => return directory.sync().on_share(doing),
                Err(e) if e.is_already_there() => return Ok(()),
                // Another has released its claim, and the directory with it.
                Err(e) if e.is_not_found() || e.is_stale() => {}
                Err(e) => return Err(e).on_share(doing),
            }
        }
        Err(Error::Busy(format!("{}: others release theirs there; try again", doing())))
    }

    /// `None`: another has removed a part meanwhile.
    fn make_claims_of(&self, place: &Place) -> Result<Option<Directory>> {
        let doing = || format!("claiming directory {:?} of the share", place.to_string());
        let mut at = self.claims.again().on_share(doing)?;
        for name in place.components() {
            let name = OsStr::new(name);
            let next = match at.enter(name).on_share(doing)? {
                None => {
                    match at.create_dir(name, 0o700) {
                        Err(e) if e.is_already_there() => {}
                        Err(e) if e.is_not_found() || e.is_stale() => return Ok(None),
                        result => result.and_then(|()| at.sync()).on_share(doing)?,
                    }
                    at.enter(name).on_share(doing)?
                }
                found => found,
            };
            let Some(next) = next else { return Ok(None) };
            at = next;
        }
        Ok(Some(at))
    }

    /// Whether the record's directory is still its own.
    pub(super) fn has_claim(&self, record: &VolumeRecord) -> Result<bool> {
        let doing = || format!("looking for the claim of volume {}", record.key);
        let Some(mut way) = self.way(record.root.components())? else { return Ok(false) };
        let Some(last) = way.pop() else { return Ok(false) };
        match last.stat(&record.claim().name()) {
            Err(e) if e.is_stale() => Ok(false),
            stat => stat.map(|stat| stat.is_some()).on_share(doing),
        }
    }

    /// Gives the directory back, and what led to the claim as far as nobody else needs it.
    pub(super) fn release(&self, record: &VolumeRecord) -> Result<()> {
        self.release_claim(&record.root, record.claim())
    }

    pub(super) fn release_claim(&self, place: &Place, claim: Claim) -> Result<()> {
        let doing = || format!("releasing directory {:?} of the share", place.to_string());
        let Some(mut way) = self.way(place.components())? else { return Ok(()) };
        if let Some(last) = way.last() {
            last.remove_dir(&claim.name()).and_then(|()| last.sync()).on_share(doing)?;
        }
        failpoint!("share.released");
        // What others use is not empty.
        for name in place.components().iter().rev() {
            way.pop();
            let above = way.last().unwrap_or(&self.claims);
            match above.remove_dir(OsStr::new(name)) {
                Err(e) if e.is_not_empty() || e.is_already_there() => break,
                result => result.on_share(doing)?,
            }
        }
        Ok(())
    }

    /// The directories of claims on the way to a place; `None`: it does not go all the way.
    fn way(&self, components: &[String]) -> Result<Option<Vec<Directory>>> {
        let mut way: Vec<Directory> = Vec::new();
        for name in components {
            let at = way.last().unwrap_or(&self.claims);
            match at.enter(OsStr::new(name)).on_share(|| "looking at claims".into())? {
                Some(next) => way.push(next),
                None => return Ok(None),
            }
        }
        Ok(Some(way))
    }

    fn judge(&self, asking: &Asking<'_>) -> Result<Verdict> {
        let mut contested: Option<Uuid> = None;
        let mut at = self.claims.again().on_share(|| "looking at claims".into())?;
        let (mut names, last) = (Vec::new(), asking.place.components().len());
        // No volume is the share's root, so there is nothing to see in `claims` itself.
        for (depth, name) in asking.place.components().iter().enumerate() {
            match at.enter(OsStr::new(name)).on_share(|| "looking at claims".into())? {
                Some(next) => at = next,
                None => return Ok(contested.map_or(Verdict::Clear, Verdict::Contested)),
            }
            let same = depth + 1 == last;
            names = list(&at)?;
            if let Some(by) = self.judge_one(&at, &names, asking, same, &mut contested)? {
                return Ok(Verdict::Taken(by));
            }
        }
        // Only the directories on the way to one are open: there may be as many as volumes.
        let mut way = vec![(at, names)];
        while let Some((at, names)) = way.last_mut() {
            let Some(name) = names.pop() else {
                way.pop();
                continue;
            };
            if name.as_bytes().starts_with(CLAIM.as_bytes()) {
                continue;
            }
            let next = match at.enter(&name) {
                Err(e) if e.is_stale() => None,
                next => next.on_share(|| "looking at claims".into())?,
            };
            let Some(next) = next else { continue };
            let inside = list(&next)?;
            if let Some(by) = self.judge_one(&next, &inside, asking, false, &mut contested)? {
                return Ok(Verdict::Taken(by));
            }
            way.push((next, inside));
        }
        Ok(contested.map_or(Verdict::Clear, Verdict::Contested))
    }

    /// The claims in one directory; what has it, if something does.
    fn judge_one(
        &self,
        directory: &Directory,
        names: &[OsString],
        asking: &Asking<'_>,
        same: bool,
        contested: &mut Option<Uuid>,
    ) -> Result<Option<String>> {
        let own = asking.volume.map(VolumeRecord::claim);
        for name in names {
            let Some(claim) = Claim::parse(name).filter(|claim| Some(*claim) != own) else {
                continue;
            };
            match self.standing_of(claim)? {
                Standing::Gone => {
                    directory
                        .remove_dir(name)
                        .on_share(|| "removing the claim of a volume that is gone".into())?;
                    failpoint!("share.dead-claim-removed");
                }
                Standing::Ready(record) => match self.sharing(&record, asking, same)? {
                    Sharing::Yes => {}
                    Sharing::Later => add(contested, &record),
                    Sharing::No => return Ok(Some(told(&record))),
                },
                // Not even with `retain`: if it is rolled back, the directory goes that it made.
                Standing::Pending(record) => add(contested, &record),
                Standing::Unreadable(why) => return Ok(Some(why)),
            }
        }
        Ok(None)
    }

    /// Whether a volume may have the directory that a finished one has.
    fn sharing(&self, there: &VolumeRecord, asking: &Asking<'_>, same: bool) -> Result<Sharing> {
        let Some(volume) = asking.volume.filter(|volume| {
            same && [volume.on_delete, there.on_delete] == [OnDelete::Retain, OnDelete::Retain]
        }) else {
            return Ok(Sharing::No);
        };
        if volume.adopted {
            return Ok(Sharing::Yes);
        }
        // What is made is renamed onto what stands there: an empty directory would be replaced.
        if volume.source.is_some() {
            return Ok(Sharing::No);
        }
        let stands = self.standing(&there.root, Aim::Wanted)?;
        Ok(match stands {
            Some((_, stat)) if stat.inode.number == there.fileid => Sharing::Later,
            // Its directory is gone: to make another would not bring it back.
            _ => Sharing::No,
        })
    }

    /// What has become of the volume that made a claim. One that nobody makes any more is discarded.
    pub(super) fn standing_of(&self, claim: Claim) -> Result<Standing> {
        let found = match self.look(claim.key) {
            Ok(found) => found,
            Err(error @ Error::Damaged(_)) => return Ok(Standing::Unreadable(error.chain())),
            Err(error) => return Err(error),
        };
        let Some(found) = found else { return Ok(Standing::Gone) };
        match &found.state {
            State::Ready(record) if record.incarnation == claim.incarnation => {
                Ok(Standing::Ready(record.clone()))
            }
            State::Creating(record, by) if record.incarnation == claim.incarnation => {
                if claim.tag == self.tag()
                    && let Ok(_turn) = self.begin(Kind::Volume, claim.key)
                    && !self.is_anothers(*by)?
                    && self.discard(&found, record, *by)?
                {
                    return Ok(Standing::Gone);
                }
                Ok(Standing::Pending(record.clone()))
            }
            _ => Ok(Standing::Gone),
        }
    }
}

/// Whether two volumes have one directory.
enum Sharing {
    /// Both use it.
    Yes,
    /// It has come to stand there since this volume's plan was made: the next attempt adopts it.
    Later,
    /// It is taken.
    No,
}

/// What has become of a claim's volume.
#[derive(Debug)]
pub(super) enum Standing {
    /// The claim is dead.
    Gone,
    /// The volume exists.
    Ready(VolumeRecord),
    /// It is being made.
    Pending(VolumeRecord),
    /// Nobody knows, and why.
    Unreadable(String),
}

fn add(contested: &mut Option<Uuid>, record: &VolumeRecord) {
    *contested = Some(contested.map_or(record.incarnation, |lowest| lowest.min(record.incarnation)));
}

fn told(record: &VolumeRecord) -> String {
    format!("volume {:?} ({}, directory {:?})", record.name, record.key, record.root.to_string())
}

fn taken(place: &Place, by: &str) -> Error {
    Error::Incompatible(format!(
        "directory {:?} of the share cannot be had: {by} has it, or one above or below it; give another `subDir`",
        place.to_string()
    ))
}

fn list(directory: &Directory) -> Result<Vec<OsString>> {
    super::object::list(directory)
}
