//! Growth: by ioctl while mounted, by tools on a detached image.

use super::{
    BLOCK, Filesystem, read_superblock,
    superblock::{Ext4, Superblock},
};
use crate::os::{
    At, Error, Result,
    command::{self, Tool},
    file::{self, shown},
    ioctl,
};
use rustix::{io::Errno, ioctl::Opcode};
use std::{fs::File, path::Path, time::Duration};

/// A full check reads all metadata of the filesystem; a resize must not be killed halfway.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// XFS leaves the rest of a device unused that is smaller than its smallest allocation group.
const XFS_SMALLEST_GROUP: u64 = 64;

/// Grows a mounted filesystem to fill its device of `size` bytes, by ioctl on the open root directory.
/// One that is already that large is fine.
///
/// EPERM (ext4 without CAP_SYS_RESOURCE) and EOPNOTSUPP mean that the kernel does not grow it while
/// mounted: [`grow_detached`] does.
pub fn grow_mounted(filesystem: Filesystem, root: &File, size: u64) -> Result<()> {
    match filesystem {
        Filesystem::Ext4 => grow_ext4(root, size),
        Filesystem::Xfs => grow_xfs(root, size),
    }
}

/// Repairs an ext4 in a detached image that the kernel has found errors in, or that a tool was stopped
/// in halfway; does nothing to a sound one. XFS has its log for both.
pub fn mend(image: &Path) -> Result<()> {
    let file = file::open_for_reading(image)?;
    match read_superblock(&file)? {
        Superblock::Ext4(found) if !found.sound => check_ext4(image),
        _ => Ok(()),
    }
}

/// `e2fsck -fp`: what needs no decision is repaired, anything else is an error.
fn check_ext4(image: &Path) -> Result<()> {
    // 1: errors were found and corrected.
    command::run(Tool::E2fsck, ["-fp".as_ref(), image.as_os_str()], &[0, 1], LIMIT).map(drop)
}

/// Grows an ext4 in a detached image to the file's size (`e2fsck -fp`, `resize2fs`): where the
/// ioctl is refused (CAP_SYS_RESOURCE). One that is already that large is fine.
///
/// Killed at any moment it can be called again: the check then repairs what the resize left halfway.
pub fn grow_detached(image: &Path) -> Result<()> {
    let file = file::open_image(image)?;
    let wanted = file::stat_file(&file)?.size;
    let before = ext4(&file, image)?;
    // resize2fs writes the new size before it is done, and until then a state that is not sound.
    if before.size == wanted && before.sound {
        return Ok(());
    }
    // resize2fs wants a check since the last mount.
    check_ext4(image)?;
    crate::failpoint!("format.checked");
    command::run(Tool::Resize2fs, [image.as_os_str()], &[0], LIMIT)?;
    let now = ext4(&file, image)?;
    if now.size == wanted {
        Ok(())
    } else {
        Err(Error::Unexpected(format!("ext4 in {image:?} has {} bytes after growing to {wanted}", now.size)))
    }
}

fn ext4(file: &File, image: &Path) -> Result<Ext4> {
    match read_superblock(file)? {
        Superblock::Ext4(found) => Ok(found),
        _ => Err(Error::Unexpected(format!("{image:?} holds no ext4"))),
    }
}

fn grow_ext4(root: &File, size: u64) -> Result<()> {
    // The ioctl asks for CAP_SYS_RESOURCE even when there is nothing to do.
    if reaches(root, size)? {
        return Ok(());
    }
    rustix::fs::ext4_ioc_resize_fs(root, size / BLOCK).at("grow ext4 at", shown(root))?;
    if reaches(root, size)? { Ok(()) } else { Err(still_small(root, size)) }
}

fn grow_xfs(root: &File, size: u64) -> Result<()> {
    const GROW: Opcode = 0x4010_586e; // XFS_IOC_FSGROWFSDATA
    let op = "grow XFS at";
    let before = geometry(root).at(op, shown(root))?;
    let wanted = size / u64::from(before.block_size);
    if before.blocks >= wanted {
        return Ok(());
    }
    let mut arguments = XfsGrow { blocks: wanted, inode_percent: before.inode_percent, padding: 0 };
    let outcome = ioctl::update::<GROW, _>(root, &mut arguments);
    // A rest that is no group is dropped, by some kernels with EINVAL when nothing else remains.
    let now = geometry(root).at(op, shown(root))?.blocks;
    if now + XFS_SMALLEST_GROUP > wanted {
        return Ok(());
    }
    outcome.at(op, shown(root))?;
    Err(still_small(root, size))
}

fn still_small(root: &File, size: u64) -> Error {
    Error::Unexpected(format!(
        "the filesystem at {:?} is smaller than {size} bytes after growing",
        shown(root)
    ))
}

/// Whether the filesystem has the last block below `size`: asked of its map of space (FS_IOC_GETFSMAP),
/// because statfs(2) hides ext4's own blocks.
fn reaches(root: &File, size: u64) -> Result<bool> {
    const MAP: Opcode = linux_raw_sys::ioctl::FS_IOC_GETFSMAP;
    let op = "read the space map of";
    let device = rustix::fs::fstat(root).at(op, shown(root))?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let low = FsMap {
        // The kernel's own encoding of device numbers (new_encode_dev).
        device: minor & 0xff | major << 8 | (minor & !0xff) << 12,
        physical: size.saturating_sub(BLOCK),
        ..FsMap::default()
    };
    let all = u64::MAX;
    let high = FsMap { flags: u32::MAX, physical: all, owner: all, offset: all, ..low };
    let mut map = FsMapHead { count: 0, keys: [low, high], ..FsMapHead::default() };
    // With room for none, the kernel only counts.
    ioctl::update::<MAP, _>(root, &mut map).at(op, shown(root))?;
    Ok(map.entries > 0)
}

fn geometry(root: &File) -> Result<XfsGeometry, Errno> {
    const GEOMETRY: Opcode = 0x8100_587e; // XFS_IOC_FSGEOMETRY
    let mut geometry = XfsGeometry::default();
    ioctl::update::<GEOMETRY, _>(root, &mut geometry)?;
    Ok(geometry)
}

/// `struct fsmap` of `linux/fsmap.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsMap {
    device: u32,
    flags: u32,
    physical: u64,
    owner: u64,
    offset: u64,
    length: u64,
    reserved: [u64; 3],
}

/// `struct fsmap_head`.
#[repr(C)]
#[derive(Default)]
struct FsMapHead {
    input_flags: u32,
    output_flags: u32,
    count: u32,
    entries: u32,
    reserved: [u64; 6],
    keys: [FsMap; 2],
}

/// `struct xfs_growfs_data` of `xfs_fs.h`.
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    inode_percent: u32,
    padding: u32,
}

/// `struct xfs_fsop_geom`; what is of no interest is only room.
#[repr(C)]
#[derive(Default)]
struct XfsGeometry {
    block_size: u32,
    others: [u32; 6],
    inode_percent: u32,
    blocks: u64,
    rest: [u64; 27],
}
