//! What is written down about a volume or snapshot of a share.

use super::names::{CLAIM, Claim, Tag, Worker};
use crate::{
    error::{Error, Result},
    volume::{Key, Owner, Source, record::Timestamp},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ffi::OsStr, fmt, path::PathBuf};
use uuid::Uuid;

/// The version of records that this driver writes.
pub const VERSION: u32 = 1;
/// The directory of the store in a share.
pub const HOME: &str = ".wharf";
/// linux/limits.h
const MAX_NAME: usize = 255;

/// What becomes of a volume's directory when the volume is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// It is removed.
    #[default]
    Delete,
    /// It stays as it is.
    Retain,
    /// It gets another name.
    Archive,
}

/// A directory below the share's root: at least one component, each a plain name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Place(Vec<String>);

impl Place {
    /// Refuses the root of the share, the store itself, and what is no plain name.
    pub fn new(components: Vec<String>) -> Result<Self> {
        let shown = components.join("/");
        let refuse = |why: &str| Err(Error::Invalid(format!("directory {shown:?} of the share {why}")));
        match components.first().map(String::as_str) {
            None => return Err(Error::Invalid("the root of the share cannot be a volume".into())),
            Some(HOME) => return refuse("is the driver's own"),
            Some(_) => {}
        }
        for name in &components {
            match name.as_str() {
                "" | "." | ".." => return refuse("has a component that is empty, `.` or `..`"),
                name if name.contains(['/', '\0']) => return refuse("has a `/` in a component"),
                name if name.len() > MAX_NAME => return refuse("has a component of more than 255 bytes"),
                name if name.starts_with(CLAIM) => {
                    return refuse(
                        "has a component that begins with `.owner.`, which the driver uses itself",
                    );
                }
                _ => {}
            }
        }
        Ok(Self(components))
    }

    /// Its names, from the share's root.
    pub fn components(&self) -> &[String] {
        &self.0
    }

    /// The directories above it, and its own name.
    pub(super) fn split(&self) -> (&[String], &OsStr) {
        match self.0.split_last() {
            Some((name, above)) => (above, OsStr::new(name)),
            // Not made: `new` refuses it, and rename(2) would.
            None => (&[], OsStr::new("")),
        }
    }

    /// Relative to the share's root.
    pub fn path(&self) -> PathBuf {
        self.0.iter().collect()
    }
}

impl TryFrom<Vec<String>> for Place {
    type Error = Error;

    fn try_from(components: Vec<String>) -> Result<Self> {
        Self::new(components)
    }
}

impl From<Place> for Vec<String> {
    fn from(place: Place) -> Self {
        place.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
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
    /// Which of the volumes that had this name one after the other.
    pub incarnation: Uuid,
    /// Whose it is.
    pub cluster: String,
    /// The process that made it.
    pub creator: Uuid,
    /// As it was handed out.
    pub id: String,
    /// Its directory.
    pub root: Place,
    /// The inode of its directory.
    pub fileid: u64,
    /// The directory was there before the volume.
    #[serde(default)]
    pub adopted: bool,
    /// What becomes of the directory.
    pub on_delete: OnDelete,
    /// Asked for at creation.
    #[serde(default)]
    pub owner: Owner,
    /// First content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The size last asked for (0: none).
    pub required_bytes: u64,
    /// The size that is told.
    pub size_bytes: u64,
    /// What the CO gets back as volume_context.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// Creation time.
    pub created: Timestamp,
}

impl VolumeRecord {
    /// What a snapshot of this volume says its size is.
    pub fn asked_size(&self) -> u64 {
        if self.required_bytes == 0 { self.size_bytes } else { self.required_bytes }
    }

    pub(super) fn worker(&self) -> Worker {
        Worker { tag: Tag::of(&self.cluster), instance: self.creator }
    }

    pub(super) fn claim(&self) -> Claim {
        Claim { tag: Tag::of(&self.cluster), key: self.key, incarnation: self.incarnation }
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
    /// Whose it is.
    pub cluster: String,
    /// As it was handed out.
    pub id: String,
    /// The volume that was copied.
    pub volume: Key,
    /// Its id as it was handed out.
    pub volume_id: String,
    /// The inode of its content.
    pub fileid: u64,
    /// What a restore must at least ask for.
    pub asked_bytes: u64,
    /// When the copy began.
    pub created: Timestamp,
}

/// A volume that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewVolume {
    /// The CO's name.
    pub name: String,
    /// uuid v5 of the name.
    pub key: Key,
    /// As it will be handed out.
    pub id: String,
    /// Its directory.
    pub root: Place,
    /// What becomes of the directory.
    pub on_delete: OnDelete,
    /// Of the directory; mode 0755 without one.
    #[serde(default)]
    pub owner: Owner,
    /// First content; none: empty.
    #[serde(default)]
    pub source: Option<Source>,
    /// Asked for.
    pub required_bytes: u64,
    /// What is told.
    pub size_bytes: u64,
    /// What the CO gets back as volume_context.
    #[serde(default)]
    pub context: BTreeMap<String, String>,
}

impl NewVolume {
    /// Whether a volume of this name is the one that is wanted. Sizes are the caller's to compare.
    pub(super) fn check_same(&self, found: &VolumeRecord) -> Result<()> {
        let differs = |what: &str| {
            Err(Error::Incompatible(format!(
                "volume {:?} exists with another {what}: use another name, or delete it first",
                self.name
            )))
        };
        if self.root != found.root {
            return differs(&format!("directory ({})", found.root));
        }
        if self.on_delete != found.on_delete {
            return differs("onDelete");
        }
        if self.owner != found.owner {
            return differs("uid, gid or mode");
        }
        if self.source != found.source {
            return differs("source");
        }
        Ok(())
    }
}

/// A snapshot that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSnapshot {
    /// The CO's name.
    pub name: String,
    /// uuid v5 of the name.
    pub key: Key,
    /// As it will be handed out.
    pub id: String,
    /// The volume.
    pub volume: Key,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_below_the_share_and_not_in_the_store() {
        let place = |parts: &[&str]| Place::new(parts.iter().map(|&part| part.to_owned()).collect());
        let long = "x".repeat(256);
        for bad in [
            &[][..],
            &[".wharf"],
            &[".wharf", "volumes"],
            &["a", ""],
            &["."],
            &["a", ".."],
            &["a/b"],
            &["a\0"],
            &[".owner.x"],
            &[&long],
        ] {
            assert!(matches!(place(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
        let good = place(&["a", ".wharf", "...", "ü"]).unwrap();
        assert_eq!(good.to_string(), "a/.wharf/.../ü");
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Place>(&text).unwrap(), good);
        assert!(serde_json::from_str::<Place>("[\"..\"]").is_err());
    }
}
