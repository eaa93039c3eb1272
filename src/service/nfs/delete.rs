//! DeleteVolume and DeleteSnapshot on shares: absent is done.

use super::{OnShare, Shares, SnapshotOnShare, at_of, at_of_legacy, create::on_delete};
use crate::{
    error::{Error, Result},
    share::store::{OnDelete, Place},
    volume::nfs::{Connection, Directory, LegacySnapshotId, LegacyVolumeId, Settings, Version},
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
        let delete = |at: &super::At| {
            self.remote.delete_unrecorded(&self.uses(at), id.key(), place.clone(), end)?;
            self.janitor.purge(at);
            Ok(())
        };
        match delete(&at) {
            // Its ids do not say which version the server speaks.
            Err(error) if at.connection.version.is_none() && may_be_older(&error) => {
                let version = Some(Version::V3);
                let older = at_of(&at.share, &Connection { version, ..at.connection.clone() });
                delete(&older).map_err(|_| error)
            }
            outcome => outcome,
        }
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
        self.remote.delete_unrecorded(&self.uses(&at), id.key(), place, OnDelete::Delete)?;
        self.janitor.purge(&at);
        Ok(())
    }
}

fn place(directory: &Directory) -> Result<Place> {
    Place::new(directory.components().map(str::to_owned).collect())
}

/// The server could not be asked in this version.
fn may_be_older(error: &Error) -> bool {
    matches!(error, Error::Unavailable(_) | Error::Os { .. })
}
