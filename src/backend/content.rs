//! Where the first content of a snapshot, restore or clone comes from: a cut that costs nothing where
//! the pool can share blocks, else a copy of something that nobody uses.

use super::{attachment, directory, image};
use crate::{
    error::{Doing, Error, Result},
    failpoint,
    os::{btrfs, file, loopdev, mountinfo, reflink},
    store::{DATA, Draft, Kind, Pool},
    volume::{Key, Layout, Provisioning, Shape, VolumeRecord},
};
use std::{path::Path, sync::Arc};

/// What is copied.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// Volume (perhaps in use) or snapshot (never).
    pub kind: Kind,
    /// Which.
    pub key: Key,
    /// Layout, access, filesystem: the same in the copy.
    pub shape: Shape,
    /// Thick or thin.
    pub provisioning: Option<Provisioning>,
    /// Its size.
    pub size_bytes: u64,
}

/// How the content gets into the draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A btrfs snapshot of the data subvolume: one atomic cut whatever it holds.
    Subvolume,
    /// FICLONE of the image (one cut), or of each file of a directory (not one cut).
    Reflink,
    /// A sparse copy of what is not in use.
    Copy,
}

impl Way {
    /// For `origin` into `pool` with `provisioning`.
    pub fn of(origin: &Origin, pool: &Pool, provisioning: Option<Provisioning>) -> Self {
        let here = origin.pool.store() == pool.store();
        match pool.abilities() {
            // Blocks cannot be shared between a file that is copied on write and one that is not.
            abilities if here && abilities.btrfs && origin.provisioning == provisioning => Self::Subvolume,
            abilities if here && !abilities.btrfs && abilities.reflink => Self::Reflink,
            _ => Self::Copy,
        }
    }

    /// Whether source and copy share blocks afterwards, so that neither owns them alone.
    pub fn shares(self) -> bool {
        self != Self::Copy
    }
}

/// Fills the draft. `progress` gets the bytes copied and says whether to go on.
pub fn transfer(
    origin: &Origin,
    way: Way,
    draft: &Draft<'_>,
    fresh: Option<(&Pool, &VolumeRecord)>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    if origin.kind == Kind::Volume {
        if way == Way::Copy {
            refuse_in_use(origin)?;
        } else {
            flush(origin)?;
        }
    }
    let from = origin.pool.data(origin.kind, origin.key);
    match (way, origin.shape.layout) {
        (Way::Subvolume, layout) => {
            if layout == Layout::Directory {
                directory::refuse_nested(&from, origin.key)?;
            }
            let read_only = fresh.is_none();
            btrfs::snapshot(&from, draft.path(), DATA.as_ref(), read_only)
                .doing(|| format!("snapshotting {} {}", origin.kind, origin.key))?;
        }
        (Way::Reflink | Way::Copy, Layout::Directory) => {
            let record = fresh.map(|(_, record)| record);
            directory::copy(&from, draft, record, way == Way::Reflink, progress)?;
        }
        (Way::Reflink | Way::Copy, Layout::Image) => copy_image(origin, way, draft, fresh, progress)?,
    }
    failpoint!("content.transferred");
    Ok(())
}

fn copy_image(
    origin: &Origin,
    way: Way,
    draft: &Draft<'_>,
    fresh: Option<(&Pool, &VolumeRecord)>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    draft.make_data()?;
    let source = origin.pool.image(origin.kind, origin.key);
    let doing = || format!("copying {} to {}", source.display(), draft.image().display());
    let from = file::open_for_reading(&source).doing(doing)?;
    let to = file::create_new(&draft.image()).doing(doing)?;
    failpoint!("content.image-made");
    if let Some((pool, record)) = fresh {
        image::prepare(pool, &draft.image(), record)?;
    }
    match way {
        Way::Reflink => reflink::clone_file(&from, &to).doing(doing),
        _ => reflink::copy_sparse(&from, &to, progress).doing(doing),
    }
}

/// A copy takes time: nobody may write meanwhile.
fn refuse_in_use(origin: &Origin) -> Result<()> {
    if attachment::in_use(&origin.pool, origin.key, origin.shape.layout)? {
        return Err(Error::Refused(format!(
            "volume {} is in use, and pool {:?} cannot share blocks, so it cannot be cut while somebody writes: \
             stop its pods first, or keep such volumes on an XFS (reflink) or btrfs pool",
            origin.key,
            origin.pool.name()
        )));
    }
    Ok(())
}

/// Brings what applications have written down to the image: a mounted filesystem by syncfs (its
/// journal is replayed when a restore is made), a raw device by fsync.
fn flush(origin: &Origin) -> Result<()> {
    if origin.shape.layout != Layout::Image {
        return Ok(()); // The cut itself flushes files of the pool.
    }
    let path = origin.pool.image(origin.kind, origin.key);
    attachment::loops_of(&path)?.into_iter().try_for_each(|number| flush_loop(number, origin.key))
}

fn flush_loop(number: u32, key: Key) -> Result<()> {
    let doing = || format!("flushing volume {key}");
    let device = loopdev::device_number(number);
    let mounted = mountinfo::of_device(device).doing(doing)?.into_iter().next();
    match mounted {
        Some(mount) => sync_mounted(&mount.point, device).doing(doing),
        None => loopdev::sync(number).doing(doing),
    }
}

/// The path may meanwhile lead elsewhere; then the sync did not reach the volume.
fn sync_mounted(point: &Path, device: u64) -> crate::os::Result<()> {
    match file::stat(point)? {
        Some(stat) if stat.inode.device == device => file::sync_filesystem(point),
        _ => match loopdev::number_of(device) {
            Some(number) => loopdev::sync(number),
            None => Ok(()),
        },
    }
}
