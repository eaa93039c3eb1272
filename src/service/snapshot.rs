//! CreateSnapshot: one atomic cut of one volume.

use super::{Service, Snapshot, create, nfs::OnShare};
use crate::{
    backend::{
        content::{self, Origin, Way},
        image,
    },
    error::{Doing, Error, Result},
    failpoint,
    os::{file, lock::Mode},
    store::{Kind, Pool},
    volume::{
        Key, Layout, Name, SnapshotRecord, VolumeId, VolumeRecord,
        nfs::Settings,
        record::{Timestamp, VERSION},
        topology::Requirement,
    },
};
use std::sync::Arc;

/// A CreateSnapshot request. It has no `Debug`: secrets hold mount options.
pub struct CreateSnapshot {
    /// The CO's name.
    pub name: Name,
    /// As the CO sent it.
    pub source_id: String,
    /// Where it must be usable.
    pub topology: Requirement,
    /// The mount options in the secrets.
    pub secrets: Settings,
}

impl Service {
    /// Cuts the snapshot, or finds the one that an earlier call of the same name cut.
    pub fn create_snapshot(&self, request: &CreateSnapshot) -> Result<Snapshot> {
        match OnShare::parse(&request.source_id) {
            Some(source) => self.shares.create_snapshot(&request.name, &source, &request.secrets),
            None => match self.nodes() {
                Some(nodes) => {
                    let source = VolumeId::parse(&request.source_id).ok_or_else(|| unknown(request))?;
                    nodes.create_snapshot(request, &source)
                }
                None => self.create_local_snapshot(request).map(Snapshot::from),
            },
        }
    }

    fn create_local_snapshot(&self, request: &CreateSnapshot) -> Result<SnapshotRecord> {
        let key = Key::of(&request.name);
        let unknown = || unknown(request);
        let _lock = self.store.lock(Kind::Snapshot, key, Mode::Exclusive)?;
        let source = VolumeId::parse(&request.source_id);
        if let Some((_, found)) = self.store.snapshot_in_reach(key)? {
            return match source {
                Some(source) if source.key == found.volume => Ok(found),
                _ => Err(Error::Incompatible(format!(
                    "a snapshot of this name exists for another volume ({}): use another name",
                    found.volume_id()
                ))),
            };
        }
        let source = source.ok_or_else(unknown)?.key;
        // Shared: other snapshots and clones may be cut meanwhile; stage, expand and delete may not.
        let _source_lock = self.lock_volume(source, Mode::Shared)?;
        let (pool, volume) = self.store.volume(source)?.ok_or_else(unknown)?;
        if !request.topology.allows(&volume.node) {
            return Err(Error::NoSpace(format!(
                "a snapshot lies where its volume lies, on node {}, which the topology requirement leaves out",
                volume.node
            )));
        }
        self.cut(&pool, &volume, &request.name, key)
    }

    fn cut(&self, pool: &Arc<Pool>, volume: &VolumeRecord, name: &Name, key: Key) -> Result<SnapshotRecord> {
        if volume.shape.layout == Layout::Image {
            create::check_image(pool, volume)?;
        }
        if let Some(filesystem) = volume.shape.filesystem {
            image::check_content(&pool.image(Kind::Volume, volume.key), filesystem, volume)?;
        }
        let origin = Origin::of_volume(Arc::clone(pool), volume);
        let way = Way::of(&origin, pool, volume.provisioning);
        let purpose = format!("snapshot {key}");
        let _room = create::reserve(pool, copy_bytes(pool, volume, way)?, Some((&origin, way)), &purpose)?;
        let draft = pool.draft(Kind::Snapshot, key)?;
        let created = Timestamp::now();
        let mut progress = self.progress(&purpose, volume.size_bytes);
        content::transfer(&origin, way, &draft, None, &mut progress)?;
        create::promise_again(pool, &origin, way);
        failpoint!("snapshot.cut");
        let record = SnapshotRecord {
            version: VERSION,
            name: name.as_str().to_owned(),
            key,
            node: volume.node.clone(),
            volume: volume.key,
            volume_node: volume.node.clone(),
            shape: volume.shape,
            provisioning: volume.provisioning,
            asked_bytes: volume.asked_size(),
            size_bytes: volume.size_bytes,
            block_size: volume.block_size,
            created,
        };
        draft.commit(&record)?;
        Ok(record)
    }
}

fn unknown(request: &CreateSnapshot) -> Error {
    Error::NotFound(format!("source volume {:?} does not exist", request.source_id))
}

/// What the snapshot itself will occupy: nothing where it shares blocks, else what the source holds.
fn copy_bytes(pool: &Pool, volume: &VolumeRecord, way: Way) -> Result<u64> {
    if way.shares() {
        return Ok(0);
    }
    if volume.shape.layout == Layout::Directory {
        return Ok(0); // Unknown until it is walked; the copy itself meets ENOSPC and rolls back.
    }
    let image = pool.image(Kind::Volume, volume.key);
    let stat = file::stat(&image).doing(|| format!("looking at {}", image.display()))?;
    Ok(stat.map_or(0, |stat| stat.allocated))
}
