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
        let own = |record: &VolumeRecord| record.cluster == self.identity.cluster;
        self.page(Kind::Volume, after, limit, |key| Ok(self.volume(key)?.filter(own)))
    }

    /// At most `limit` of the own cluster's snapshots, those with keys greater than `after`.
    pub fn snapshots(&self, after: Option<Key>, limit: usize) -> Result<Page<SnapshotRecord>> {
        let own = |record: &SnapshotRecord| record.cluster == self.identity.cluster;
        self.page(Kind::Snapshot, after, limit, |key| Ok(self.snapshot(key)?.filter(own)))
    }

    fn page<T>(
        &self,
        kind: Kind,
        after: Option<Key>,
        limit: usize,
        read: impl Fn(Key) -> Result<Option<T>>,
    ) -> Result<Page<T>> {
        let mut page = Page { entries: Vec::new(), damaged: Vec::new(), after: None };
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

    /// How much room the share has.
    pub fn space(&self) -> Result<Space> {
        space::of(self.root.path()).on_share(|| "reading the free space of the share".into())
    }
}
