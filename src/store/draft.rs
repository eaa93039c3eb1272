//! A volume or snapshot in the making: `tmp/<key>…`, until one rename makes it exist.

use super::{DATA, IMAGE, Kind, Pool, RECORD, sealed};
use crate::{
    error::{Doing, Error, Result},
    failpoint,
    os::{btrfs, file},
    volume::Key,
};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Its directory in tmp is the intent. Dropped without [`Draft::commit`], it goes to trash.
#[derive(Debug)]
pub struct Draft<'a> {
    pool: &'a Pool,
    kind: Kind,
    key: Key,
    path: PathBuf,
    committed: bool,
}

impl Pool {
    /// Starts an object. The caller holds its lock, so what a killed attempt left is dead.
    pub fn draft(&self, kind: Kind, key: Key) -> Result<Draft<'_>> {
        self.verify()?;
        let path = self.home().join("tmp").join(kind.draft_name(key));
        self.discard(&path, kind, key)?;
        file::create_dir(&path).doing(|| format!("starting {kind} {key} in pool {:?}", self.name()))?;
        failpoint!("draft.directory-made");
        Ok(Draft { pool: self, kind, key, path, committed: false })
    }
}

impl Draft<'_> {
    /// Where the content goes.
    pub fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Where the image goes, for layout image.
    pub fn image(&self) -> PathBuf {
        self.data().join(IMAGE)
    }

    /// The draft's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the empty `data`: a subvolume where the pool is btrfs, so that a snapshot is one cut.
    pub fn make_data(&self) -> Result<()> {
        let doing = || format!("making the data directory of {} {}", self.kind, self.key);
        if self.pool.abilities().btrfs {
            btrfs::create_subvolume(&self.path, DATA.as_ref()).doing(doing)?;
        } else {
            file::create_dir(&self.data()).doing(doing)?;
        }
        failpoint!("draft.data-made");
        Ok(())
    }

    /// Makes the object exist, durably: content and record first, then one rename.
    pub fn commit<R: Serialize>(mut self, record: &R) -> Result<()> {
        let what = format!("{} {}", self.kind, self.key);
        let record_path = self.path.join(RECORD);
        file::write_new(&record_path, &sealed::seal(record)?)
            .doing(|| format!("writing the record of {what}"))?;
        failpoint!("draft.record-written");
        let image = self.image();
        let mut paths: Vec<&Path> = vec![&record_path, &self.path];
        if file::stat(&image).doing(|| format!("looking at {what}"))?.is_some_and(|stat| stat.is_file) {
            paths.insert(0, &image);
        }
        self.pool.durability().settle(&paths).doing(|| format!("making {what} durable"))?;
        failpoint!("draft.content-durable");
        self.pool.verify()?;
        let place = self.pool.directory(self.kind, self.key);
        file::rename_new(&self.path, &place).doing(|| format!("putting {what} in its place"))?;
        self.committed = true;
        failpoint!("draft.renamed");
        let durable = self.pool.commit_renames(self.kind).doing(|| format!("making {what} durable"));
        durable.map_err(Error::after_commit)?;
        failpoint!("draft.committed");
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = self.pool.discard(&self.path, self.kind, self.key)
        {
            // It stays in tmp, where the next attempt or the next start finds it.
            tracing::warn!(draft = %self.path.display(), error = error.chain(), "cannot discard an unfinished object");
        }
    }
}
