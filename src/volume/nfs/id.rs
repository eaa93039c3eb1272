//! Ids of NFS volumes and snapshots: which, and all that is needed to mount the share where it lies.
//!
//! `nfs-<22 characters of base64url>#server#share[#options]`. Of the share, `#` and `%` are written `%23` and
//! `%25`; server and options hold neither. There is one way to write an id: what another way would say the
//! same is no id, so that an id can be compared as text.

use super::{
    options::Connection,
    server::Server,
    share::{ExportPath, Share},
};
use crate::{
    error::{Error, Result},
    volume::id::Key,
};
use std::fmt;
use uuid::Uuid;

/// CSI: a string field is at most 128 bytes.
const MAX: usize = 128;
const VOLUME: &str = "nfs-";
const SNAPSHOT: &str = "nfs-snap-";

/// A volume on a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeId {
    /// Which.
    pub key: Key,
    /// Where.
    pub share: Share,
    /// How the server is reached.
    pub connection: Connection,
}

/// A snapshot on a share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotId {
    /// Which.
    pub key: Key,
    /// Where.
    pub share: Share,
    /// How the server is reached.
    pub connection: Connection,
}

impl VolumeId {
    /// `None`: no volume can have this id.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, share, connection) = parse(text, VOLUME)?;
        let id = Self { key, share, connection };
        (id.to_string() == text).then_some(id)
    }

    /// Refuses an id that is longer than CSI allows for a string.
    pub fn check_length(&self) -> Result<()> {
        check_length("volume", &self.to_string())
    }
}

impl SnapshotId {
    /// `None`: no snapshot can have this id.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, share, connection) = parse(text, SNAPSHOT)?;
        let id = Self { key, share, connection };
        (id.to_string() == text).then_some(id)
    }

    /// Refuses an id that is longer than CSI allows for a string.
    pub fn check_length(&self) -> Result<()> {
        check_length("snapshot", &self.to_string())
    }
}

fn parse(text: &str, prefix: &str) -> Option<(Key, Share, Connection)> {
    let mut fields = text.strip_prefix(prefix)?.split('#');
    let key = decode(fields.next()?)?;
    let server = Server::parse(fields.next()?).ok()?;
    let path = ExportPath::parse(&unescape(fields.next()?)?).ok()?;
    let connection = match fields.next() {
        Some(options) => Connection::parse(options)?,
        None => Connection::default(),
    };
    fields.next().is_none().then_some((key, Share { server, path }, connection))
}

fn write(
    f: &mut fmt::Formatter<'_>,
    prefix: &str,
    key: Key,
    share: &Share,
    connection: &Connection,
) -> fmt::Result {
    write!(f, "{prefix}{}#{}#{}", encode(key), share.server, escape(share.path.as_str()))?;
    match connection.to_string() {
        options if options.is_empty() => Ok(()),
        options => write!(f, "#{options}"),
    }
}

fn check_length(what: &str, id: &str) -> Result<()> {
    if id.len() <= MAX {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "the id of the {what} would have {} bytes, and CSI allows {MAX}: {id:?}; a shorter name of the server \
         or a shorter path of the share would do",
        id.len()
    )))
}

fn escape(path: &str) -> String {
    path.replace('%', "%25").replace('#', "%23")
}

/// `None`: a `%` that `escape` never writes.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut path = parts.next()?.to_owned();
    for part in parts {
        let (escaped, rest) = part.split_at_checked(2)?;
        path.push(match escaped {
            "25" => '%',
            "23" => '#',
            _ => return None,
        });
        path.push_str(rest);
    }
    Some(path)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Six bits each, of which the last character uses two.
const ENCODED: usize = 22;

/// base64url without padding (RFC 4648): 22 characters instead of 36 leave room for the share.
fn encode(key: Key) -> String {
    let bits = key.uuid().as_u128();
    let six = |at: usize| {
        let index = if at < ENCODED - 1 { (bits >> (122 - 6 * at)) & 63 } else { (bits & 3) << 4 };
        usize::try_from(index).ok().and_then(|index| ALPHABET.get(index)).map(|c| char::from(*c))
    };
    (0..ENCODED).filter_map(six).collect()
}

fn decode(text: &str) -> Option<Key> {
    let value = |c: u8| ALPHABET.iter().position(|known| *known == c).and_then(|at| u128::try_from(at).ok());
    let (last, first) = text.as_bytes().split_last()?;
    if text.len() != ENCODED {
        return None;
    }
    let high = first.iter().try_fold(0, |bits: u128, c| Some(bits << 6 | value(*c)?))?;
    let low = value(*last)?;
    (low & 15 == 0).then(|| Key::from_uuid(Uuid::from_u128(high << 2 | low >> 4)))
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, VOLUME, self.key, &self.share, &self.connection)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, SNAPSHOT, self.key, &self.share, &self.connection)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::id::Name;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::parse("6f9619ff-8b86-d011-b42d-00c04fc964ff").unwrap()
    }

    fn id(share: &str, options: &str) -> VolumeId {
        VolumeId {
            key: key(),
            share: Share::parse(share).unwrap(),
            connection: Connection::parse(options).unwrap(),
        }
    }

    #[test]
    fn ids_are_written_as_documented() {
        for (share, options, text) in [
            ("nas:/data", "", "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data"),
            ("nas:/", "vers=3,port=2050", "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/#vers=3,port=2050"),
            ("[fd00::1]:/a b", "", "nfs-b5YZ_4uG0BG0LQDAT8lk_w#fd00::1#/a b"),
            ("nas:/a#b%c%23", "xprtsec=tls", "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/a%23b%25c%2523#xprtsec=tls"),
        ] {
            assert_eq!(id(share, options).to_string(), text);
            assert_eq!(VolumeId::parse(text), Some(id(share, options)));
            let snapshot = text.replace("nfs-", "nfs-snap-");
            assert_eq!(SnapshotId::parse(&snapshot).unwrap().to_string(), snapshot);
            assert_eq!((VolumeId::parse(&snapshot), SnapshotId::parse(text)), (None, None));
        }
    }

    #[test]
    fn strangers_and_other_spellings_are_no_ids() {
        let good = "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data";
        assert!(VolumeId::parse(good).is_some());
        for bad in [
            "",
            "nfs-",
            "nfs-#nas#/data",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_x#nas#/data",
            "nfs-b5YZ+4uG0BG0LQDAT8lk/w#nas#/data",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w=#nas#/data",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_ww#nas#/data",
            "nfs-6f9619ff-8b86-d011-b42d-00c04fc964ff#nas#/data",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#data",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data/",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data/../b",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data\n",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/d%61ta",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data%",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data%ü",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#NAS#/data",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#[fd00::1]#/data",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data#",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data#vers=4",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data#hard",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data#port=5,vers=3",
            "nfs-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data#vers=3#",
            "NFS-b5YZ_4uG0BG0LQDAT8lk_w#nas#/data",
        ] {
            assert_eq!(VolumeId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_long_id_is_told_from_one_that_csi_allows() {
        let of = |length: usize| id(&format!("nas:/{}", "a".repeat(length)), "");
        assert!(of(96).check_length().is_ok());
        assert_eq!(of(96).to_string().len(), MAX);
        let error = of(97).check_length().unwrap_err().to_string();
        assert!(error.contains("129 bytes") && error.contains("128"), "{error}");
        let VolumeId { key, share, connection } = of(96);
        assert!(SnapshotId { key, share, connection }.check_length().is_err());
    }

    proptest! {
        #[test]
        fn ids_survive_a_round_trip(
            name in "\\PC{1,40}",
            server in "[a-z]{1,9}(\\.[a-z]{1,5})?|10\\.0\\.0\\.1|fd00::[1-9]",
            path in "/[a-z#% :,=ü/]{0,40}",
            options in "(vers=3,(port=[1-9]{1,4})?|vers=4\\.1,proto=tcp|sec=krb5p|)",
        ) {
            let connection = crate::volume::nfs::Settings::parse_list(&options).unwrap().resolve().unwrap().connection().clone();
            let share = Share { server: Server::parse(&server).unwrap(), path: ExportPath::parse(&path).unwrap() };
            let key = Key::of(&Name::new(name).unwrap());
            let volume = VolumeId { key, share: share.clone(), connection: connection.clone() };
            prop_assert_eq!(VolumeId::parse(&volume.to_string()).unwrap(), volume);
            let snapshot = SnapshotId { key, share, connection };
            prop_assert_eq!(SnapshotId::parse(&snapshot.to_string()).unwrap(), snapshot);
        }

        #[test]
        fn an_id_has_one_spelling(text in "nfs-(snap-)?[A-Za-z0-9_-]{22}#[a-c.:\\[]{1,5}#/[a-c%#235/.]{0,9}(#[a-z=0-9,]{0,9})?|\\PC*") {
            if let Some(id) = VolumeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text.as_str());
            }
            if let Some(id) = SnapshotId::parse(&text) {
                prop_assert_eq!(id.to_string(), text.as_str());
            }
        }

        #[test]
        fn every_key_is_22_characters(bits in any::<u128>()) {
            let key = Key::from_uuid(Uuid::from_u128(bits));
            prop_assert_eq!(encode(key).len(), ENCODED);
            prop_assert_eq!(decode(&encode(key)), Some(key));
            // The last character has four bits to spare.
            let mut other = encode(key);
            let last = other.pop().and_then(|c| ALPHABET.iter().position(|known| char::from(*known) == c)).unwrap();
            other.push(char::from(ALPHABET[last + 1]));
            prop_assert_eq!(decode(&other), None);
        }
    }
}
