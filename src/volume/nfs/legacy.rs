//! Ids that csi-driver-nfs has given: its PVs move over without a copy of their data.
//!
//! A volume is `server#share#subDir#name#onDelete`, where share and subDir have lost their outer slashes,
//! `name` is empty unless the class had a subDir of its own, and `onDelete` is empty where it was the
//! default. Older releases stopped after the third or fourth field, the oldest had slashes between three. A
//! snapshot is `server#share#name#name#source`.

use super::{
    class::OnDelete,
    server::Server,
    share::{ExportPath, Share},
    subdir::Directory,
};
use crate::volume::id::Key;
use std::fmt;
use uuid::Uuid;

/// A volume of csi-driver-nfs. `Display` is the id as it came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LegacyVolumeId {
    text: String,
    /// Where.
    pub share: Share,
    /// What; `None`: the root of the share, which is nobody's to delete.
    pub directory: Option<Directory>,
    /// The volume's name, where the class had a subDir.
    pub name: Option<String>,
    /// `None`: what that driver was started with.
    pub on_delete: Option<OnDelete>,
}

/// A snapshot of csi-driver-nfs: an archive below a directory of its own. `Display` is the id as it came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LegacySnapshotId {
    text: String,
    /// Where.
    pub share: Share,
    /// The directory that holds the archive.
    pub directory: Directory,
    /// The archive's name without `.tar.gz` or `.tar`: how the source was called.
    pub source: Directory,
}

impl LegacyVolumeId {
    /// `None`: that driver has not given this id.
    pub fn parse(text: &str) -> Option<Self> {
        let fields = fields(text)?;
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        let directory = Directory::parse_existing(field(2)).ok()?;
        // Ids of three fields are also what its documentation proposes for hand-written PVs, in another
        // order. What a provisioner has named ends in a uuid.
        if fields.len() == 3 && !directory.as_ref().is_some_and(|d| is_provisioned(d.as_str())) {
            return None;
        }
        let on_delete = match field(4) {
            "" => None,
            text => Some(OnDelete::named(text)?),
        };
        let name = (!field(3).is_empty()).then(|| field(3).to_owned());
        Some(Self { text: text.to_owned(), share: share(field(0), field(1))?, directory, name, on_delete })
    }

    /// Names the lock of a volume that has no record: always the same for the same id.
    pub fn key(&self) -> Key {
        key(&self.text)
    }
}

impl LegacySnapshotId {
    /// `None`: that driver has not given this id.
    pub fn parse(text: &str) -> Option<Self> {
        let [server, path, name, again, source] = fields(text)?[..] else { return None };
        // Both are names of one directory, with nothing between them.
        if name != again || name.contains('/') || source.contains('/') {
            return None;
        }
        let named = |text: &str| Directory::parse(text).ok();
        Some(Self {
            text: text.to_owned(),
            share: share(server, path)?,
            directory: named(name)?,
            source: named(source)?,
        })
    }

    /// Names the lock of a snapshot that has no record.
    pub fn key(&self) -> Key {
        key(&self.text)
    }
}

/// Three to five fields. All have lost their outer slashes, by which they differ from this driver's ids.
fn fields(text: &str) -> Option<Vec<&str>> {
    let mut fields: Vec<_> = text.split('#').collect();
    if fields.len() == 1 {
        let (server, rest) = text.split_once('/')?;
        let (share, directory) = rest.rsplit_once('/')?;
        fields = vec![server, share, directory];
    }
    let plain = |field: &&str| !field.starts_with('/') && !field.ends_with('/');
    ((3..=5).contains(&fields.len()) && fields.iter().all(plain)).then_some(fields)
}

fn share(server: &str, path: &str) -> Option<Share> {
    Some(Share { server: Server::parse(server).ok()?, path: ExportPath::parse_relative(path).ok()? })
}

/// `pvc-<uuid>`, whatever the provisioner's prefix is.
fn is_provisioned(name: &str) -> bool {
    let at = name.len().checked_sub(36).filter(|at| name.is_char_boundary(*at));
    at.is_some_and(|at| name[..at].ends_with('-') && Uuid::try_parse(&name[at..]).is_ok())
}

fn key(id: &str) -> Key {
    Key::from_uuid(Uuid::new_v5(&Uuid::NAMESPACE_URL, id.as_bytes()))
}

impl fmt::Display for LegacyVolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for LegacySnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const PV: &str = "pvc-4bcbf944-b6f7-4bd0-b50f-3c3dd00efc64";

    #[test]
    fn volumes_of_every_release() {
        for (id, share, directory, name, on_delete) in [
            (format!("nas.example#export/data#{PV}##"), "nas.example:/export/data", Some(PV), None, None),
            (format!("nas#data#a/b#{PV}#retain"), "nas:/data", Some("a/b"), Some(PV), Some(OnDelete::Retain)),
            (format!("nas#data#a#{PV}#Archive"), "nas:/data", Some("a"), Some(PV), Some(OnDelete::Archive)),
            (format!("nas##a#{PV}#delete"), "nas:/", Some("a"), Some(PV), Some(OnDelete::Delete)),
            (format!("nas#data#a#{PV}"), "nas:/data", Some("a"), Some(PV), None),
            (format!("nas#data#a//b#{PV}#"), "nas:/data", Some("a/b"), Some(PV), None),
            (format!("nas#data##{PV}#"), "nas:/data", None, Some(PV), None),
            (format!("[fd00::1]#data#{PV}##"), "[fd00::1]:/data", Some(PV), None, None),
            (format!("fd00::1#data#{PV}##"), "[fd00::1]:/data", Some(PV), None, None),
            (format!("nas#data#{PV}"), "nas:/data", Some(PV), None, None),
            (format!("nas/data/deep/{PV}"), "nas:/data/deep", Some(PV), None, None),
            (
                "nas#data#${pvc.metadata.name}##".to_owned(),
                "nas:/data",
                Some("${pvc.metadata.name}"),
                None,
                None,
            ),
        ] {
            let read = LegacyVolumeId::parse(&id).unwrap();
            assert_eq!(read.share.to_string(), share, "{id}");
            assert_eq!(read.directory.as_ref().map(Directory::as_str), directory, "{id}");
            assert_eq!((read.name.as_deref(), read.on_delete), (name, on_delete), "{id}");
            assert_eq!(read.to_string(), id);
            assert_eq!(read.key(), LegacyVolumeId::parse(&id).unwrap().key());
        }
    }

    #[test]
    fn what_that_driver_never_gave() {
        for id in [
            "".to_owned(),
            "my-volume".into(),
            "a/b".into(),
            "my/volume/handle".into(),
            "nas.example/share##".into(),
            "nas#sub#share".into(),
            format!("nas#data#../{PV}##"),
            format!("nas#../data#{PV}##"),
            "nas#data#a/../../b##".into(),
            "nas#data#.wharf/volumes##".into(),
            "nas#data#.wharf##".into(),
            "nas#data#a#b#c#d".into(),
            "nas#data#a##shred".into(),
            "nas#/data#a##".into(),
            "nas#data#/a##".into(),
            "na s#data#a##".into(),
            "#data#a##".into(),
            "nas#data#a\n##".into(),
            format!("nas#data#{}", PV.replace("pvc-", "pvc")),
            format!("nas/data/x{PV}y"),
        ] {
            assert_eq!(LegacyVolumeId::parse(&id), None, "{id:?}");
        }
    }

    #[test]
    fn snapshots() {
        let snapshot = "snapshot-016f784f-56f4-44d1-9041-5f59e82dbce1";
        let read = LegacySnapshotId::parse(&format!("nas#data#{snapshot}#{snapshot}#{PV}")).unwrap();
        assert_eq!(read.share.to_string(), "nas:/data");
        assert_eq!((read.directory.as_str(), read.source.as_str()), (snapshot, PV));
        for bad in [
            format!("nas#data#{snapshot}#{snapshot}"),
            format!("nas#data#{snapshot}#other#{PV}"),
            format!("nas#data#{snapshot}#{snapshot}#../{PV}"),
            format!("nas#data#..#..#{PV}"),
            "nas#data####".into(),
            "nas#data#.wharf#.wharf#x".into(),
            snapshot.to_owned(),
        ] {
            assert_eq!(LegacySnapshotId::parse(&bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_leaves_the_share(id in "(nas|fd00::1)[#/][a./]{0,5}#[a./$]{0,6}#[a-]{0,3}#(retain)?|\\PC*|(a|\\.\\.|/|#|ü){0,12}") {
            if let Some(read) = LegacyVolumeId::parse(&id) {
                prop_assert_eq!(read.to_string(), id.as_str());
                if let Some(directory) = read.directory {
                    prop_assert!(directory.components().all(|part| !matches!(part, "" | "." | "..")));
                }
            }
            let _ = LegacySnapshotId::parse(&id);
        }
    }
}
