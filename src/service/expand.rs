//! Growth: the file or the limit in ControllerExpandVolume, the filesystem in NodeExpandVolume.

use super::{
    Service, TargetPath,
    nfs::{self, OnShare},
    stage,
};
use crate::{
    backend::{
        attachment::{self, Found, Located},
        directory, image,
    },
    error::{Doing, Error, Result},
    failpoint,
    os::{file, format, lock::Mode, loopdev},
    store::{Kind, Pool},
    volume::{Access, Capability, CapacityRange, Layout, VolumeId, VolumeRecord, nfs::Settings, size},
};
use std::sync::Arc;

/// A ControllerExpandVolume request. It has no `Debug`: the capability holds mount flags.
pub struct ExpandVolume {
    /// As the CO sent it.
    pub id: String,
    /// The new size.
    pub range: CapacityRange,
    /// What the CO takes the volume for.
    pub capability: Option<Capability>,
    /// The mount options in the secrets.
    pub secrets: Settings,
}

/// Its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expanded {
    /// The size now.
    pub size_bytes: u64,
    /// NodeExpandVolume has to grow a filesystem.
    pub node_expansion_required: bool,
}

/// A NodeExpandVolume request. It has no `Debug`: the capability holds mount flags.
pub struct ExpandNode {
    /// As the CO sent it.
    pub id: String,
    /// Where it is published or staged.
    pub path: TargetPath,
    /// What the CO wants.
    pub range: CapacityRange,
    /// What the CO takes the volume for.
    pub capability: Option<Capability>,
}

impl Service {
    /// Grows the image, or raises the directory's limit. At or below the current size nothing happens.
    pub fn expand_volume(&self, request: &ExpandVolume) -> Result<Expanded> {
        if let Some(id) = OnShare::parse(&request.id) {
            request.capability.as_ref().map_or(Ok(()), nfs::check_capability)?;
            return self.shares.expand_volume(&id, request.range, &request.secrets);
        }
        let unknown = || Error::NotFound(format!("volume {:?} does not exist", request.id));
        let id = VolumeId::parse(&request.id).ok_or_else(unknown)?;
        if let Some(nodes) = self.nodes() {
            return nodes.expand_volume(&id, request);
        }
        let key = id.key;
        let _lock = self.lock_volume(key, Mode::Exclusive)?;
        let (pool, record) = self.store.volume(key)?.ok_or_else(unknown)?;
        check_capability(&record, request.capability.as_ref())?;
        let target = size::round_up(request.range.required);
        if request.range.limit.is_some_and(|limit| target.max(record.size_bytes) > limit) {
            return Err(Error::OutOfRange(format!(
                "volume {} has {} bytes and grows in blocks of {}; limit_bytes is too small",
                request.id,
                record.size_bytes,
                size::BLOCK
            )));
        }
        let record = if target > record.size_bytes {
            self.grow(&pool, record, request.range.required, target)?
        } else {
            note_wish(&pool, record, request.range.required)?
        };
        take_over_size(&pool, &record)?;
        Ok(Expanded {
            size_bytes: record.size_bytes,
            node_expansion_required: record.shape.filesystem.is_some(),
        })
    }

    /// The file first, the record after it: a file longer than its record is an expansion that was
    /// interrupted, a record larger than its file would be damage.
    fn grow(
        &self,
        pool: &Arc<Pool>,
        record: VolumeRecord,
        required: u64,
        target: u64,
    ) -> Result<VolumeRecord> {
        pool.verify()?;
        let purpose = format!("growing volume {} to {target} bytes", record.key);
        // An attempt that was interrupted before its record may already own a part.
        let path = pool.image(Kind::Volume, record.key);
        let owned = file::stat(&path).doing(|| purpose.clone())?.map_or(0, |stat| stat.allocated);
        let more = (target - record.size_bytes).saturating_sub(owned.saturating_sub(record.size_bytes));
        // RESOURCE_EXHAUSTED would be retried for ever at the old size, and the user could not shrink the wish.
        let _room = pool.reserve(more, &purpose).map_err(|error| match error {
            Error::NoSpace(message) => Error::OutOfRange(message),
            other => other,
        })?;
        let grown = VolumeRecord { size_bytes: target, required_bytes: required, ..record };
        match grown.shape.layout {
            Layout::Image => grow_image(pool, &grown)?,
            Layout::Directory => {
                let data = pool.data(Kind::Volume, grown.key);
                directory::limit(&data, &grown)?;
                // What makes the record durable does not reach a limit.
                pool.durability()
                    .settle(&[&data])
                    .doing(|| format!("making the limit of volume {} durable", grown.key))?;
            }
        }
        failpoint!("expand.grown");
        pool.rewrite(&grown)?;
        failpoint!("expand.recorded");
        match pool.promise(&grown) {
            Ok(owed) => pool.ledger().set(grown.key, owed),
            Err(_) => pool.ledger().set(grown.key, grown.size_bytes),
        }
        Ok(grown)
    }

    /// Grows the filesystem of a staged or published volume to its recorded size.
    pub fn expand_node(&self, request: &ExpandNode) -> Result<u64> {
        if self.is_on_share(&request.id, request.path.absolute()) {
            return self.nfs_node.expand(request);
        }
        let (_, record, _) = self.at_path(&request.id, &request.path)?;
        let _lock = self.lock_volume(record.key, Mode::Exclusive)?;
        // It may have been unmounted meanwhile, and what is grown is what is mounted there.
        let (pool, record, found) = self.at_path(&request.id, &request.path)?;
        check_capability(&record, request.capability.as_ref())?;
        if request.range.required > record.size_bytes {
            return Err(Error::OutOfRange(format!(
                "volume {} has {} bytes: ControllerExpandVolume comes first",
                request.id, record.size_bytes
            )));
        }
        match (found, record.shape.filesystem) {
            (Found::Root(Some(number)), Some(filesystem)) => {
                self.grow_mounted(&pool, &record, &request.path, number, filesystem)?;
            }
            (Found::Device(number) | Found::ReadOnlyDevice { base: number, .. }, _) => {
                take_over(number, &record)?;
            }
            _ => {}
        }
        Ok(record.size_bytes)
    }

    fn grow_mounted(
        &self,
        pool: &Pool,
        record: &VolumeRecord,
        path: &TargetPath,
        number: u32,
        filesystem: format::Filesystem,
    ) -> Result<()> {
        take_over(number, record)?;
        failpoint!("expand-node.capacity-set");
        let doing = || format!("growing the filesystem of volume {}", record.key);
        let root = file::open_dir(path.as_path()).doing(doing)?;
        match format::grow_mounted(filesystem, &root, record.size_bytes) {
            Ok(()) => {
                failpoint!("expand-node.grown");
                Ok(())
            }
            Err(e) if e.is_not_permitted() || e.is_unsupported() => Err(Error::Refused(format!(
                "the kernel refuses to grow the {} of volume {} in pool {:?} while it is mounted: it grows by itself \
                 when the volume is staged the next time",
                image::name(filesystem),
                record.key,
                pool.name()
            ))),
            Err(e) => Err(e).doing(doing),
        }
    }
}

/// CSI: here a capability that the volume does not have is INVALID_ARGUMENT.
fn check_capability(record: &VolumeRecord, asked: Option<&Capability>) -> Result<()> {
    let Some(capability) = asked else { return Ok(()) };
    stage::check_capability(capability, record).map_err(|error| match error {
        Error::Refused(message) => Error::Invalid(message),
        other => other,
    })
}

/// Remembers a smaller or equal wish, by which a snapshot's size is told.
fn note_wish(pool: &Pool, record: VolumeRecord, required: u64) -> Result<VolumeRecord> {
    if required <= record.required_bytes {
        return Ok(record);
    }
    let noted = VolumeRecord { required_bytes: required, ..record };
    pool.verify()?;
    pool.rewrite(&noted)?;
    Ok(noted)
}

fn grow_image(pool: &Pool, grown: &VolumeRecord) -> Result<()> {
    let path = pool.image(Kind::Volume, grown.key);
    let doing = || format!("growing the image of volume {}", grown.key);
    let file = file::open_image(&path).doing(doing)?;
    image::resize(&file, grown).map_err(|error| match error.is_no_space() {
        true => Error::OutOfRange(format!("pool {:?} is too full to grow volume {}", pool.name(), grown.key)),
        false => error,
    })?;
    failpoint!("expand.allocated");
    pool.durability().settle(&[&path]).doing(doing)
}

/// A raw block volume needs no node expansion, so its device learns the new size here: also when an
/// earlier call got no further than the record.
fn take_over_size(pool: &Pool, record: &VolumeRecord) -> Result<()> {
    if record.shape.access != Access::Block {
        return Ok(());
    }
    let loops = attachment::loops_of(&pool.image(Kind::Volume, record.key))?;
    for number in loops {
        take_over(number, record)?;
        failpoint!("expand.device-grown");
    }
    Ok(())
}

fn take_over(number: u32, record: &VolumeRecord) -> Result<()> {
    let doing = || format!("resizing loop device {number} of volume {}", record.key);
    let gone = || Error::Refused(format!("loop device {number} of volume {} has vanished", record.key));
    let held = loopdev::open(number).doing(doing)?.ok_or_else(gone)?;
    loopdev::set_capacity(&held, record.size_bytes).doing(doing)?;
    // A read-only loop on top of a raw block volume's has a size of its own.
    if record.shape.access == Access::Block {
        for stacked in loopdev::stacked_on(number).doing(doing)? {
            if let Some(held) = loopdev::open(stacked).doing(doing)? {
                loopdev::set_capacity(&held, record.size_bytes).doing(doing)?;
            }
        }
    }
    Ok(())
}

impl Service {
    /// The volume that is published or staged at a path: NOT_FOUND unless it is this one.
    pub(super) fn at_path(&self, id: &str, path: &TargetPath) -> Result<(Arc<Pool>, VolumeRecord, Found)> {
        let (pool, record) = self.known_volume(id)?;
        let elsewhere =
            || Error::NotFound(format!("volume {id:?} is neither staged nor published at {path}"));
        let place = path.absolute().ok_or_else(elsewhere)?;
        let located = Located { pool: &pool, record: &record };
        let at = super::target::mounted_place(place, record.shape.access)?.ok_or_else(elsewhere)?;
        match located.compare(&at)? {
            Found::Other | Found::Dead(_) => Err(elsewhere()),
            found => Ok((pool, record, found)),
        }
    }
}
