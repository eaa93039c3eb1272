//! NodeGetVolumeStats of volumes on shares: never waits longer than a child's deadline.

use super::{Node, Place, silent};
use crate::{
    error::{Error, Result},
    os::space::Space,
    service::stats::{Amount, Figures, GetStats},
    share::Looked,
    volume::nfs::{AnyVolumeId, VolumeId},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Where a volume's own figures come from: what lies on a share tells statfs(2) nothing about one directory of it.
pub trait Usage: fmt::Debug + Send + Sync {
    /// What a volume is known to hold; waits for a moment at most. `None`: nothing is known, or the server counts for each directory,
    /// and then the figures of the filesystem are the volume's.
    fn of(&self, id: &VolumeId) -> Option<Used>;
}

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// In bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// The size that was asked for.
    pub total: u64,
}

/// How many volumes' figures are remembered.
const MOST: usize = 16 << 10;

/// How long a server that was silent is not asked again for figures that are known already.
const PAUSE: Duration = Duration::from_secs(15);

/// What was last heard, for while a server does not answer.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<HashMap<String, Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    space: Space,
    /// When the server last did not answer.
    silent: Option<Instant>,
}

impl Last {
    fn get(&self, id: &str) -> Option<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    fn set(&self, id: &str, space: Space, silent: Option<Instant>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MOST || all.contains_key(id) {
            all.insert(id.to_owned(), Known { space, silent });
        }
    }

    pub(super) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Node {
    /// Figures of a published or staged volume; the last ones while its server does not answer.
    pub(in crate::service) fn stats(&self, request: &GetStats) -> Result<Figures> {
        let place = self.volume_at(&request.id, &request.path)?;
        let space = self.space(&request.id, &place)?;
        let used = match AnyVolumeId::parse(&request.id) {
            Some(AnyVolumeId::Nfs(id)) => self.usage.of(&id),
            _ => None,
        };
        Ok(used.map_or_else(|| of_filesystem(&space), |used| of_volume(&space, used)))
    }

    fn space(&self, id: &str, place: &Place) -> Result<Space> {
        let known = self.last.get(id);
        if let Some(known) = known
            && known.silent.is_some_and(|since| since.elapsed() < PAUSE)
        {
            return Ok(known.space);
        }
        let outcome = match self.children.figures(&place.server(), &place.mount.point) {
            Ok(Looked::Answer(space)) => {
                self.last.set(id, space, None);
                return Ok(space);
            }
            Ok(Looked::Stuck) => silent(place),
            Err(error) => error,
        };
        match known {
            Some(Known { space, .. }) => {
                self.last.set(id, space, Some(Instant::now()));
                tracing::warn!(volume = id, error = outcome.chain(), "figures are the last known ones");
                Ok(space)
            }
            None => Err(Error::Unavailable(format!("no figures of volume {id:?}: {}", outcome.chain()))),
        }
    }

    /// The share at a path that a request calls this volume's: NOT_FOUND unless it may be.
    pub(super) fn volume_at(
        &self,
        id: &str,
        path: &crate::service::target::TargetPath,
    ) -> Result<Box<Place>> {
        let elsewhere =
            || Error::NotFound(format!("volume {id:?} is neither staged nor published at {path}"));
        path.absolute().ok_or_else(elsewhere)?;
        self.ours(id, path, elsewhere)?.ok_or_else(elsewhere)
    }
}

fn of_filesystem(space: &Space) -> Figures {
    let bytes = Amount {
        total: space.total,
        used: space.total.saturating_sub(space.free),
        available: space.available,
    };
    let inodes = (space.inodes > 0).then(|| Amount {
        total: space.inodes,
        used: space.inodes.saturating_sub(space.inodes_free),
        available: space.inodes_free,
    });
    Figures { bytes, only_total: false, inodes }
}

/// The share's free room bounds what a volume may still take.
fn of_volume(space: &Space, used: Used) -> Figures {
    let bytes = Amount {
        total: used.total,
        used: used.bytes,
        available: used.total.saturating_sub(used.bytes).min(space.available),
    };
    let inodes = (space.inodes > 0).then(|| Amount {
        total: space.inodes_free.saturating_add(used.inodes),
        used: used.inodes,
        available: space.inodes_free,
    });
    Figures { bytes, only_total: false, inodes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volumes_own_figures_are_bounded_by_the_share() {
        let space =
            Space { total: 1000, available: 50, free: 60, inodes: 100, inodes_free: 40, read_only: false };
        let figures = of_volume(&space, Used { bytes: 30, inodes: 7, total: 200 });
        assert_eq!(figures.bytes, Amount { total: 200, used: 30, available: 50 });
        assert_eq!(figures.inodes, Some(Amount { total: 47, used: 7, available: 40 }));
        let figures = of_volume(&space, Used { bytes: 300, inodes: 7, total: 200 });
        assert_eq!(figures.bytes.available, 0);
        let figures = of_filesystem(&Space { inodes: 0, ..space });
        assert_eq!(figures.bytes, Amount { total: 1000, used: 940, available: 50 });
        assert_eq!(figures.inodes, None);
    }
}
