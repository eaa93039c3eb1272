//! What is written down about a volume or snapshot: `record.json` in its directory.
//!
//! A record carries its version, so that a newer driver can migrate it and an older one refuses it.
//! Nothing in it can go stale by a reboot: no device numbers, no mounts, no "published" list.

use crate::{
    os::format::Filesystem,
    volume::{Access, Key, Layout, LimitMode, NodeName, Owner, Provisioning, SnapshotId, VolumeId},
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The version that this driver writes.
pub const VERSION: u32 = 1;

/// Where a volume's first content came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A snapshot.
    Snapshot(Key),
    /// Another volume, at that moment.
    Volume(Key),
}

/// The properties that source and copy must share (a restore never changes them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Image or directory.
    pub layout: Layout,
    /// Block or mount.
    pub access: Access,
    /// What is inside an image that is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<Filesystem>,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.layout, self.filesystem) {
            (Layout::Directory, _) => f.write_str("directory"),
            (Layout::Image, Some(Filesystem::Ext4)) => f.write_str("image with ext4"),
            (Layout::Image, Some(Filesystem::Xfs)) => f.write_str("image with xfs"),
            (Layout::Image, None) => f.write_str("raw block image"),
        }
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Of this layout of fields.
    pub version: u32,
    /// The CO's name.
    pub name: String,
    /// uuid v5 of the name; also the directory's name.
    pub key: Key,
    /// Part of the id as it was handed out.
    pub node: NodeName,
    /// Layout, access type, filesystem.
    #[serde(flatten)]
    pub shape: Shape,
    /// For images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning: Option<Provisioning>,
    /// For directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitMode>,
    /// Asked for at creation.
    #[serde(default)]
    pub owner: Owner,
    /// The size last asked for (0: none).
    pub required_bytes: u64,
    /// The size it has.
    pub size_bytes: u64,
    /// Logical block size of its loop device.
    pub block_size: u32,
    /// First content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Project id of a directory that is limited by project quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<u32>,
    /// Creation time.
    pub created: Timestamp,
}

impl VolumeRecord {
    /// The id that the CO knows.
    pub fn id(&self) -> VolumeId {
        VolumeId { key: self.key, node: self.node.clone() }
    }

    /// What a snapshot of this volume says its size is: the size last asked for, so that a restore
    /// with the same claim always works, however the size was rounded up.
    pub fn asked_size(&self) -> u64 {
        if self.required_bytes == 0 { self.size_bytes } else { self.required_bytes }
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Of this layout of fields.
    pub version: u32,
    /// The CO's name.
    pub name: String,
    /// uuid v5 of the name; also the directory's name.
    pub key: Key,
    /// Part of the id as it was handed out.
    pub node: NodeName,
    /// The volume that was cut.
    pub volume: Key,
    /// Part of the source volume's id as it was handed out.
    pub volume_node: NodeName,
    /// Layout, access type, filesystem.
    #[serde(flatten)]
    pub shape: Shape,
    /// For images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning: Option<Provisioning>,
    /// What a restore must at least ask for.
    pub asked_bytes: u64,
    /// The size of the content.
    pub size_bytes: u64,
    /// Logical block size of the source's loop device.
    pub block_size: u32,
    /// When it was cut.
    pub created: Timestamp,
}

impl SnapshotRecord {
    /// The id that the CO knows.
    pub fn id(&self) -> SnapshotId {
        SnapshotId { key: self.key, node: self.node.clone() }
    }

    /// The id of the source volume.
    pub fn volume_id(&self) -> VolumeId {
        VolumeId { key: self.volume, node: self.volume_node.clone() }
    }
}

/// Seconds and nanoseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: u64,
    /// The rest.
    pub nanos: u32,
}

impl Timestamp {
    /// The clock's time.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: since.as_secs(), nanos: since.subsec_nanos() }
    }

    /// As the standard library has it.
    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::new(self.seconds, self.nanos)
    }
}
