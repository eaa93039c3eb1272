//! Whose an id is.

use super::{LegacySnapshotId, LegacyVolumeId, SnapshotId, VolumeId};
use crate::volume::id as local;
use std::fmt;

/// A volume of any kind. No text is an id of two kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AnyVolumeId {
    /// On a node.
    Local(local::VolumeId),
    /// On a share.
    Nfs(VolumeId),
    /// On a share, made by csi-driver-nfs.
    Legacy(LegacyVolumeId),
}

/// A snapshot of any kind. No text is an id of two kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AnySnapshotId {
    /// On a node.
    Local(local::SnapshotId),
    /// On a share.
    Nfs(SnapshotId),
    /// On a share, made by csi-driver-nfs.
    Legacy(LegacySnapshotId),
}

impl AnyVolumeId {
    /// `None`: nothing of ours.
    pub fn parse(text: &str) -> Option<Self> {
        local::VolumeId::parse(text)
            .map(Self::Local)
            .or_else(|| VolumeId::parse(text).map(Self::Nfs))
            .or_else(|| LegacyVolumeId::parse(text).map(Self::Legacy))
    }

    /// Names the volume's lock.
    pub fn key(&self) -> local::Key {
        match self {
            Self::Local(id) => id.key,
            Self::Nfs(id) => id.key,
            Self::Legacy(id) => id.key(),
        }
    }
}

impl AnySnapshotId {
    /// `None`: nothing of ours.
    pub fn parse(text: &str) -> Option<Self> {
        local::SnapshotId::parse(text)
            .map(Self::Local)
            .or_else(|| SnapshotId::parse(text).map(Self::Nfs))
            .or_else(|| LegacySnapshotId::parse(text).map(Self::Legacy))
    }

    /// Names the snapshot's lock.
    pub fn key(&self) -> local::Key {
        match self {
            Self::Local(id) => id.key,
            Self::Nfs(id) => id.key,
            Self::Legacy(id) => id.key(),
        }
    }
}

impl fmt::Display for AnyVolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(id) => id.fmt(f),
            Self::Nfs(id) => id.fmt(f),
            Self::Legacy(id) => id.fmt(f),
        }
    }
}

impl fmt::Display for AnySnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(id) => id.fmt(f),
            Self::Nfs(id) => id.fmt(f),
            Self::Legacy(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_finds_its_own() {
        let uuid = "6f9619ff-8b86-d011-b42d-00c04fc964ff";
        let (nfs, name) = ("b5YZ_4uG0BG0LQDAT8lk_w#nas#/data", format!("pvc-{uuid}"));
        assert!(matches!(AnyVolumeId::parse(&format!("local-{uuid}.n")), Some(AnyVolumeId::Local(_))));
        assert!(matches!(AnyVolumeId::parse(&format!("nfs-{nfs}")), Some(AnyVolumeId::Nfs(_))));
        assert!(matches!(AnyVolumeId::parse(&format!("nas#data#{name}##")), Some(AnyVolumeId::Legacy(_))));
        assert!(matches!(
            AnySnapshotId::parse(&format!("local-snap-{uuid}.n")),
            Some(AnySnapshotId::Local(_))
        ));
        assert!(matches!(AnySnapshotId::parse(&format!("nfs-snap-{nfs}")), Some(AnySnapshotId::Nfs(_))));
        let legacy = format!("nas#data#snapshot-{uuid}#snapshot-{uuid}#{name}");
        assert!(matches!(AnySnapshotId::parse(&legacy), Some(AnySnapshotId::Legacy(_))));
        for stranger in ["", "my-handle", "nas:/data", "nfs-server#sub#share", "nas/share##", uuid] {
            assert_eq!(
                (AnyVolumeId::parse(stranger), AnySnapshotId::parse(stranger)),
                (None, None),
                "{stranger}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_is_an_id_of_two_kinds(
            text in "(nfs-|local-|nas#)(snap-)?([A-Za-z0-9_-]{21}[AQgw]|6f9619ff-8b86-d011-b42d-00c04fc964ff)([#./][a-c/]{0,4}){0,5}"
        ) {
            let volumes = [local::VolumeId::parse(&text).is_some(), VolumeId::parse(&text).is_some(), LegacyVolumeId::parse(&text).is_some()];
            prop_assert!(volumes.into_iter().filter(|found| *found).count() <= 1, "{text}");
            let snapshots = [local::SnapshotId::parse(&text).is_some(), SnapshotId::parse(&text).is_some(), LegacySnapshotId::parse(&text).is_some()];
            prop_assert!(snapshots.into_iter().filter(|found| *found).count() <= 1, "{text}");
            if let Some(id) = AnyVolumeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
