//! What RPCs answer about volumes and snapshots, wherever these lie.

use super::SourceRequest;
use crate::{
    share::store as share,
    volume::{
        NodeName, SnapshotId, SnapshotRecord, Source, VolumeId, VolumeRecord,
        nfs::{self, AnyVolumeId},
        record::Timestamp,
    },
};
use std::collections::BTreeMap;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// As the CO knows it.
    pub id: String,
    /// Its size.
    pub size_bytes: u64,
    /// What Stage is told.
    pub context: BTreeMap<String, String>,
    /// Its first content.
    pub source: Option<SourceRequest>,
    /// `None`: it can be used everywhere.
    pub node: Option<NodeName>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// As the CO knows it.
    pub id: String,
    /// Of this volume.
    pub volume_id: String,
    /// What a restore must at least ask for.
    pub asked_bytes: u64,
    /// Its moment.
    pub created: Timestamp,
    /// `None`: it can be used everywhere.
    pub node: Option<NodeName>,
}

impl From<VolumeRecord> for Volume {
    fn from(record: VolumeRecord) -> Self {
        let node = &record.node;
        let source = record.source.map(|source| match source {
            Source::Snapshot(key) => {
                SourceRequest::Snapshot(SnapshotId { key, node: node.clone() }.to_string())
            }
            Source::Volume(key) => SourceRequest::Volume(VolumeId { key, node: node.clone() }.to_string()),
        });
        Self {
            id: record.id().to_string(),
            size_bytes: record.size_bytes,
            // Everything that Stage needs is in the record, which cannot go stale.
            context: BTreeMap::new(),
            source,
            node: Some(record.node),
        }
    }
}

impl From<SnapshotRecord> for Snapshot {
    fn from(record: SnapshotRecord) -> Self {
        Self {
            id: record.id().to_string(),
            volume_id: record.volume_id().to_string(),
            asked_bytes: record.asked_bytes,
            created: record.created,
            node: Some(record.node),
        }
    }
}

/// The key under which a volume context names the inode of the volume's root.
const FILEID: &str = "fileid";

impl From<share::VolumeRecord> for Volume {
    fn from(record: share::VolumeRecord) -> Self {
        let source = record.source.and_then(|source| source_of(&record.id, source));
        let mut context = record.context;
        context.insert(FILEID.to_owned(), record.fileid.to_string());
        Self { id: record.id, size_bytes: record.size_bytes, context, source, node: None }
    }
}

impl From<share::SnapshotRecord> for Snapshot {
    fn from(record: share::SnapshotRecord) -> Self {
        Self {
            id: record.id,
            volume_id: record.volume_id,
            asked_bytes: record.asked_bytes,
            created: record.created,
            node: None,
        }
    }
}

/// What a volume was made of lies on the volume's own share.
fn source_of(id: &str, source: Source) -> Option<SourceRequest> {
    let Some(AnyVolumeId::Nfs(nfs::VolumeId { share, connection, .. })) = AnyVolumeId::parse(id) else {
        return None;
    };
    Some(match source {
        Source::Snapshot(key) => {
            SourceRequest::Snapshot(nfs::SnapshotId { key, share, connection }.to_string())
        }
        Source::Volume(key) => SourceRequest::Volume(nfs::VolumeId { key, share, connection }.to_string()),
    })
}
