//! Lists, and single volumes and snapshots: what agents have told, as the watch has seen it.

use super::{Controller, create::volume_of, snapshot::snapshot_of};
use crate::{
    cluster::api::{Desired, LocalObject, LocalVolume},
    error::{Error, Result},
    service::{Listed, Page, Snapshot, Volume, parse_token, token_after},
    volume::{Key, NodeName, SnapshotId, VolumeId},
};
use kube::ResourceExt;

impl Controller {
    pub(super) fn list_volumes(&self, page: &Page) -> Result<Listed<Volume>> {
        let volumes = self.volumes.mirror.all();
        let told = volumes.iter().filter(|object| object.desired() == Desired::Present);
        paged(page, told.filter_map(|object| Some((key_of(object.as_ref())?, volume_of(object).ok()?))))
    }

    pub(super) fn list_snapshots(&self, page: &Page, source: Option<Key>) -> Result<Listed<Snapshot>> {
        let snapshots = self.snapshots.mirror.all();
        let of_source = |object: &str| {
            source.is_none_or(|source| VolumeId::parse(object).is_some_and(|id| id.key == source))
        };
        let told = snapshots.iter().filter(|object| {
            object.desired() == Desired::Present && of_source(&object.spec.source_volume_id)
        });
        paged(page, told.filter_map(|object| Some((key_of(object.as_ref())?, snapshot_of(object).ok()?))))
    }

    pub(super) async fn one_volume(&self, id: &VolumeId) -> Result<Volume> {
        let object = self.known_volume(id).await?;
        // On its way, it is not there yet.
        volume_of(&object).map_err(|_| unknown("volume", &id.to_string()))
    }

    pub(super) async fn one_snapshot(&self, id: &SnapshotId) -> Result<Snapshot> {
        let object = self.snapshots.get(&id.key.to_string()).await?;
        let found =
            object.filter(|object| !object.is_leaving() && NodeName::of_node(object.node_name()) == id.node);
        let found = found.and_then(|object| snapshot_of(&object).ok());
        found.ok_or_else(|| unknown("snapshot", &id.to_string()))
    }

    /// The object of a volume that must exist, as it is now.
    pub(super) async fn known_volume(&self, id: &VolumeId) -> Result<LocalVolume> {
        let object = self.volumes.get(&id.key.to_string()).await?;
        let found = object.filter(|object| !object.is_leaving() && object.spec.node() == id.node);
        found.ok_or_else(|| unknown("volume", &id.to_string()))
    }
}

fn unknown(what: &str, id: &str) -> Error {
    Error::NotFound(format!("{what} {id:?} does not exist"))
}

pub(super) fn key_of<K: LocalObject>(object: &K) -> Option<Key> {
    Key::parse(&object.name_any())
}

/// In the order of keys, from the one after the token.
pub(super) fn paged<T>(page: &Page, entries: impl Iterator<Item = (Key, T)>) -> Result<Listed<T>> {
    let after = parse_token(&page.token)?;
    let most = if page.max_entries == 0 { usize::MAX } else { page.max_entries };
    let mut entries: Vec<_> = entries.filter(|(key, _)| after.is_none_or(|after| *key > after)).collect();
    entries.sort_by_key(|(key, _)| *key);
    let more = entries.len() > most;
    entries.truncate(most);
    let last = entries.last().filter(|_| more).map(|(key, _)| *key);
    Ok((entries.into_iter().map(|(_, entry)| entry).collect(), last.map_or(String::new(), token_after)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use uuid::Uuid;

    #[test]
    fn pages_follow_each_other_whatever_is_deleted_between_them() {
        let key = |n: u128| Key::from_uuid(Uuid::from_u128(n));
        let entries = |range: &[u128]| range.iter().rev().map(|n| (key(*n), *n)).collect::<Vec<_>>();
        let of = |all: &[u128], max_entries, token: &str| {
            paged(&Page { max_entries, token: token.to_owned() }, entries(all).into_iter())
        };
        assert_eq!(of(&[1, 2, 3], 0, "").unwrap(), (vec![1, 2, 3], String::new()));
        assert_eq!(of(&[1, 2, 3], 3, "").unwrap(), (vec![1, 2, 3], String::new()));
        let (first, token) = of(&[1, 2, 3, 4], 2, "").unwrap();
        assert_eq!(first, [1, 2]);
        assert_eq!(of(&[1, 3, 4], 2, &token).unwrap(), (vec![3, 4], String::new()));
        assert_eq!(of(&[], 2, &token).unwrap(), (vec![], String::new()));
        assert!(matches!(of(&[1], 2, "odd"), Err(Error::BadToken(_))));
    }
}
