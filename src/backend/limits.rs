//! The one place that decides what a pool can enforce on a directory.

use crate::{
    error::{Doing, Error, Result},
    os::{btrfs, file, quota},
    store::{Draft, Pool},
    volume::{Key, LimitMode, VolumeRecord},
};
use std::path::Path;

/// How a directory's size is kept on this pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// A limit on the referenced bytes of the subvolume's qgroup.
    Qgroup,
    /// A limit on what carries the project id of the volume (XFS, ext4).
    Project,
    /// Nothing here can.
    None,
}

/// What the pool offers now: the admin may switch qgroups on at any time, or mount it with other options.
pub fn of(pool: &Pool) -> Result<Enforcement> {
    if !pool.abilities().btrfs {
        let on = quota::enforced(pool.home())
            .doing(|| format!("looking for project quota on pool {:?}", pool.name()))?;
        return Ok(if on { Enforcement::Project } else { Enforcement::None });
    }
    let on = btrfs::quota_enabled(pool.home())
        .doing(|| format!("looking for qgroups on pool {:?}", pool.name()))?;
    Ok(if on { Enforcement::Qgroup } else { Enforcement::None })
}

/// Refuses a class that wants what the pool cannot give, and says what would work.
pub fn check(pool: &Pool, wanted: LimitMode) -> Result<()> {
    if wanted == LimitMode::Advisory || of(pool)? != Enforcement::None {
        return Ok(());
    }
    let way = if pool.abilities().btrfs {
        format!("`btrfs quota enable {}`", pool.home().display())
    } else {
        format!(
            "an XFS or ext4 mounted at {} with `prjquota`, a btrfs pool with qgroups",
            pool.home().display()
        )
    };
    Err(Error::Invalid(format!(
        "pool {:?} cannot limit directories: use layout image (a hard limit on any filesystem), {way}, or \
         limit: advisory (no limit at all)",
        pool.name()
    )))
}

/// What an enforced directory holds, by the count that its limit goes by.
pub fn used(pool: &Pool, record: &VolumeRecord, data: &Path) -> Result<u64> {
    let doing = || format!("reading what volume {} holds", record.key);
    match record.project_id {
        Some(id) => {
            quota::project(data, id).map(|found| found.map_or(0, |project| project.used)).doing(doing)
        }
        None if pool.abilities().btrfs => {
            btrfs::qgroup(data).map(|found| found.map_or(0, |figures| figures.referenced)).doing(doing)
        }
        None => Ok(0),
    }
}

/// The limit that the kernel holds an enforced directory to.
pub fn now(record: &VolumeRecord, data: &Path) -> Result<Option<u64>> {
    let doing = || format!("reading the limit of volume {}", record.key);
    match record.project_id {
        Some(id) => {
            quota::project(data, id).map(|found| found.and_then(|project| project.limit)).doing(doing)
        }
        None => btrfs::qgroup(data).map(|found| found.and_then(|figures| figures.limit)).doing(doing),
    }
}

/// Ids come from here, so that they do not meet those that an admin gives.
const FIRST: u32 = 1 << 30;
/// How many ids there are.
const IDS: u32 = 1 << 30;

/// Finds the new volume an id if its limit needs one, and returns it for the record.
///
/// The draft's directory carries it from then on: as long as anything of the volume is left, in volumes, tmp or
/// trash, the kernel counts at least one inode, and the id is not given again.
pub fn claim(pool: &Pool, draft: &Draft<'_>, record: &VolumeRecord) -> Result<Option<u32>> {
    if record.limit != Some(LimitMode::Enforced) || of(pool)? != Enforcement::Project {
        return Ok(None);
    }
    let doing = || format!("finding volume {} a project id", record.key);
    let _lock = pool.lock_projects()?;
    let directory = file::open_dir(draft.path()).doing(doing)?;
    let carriers = |id| {
        quota::project(pool.home(), id).map(|found| found.map_or(0, |project| project.inodes)).doing(doing)
    };
    for id in candidates(record.key) {
        if carriers(id)? > 0 {
            continue;
        }
        quota::set_number(&directory, id, quota::Inherit::No).doing(doing)?;
        // Another pool on the same filesystem has another lock.
        if carriers(id)? == 1 {
            return Ok(Some(id));
        }
    }
    Err(Error::Busy(format!(
        "no project id is free for volume {} in pool {:?}; try again",
        record.key,
        pool.name()
    )))
}

/// Where to look: from a place of the key's own, so that the first one nearly always is free.
fn candidates(key: Key) -> impl Iterator<Item = u32> {
    let (high, low) = key.uuid().as_u64_pair();
    let start = u32::try_from((high ^ low) % u64::from(IDS)).unwrap_or(0);
    (0..1000).map(move |step| FIRST + (start + step) % IDS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::volume::Name;
    use std::collections::BTreeSet;

    #[test]
    fn candidates_are_different_and_in_range() {
        let keys = ["a", "b", "pvc-0"].map(|name| Key::of(&Name::new(name).unwrap()));
        let starts: BTreeSet<_> = keys.iter().filter_map(|key| candidates(*key).next()).collect();
        assert_eq!(starts.len(), keys.len());
        for key in keys {
            let ids: BTreeSet<_> = candidates(key).collect();
            assert_eq!(ids.len(), 1000);
            assert!(ids.iter().all(|id| (FIRST..=u32::MAX >> 1).contains(id)));
        }
    }
}
