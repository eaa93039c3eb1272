//! JSON files that notice damage: the record's own text with a checksum over it.
//!
//! A torn write cannot happen (files are replaced whole), but disks flip bits and people edit files.
//! What does not match is reported and left alone, never repaired by guessing.

use crate::{
    error::{Doing, Error, Result},
    os::{self, file},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::path::Path;
use uuid::Uuid;

/// Records are about 600 bytes; something much larger is not ours.
const LIMIT: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    /// SHA-1 of `record`'s text, as a uuid v5.
    checksum: Uuid,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// The text to be written for `value`.
pub fn seal<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let internal = |e: serde_json::Error| Error::Internal(format!("a record cannot be written as JSON: {e}"));
    let record = serde_json::value::to_raw_value(value).map_err(internal)?;
    let sealed = Sealed { checksum: checksum(&record), record: &record };
    let mut text = serde_json::to_vec(&sealed).map_err(internal)?;
    text.push(b'\n');
    Ok(text)
}

/// Reads a sealed file; `None` when it does not exist.
pub fn read<T: DeserializeOwned>(path: &Path, version: u32) -> Result<Option<T>> {
    let bytes = match file::read_small(path, LIMIT) {
        Ok(bytes) => bytes,
        Err(e) if e.is_not_found() => return Ok(None),
        // Too large, or no file at all.
        Err(e) if e.is_symlink() || matches!(e, os::Error::Unexpected(_)) => {
            return Err(damaged(path, &format!("cannot be a record ({e})")));
        }
        Err(e) => return Err(e).doing(|| format!("reading {}", path.display())),
    };
    open(&bytes, version).map(Some).map_err(|reason| damaged(path, &reason))
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Damaged(format!(
        "{} {reason}; it was left alone: restore it from a backup, or move its directory out of the pool",
        path.display()
    ))
}

/// Reads a sealed text; the error says what is wrong with it, as it stands after its name.
pub fn open<T: DeserializeOwned>(bytes: &[u8], version: u32) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let sealed: Sealed =
        serde_json::from_slice(bytes).map_err(|_| "is not a record of this driver".to_owned())?;
    if checksum(sealed.record) != sealed.checksum {
        return Err("is damaged (its checksum does not match)".into());
    }
    let text = sealed.record.get();
    let found: Version = serde_json::from_str(text).map_err(|_| "has no version".to_owned())?;
    if found.version > version {
        return Err(format!(
            "has version {}, which a newer driver wrote (this one knows {version})",
            found.version
        ));
    }
    serde_json::from_str(text).map_err(|e| format!("lacks what a record must have ({e})"))
}

fn checksum(record: &RawValue) -> Uuid {
    Uuid::new_v5(&Uuid::nil(), record.get().as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct Thing {
        version: u32,
        text: String,
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let thing = Thing { version: 1, text: "a volume".into() };
        let good = seal(&thing).unwrap();
        assert_eq!(open::<Thing>(&good, 1).unwrap(), thing);
        for at in 0..good.len() - 1 {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                match open::<Thing>(&bad, 1) {
                    Err(_) => {}
                    // The case of a hexadecimal digit of the checksum carries no information.
                    Ok(read) => assert_eq!(read, thing, "byte {at} bit {bit}"),
                }
            }
            assert!(open::<Thing>(&good[..at], 1).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn newer_versions_are_refused() {
        let text = seal(&Thing { version: 2, text: String::new() }).unwrap();
        assert!(open::<Thing>(&text, 1).unwrap_err().contains("newer driver"));
    }
}
