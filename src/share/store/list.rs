//! What is on a share: volumes and snapshots of the own cluster, page by page, and room.

use super::{
    Key, Kind, Share,
    fault::OnShare,
    object::{State, Volume},
    record::{SnapshotRecord, VolumeRecord},
};
use crate::{
    error::{Error, Result},
    os::space::{self, Space},
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A part of a list, by key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// What was read.
    pub entries: Vec<T>,
    /// What could not be read, and why.
    pub damaged: Vec<(Key, String)>,
    /// Where the next page goes on; `None`: this is the last one.
    pub after: Option<Key>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), damaged: Vec::new(), after: None }
    }
}

impl Share {
    /// A volume that exists, of whatever cluster.
    pub fn volume(&self, key: Key) -> Result<Option<VolumeRecord>> {
        Ok(match self.look(key)? {
            Some(Volume { state: State::Ready(record), .. }) => Some(record),
            _ => None,
        })
    }

    /// A snapshot that exists, of whatever cluster.
    pub fn snapshot(&self, key: Key) -> Result<Option<SnapshotRecord>> {
        Ok(self.look_for_snapshot(key)?.and_then(|found| found.record))
    }

    /// At most `limit` (one, if it is 0) of the own cluster's volumes, those with keys greater than `after`.
    pub fn volumes(&self, after: Option<Key>, limit: usize) -> Result<Page<VolumeRecord>> {
        self.page(Kind::Volume, after, limit, |key| self.own_volume(key))
    }

    /// A volume that exists and is the own cluster's.
    pub fn own_volume(&self, key: Key) -> Result<Option<VolumeRecord>> {
        Ok(self.volume(key)?.filter(|record| record.cluster == self.identity.cluster()))
    }

    /// A snapshot that exists and is the own cluster's.
    pub fn own_snapshot(&self, key: Key) -> Result<Option<SnapshotRecord>> {
        Ok(self.snapshot(key)?.filter(|record| record.cluster == self.identity.cluster()))
    }

    /// At most `limit` of the own cluster's snapshots, those with keys greater than `after`.
    pub fn snapshots(&self, after: Option<Key>, limit: usize) -> Result<Page<SnapshotRecord>> {
        self.page(Kind::Snapshot, after, limit, |key| self.own_snapshot(key))
    }

    fn page<T>(
        &self,
        kind: Kind,
        after: Option<Key>,
        limit: usize,
        read: impl Fn(Key) -> Result<Option<T>>,
    ) -> Result<Page<T>> {
        let mut page = Page::default();
        let mut last = None;
        for key in self.keys(kind)?.into_iter().filter(|key| Some(*key) > after) {
            if page.entries.len() >= limit.max(1) {
                page.after = last;
                break;
            }
            match read(key) {
                Ok(Some(entry)) => {
                    page.entries.push(entry);
                    last = Some(key);
                }
                Ok(None) => {}
                Err(error @ Error::Damaged(_)) => page.damaged.push((key, error.chain())),
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    /// The keys of all directories of a kind, sorted.
    pub(super) fn keys(&self, kind: Kind) -> Result<Vec<Key>> {
        let names = self.directory(kind).list().on_share(|| format!("listing the {kind}s of the share"))?;
        let mut keys: Vec<Key> = names.iter().filter_map(|name| Key::parse(name.to_str()?)).collect();
        keys.sort_unstable();
        Ok(keys)
    }
}

/// How much room the share that is mounted at `root` has.
pub fn space(root: &Path) -> Result<Space> {
    space::of(root).on_share(|| "reading the free space of the share".into())
}
