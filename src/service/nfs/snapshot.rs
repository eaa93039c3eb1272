//! CreateSnapshot on a share: a copy of each file, complete or not there.

use super::{OnShare, Shares, SnapshotOnShare, at_of};
use crate::{
    error::{Error, Result},
    service::Snapshot,
    share::store::{NewSnapshot, SnapshotRecord},
    volume::{
        Key, Name,
        nfs::{Settings, SnapshotId},
    },
};

impl Shares {
    /// Copies the volume, or finds the copy that an earlier call of the same name made.
    pub(in crate::service) fn create_snapshot(
        &self,
        name: &Name,
        source: &OnShare,
        secrets: &Settings,
    ) -> Result<Snapshot> {
        let volume = match source {
            OnShare::Volume(id) => id,
            OnShare::Legacy(id) => {
                return Err(Error::Refused(format!(
                    "volume {:?} was made by csi-driver-nfs and has no record on its share: only volumes of this \
                     driver have snapshots",
                    id.to_string()
                )));
            }
        };
        let at = at_of(&volume.share, &volume.connection).with(secrets)?;
        let key = Key::of(name);
        let id = SnapshotId { key, share: volume.share.clone(), connection: volume.connection.clone() };
        id.check_length()?;
        let wanted =
            NewSnapshot { name: name.as_str().to_owned(), key, id: id.to_string(), volume: volume.key };
        let made = self.remote.create_snapshot(&self.uses(&at), wanted);
        self.janitor.made(&at, made).map(Snapshot::from)
    }

    /// One that must exist.
    pub(in crate::service) fn snapshot(&self, id: &SnapshotOnShare) -> Result<Snapshot> {
        let unknown = |id: &dyn std::fmt::Display| {
            Error::NotFound(format!("snapshot {:?} does not exist", id.to_string()))
        };
        match id {
            SnapshotOnShare::Snapshot(id) => {
                let record = self.snapshot_record(id)?;
                record.map(Snapshot::from).ok_or_else(|| unknown(id))
            }
            SnapshotOnShare::Legacy(id) => Err(unknown(id)),
        }
    }

    pub(super) fn snapshot_record(&self, id: &SnapshotId) -> Result<Option<SnapshotRecord>> {
        self.remote.snapshot(&self.uses(&at_of(&id.share, &id.connection)), id.key)
    }
}
