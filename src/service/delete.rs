//! DeleteVolume and DeleteSnapshot: absent is done, in use is refused.

use super::{
    Service,
    nfs::{OnShare, SnapshotOnShare},
};
use crate::{
    backend::attachment,
    error::{Error, Result},
    failpoint,
    os::lock::Mode,
    store::Kind,
    volume::{SnapshotId, VolumeId, nfs::Settings},
};

/// A DeleteVolume request. It has no `Debug`: secrets hold mount options.
pub struct DeleteVolume {
    /// As the CO sent it; one that does not parse names no volume.
    pub id: String,
    /// The mount options in the secrets.
    pub secrets: Settings,
}

/// A DeleteSnapshot request. It has no `Debug`: secrets hold mount options.
pub struct DeleteSnapshot {
    /// As the CO sent it; one that does not parse names no snapshot.
    pub id: String,
    /// The mount options in the secrets.
    pub secrets: Settings,
}

impl Service {
    /// Moves the volume to trash. Snapshots and clones of it live on by themselves.
    pub fn delete_volume(&self, request: &DeleteVolume) -> Result<()> {
        if let Some(id) = OnShare::parse(&request.id) {
            return self.shares.delete_volume(&id, &request.secrets);
        }
        let Some(id) = VolumeId::parse(&request.id) else { return Ok(()) };
        if let Some(nodes) = self.nodes() {
            return nodes.delete_volume(&id);
        }
        let key = id.key;
        let _lock = self.lock_volume(key, Mode::Exclusive)?;
        let Some((pool, record)) = self.store.volume(key)? else { return Ok(()) };
        if attachment::in_use(&pool, key, record.shape.layout)? {
            return Err(Error::Refused(format!(
                "volume {} is still attached on node {}: unpublish and unstage it first",
                request.id, self.node
            )));
        }
        failpoint!("delete.proven-unused");
        pool.remove(Kind::Volume, key)?;
        self.usage.forget(key);
        Ok(())
    }

    /// Moves the snapshot to trash.
    pub fn delete_snapshot(&self, request: &DeleteSnapshot) -> Result<()> {
        if let Some(id) = SnapshotOnShare::parse(&request.id) {
            return self.shares.delete_snapshot(&id, &request.secrets);
        }
        let Some(id) = SnapshotId::parse(&request.id) else { return Ok(()) };
        if let Some(nodes) = self.nodes() {
            return nodes.delete_snapshot(&id);
        }
        let key = id.key;
        let _lock = self.store.lock(Kind::Snapshot, key, Mode::Exclusive)?;
        let Some((pool, _)) = self.store.snapshot(key)? else { return Ok(()) };
        failpoint!("delete-snapshot.found");
        pool.remove(Kind::Snapshot, key)
    }
}
