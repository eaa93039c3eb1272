//! The names of what lies in `tmp`, `trash` and `claims`: each says whose it is, so that nothing has to be
//! read to leave another cluster's things alone, and each is used once, so that a call that comes late
//! misses instead of meeting something newer.

use crate::volume::Key;
use std::{
    ffi::{OsStr, OsString},
    fmt,
};
use uuid::Uuid;

/// A cluster in names: the hash of what identifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u64);

impl Tag {
    /// Of a cluster.
    pub fn of(cluster: &str) -> Self {
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, cluster.as_bytes()).as_u64_pair().0)
    }

    fn parse(text: &str) -> Option<Self> {
        let tag = Self(u64::from_str_radix(text, 16).ok()?);
        (tag.to_string() == text).then_some(tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One process of one cluster that works on the share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    /// Its cluster.
    pub tag: Tag,
    /// The process.
    pub instance: Uuid,
}

impl Worker {
    fn parse(tag: &str, instance: &str) -> Option<Self> {
        Some(Self { tag: Tag::parse(tag)?, instance: parse_uuid(instance)? })
    }

    /// Its heartbeat in `tmp`.
    pub fn heartbeat(self) -> OsString {
        format!("{self}.alive").into()
    }

    /// The reverse of [`Worker::heartbeat`].
    pub fn of_heartbeat(name: &OsStr) -> Option<Self> {
        match fields(name)?[..] {
            [tag, instance, "alive"] => Self::parse(tag, instance),
            _ => None,
        }
    }

    /// A volume's record that this worker has not finished.
    pub fn creating(self) -> OsString {
        format!("creating.{self}").into()
    }

    /// The reverse of [`Worker::creating`].
    pub fn of_creating(name: &OsStr) -> Option<Self> {
        match fields(name)?[..] {
            ["creating", tag, instance] => Self::parse(tag, instance),
            _ => None,
        }
    }

    /// The file from which `format.json` is linked.
    pub fn format(self) -> OsString {
        format!("{self}.format").into()
    }

    /// The reverse of [`Worker::format`].
    pub fn of_format(name: &OsStr) -> Option<Self> {
        match fields(name)?[..] {
            [tag, instance, "format"] => Self::parse(tag, instance),
            _ => None,
        }
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tag, self.instance.simple())
    }
}

/// What a draft becomes, or what was thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A volume's directory in `volumes`.
    Record,
    /// The root of a volume.
    Root,
    /// A snapshot.
    Snapshot,
}

impl What {
    const ALL: [Self; 3] = [Self::Record, Self::Root, Self::Snapshot];

    fn word(self) -> &'static str {
        match self {
            Self::Record => "vol",
            Self::Root => "root",
            Self::Snapshot => "snap",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.word() == word)
    }
}

/// An entry of `tmp` that one rename puts into its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Draft {
    /// Of which volume or snapshot.
    pub key: Key,
    /// What it becomes.
    pub what: What,
    /// Who makes it.
    pub worker: Worker,
}

impl Draft {
    /// `<key>.<what>.<tag>.<instance>`
    pub fn name(self) -> OsString {
        format!("{}.{}.{}", self.key, self.what.word(), self.worker).into()
    }

    /// The reverse of [`Draft::name`].
    pub fn parse(name: &OsStr) -> Option<Self> {
        match fields(name)?[..] {
            [key, what, tag, instance] => Some(Self {
                key: Key::parse(key)?,
                what: What::parse(what)?,
                worker: Worker::parse(tag, instance)?,
            }),
            _ => None,
        }
    }
}

/// An entry of `trash`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trashed {
    /// Of which volume or snapshot.
    pub key: Key,
    /// What it was.
    pub what: What,
    /// The inode that was meant: nothing else is ever purged under this name.
    pub fileid: u64,
    /// Whose it was.
    pub tag: Tag,
    /// Who purges it.
    pub purger: Option<Uuid>,
}

impl Trashed {
    /// `<key>.<what>.<fileid>.<tag>[.<instance>]`
    pub fn name(self) -> OsString {
        let name = format!("{}.{}.{:x}.{}", self.key, self.what.word(), self.fileid, self.tag);
        match self.purger {
            Some(instance) => format!("{name}.{}", instance.simple()).into(),
            None => name.into(),
        }
    }

    /// The reverse of [`Trashed::name`].
    pub fn parse(name: &OsStr) -> Option<Self> {
        let fields = fields(name)?;
        let (key, what, fileid, tag, purger) = match fields[..] {
            [key, what, fileid, tag] => (key, what, fileid, tag, None),
            [key, what, fileid, tag, purger] => (key, what, fileid, tag, Some(parse_uuid(purger)?)),
            _ => return None,
        };
        Some(Self {
            key: Key::parse(key)?,
            what: What::parse(what)?,
            fileid: u64::from_str_radix(fileid, 16).ok()?,
            tag: Tag::parse(tag)?,
            purger,
        })
    }
}

/// How the names of claims begin. No component of a volume's path may.
pub const CLAIM: &str = ".owner.";

/// An entry in `claims/a/b/c/`: directory a/b/c of the share belongs to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Of which cluster.
    pub tag: Tag,
    /// Which volume.
    pub key: Key,
    /// And which of those that had this name one after the other.
    pub incarnation: Uuid,
}

impl Claim {
    /// `.owner.<tag>.<key>.<incarnation>`
    pub fn name(self) -> OsString {
        format!("{CLAIM}{}.{}.{}", self.tag, self.key, self.incarnation.simple()).into()
    }

    /// The reverse of [`Claim::name`].
    pub fn parse(name: &OsStr) -> Option<Self> {
        match fields(name)?[..] {
            ["", "owner", tag, key, incarnation] => Some(Self {
                tag: Tag::parse(tag)?,
                key: Key::parse(key)?,
                incarnation: parse_uuid(incarnation)?,
            }),
            _ => None,
        }
    }
}

/// A snapshot's record whose deletion has begun.
pub fn deleting(tag: Tag) -> OsString {
    format!("deleting.{tag}").into()
}

/// The reverse of [`deleting`].
pub fn of_deleting(name: &OsStr) -> Option<Tag> {
    match fields(name)?[..] {
        ["deleting", tag] => Tag::parse(tag),
        _ => None,
    }
}

/// A key as the name of its directory.
pub fn of_key(key: Key) -> OsString {
    key.to_string().into()
}

fn fields(name: &OsStr) -> Option<Vec<&str>> {
    Some(name.to_str()?.split('.').collect())
}

fn parse_uuid(text: &str) -> Option<Uuid> {
    let uuid = Uuid::try_parse(text).ok()?;
    (uuid.simple().to_string() == text).then_some(uuid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::Name;

    #[test]
    fn names_survive_a_round_trip() {
        let (tag, instance) = (Tag::of("cluster"), Uuid::new_v4());
        let worker = Worker { tag, instance };
        let key = Key::of(&Name::new("v").unwrap());
        assert_eq!(Worker::of_heartbeat(&worker.heartbeat()), Some(worker));
        assert_eq!(Worker::of_creating(&worker.creating()), Some(worker));
        assert_eq!(of_deleting(&deleting(tag)), Some(tag));
        let claim = Claim { tag, key, incarnation: Uuid::new_v4() };
        assert_eq!(Claim::parse(&claim.name()), Some(claim));
        for what in What::ALL {
            let draft = Draft { key, what, worker };
            assert_eq!(Draft::parse(&draft.name()), Some(draft));
            for purger in [None, Some(instance)] {
                let trashed = Trashed { key, what, fileid: u64::MAX - 1, tag, purger };
                assert_eq!(Trashed::parse(&trashed.name()), Some(trashed));
                assert_eq!(Draft::parse(&trashed.name()), None);
            }
        }
        assert!(Tag::of("a") != Tag::of("b"));
    }

    #[test]
    fn strangers_have_no_meaning() {
        for name in ["", "x", "a.b.c.d", "lost+found", "....", "a.vol.0000000000000001.1"] {
            let name = OsStr::new(name);
            assert_eq!(Draft::parse(name), None);
            assert_eq!(Trashed::parse(name), None);
            assert_eq!(Claim::parse(name), None);
            assert_eq!(Worker::of_heartbeat(name), None);
        }
    }
}
