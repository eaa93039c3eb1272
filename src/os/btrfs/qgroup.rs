//! Classic qgroups: limits by ioctl, figures by sysfs.

use super::{nested::is_linked, open_directory, open_subvolume, root_id};
use crate::os::{At, Error, Result, file, ioctl};
use linux_raw_sys::{
    btrfs::{
        BTRFS_FIRST_FREE_OBJECTID, BTRFS_QGROUP_LIMIT_MAX_RFER, btrfs_ioctl_fs_info_args,
        btrfs_ioctl_qgroup_create_args, btrfs_ioctl_qgroup_limit_args, btrfs_qgroup_limit,
    },
    ioctl::{BTRFS_IOC_FS_INFO, BTRFS_IOC_QGROUP_CREATE, BTRFS_IOC_QGROUP_LIMIT},
};
use rustix::io::Errno;
use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// What a level-0 qgroup holds and may hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qgroup {
    /// Bytes reachable from the subvolume.
    pub referenced: u64,
    /// Bytes that only this subvolume holds.
    pub exclusive: u64,
    /// The limit on `referenced`, if one is set.
    pub limit: Option<u64>,
}

/// Whether the admin has switched classic qgroups on (simple quotas do not count).
pub fn quota_enabled(path: &Path) -> Result<bool> {
    enabled(&sysfs(&open_directory(path)?, path)?)
}

/// Whether the figures are complete. They stop being so, and limits with them, after the kernel has
/// dropped a large snapshot without counting (`drop_subtree_threshold`), until `btrfs quota rescan`.
pub fn quota_consistent(path: &Path) -> Result<bool> {
    let directory = sysfs(&open_directory(path)?, path)?;
    // Kernels before 6.1 have no such file, and no such threshold.
    Ok(read(&directory.join("inconsistent"))?.is_none_or(|text| text == "0"))
}

/// Sets the limit on referenced bytes of the subvolume at `path` and reads it back; `None` lifts it.
///
/// A fresh snapshot inherits its source's limit: a restore to a larger size has to raise it. The new
/// limit holds at once and survives a crash after the next [`file::sync_filesystem`].
pub fn set_limit(path: &Path, bytes: Option<u64>) -> Result<()> {
    let op = "limit subvolume";
    let subvolume = open_subvolume(path)?;
    let id = root_id(&subvolume).at(op, path)?;
    let mut arguments = btrfs_ioctl_qgroup_limit_args {
        qgroupid: id,
        lim: btrfs_qgroup_limit {
            flags: u64::from(BTRFS_QGROUP_LIMIT_MAX_RFER),
            // All ones lift a limit.
            max_rfer: bytes.unwrap_or(u64::MAX),
            max_excl: 0,
            rsv_rfer: 0,
            rsv_excl: 0,
        },
    };
    ioctl::update::<BTRFS_IOC_QGROUP_LIMIT, _>(&subvolume, &mut arguments).at(op, path)?;
    let now = figures(&sysfs(&subvolume, path)?, id)?.limit;
    if now == bytes {
        Ok(())
    } else {
        Err(Error::Unexpected(format!("the limit of {path:?} is {now:?} after setting {bytes:?}")))
    }
}

/// Figures of one subvolume's qgroup; `None` when quotas are off.
///
/// The kernel counts when it commits a transaction (every 30 s): what was written since is not in
/// them, unless a [`file::sync_filesystem`] came between. The limit counts it all the same.
pub fn qgroup(path: &Path) -> Result<Option<Qgroup>> {
    let subvolume = open_subvolume(path)?;
    let id = root_id(&subvolume).at("read the subvolume id of", path)?;
    let directory = sysfs(&subvolume, path)?;
    if enabled(&directory)? { figures(&directory, id).map(Some) } else { Ok(None) }
}

/// Removes the qgroup that a deleted subvolume left behind; absent is fine, so is one that the
/// kernel will drop by itself.
///
/// Old kernels (5.15) remove it at once and never by themselves. Newer ones refuse (EBUSY) until
/// their cleaner has dropped the subvolume's blocks, and the newest (6.18 was tried) remove it then.
/// Where neither happens, an unused number stays behind: subvolume ids are never used again.
pub fn remove_qgroup(pool: &Path, subvolume: u64) -> Result<()> {
    let directory = open_directory(pool)?;
    drop_qgroup(directory.as_fd(), subvolume)
        .at(format!("remove the qgroup of subvolume {subvolume} in"), pool)
}

/// [`remove_qgroup`] by any open directory of the filesystem. A subvolume that still lives is EBUSY.
pub(in crate::os) fn drop_qgroup(directory: BorrowedFd<'_>, subvolume: u64) -> Result<(), Errno> {
    // Old kernels would take the qgroup, and so the limit, from a living subvolume. Ids below are
    // the filesystem's own trees.
    if subvolume < u64::from(BTRFS_FIRST_FREE_OBJECTID) || is_linked(directory, subvolume)? {
        return Err(Errno::BUSY);
    }
    let mut arguments = btrfs_ioctl_qgroup_create_args { create: 0, qgroupid: subvolume };
    match ioctl::update::<BTRFS_IOC_QGROUP_CREATE, _>(directory, &mut arguments) {
        // ENOTCONN: quotas are off.
        Ok(()) | Err(Errno::NOENT | Errno::NOTCONN | Errno::BUSY) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The level-0 qgroups of the filesystem whose subvolume no directory entry leads to any more: left
/// behind for good, or their blocks are just being freed. Empty when quotas are off.
pub fn stray_qgroups(pool: &Path) -> Result<Vec<u64>> {
    let directory = open_directory(pool)?;
    let sysfs = sysfs(&directory, pool)?;
    if !enabled(&sysfs)? {
        return Ok(Vec::new());
    }
    let mut strays = Vec::new();
    for name in file::list(&sysfs)? {
        let id: Option<u64> = name.to_str().and_then(|name| name.strip_prefix("0_")?.parse().ok());
        let Some(id) = id.filter(|id| *id >= u64::from(BTRFS_FIRST_FREE_OBJECTID)) else { continue };
        if !is_linked(directory.as_fd(), id).at("look for the subvolumes of", pool)? {
            strays.push(id);
        }
    }
    strays.sort_unstable();
    Ok(strays)
}

/// The sysfs directory of the filesystem's qgroups, which exists only while quotas are on.
fn sysfs(directory: &File, path: &Path) -> Result<PathBuf> {
    let mut info = btrfs_ioctl_fs_info_args {
        max_id: 0,
        num_devices: 0,
        fsid: [0; 16],
        nodesize: 0,
        sectorsize: 0,
        clone_alignment: 0,
        csum_type: 0,
        csum_size: 0,
        flags: 0,
        generation: 0,
        metadata_uuid: [0; 16],
        reserved: [0; 944],
    };
    ioctl::update::<BTRFS_IOC_FS_INFO, _>(directory, &mut info).at("read the filesystem id of", path)?;
    Ok(format!("/sys/fs/btrfs/{}/qgroups", Uuid::from_bytes(info.fsid)).into())
}

fn enabled(directory: &Path) -> Result<bool> {
    if file::stat(directory)?.is_none() {
        return Ok(false);
    }
    // Both files are younger than the directory (6.1, 6.7): where they are missing the directory
    // itself says "on", and simple quotas do not exist.
    Ok(read(&directory.join("enabled"))?.is_none_or(|text| text == "1")
        && read(&directory.join("mode"))?.is_none_or(|text| text == "qgroup"))
}

fn figures(directory: &Path, id: u64) -> Result<Qgroup> {
    let directory = directory.join(format!("0_{id}"));
    let number = |name: &str| -> Result<u64> {
        let path = directory.join(name);
        let text = read(&path)?.ok_or(Errno::NOENT).at("read", &path)?;
        text.parse().map_err(|_| Error::Unexpected(format!("{path:?} is no number: {text:?}")))
    };
    let limited = number("limit_flags")? & u64::from(BTRFS_QGROUP_LIMIT_MAX_RFER) != 0;
    Ok(Qgroup {
        referenced: number("referenced")?,
        exclusive: number("exclusive")?,
        limit: if limited { Some(number("max_referenced")?) } else { None },
    })
}

/// A file of sysfs; `None` when it does not exist.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).at("read", path),
    }
}
