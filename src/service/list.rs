//! Looking at what exists: ListVolumes, ListSnapshots, ControllerGetVolume, GetSnapshot,
//! ValidateVolumeCapabilities.
//!
//! Pages follow the order of keys, and a token is the last key of a page: what is deleted or made
//! between two pages moves nothing else.

use super::{
    Service, Snapshot, Volume,
    nfs::{OnShare, Part, Position, SnapshotOnShare},
};
use crate::{
    error::{Error, Result},
    store::{Kind, Pool},
    volume::{
        Access, Capability, Class, Key, Layout, LimitMode, SnapshotId, VolumeId, VolumeRecord,
        nfs::AnyVolumeId, parameters,
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// Which part of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// 0: all.
    pub max_entries: usize,
    /// Empty: from the start.
    pub token: String,
}

/// A ListVolumes request.
#[derive(Clone, Debug, Default)]
pub struct ListVolumes {
    /// Which part.
    pub page: Page,
}

/// A ListSnapshots request.
#[derive(Clone, Debug, Default)]
pub struct ListSnapshots {
    /// Which part.
    pub page: Page,
    /// Only of this volume; empty: of all.
    pub source_id: String,
    /// Only this one; empty: all.
    pub id: String,
}

/// A ControllerGetVolume request.
#[derive(Clone, Debug)]
pub struct GetVolume {
    /// As the CO sent it.
    pub id: String,
}

/// A GetSnapshot request.
#[derive(Clone, Debug)]
pub struct GetSnapshot {
    /// As the CO sent it.
    pub id: String,
}

/// A ValidateVolumeCapabilities request. It has no `Debug`: capabilities hold mount flags.
pub struct ValidateVolume {
    /// As the CO sent it.
    pub id: String,
    /// As CreateVolume returned it.
    pub context: BTreeMap<String, String>,
    /// What is asked about.
    pub capabilities: Vec<Capability>,
    /// The class's parameters.
    pub parameters: BTreeMap<String, String>,
    /// None can be modified.
    pub mutable_parameters: BTreeMap<String, String>,
}

/// Before every token: a token of another list, or of nobody, is noticed.
const TOKEN: &str = "after-";

/// Entries of one page, and the token of the next (empty: this was the last).
pub type Listed<T> = (Vec<T>, String);

impl Service {
    /// Volumes in the order of their keys. A damaged one is left out here and shown by its health.
    /// Those on shares come after those on this node.
    pub fn list_volumes(&self, request: &ListVolumes) -> Result<Listed<Volume>> {
        let local = |page: &Page| match self.nodes() {
            Some(nodes) => nodes.volumes(page),
            None => of_records(self.page(page, Kind::Volume, Pool::volume)?),
        };
        both(&request.page, local, |from, most| self.shares.volumes(from, most))
    }

    /// Snapshots in the order of their keys.
    pub fn list_snapshots(&self, request: &ListSnapshots) -> Result<Listed<Snapshot>> {
        if !request.id.is_empty() {
            let found = self.snapshot_of(&request.id, &request.source_id)?;
            return Ok((found.into_iter().collect(), String::new()));
        }
        let source = match request.source_id.as_str() {
            "" => None,
            id => match AnyVolumeId::parse(id) {
                Some(id) => Some(id.key()),
                None => return Ok((Vec::new(), String::new())),
            },
        };
        let local = |page: &Page| match self.nodes() {
            Some(nodes) => nodes.snapshots(page, source),
            None => of_records(self.page(page, Kind::Snapshot, |pool, key| {
                let record = pool.snapshot(key)?;
                Ok(record.filter(|record| source.is_none_or(|source| record.volume == source)))
            })?),
        };
        both(&request.page, local, |from, most| self.shares.snapshots(from, most, source))
    }

    fn snapshot_of(&self, id: &str, source: &str) -> Result<Option<Snapshot>> {
        if let Some(id) = SnapshotOnShare::parse(id) {
            return self.shares.snapshot_of(&id, source);
        }
        let found = match self.get_snapshot(&GetSnapshot { id: id.to_owned() }) {
            Ok(found) => Some(found),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(found.filter(|snapshot| source.is_empty() || snapshot.volume_id == source))
    }

    fn page<T>(
        &self,
        page: &Page,
        kind: Kind,
        read: impl Fn(&Pool, Key) -> Result<Option<T>>,
    ) -> Result<Listed<T>> {
        let after = parse_token(&page.token)?;
        let most = if page.max_entries == 0 { usize::MAX } else { page.max_entries };
        let mut entries = Vec::new();
        let mut last = None;
        for (key, pool) in self.keys_after(kind, after)? {
            let record = match read(&pool, key) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%kind, %key, error = error.chain(), "left out of a list");
                    continue;
                }
            };
            if entries.len() == most {
                return Ok((entries, last.map_or(String::new(), token_after)));
            }
            entries.push(record);
            last = Some(key);
        }
        Ok((entries, String::new()))
    }

    pub(super) fn keys_after(&self, kind: Kind, after: Option<Key>) -> Result<Vec<(Key, Arc<Pool>)>> {
        let mut keys = Vec::new();
        for (name, pool) in self.store.pools() {
            match pool.and_then(|pool| pool.keys(kind).map(|found| (pool, found))) {
                Ok((pool, found)) => {
                    let later = found.into_iter().filter(|key| after.is_none_or(|after| *key > after));
                    keys.extend(later.map(|key| (key, Arc::clone(&pool))));
                }
                Err(error) => tracing::warn!(pool = name, error = error.chain(), "left out of a list"),
            }
        }
        keys.sort_by_key(|(key, _)| *key);
        Ok(keys)
    }

    /// One volume.
    pub fn get_volume(&self, request: &GetVolume) -> Result<Volume> {
        match OnShare::parse(&request.id) {
            Some(id) => self.shares.volume(&id),
            None => match self.nodes() {
                Some(nodes) => nodes.volume(&local_id(&request.id)?),
                None => self.known_volume(&request.id).map(|(_, record)| record.into()),
            },
        }
    }

    /// One snapshot.
    pub fn get_snapshot(&self, request: &GetSnapshot) -> Result<Snapshot> {
        if let Some(id) = SnapshotOnShare::parse(&request.id) {
            return self.shares.snapshot(&id);
        }
        let unknown = || Error::NotFound(format!("snapshot {:?} does not exist", request.id));
        let id = SnapshotId::parse(&request.id).ok_or_else(unknown)?;
        if let Some(nodes) = self.nodes() {
            return nodes.snapshot(&id);
        }
        self.store.snapshot(id.key)?.map(|(_, record)| record.into()).ok_or_else(unknown)
    }

    /// `Ok(None)`: everything asked about is so; else the reason why not.
    pub fn validate(&self, request: &ValidateVolume) -> Result<Option<String>> {
        if let Some(id) = OnShare::parse(&request.id) {
            return self.shares.validate(&id, request);
        }
        if let Some(nodes) = self.nodes() {
            return nodes.validate(&local_id(&request.id)?, request);
        }
        let (pool, record) = self.known_volume(&request.id)?;
        Ok(self.objection(request, &pool, &record).err().map(|error| error.to_string()))
    }

    fn objection(&self, request: &ValidateVolume, pool: &Pool, record: &VolumeRecord) -> Result<()> {
        if let Some(key) = request.context.keys().find(|key| !parameters::is_orchestrators(key)) {
            return Err(Error::Invalid(format!("volume_context key {key:?} is not of this volume")));
        }
        if !request.mutable_parameters.is_empty() {
            return Err(Error::Invalid("no parameter of a volume can be modified".into()));
        }
        for capability in &request.capabilities {
            super::stage::check_capability(capability, record)?;
            capability.options()?;
        }
        if request.parameters.is_empty() {
            return Ok(());
        }
        let class = Class::parse(&request.parameters)?;
        let image = record.shape.layout == Layout::Image;
        let same = class.layout == record.shape.layout
            && class.pool() == pool.name()
            && (!image || class.provisioning.unwrap_or_default() == record.provisioning.unwrap_or_default())
            && (image
                || class.limit.unwrap_or(LimitMode::Enforced) == record.limit.unwrap_or(LimitMode::Enforced))
            && class.owner == record.owner
            && (record.shape.access == Access::Block
                || class.filesystem.is_none_or(|wanted| record.shape.filesystem == Some(wanted)));
        match same {
            true => Ok(()),
            false => {
                Err(Error::Invalid(format!("the volume, a {}, was made with other parameters", record.shape)))
            }
        }
    }
}

/// An id as the CO sent it; one that does not parse names no volume.
fn local_id(id: &str) -> Result<VolumeId> {
    VolumeId::parse(id).ok_or_else(|| Error::NotFound(format!("volume {id:?} does not exist")))
}

fn of_records<R: Into<T>, T>((entries, next): Listed<R>) -> Result<Listed<T>> {
    Ok((entries.into_iter().map(Into::into).collect(), next))
}

/// A page of what lies on this node, filled up from the shares.
pub(super) fn both<L: Into<T>, T>(
    page: &Page,
    local: impl FnOnce(&Page) -> Result<Listed<L>>,
    shares: impl FnOnce(Position, usize) -> Result<Part<T>>,
) -> Result<Listed<T>> {
    let most = if page.max_entries == 0 { usize::MAX } else { page.max_entries };
    let (mut entries, from) = match Position::parse(&page.token) {
        Some(position) => (Vec::new(), position),
        None => {
            let (entries, next) = local(page)?;
            let entries: Vec<T> = entries.into_iter().map(Into::into).collect();
            if !next.is_empty() {
                return Ok((entries, next));
            }
            (entries, Position::START)
        }
    };
    let (more, next) = shares(from, most - entries.len())?;
    entries.extend(more);
    Ok((entries, next.map_or(String::new(), Position::token)))
}

/// The key that the page after `token` begins behind; `None`: from the start.
pub fn parse_token(token: &str) -> Result<Option<Key>> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = token.strip_prefix(TOKEN).and_then(Key::parse);
    key.map(Some).ok_or_else(|| {
        Error::BadToken(format!("starting_token {token:?} is not one that this driver gave: start anew"))
    })
}

/// The token that continues after `key`.
pub fn token_after(key: Key) -> String {
    format!("{TOKEN}{key}")
}
