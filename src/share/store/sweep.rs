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
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

/// A heartbeat that was not given for so long is taken away.
const FORGOTTEN: Duration = Duration::from_secs(3600);

impl Share {
    /// Discards what dead workers of the own cluster left unfinished, and purges its trash. `progress` is called
    /// now and then.
    pub fn sweep(&self, progress: &mut dyn FnMut(u64)) -> Result<Purge> {
        self.beat()?;
        let mut passed_over = self.sweep_volumes(progress)?;
        self.sweep_snapshots(progress)?;
        passed_over += self.sweep_tmp()?;
        progress(0);
        self.sweep_claims()?;
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
    fn sweep_tmp(&self) -> Result<u64> {
        let mut passed_over = 0;
        for name in self.tmp.list().on_share(|| "listing tmp".into())? {
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

    /// Claims of volumes that are gone: they hinder nobody, but they add up.
    fn sweep_claims(&self) -> Result<()> {
        let mut rest = vec![self.claims.again().on_share(|| "looking at claims".into())?];
        while let Some(directory) = rest.pop() {
            for name in super::object::list(&directory)? {
                if !name.as_bytes().starts_with(CLAIM.as_bytes()) {
                    let next = directory.enter(&name).on_share(|| "looking at claims".into())?;
                    rest.extend(next);
                    continue;
                }
                let swept = match Claim::parse(&name).filter(|claim| claim.tag == self.tag()) {
                    Some(claim) => self.sweep_claim(&directory, &name, claim),
                    None => Ok(()),
                };
                tolerate(swept, &format!("claim {name:?}"))?;
            }
        }
        self.remove_empty_claims()
    }

    fn sweep_claim(&self, directory: &Directory, name: &OsStr, claim: Claim) -> Result<()> {
        match self.standing_of(claim)? {
            Standing::Gone => directory.remove_dir(name).on_share(|| "removing a dead claim".into()),
            _ => Ok(()),
        }
    }

    /// Directories of claims in which nothing is any more, the deepest first.
    fn remove_empty_claims(&self) -> Result<()> {
        let doing = || "removing empty directories of claims".to_owned();
        let mut way = vec![(self.claims.again().on_share(doing)?, None::<std::ffi::OsString>)];
        let mut names = vec![super::object::list(&self.claims)?];
        while let Some(left) = names.last_mut() {
            let Some((here, _)) = way.last() else { break };
            if let Some(name) = left.pop() {
                if !name.as_bytes().starts_with(CLAIM.as_bytes())
                    && let Some(next) = here.enter(&name).on_share(doing)?
                {
                    names.push(super::object::list(&next)?);
                    way.push((next, Some(name)));
                }
                continue;
            }
            names.pop();
            let left = way.pop();
            if let (Some((_, Some(name))), Some((above, _))) = (left, way.last()) {
                match above.remove_dir(&name) {
                    Err(e) if e.is_not_empty() || e.is_already_there() => {}
                    result => result.on_share(doing)?,
                }
            }
        }
        Ok(())
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
