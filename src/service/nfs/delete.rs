//! DeleteVolume and DeleteSnapshot on shares: absent is done.

use super::{At, OnShare, Shares, SnapshotOnShare, at_of, at_of_legacy, create::on_delete};
use crate::{
    error::{Error, Result},
    share::store::{OnDelete, Place},
    volume::{
        Key,
        nfs::{Connection, Directory, LegacySnapshotId, LegacyVolumeId, Settings, Version},
    },
};

impl Shares {
    /// Does with the volume's directory what its `onDelete` says.
    pub(in crate::service) fn delete_volume(&self, id: &OnShare, secrets: &Settings) -> Result<()> {
        match id {
            OnShare::Volume(id) => {
                let at = at_of(&id.share, &id.connection).with(secrets)?;
                self.janitor.made(&at, self.remote.delete_volume(&self.uses(&at), id.key))?;
                self.janitor.purge(&at);
                Ok(())
            }
            OnShare::Legacy(id) => self.delete_legacy(id, secrets),
        }
    }

    fn delete_legacy(&self, id: &LegacyVolumeId, secrets: &Settings) -> Result<()> {
        let Some(directory) = &id.directory else {
            return Err(Error::Refused(format!(
                "volume {:?} is the root of its share, which may hold other volumes: delete what is in it by hand, \
                 then the PersistentVolume",
                id.to_string()
            )));
        };
        let end = id.on_delete.map_or(OnDelete::Delete, on_delete);
        let place = place(directory)?;
        let at = at_of_legacy(&id.share).with(secrets)?;
        self.delete_unrecorded(&at, id.key(), &place, end)
    }

    fn delete_unrecorded(&self, at: &At, key: Key, place: &Place, end: OnDelete) -> Result<()> {
        or_older(at, |at| {
            self.remote.delete_unrecorded(&self.uses(at), key, place.clone(), end)?;
            self.janitor.purge(at);
            Ok(())
        })
    }

    /// Moves the snapshot to trash.
    pub(in crate::service) fn delete_snapshot(&self, id: &SnapshotOnShare, secrets: &Settings) -> Result<()> {
        match id {
            SnapshotOnShare::Snapshot(id) => {
                let at = at_of(&id.share, &id.connection).with(secrets)?;
                self.janitor.made(&at, self.remote.delete_snapshot(&self.uses(&at), id.key))?;
                self.janitor.purge(&at);
                Ok(())
            }
            SnapshotOnShare::Legacy(id) => self.delete_legacy_snapshot(id, secrets),
        }
    }

    /// An archive in a directory of its own.
    fn delete_legacy_snapshot(&self, id: &LegacySnapshotId, secrets: &Settings) -> Result<()> {
        let at = at_of_legacy(&id.share).with(secrets)?;
        let place = place(&id.directory)?;
        self.delete_unrecorded(&at, id.key(), &place, OnDelete::Delete)
    }
}

fn place(directory: &Directory) -> Result<Place> {
    Place::new(directory.components().map(str::to_owned).collect())
}

/// The ids of csi-driver-nfs do not say which version the server speaks: where it has no version 4, and none is asked
/// for, version 3. One that does not answer is not asked twice.
fn or_older(at: &At, delete: impl Fn(&At) -> Result<()>) -> Result<()> {
    let newer = match delete(at) {
        Err(Error::NotOffered(why)) if at.connection.version.is_none() => why,
        outcome => return outcome,
    };
    let version = Some(Version::V3);
    match delete(&at_of(&at.share, &Connection { version, ..at.connection.clone() })) {
        Err(Error::NotOffered(_)) => Err(Error::NotOffered(newer)),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::volume::nfs::Share;
    use std::cell::RefCell;

    #[test]
    fn version_3_is_tried_where_there_is_no_4() {
        let at = at_of_legacy(&Share::parse("nas:/data").unwrap());
        let third = At { connection: Connection::parse("vers=3").unwrap(), ..at.clone() };
        let run = |at: &At, first: fn(String) -> Error, second: Option<fn(String) -> Error>| {
            let tried = RefCell::new(Vec::new());
            let outcome = or_older(at, |at| {
                tried.borrow_mut().push(at.connection.version);
                match (tried.borrow().len(), second) {
                    (1, _) => Err(first("newer".into())),
                    (_, Some(second)) => Err(second("older".into())),
                    (_, None) => Ok(()),
                }
            });
            (outcome.map_err(|error| format!("{error:?}")), tried.into_inner())
        };
        let both = vec![None, Some(Version::V3)];
        assert_eq!(run(&at, Error::NotOffered, None), (Ok(()), both.clone()));
        let silent = Err("Unavailable(\"older\")".to_owned());
        assert_eq!(run(&at, Error::NotOffered, Some(Error::Unavailable)), (silent, both.clone()));
        let neither = Err("NotOffered(\"newer\")".to_owned());
        assert_eq!(run(&at, Error::NotOffered, Some(Error::NotOffered)), (neither.clone(), both));
        assert_eq!(run(&third, Error::NotOffered, None), (neither, vec![Some(Version::V3)]));
        let dead = Err("Unavailable(\"newer\")".to_owned());
        assert_eq!(run(&at, Error::Unavailable, None), (dead, vec![None]));
    }
}
