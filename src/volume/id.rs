//! Names, keys and ids.
//!
//! The CO's name is untrusted text (CSI 1.13 allows `/`, `..` and newlines in it) and never becomes
//! part of a path: its uuid v5 does. The same name gives the same key, so a retry finds its volume.

use crate::{
    error::{Error, Result},
    volume::topology::NodeName,
};
use std::fmt;
use uuid::{Uuid, uuid};

/// uuid v5(DNS, `wharf.csi.dev`): the namespace of all keys. Never changes.
const NAMESPACE: Uuid = uuid!("3fcd697a-f7ce-5577-8b39-1a6f48caec38");

/// CSI: a string field is at most 128 bytes unless said otherwise.
const MAX_NAME: usize = 128;

/// The name that the CO gave a volume or snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Name {
    /// Checks length and the characters that CSI bans.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.is_empty() {
            return Err(Error::Invalid("name is missing".into()));
        }
        if text.len() > MAX_NAME {
            return Err(Error::Invalid(format!(
                "name has {} bytes; at most {MAX_NAME} are allowed",
                text.len()
            )));
        }
        if let Some(bad) = text.chars().find(|c| is_banned(*c)) {
            return Err(Error::Invalid(format!(
                "name holds the control character U+{:04X}, which CSI does not allow",
                u32::from(bad)
            )));
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// CSI, field requirements: U+0000–0008, 000B, 000C, 000E–001F, 007F–009F.
fn is_banned(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}')
}

/// Which volume or snapshot: names its directory and its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Key(Uuid);

impl Key {
    /// The key that belongs to a name, always the same.
    pub fn of(name: &Name) -> Self {
        Self(Uuid::new_v5(&NAMESPACE, name.0.as_bytes()))
    }

    /// Reads the hyphenated lower-case form, the only one that is ever written.
    pub fn parse(text: &str) -> Option<Self> {
        let uuid = Uuid::try_parse(text).ok()?;
        (uuid.hyphenated().to_string() == text).then_some(Self(uuid))
    }

    /// The key that a uuid of this driver's stands for.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The uuid.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// `local-<uuid>.<node>`: which volume, and on which node its data lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeId {
    /// Which.
    pub key: Key,
    /// Where.
    pub node: NodeName,
}

/// `local-snap-<uuid>.<node>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotId {
    /// Which.
    pub key: Key,
    /// Where.
    pub node: NodeName,
}

impl VolumeId {
    /// `None`: no volume can have this id.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, node) = parse_local(text, "local-")?;
        Some(Self { key, node })
    }
}

impl SnapshotId {
    /// `None`: no snapshot can have this id.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, node) = parse_local(text, "local-snap-")?;
        Some(Self { key, node })
    }
}

fn parse_local(text: &str, prefix: &str) -> Option<(Key, NodeName)> {
    let (key, node) = text.strip_prefix(prefix)?.split_once('.')?;
    Some((Key::parse(key)?, NodeName::parse(node)?))
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local-{}.{}", self.key, self.node)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local-snap-{}.{}", self.key, self.node)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn namespace_is_derived_as_documented() {
        assert_eq!(NAMESPACE, Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"wharf.csi.dev"));
    }

    #[test]
    fn names_that_csi_allows() {
        for good in ["pvc-1", "../../etc", "a\nb", "a\tb", "ü", &"x".repeat(128)] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a\0", "\u{b}", "\u{7f}", "\u{9f}", &"x".repeat(129)] {
            assert!(matches!(Name::new(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn longest_ids_fit_into_csi_strings() {
        let node = NodeName::of_node(&"n".repeat(253));
        let key = Key::of(&Name::new("v").unwrap());
        assert!(SnapshotId { key, node }.to_string().len() <= 128);
    }

    #[test]
    fn strangers_are_no_ids() {
        for text in [
            "",
            "local-",
            "local-x.n",
            "local-6F9619FF-8B86-D011-B42D-00C04FC964FF.n",
            "local-6f9619ff8b86d011b42d00c04fc964ff.n",
            "local-6f9619ff-8b86-d011-b42d-00c04fc964ff",
            "local-6f9619ff-8b86-d011-b42d-00c04fc964ff.",
            "local-6f9619ff-8b86-d011-b42d-00c04fc964ff.a/b",
            "local-snap-6f9619ff-8b86-d011-b42d-00c04fc964ff.n",
            "../../x",
        ] {
            assert_eq!(VolumeId::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn ids_survive_a_round_trip(name in "\\PC{1,40}", node in "[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?") {
            let id = VolumeId { key: Key::of(&Name::new(name).unwrap()), node: NodeName::of_node(&node) };
            prop_assert_eq!(VolumeId::parse(&id.to_string()), Some(id));
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = (VolumeId::parse(&text), SnapshotId::parse(&text));
        }
    }
}
