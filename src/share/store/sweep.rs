//! What dead workers left: found at the first mount of a share and now and then.

use super::{
    Kind, Share,
    claim::Standing,
    fault::OnShare,
    names::{CLAIM, Claim, Draft, What, Worker, of_deleting},
    object::State,
    trash::Purge,
};
use crate::{
    error::{Error, Result},
    failpoint,
    os::directory::Directory,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    time::Duration,
};

/// A heartbeat that was not given for so long is taken away.
const FORGOTTEN: Duration = Duration::from_secs(3600);

impl Share {
    /// Discards what dead workers of the own cluster left unfinished, and purges its trash. `progress` is called
    /// now and then.
    pub fn sweep(&self, progress: &mut dyn FnMut(u64)) -> Result<Purge> {
        self.beat()?;
        let mut passed_over = self.sweep_volumes(progress)?;
        self.sweep_snapshots(progress)?;
        passed_over += self.sweep_tmp(progress)?;
        progress(0);
        self.sweep_claims(progress)?;
        progress(0);
        let purge = self.purge(progress)?;
        self.forget_workers()?;
        Ok(Purge { passed_over, ..purge })
    }

    /// How many had to be passed over.
    fn sweep_volumes(&self, progress: &mut dyn FnMut(u64)) -> Result<u64> {
        let mut passed_over = 0;
        for (number, key) in (1..).zip(self.keys(Kind::Volume)?) {
            progress(number);
            let swept = self.look(key).and_then(|found| {
                let Some(found) = found else { return Ok(()) };
                if matches!(found.state, State::Ready(_)) {
                    return Ok(());
                }
                let Ok(_turn) = self.begin(Kind::Volume, key) else {
                    let own = matches!(&found.state, State::Creating(_, by) if *by == self.worker);
                    passed_over += u64::from(!own);
                    return Ok(());
                };
                match &found.state {
                    State::Creating(record, by)
                        if by.tag == self.tag() && record.cluster == self.identity.cluster() =>
                    {
                        if !self.is_anothers(*by)? {
                            tracing::info!(volume = %key, "discarding what an interrupted request left");
                            self.discard(&found, record, *by)?;
                        }
                        Ok(())
                    }
                    State::Dead => self.clear(Kind::Volume, key, &found.directory),
                    _ => Ok(()),
                }
            });
            tolerate(swept, &format!("volume {key}"))?;
        }
        Ok(passed_over)
    }

    /// Snapshots whose deletion was interrupted.
    fn sweep_snapshots(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        for (number, key) in (1..).zip(self.keys(Kind::Snapshot)?) {
            progress(number);
            let swept = self.look_for_snapshot(key).and_then(|found| {
                let Some(found) = found.filter(|found| found.record.is_none()) else { return Ok(()) };
                let names = super::object::list(&found.directory)?;
                let own = names.is_empty() || names.iter().any(|name| of_deleting(name) == Some(self.tag()));
                match self.begin(Kind::Snapshot, key) {
                    Ok(_turn) if own => self.finish_deletion(key, &found.directory),
                    _ => Ok(()),
                }
            });
            tolerate(swept, &format!("snapshot {key}"))?;
        }
        Ok(())
    }

    /// How many had to be passed over.
    fn sweep_tmp(&self, progress: &mut dyn FnMut(u64)) -> Result<u64> {
        let mut passed_over = 0;
        for (number, name) in (1..).zip(self.tmp.list().on_share(|| "listing tmp".into())?) {
            progress(number);
            if let Some(worker) = Worker::of_format(&name).filter(|worker| worker.tag == self.tag()) {
                if !self.is_anothers(worker)? {
                    self.tmp.remove_file(&name).on_share(|| format!("removing {name:?} from tmp"))?;
                }
                continue;
            }
            let Some(draft) = Draft::parse(&name).filter(|draft| draft.worker.tag == self.tag()) else {
                continue;
            };
            if self.is_anothers(draft.worker)? {
                continue;
            }
            let Ok(_turn) = self.begin(kind_of(draft.what), draft.key) else {
                passed_over += u64::from(draft.worker != self.worker);
                continue;
            };
            tolerate(self.bin_draft(draft), &format!("{name:?} in tmp"))?;
        }
        Ok(passed_over)
    }

    /// Claims of volumes that are gone, which hinder nobody but add up, and directories that are empty then. Only
    /// the directories on the way to where it is are open: there may be as many as volumes.
    fn sweep_claims(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let top = self.claims.again().on_share(|| "looking at claims".into())?;
        let mut way = vec![Level { left: super::object::list(&top)?, directory: top, kept: false }];
        let mut below = Vec::<OsString>::new();
        let mut seen = 0;
        while let Some(level) = way.last_mut() {
            let Some(name) = level.left.pop() else {
                let kept = level.kept;
                way.pop();
                if let (Some(above), Some(name)) = (way.last_mut(), below.pop()) {
                    above.kept |= kept || !remove_empty(&above.directory, &name)?;
                }
                continue;
            };
            seen += 1;
            progress(seen);
            if name.as_bytes().starts_with(CLAIM.as_bytes()) {
                level.kept |= !self.sweep_claim(&level.directory, &name)?;
                continue;
            }
            let next = match level.directory.enter(&name) {
                Err(e) if e.is_stale() => None,
                Err(e) => {
                    level.kept = true;
                    tolerate(Err(e).on_share(|| "looking at claims".into()), &format!("{name:?} in claims"))?;
                    None
                }
                Ok(next) => next,
            };
            if let Some(next) = next {
                way.push(Level { left: super::object::list(&next)?, directory: next, kept: false });
                below.push(name);
            }
        }
        Ok(())
    }

    /// Whether it is gone.
    fn sweep_claim(&self, directory: &Directory, name: &OsStr) -> Result<bool> {
        let Some(claim) = Claim::parse(name).filter(|claim| claim.tag == self.tag()) else {
            return Ok(false);
        };
        let mut gone = false;
        let swept = self.standing_of(claim).and_then(|standing| {
            if matches!(standing, Standing::Gone) {
                directory.remove_dir(name).on_share(|| "removing a dead claim".into())?;
                gone = true;
            }
            Ok(())
        });
        tolerate(swept, &format!("claim {name:?}"))?;
        Ok(gone)
    }

    /// Heartbeats of processes that ended long ago.
    fn forget_workers(&self) -> Result<()> {
        for name in self.tmp.list().on_share(|| "listing tmp".into())? {
            let Some(worker) = Worker::of_heartbeat(&name).filter(|worker| worker.tag == self.tag()) else {
                continue;
            };
            if worker != self.worker && self.is_forgotten(&name)? {
                self.tmp.remove_file(&name).on_share(|| "removing an old heartbeat".into())?;
                failpoint!("share.worker-forgotten");
            }
        }
        Ok(())
    }

    fn is_forgotten(&self, heartbeat: &OsStr) -> Result<bool> {
        let (Some(beat), Some(own)) = (self.beat_of(heartbeat)?, self.beat_of(&self.worker.heartbeat())?)
        else {
            return Ok(false);
        };
        Ok(own.duration_since(beat).is_ok_and(|age| age > FORGOTTEN.max(self.patience)))
    }

    fn beat_of(&self, heartbeat: &OsStr) -> Result<Option<std::time::SystemTime>> {
        let stat = self.tmp.stat(heartbeat).on_share(|| "looking at a heartbeat".into())?;
        Ok(stat.map(|stat| stat.modified))
    }
}

/// A directory of claims that is being swept.
struct Level {
    directory: Directory,
    left: Vec<OsString>,
    /// Something stays in it.
    kept: bool,
}

/// False: something is in it.
fn remove_empty(above: &Directory, name: &OsStr) -> Result<bool> {
    match above.remove_dir(name) {
        Err(e) if e.is_not_empty() || e.is_already_there() => Ok(false),
        Err(e) if e.is_stale() => Ok(true),
        result => result.map(|()| true).on_share(|| "removing empty directories of claims".into()),
    }
}

pub(super) fn kind_of(what: What) -> Kind {
    match what {
        What::Record | What::Root => Kind::Volume,
        What::Snapshot => Kind::Snapshot,
    }
}

/// One thing that cannot be swept does not keep the others; a server that gives no answer does.
fn tolerate(swept: Result<()>, what: &str) -> Result<()> {
    match swept {
        Err(error @ Error::Unavailable(_)) => Err(error),
        Err(error) => {
            tracing::warn!(what, error = error.chain(), "cannot be swept");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
