//! btrfs: subvolumes, snapshots, classic qgroups.
//!
//! Ioctls from `linux/btrfs.h`; usage and limits are read from `/sys/fs/btrfs/<uuid>/qgroups`.

mod nested;
mod qgroup;

pub use nested::nested_subvolumes;
pub(super) use qgroup::drop_qgroup;
pub use qgroup::{Qgroup, qgroup, quota_consistent, quota_enabled, remove_qgroup, set_limit, stray_qgroups};

use super::{
    At, Error, Result,
    file::{self, shown},
    ioctl,
};
use linux_raw_sys::{
    btrfs::{
        BTRFS_FIRST_FREE_OBJECTID, BTRFS_SUBVOL_RDONLY, btrfs_ioctl_ino_lookup_args, btrfs_ioctl_vol_args_v2,
        btrfs_ioctl_vol_args_v2__bindgen_ty_1, btrfs_ioctl_vol_args_v2__bindgen_ty_2,
    },
    ctypes::c_char,
    general::BTRFS_SUPER_MAGIC,
    ioctl::{
        BTRFS_IOC_INO_LOOKUP, BTRFS_IOC_SNAP_CREATE_V2, BTRFS_IOC_SNAP_DESTROY_V2,
        BTRFS_IOC_SUBVOL_CREATE_V2, BTRFS_IOC_SUBVOL_GETFLAGS, BTRFS_IOC_SUBVOL_SETFLAGS,
    },
};
use rustix::{
    fs::{IFlags, OFlags, fstat, fstatfs},
    io::Errno,
    ioctl::{NoArg, Opcode},
};
use std::{
    ffi::OsStr,
    fs::File,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Whether `path` lies on btrfs.
pub fn is_btrfs(path: &Path) -> Result<bool> {
    let op = "find the filesystem of";
    Ok(fstatfs(file::open(path, OFlags::RDONLY, op)?).at(op, path)?.f_type == i64::from(BTRFS_SUPER_MAGIC))
}

/// Whether the directory is the root of a subvolume.
pub fn is_subvolume(path: &Path) -> Result<bool> {
    let directory = open_directory(path)?;
    is_root(&directory).at("look at", path)
}

/// Creates the subvolume `name` in `parent`.
pub fn create_subvolume(parent: &Path, name: &OsStr) -> Result<()> {
    let directory = open_directory(parent)?;
    create_at(&directory, name).at("create subvolume", parent.join(name))
}

/// Snapshots subvolume `source` as `parent/name`. One atomic cut; nested subvolumes are not in it
/// (an empty directory stands in their place).
///
/// The snapshot has a qgroup of its own and inherits the source's limit.
pub fn snapshot(source: &Path, parent: &Path, name: &OsStr, read_only: bool) -> Result<()> {
    let subvolume = open_subvolume(source)?;
    let directory = open_directory(parent)?;
    let flags = if read_only { u64::from(BTRFS_SUBVOL_RDONLY) } else { 0 };
    let fd = i64::from(subvolume.as_raw_fd());
    name_call::<BTRFS_IOC_SNAP_CREATE_V2>(&directory, name, fd, flags)
        .at(format!("snapshot {source:?} as"), parent.join(name))
}

/// Switches a subvolume's read-only property, and reads it back.
pub fn set_read_only(path: &Path, read_only: bool) -> Result<()> {
    let subvolume = open_subvolume(path)?;
    if switch_read_only(&subvolume, read_only).at("change the read-only property of", path)? {
        Ok(())
    } else {
        Err(Error::Unexpected(format!("the read-only property of {path:?} is not what was set")))
    }
}

/// The subvolume's id, which is also that of its level-0 qgroup.
pub fn subvolume_id(path: &Path) -> Result<u64> {
    let subvolume = open_subvolume(path)?;
    root_id(&subvolume).at("read the subvolume id of", path)
}

/// Commits, and wakes the kernel's cleaner, which frees what deleted subvolumes held. Without it the
/// space comes back when the cleaner next looks, within a minute or so; it works in the background either way.
pub fn free_deleted(pool: &Path) -> Result<()> {
    const CALL: Opcode = linux_raw_sys::ioctl::BTRFS_IOC_SYNC;
    let directory = open_directory(pool)?;
    // SAFETY: the call takes no argument.
    unsafe { rustix::ioctl::ioctl(&directory, NoArg::<CALL>::new()) }.at("commit", pool)
}

/// Marks an empty file or directory as not copied on write (FS_NOCOW_FL), read back.
pub fn set_nocow(path: &Path) -> Result<()> {
    let op = "switch copy on write off for";
    let file = file::open(path, OFlags::RDONLY, op)?;
    let flags = rustix::fs::ioctl_getflags(&file).at(op, path)?;
    rustix::fs::ioctl_setflags(&file, flags | IFlags::NOCOW).at(op, path)?;
    if rustix::fs::ioctl_getflags(&file).at(op, path)?.contains(IFlags::NOCOW) {
        Ok(())
    } else {
        // What the kernel does for a file that already has data: nothing, without an error.
        Err(Error::Unexpected(format!("copy on write stayed on for {path:?}: only an empty file can change")))
    }
}

/// [`create_subvolume`] in an open directory.
pub(super) fn create_at(parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    name_call::<BTRFS_IOC_SUBVOL_CREATE_V2>(parent, name, 0, 0)
}

/// Whether the open directory is the root of a subvolume.
pub(super) fn is_root(directory: impl AsFd) -> Result<bool, Errno> {
    let inode = fstat(directory.as_fd())?.st_ino;
    Ok(inode == u64::from(BTRFS_FIRST_FREE_OBJECTID)
        && fstatfs(directory)?.f_type == i64::from(BTRFS_SUPER_MAGIC))
}

/// The id of the subvolume that the open file or directory is in.
pub(super) fn root_id(file: impl AsFd) -> Result<u64, Errno> {
    lookup(file, 0, u64::from(BTRFS_FIRST_FREE_OBJECTID)).map(|found| found.treeid)
}

/// Unlinks the subvolume `name`; its blocks are freed later by the kernel. ENOTEMPTY: it has
/// subvolumes of its own. Mounts on directories inside it are detached, not an error.
pub(super) fn destroy(parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    name_call::<BTRFS_IOC_SNAP_DESTROY_V2>(parent, name, 0, 0)
}

/// Sets or clears the property of an open subvolume root; whether it reads back so.
pub(super) fn switch_read_only(subvolume: impl AsFd, read_only: bool) -> Result<bool, Errno> {
    const READ_ONLY: u64 = BTRFS_SUBVOL_RDONLY as u64;
    let mut flags = 0_u64;
    ioctl::update::<BTRFS_IOC_SUBVOL_GETFLAGS, _>(subvolume.as_fd(), &mut flags)?;
    if (flags & READ_ONLY != 0) == read_only {
        return Ok(true);
    }
    flags ^= READ_ONLY;
    ioctl::update::<BTRFS_IOC_SUBVOL_SETFLAGS, _>(subvolume.as_fd(), &mut flags)?;
    ioctl::update::<BTRFS_IOC_SUBVOL_GETFLAGS, _>(subvolume, &mut flags)?;
    Ok((flags & READ_ONLY != 0) == read_only)
}

/// BTRFS_IOC_INO_LOOKUP: where inode `objectid` of subvolume `tree` stands (0: of the open file's).
fn lookup(file: impl AsFd, tree: u64, objectid: u64) -> Result<btrfs_ioctl_ino_lookup_args, Errno> {
    let mut found = btrfs_ioctl_ino_lookup_args { treeid: tree, objectid, name: [0; 4080] };
    ioctl::update::<BTRFS_IOC_INO_LOOKUP, _>(file, &mut found)?;
    Ok(found)
}

/// An ioctl on a directory that names an entry of it.
fn name_call<const CALL: Opcode>(
    directory: impl AsFd,
    name: &OsStr,
    fd: i64,
    flags: u64,
) -> Result<(), Errno> {
    let mut text = [0 as c_char; 4040];
    // One less than there is room for: the kernel wants a NUL at the end.
    if name.len() >= text.len() || name.as_bytes().contains(&0) {
        return Err(Errno::NAMETOOLONG);
    }
    for (to, from) in text.iter_mut().zip(name.as_bytes()) {
        *to = c_char::from_ne_bytes([*from]);
    }
    let mut arguments = btrfs_ioctl_vol_args_v2 {
        fd,
        transid: 0,
        flags,
        __bindgen_anon_1: btrfs_ioctl_vol_args_v2__bindgen_ty_1 { unused: [0; 4] },
        __bindgen_anon_2: btrfs_ioctl_vol_args_v2__bindgen_ty_2 { name: text },
    };
    ioctl::update::<CALL, _>(directory, &mut arguments)
}

fn open_directory(path: &Path) -> Result<File> {
    file::open(path, OFlags::RDONLY | OFlags::DIRECTORY, "open directory")
}

/// Opens the root of a subvolume; a plain directory, for which most calls would quietly mean the
/// subvolume that it is in, is an error.
fn open_subvolume(path: &Path) -> Result<File> {
    let directory = open_directory(path)?;
    if is_root(&directory).at("look at", path)? {
        Ok(directory)
    } else {
        Err(Error::Unexpected(format!("{:?} is not the root of a btrfs subvolume", shown(&directory))))
    }
}

#[cfg(test)]
mod tests;
