//! What a volume does not own of the space it was promised (see [`super::ledger`]).

use super::{Kind, Pool};
use crate::{
    error::{Doing, Result},
    os::{btrfs, file, lock::Mode, quota, reflink},
    volume::{Key, Layout, LimitMode, VolumeRecord},
};

impl Pool {
    /// Start-up: the ledger from the records and from what the filesystem says each volume owns.
    pub(super) fn load_ledger(&self) -> Result<()> {
        for key in self.keys(Kind::Volume)? {
            self.refresh_promise(key);
        }
        Ok(())
    }

    /// Looks again at those volumes that do not own all they were promised.
    pub fn refresh_promises(&self) -> Result<()> {
        let keys = self.keys(Kind::Volume)?;
        self.forget_vanished(&keys)?;
        for key in keys {
            if self.ledger().of(key).bytes > 0 || self.has_holes(key)? {
                self.refresh_promise(key);
            }
        }
        Ok(())
    }

    /// A trim inside a thick image gives blocks back that it owned.
    fn has_holes(&self, key: Key) -> Result<bool> {
        let image = self.image(Kind::Volume, key);
        let stat = file::stat(&image).doing(|| format!("looking at {}", image.display()))?;
        Ok(stat.is_some_and(|stat| stat.is_file && stat.allocated < stat.size))
    }

    /// Somebody may have moved a volume's directory away by hand. One that is being made holds its lock.
    fn forget_vanished(&self, existing: &[Key]) -> Result<()> {
        for key in self.ledger().keys().into_iter().filter(|key| existing.binary_search(key).is_err()) {
            let Some(_lock) = self.try_lock(Kind::Volume, key, Mode::Shared)? else { continue };
            let directory = self.directory(Kind::Volume, key);
            if file::stat(&directory).doing(|| format!("looking at {}", directory.display()))?.is_none() {
                self.ledger().remove(key);
            }
        }
        Ok(())
    }

    /// One volume. A damaged one is reported by health and `wharf volumes`; here it keeps its promise.
    fn refresh_promise(&self, key: Key) {
        let before = self.ledger().of(key);
        let promise = self.volume(key).and_then(|record| match record {
            Some(record) => self.promise(&record),
            None => Ok(0),
        });
        match promise {
            // Where a snapshot or a removal changed it meanwhile, that stands.
            Ok(promise) => self.ledger().replace(key, before, promise),
            Err(error) => {
                tracing::warn!(volume = %key, error = error.chain(), "cannot tell what a volume owns")
            }
        }
    }

    /// Size less what the volume holds exclusively.
    pub fn promise(&self, record: &VolumeRecord) -> Result<u64> {
        let owned = match record.shape.layout {
            Layout::Image => self.image_owns(record.key)?,
            Layout::Directory if record.limit == Some(LimitMode::Enforced) => self.directory_owns(record)?,
            Layout::Directory => 0,
        };
        Ok(record.size_bytes.saturating_sub(owned))
    }

    /// A qgroup tells what is shared; a project counts it in full, which is too much once there are snapshots.
    fn directory_owns(&self, record: &VolumeRecord) -> Result<u64> {
        let data = self.data(Kind::Volume, record.key);
        let doing = || format!("reading what volume {} holds", record.key);
        match record.project_id {
            Some(id) => {
                quota::project(&data, id).map(|found| found.map_or(0, |project| project.used)).doing(doing)
            }
            None => {
                btrfs::qgroup(&data).map(|found| found.map_or(0, |figures| figures.exclusive)).doing(doing)
            }
        }
    }

    fn image_owns(&self, key: Key) -> Result<u64> {
        let path = self.image(Kind::Volume, key);
        let doing = || format!("reading what {} owns", path.display());
        if !self.abilities().reflink {
            return Ok(file::stat(&path).doing(doing)?.map_or(0, |stat| stat.allocated));
        }
        let image = file::open_for_reading(&path).doing(doing)?;
        reflink::exclusive_bytes(&image).doing(doing)
    }
}
