//! Which loop device or mount belongs to which volume, as the kernel tells it.

use super::directory;
use crate::{
    error::{Doing, Error, Result},
    os::{
        file::{self, Inode},
        loopdev::{self, Attach, Held},
        mountinfo::{self, Mount},
    },
    store::{IMAGE, Kind, Pool},
    volume::{Key, Layout, VolumeRecord},
};
use std::{path::Path, thread, time::Duration};

/// Attaches an image, or finds the loop that has it. A short-lived reader (a look at the superblock, at
/// its extents) is waited for.
pub fn attach(image: &Path) -> Result<Held> {
    let doing = || format!("attaching {}", image.display());
    for _ in 0..3 {
        // Each waits about a third of a second.
        if let Attach::Held(held) = loopdev::ensure_attached(image).doing(doing)? {
            return Ok(held);
        }
    }
    Err(Error::Busy(format!(
        "{} is open in another process but on no loop device; close it, then try again",
        image.display()
    )))
}

/// The loops that an image is attached to: one, or more where somebody made another by hand.
pub fn loops_of(image: &Path) -> Result<Vec<u32>> {
    let doing = || format!("looking for the loop device of {}", image.display());
    let Some(stat) = file::stat(image).doing(doing)? else { return Ok(Vec::new()) };
    if !loopdev::in_use(image).doing(doing)? {
        return Ok(Vec::new());
    }
    loopdev::find_all(stat.inode).doing(doing)
}

/// As [`loops_of`], when all loops have been looked at already.
pub fn loops_among(all: &[(u32, loopdev::Status)], image: &Path) -> Result<Vec<u32>> {
    let stat = file::stat(image).doing(|| format!("looking for the loop device of {}", image.display()))?;
    let is_its = |status: &loopdev::Status| stat.is_some_and(|stat| stat.inode == status.backing);
    Ok(all.iter().filter(|(_, status)| is_its(status)).map(|(number, _)| *number).collect())
}

/// The one loop that an image is attached to. With two of them its filesystem could be mounted twice,
/// and nothing tells them apart.
pub fn only_loop_of(image: &Path) -> Result<Option<u32>> {
    match loops_of(image)?.as_slice() {
        [] => Ok(None),
        [number] => Ok(Some(*number)),
        [number, other, ..] => Err(Error::Refused(format!(
            "{} is attached to both /dev/loop{number} and /dev/loop{other}: detach the one that was made by hand",
            image.display()
        ))),
    }
}

/// Whether a volume is attached or mounted. A reader that has merely opened the image is waited for.
pub fn in_use(pool: &Pool, key: Key, layout: Layout) -> Result<bool> {
    if layout == Layout::Directory {
        return Ok(!directory::mounts(pool, key)?.is_empty());
    }
    let image = pool.image(Kind::Volume, key);
    let doing = || format!("looking whether {} is attached", image.display());
    let Some(stat) = file::stat(&image).doing(doing)? else { return Ok(false) };
    for _ in 0..25 {
        if !loopdev::in_use(&image).doing(doing)? {
            return Ok(false);
        }
        if loopdev::find(stat.inode).doing(doing)?.is_some() {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(Error::Busy(format!("{} is open in another process; close it, then try again", image.display())))
}

/// A volume whose place on disk is known.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a> {
    /// Its pool.
    pub pool: &'a Pool,
    /// Its record.
    pub record: &'a VolumeRecord,
}

/// What stands at a path, compared with a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The root of the volume (for an image: on loop N).
    Root(Option<u32>),
    /// The volume's own block device.
    Device(u32),
    /// A read-only loop N stacked on the volume's device.
    ReadOnlyDevice {
        /// The stacked loop.
        number: u32,
        /// The volume's loop.
        base: u32,
    },
    /// A block device with nothing behind it: what a killed attempt leaves.
    Dead(u32),
    /// Something else.
    Other,
}

impl Located<'_> {
    /// Compares what is at `path` (a mountpoint) with this volume, by device and inode.
    pub fn compare(&self, path: &Path) -> Result<Found> {
        let doing = || format!("looking at {}", path.display());
        let stat = match file::stat(path) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Ok(Found::Other),
            Err(e) if e.is_filesystem_down() => return self.compare_mount(path),
            Err(e) => return Err(e).doing(doing),
        };
        if self.record.shape.layout == Layout::Directory {
            let data = self.pool.data(Kind::Volume, self.record.key);
            let root = file::stat(&data).doing(doing)?;
            return Ok(if root.is_some_and(|root| root.inode == stat.inode) {
                Found::Root(None)
            } else {
                Found::Other
            });
        }
        let image = self.image_inode()?;
        if stat.is_block {
            return compare_device(stat.rdev, image);
        }
        compare_filesystem(stat.inode.device, image)
    }

    /// By the mount alone, where the filesystem has shut down.
    fn compare_mount(&self, path: &Path) -> Result<Found> {
        match mountinfo::at(path).doing(|| format!("looking at {}", path.display()))? {
            Some(mount) if mount.root == Path::new("/") => {
                compare_filesystem(mount.device, self.image_inode()?)
            }
            _ => Ok(Found::Other),
        }
    }

    /// The image's identity; `None` when it is missing.
    pub fn image_inode(&self) -> Result<Option<Inode>> {
        let image = self.pool.image(Kind::Volume, self.record.key);
        let stat = file::stat(&image).doing(|| format!("looking at {}", image.display()))?;
        Ok(stat.map(|stat| stat.inode))
    }
}

fn compare_filesystem(device: u64, image: Option<Inode>) -> Result<Found> {
    let Some(number) = loopdev::number_of(device) else { return Ok(Found::Other) };
    Ok(match status(number)? {
        Some(status) if Some(status.backing) == image => Found::Root(Some(number)),
        _ => Found::Other,
    })
}

fn compare_device(rdev: u64, image: Option<Inode>) -> Result<Found> {
    let Some(number) = loopdev::number_of(rdev) else { return Ok(Found::Other) };
    let Some(status_here) = status(number)? else { return Ok(Found::Dead(number)) };
    if Some(status_here.backing) == image {
        return Ok(Found::Device(number));
    }
    let Some(base) = loopdev::number_of(status_here.backing_rdev) else { return Ok(Found::Other) };
    Ok(match status(base)? {
        Some(below) if Some(below.backing) == image => Found::ReadOnlyDevice { number, base },
        _ => Found::Other,
    })
}

/// LOOP_GET_STATUS64 of loop N; `None` when it does not exist or nothing is attached.
pub fn status(number: u32) -> Result<Option<loopdev::Status>> {
    let doing = || format!("looking at loop device {number}");
    match loopdev::open(number).doing(doing)? {
        Some(held) => loopdev::status(&held).doing(doing),
        None => Ok(None),
    }
}

/// As [`status`]; `None` also for an image on a pool that has shut down, which tells nothing. No such loop is
/// stacked.
pub fn status_if_told(number: u32) -> Result<Option<loopdev::Status>> {
    match status(number) {
        Err(Error::Os { source, .. }) if source.is_filesystem_down() => Ok(None),
        answer => answer,
    }
}

/// The volume that a mount belongs to, by the path of what backs it. A hint that is good enough to
/// unmount by (also when the volume's files are gone), never to bind by.
pub fn key_of(mount: &Mount) -> Result<Option<Key>> {
    let doing = || format!("looking at {}", mount.point.display());
    if let Some(key) = directory::key_of_root(&mount.root) {
        return Ok(Some(key));
    }
    let number = match loopdev::number_of(mount.device) {
        Some(number) => Some(number),
        None => file::stat(&mount.point)
            .doing(doing)?
            .filter(|stat| stat.is_block)
            .and_then(|stat| loopdev::number_of(stat.rdev)),
    };
    let Some(number) = number else { return Ok(None) };
    let mut backing = loopdev::backing_path(number).doing(doing)?;
    // A stacked loop: look at the one below.
    let below = status_if_told(number)?.and_then(|status| loopdev::number_of(status.backing_rdev));
    if let Some(base) = below {
        backing = loopdev::backing_path(base).doing(doing)?;
    }
    Ok(backing.and_then(|backing| key_of_image(&backing.path)))
}

/// Whether one of all loops that tell something shows an image that is called as this volume's.
pub fn is_named_among(all: &[(u32, loopdev::Status)], key: Key) -> Result<bool> {
    Ok(!called(key, all.iter().map(|(number, _)| *number))?.is_empty())
}

/// Loops on an image that is called as this volume's, on a pool that has shut down. Nothing can be read or
/// written through them any more, and the pool cannot be unmounted to be repaired while they are there: that a
/// name is no proof does not matter.
pub fn dead_loops_of(key: Key) -> Result<Vec<u32>> {
    let untold = loopdev::untold().doing(|| format!("looking for loop devices of volume {key}"))?;
    Ok(called(key, untold)?.into_iter().map(|(number, _)| number).collect())
}

/// Loops without AUTOCLEAR that show the deleted image of a volume: nothing but Unstage ends them.
pub fn orphans_among(all: &[(u32, loopdev::Status)], key: Key) -> Result<Vec<u32>> {
    let kept = all.iter().filter(|(_, status)| !status.autoclear).map(|(number, _)| *number);
    let orphans = called(key, kept)?.into_iter().filter(|(_, backing)| backing.deleted);
    Ok(orphans.map(|(number, _)| number).collect())
}

/// Those of the loops whose image is called as this volume's.
fn called(key: Key, numbers: impl IntoIterator<Item = u32>) -> Result<Vec<(u32, loopdev::Backing)>> {
    let doing = || format!("looking for loop devices of volume {key}");
    let mut found = Vec::new();
    for number in numbers {
        let backing = loopdev::backing_path(number).doing(doing)?;
        let backing = backing.filter(|backing| key_of_image(&backing.path) == Some(key));
        found.extend(backing.map(|backing| (number, backing)));
    }
    Ok(found)
}

/// `…/volumes/<key>/data/disk.img`. What comes before is the path in the mount namespace that attached
/// it, which may have ended: a container that was restarted. A removed volume's image is in trash.
fn key_of_image(path: &Path) -> Option<Key> {
    if path.file_name()? != IMAGE {
        return None;
    }
    let object = path.parent()?.parent()?;
    let kind = object.parent()?.file_name()?;
    let of_pool = kind == "volumes" || kind == "trash";
    of_pool.then(|| Key::parse(object.file_name()?.to_str()?.split('.').next()?)).flatten()
}
