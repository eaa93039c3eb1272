//! Layout `image`: a file behind a loop device, with a filesystem inside or raw.
//!
//! Everything that a filesystem needs after mkfs (log replay, owner and mode, growth, a new identity)
//! happens before the volume exists, on a mount that no path leads to: when the driver dies, the
//! kernel undoes it.

use super::attachment;
use crate::{
    error::{Doing, Error, Result},
    failpoint,
    os::{
        self, btrfs, file,
        format::{self, Content, Filesystem},
        loopdev, mount,
    },
    store::{Draft, Pool},
    volume::{Provisioning, VolumeRecord},
};
use std::{fs::File, path::Path, time::Duration};
use uuid::Uuid;

/// A filesystem may leave the tail of its device unused: mke2fs and growfs drop a last group that is
/// too small to be worth its own metadata. Where a twentieth is less, there is only one group.
const TAIL: u64 = 4 << 20;

/// Makes a new image. The only caller of mkfs (design invariant 1): on a file that this call created.
pub fn create(pool: &Pool, draft: &Draft<'_>, record: &VolumeRecord) -> Result<()> {
    draft.make_data()?;
    let image = draft.image();
    let doing = || format!("making the image of volume {}", record.key);
    let file = file::create_new(&image).doing(doing)?;
    failpoint!("image.created");
    prepare(pool, &image, record)?;
    resize(&file, record)?;
    drop(file);
    failpoint!("image.allocated");
    if let Some(filesystem) = record.shape.filesystem {
        format::make(filesystem, &image).doing(doing)?;
        failpoint!("image.formatted");
        if !record.owner.is_default() {
            on_detached(&image, filesystem, record, |root| set_owner(root, record))?;
        }
    }
    Ok(())
}

/// "Thick" on btrfs means overwritten in place: possible only while the file is empty.
pub fn prepare(pool: &Pool, image: &Path, record: &VolumeRecord) -> Result<()> {
    if pool.abilities().btrfs && record.provisioning == Some(Provisioning::Thick) {
        btrfs::set_nocow(image).doing(|| format!("switching copy-on-write off for volume {}", record.key))?;
        failpoint!("image.nocow");
    }
    Ok(())
}

/// Brings a file to the record's size: owned if thick, sparse if thin. Never shrinks.
pub fn resize(file: &File, record: &VolumeRecord) -> Result<()> {
    let doing = || format!("allocating {} bytes for volume {}", record.size_bytes, record.key);
    if record.provisioning == Some(Provisioning::Thick) {
        return file::allocate(file, record.size_bytes).doing(doing);
    }
    if file::stat_file(file).doing(doing)?.size < record.size_bytes {
        file::set_size(file, record.size_bytes).doing(doing)?;
    }
    Ok(())
}

/// What restored or cloned content still needs before the volume may exist.
pub fn finish(image: &Path, record: &VolumeRecord) -> Result<()> {
    let file = file::open_image(image).doing(|| format!("opening the image of volume {}", record.key))?;
    resize(&file, record)?;
    drop(file);
    failpoint!("image.resized");
    let Some(filesystem) = record.shape.filesystem else { return Ok(()) };
    mend(image, record)?;
    on_detached(image, filesystem, record, |root| set_owner(root, record))?;
    failpoint!("image.replayed");
    grow(image, filesystem, record)?;
    format::set_identity(filesystem, image, Uuid::new_v4())
        .doing(|| format!("giving volume {} an identity of its own", record.key))?;
    failpoint!("image.identified");
    Ok(())
}

fn set_owner(root: &File, record: &VolumeRecord) -> Result<()> {
    let owner = record.owner;
    file::set_owner(root, owner.uid, owner.gid, owner.mode)
        .doing(|| format!("setting owner and mode of volume {}", record.key))
}

/// Nothing mounts a filesystem that the kernel has found errors in, or whose growth was killed halfway,
/// before it is repaired.
pub fn mend(image: &Path, record: &VolumeRecord) -> Result<()> {
    match format::mend(image) {
        Err(error @ os::Error::Command { .. }) => Err(needs_decision(image, record, &error)),
        result => result.doing(|| format!("checking the filesystem of volume {}", record.key)),
    }
}

/// The image's filesystem is broken in a way that only a person may mend.
pub fn needs_decision(image: &Path, record: &VolumeRecord, error: &os::Error) -> Error {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let check = match record.shape.filesystem {
        Some(Filesystem::Xfs) => "xfs_repair",
        _ => "e2fsck -f",
    };
    Error::Damaged(format!(
        "the filesystem of volume {} has errors that are not repaired without a decision; run `{check} {}` by hand, \
         or restore a snapshot: {error}{cause}",
        record.key,
        image.display()
    ))
}

/// Grows the filesystem in a detached image to the record's size, if it is smaller.
pub fn grow(image: &Path, filesystem: Filesystem, record: &VolumeRecord) -> Result<()> {
    if fills(image, filesystem, record)? {
        return Ok(());
    }
    let mut offline = false;
    on_detached(image, filesystem, record, |root| {
        match format::grow_mounted(filesystem, root, record.size_bytes) {
            // Without CAP_SYS_RESOURCE ext4 refuses to grow while mounted.
            Err(e) if filesystem == Filesystem::Ext4 && e.is_not_permitted() => {
                offline = true;
                Ok(())
            }
            result => result.doing(|| format!("growing the filesystem of volume {}", record.key)),
        }
    })?;
    failpoint!("image.grown-mounted");
    if offline {
        format::grow_detached(image).doing(|| format!("growing the filesystem of volume {}", record.key))?;
        failpoint!("image.grown-offline");
    }
    if fills(image, filesystem, record)? {
        return Ok(());
    }
    Err(Error::Damaged(format!(
        "the filesystem of volume {} is still smaller than {} bytes after growing it: check it with the tools of {}",
        record.key,
        record.size_bytes,
        name(filesystem)
    )))
}

/// Whether the filesystem inside already has the record's size. Something else inside is damage.
pub fn fills(image: &Path, filesystem: Filesystem, record: &VolumeRecord) -> Result<bool> {
    let size = check_content(image, filesystem, record)?;
    Ok(size.saturating_add(TAIL.min(record.size_bytes / 20)) >= record.size_bytes)
}

/// Fails unless the image holds the record's filesystem; gives that filesystem's size.
pub fn check_content(image: &Path, filesystem: Filesystem, record: &VolumeRecord) -> Result<u64> {
    let doing = || format!("reading the superblock of volume {}", record.key);
    let file = file::open_for_reading(image).doing(doing)?;
    match format::content(&file).doing(doing)? {
        Content::Known { filesystem: found, size, .. } if found == filesystem => Ok(size),
        content => Err(Error::Damaged(format!(
            "the image of volume {} should hold {} but holds {}; it was left alone: restore it from a snapshot or backup",
            record.key,
            name(filesystem),
            match content {
                Content::Known { filesystem, .. } => name(filesystem),
                Content::Blank => "nothing",
                Content::Foreign => "something else",
            }
        ))),
    }
}

/// The filesystem's name for mount(2).
pub fn name(filesystem: Filesystem) -> &'static str {
    match filesystem {
        Filesystem::Ext4 => "ext4",
        Filesystem::Xfs => "xfs",
    }
}

/// Mounts the image where nobody sees it (which replays its journal), works on the root, unmounts,
/// and returns when the loop device is gone.
fn on_detached(
    image: &Path,
    filesystem: Filesystem,
    record: &VolumeRecord,
    work: impl FnOnce(&File) -> Result<()>,
) -> Result<()> {
    let doing = || format!("mounting {} to finish it", image.display());
    let held = attachment::attach(image)?;
    failpoint!("image.attached-detached");
    let options: &[(&str, Option<&str>)] = match filesystem {
        Filesystem::Ext4 => &[("errors", Some("remount-ro"))],
        Filesystem::Xfs => &[("nouuid", None)],
    };
    let detached = match mount::mount_detached(&held.path(), name(filesystem), options) {
        Err(error) if error.is_corrupt() => return Err(needs_decision(image, record, &error)),
        result => result.doing(doing)?,
    };
    failpoint!("image.mounted-detached");
    let result = work(&detached.root);
    failpoint!("image.worked-detached");
    drop(detached);
    drop(held);
    failpoint!("image.unmounted-detached");
    wait_until_free(image)?;
    result
}

/// AUTOCLEAR acts when the last user lets go, which may be a moment after our close.
fn wait_until_free(image: &Path) -> Result<()> {
    if loopdev::wait_unused(image, Duration::from_secs(5))
        .doing(|| format!("looking at {}", image.display()))?
    {
        return Ok(());
    }
    Err(Error::Busy(format!("{} is still attached to a loop device; try again", image.display())))
}
