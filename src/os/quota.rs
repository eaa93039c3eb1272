//! Project quotas of XFS and ext4: a directory's files carry a number, and the kernel counts and limits what
//! carries it.
//!
//! quotactl_fd(2) (Linux 5.14) needs no name of a device. XFS holds the limit against everyone, ext4 against
//! everyone without CAP_SYS_RESOURCE.

use super::{
    At, Error, Result,
    file::{self, shown},
    ioctl,
};
use linux_raw_sys::{
    general::{FS_XFLAG_PROJINHERIT, fsxattr},
    ioctl::{FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR},
};
use rustix::io::Errno;
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

/// What carries a project's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// Bytes on disk; those that are shared with other files count in full.
    pub used: u64,
    /// Inodes.
    pub inodes: u64,
    /// The limit on `used`, if one is set.
    pub limit: Option<u64>,
}

/// What files are created with, below a directory that hands its number on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherit {
    /// New files and directories get the number.
    Yes,
    /// Only the directory itself carries it.
    No,
}

const PROJECT: u32 = 2; // PRJQUOTA
const GET_STATE: u32 = 0x5808; // Q_XGETQSTATV
const GET: u32 = 0x80_0007; // Q_GETQUOTA
const SET: u32 = 0x80_0008; // Q_SETQUOTA
const COUNTED: u16 = 1 << 4; // FS_QUOTA_PDQ_ACCT
const ENFORCED: u16 = 1 << 5; // FS_QUOTA_PDQ_ENFD
const BLOCK_LIMITS: u32 = 1; // QIF_BLIMITS
/// The unit of limits; usage is in bytes.
const UNIT: u64 = 1024;

/// Whether the filesystem at `path` counts projects and holds them to their limits: mounted with `prjquota`, on
/// a kernel that can.
pub fn enforced(path: &Path) -> Result<bool> {
    let directory = file::open_dir(path)?;
    let mut state = State { version: 1, ..State::default() };
    match call(&directory, GET_STATE, 0, &mut state) {
        Ok(()) => Ok(state.flags & (COUNTED | ENFORCED) == COUNTED | ENFORCED),
        Err(e) if is_off(e) => Ok(false),
        Err(e) => Err(e).at("read the quota state of", path),
    }
}

/// Figures of one project of the filesystem at `path`; `None` when nothing counts them.
pub fn project(path: &Path, id: u32) -> Result<Option<Project>> {
    figures(&file::open_dir(path)?, id)
}

/// Limits a project and reads the limit back; `bytes` is rounded up to whole KiB, `None` lifts it.
///
/// It holds at once, and survives a crash with whatever the filesystem's journal takes next.
pub fn set_limit(path: &Path, id: u32, bytes: Option<u64>) -> Result<()> {
    let directory = file::open_dir(path)?;
    let units = bytes.unwrap_or(0).div_ceil(UNIT);
    let mut wanted = Dqblk { block_hard: units, block_soft: 0, valid: BLOCK_LIMITS, ..Dqblk::default() };
    call(&directory, SET, id, &mut wanted).at(format!("limit project {id} of"), path)?;
    let now = figures(&directory, id)?.and_then(|project| project.limit);
    let wanted = (units > 0).then_some(units * UNIT);
    if now == wanted {
        Ok(())
    } else {
        Err(Error::Unexpected(format!(
            "the limit of project {id} at {path:?} is {now:?} after setting {wanted:?}"
        )))
    }
}

/// The kernel, the filesystem or its mount knows nothing of project quota.
fn is_off(answer: Errno) -> bool {
    matches!(answer, Errno::NOSYS | Errno::INVAL | Errno::SRCH | Errno::OPNOTSUPP)
}

/// The number that a directory carries; 0 where there is none.
pub fn number(directory: &File) -> Result<u32> {
    attributes(directory).map(|found| found.fsx_projid)
}

/// Makes a directory carry a project's number, and reads it back. What is in it already is left as it is.
pub fn set_number(directory: &File, id: u32, inherit: Inherit) -> Result<()> {
    let op = "set the project of";
    let mut wanted = attributes(directory)?;
    wanted.fsx_projid = id;
    match inherit {
        Inherit::Yes => wanted.fsx_xflags |= FS_XFLAG_PROJINHERIT,
        Inherit::No => wanted.fsx_xflags &= !FS_XFLAG_PROJINHERIT,
    }
    ioctl::update::<FS_IOC_FSSETXATTR, _>(directory, &mut wanted).at(op, shown(directory))?;
    let now = attributes(directory)?;
    if (now.fsx_projid, (now.fsx_xflags ^ wanted.fsx_xflags) & FS_XFLAG_PROJINHERIT) == (id, 0) {
        Ok(())
    } else {
        Err(Error::Unexpected(format!(
            "{:?} has project {} after setting {id}",
            shown(directory),
            now.fsx_projid
        )))
    }
}

fn attributes(directory: &File) -> Result<fsxattr> {
    let mut found = fsxattr {
        fsx_xflags: 0,
        fsx_extsize: 0,
        fsx_nextents: 0,
        fsx_projid: 0,
        fsx_cowextsize: 0,
        fsx_pad: [0; 8],
    };
    ioctl::update::<FS_IOC_FSGETXATTR, _>(directory, &mut found)
        .at("read the project of", shown(directory))?;
    Ok(found)
}

fn figures(directory: &File, id: u32) -> Result<Option<Project>> {
    let mut found = Dqblk::default();
    match call(directory, GET, id, &mut found) {
        Ok(()) => Ok(Some(Project {
            used: found.space,
            inodes: found.inodes,
            limit: (found.block_hard > 0).then(|| found.block_hard.saturating_mul(UNIT)),
        })),
        // Nothing has ever carried this number.
        Err(Errno::NOENT) => Ok(Some(Project::default())),
        Err(e) if is_off(e) => Ok(None),
        Err(e) => Err(e).at(format!("read the figures of project {id} of"), shown(directory)),
    }
}

/// `struct if_dqblk` of `linux/quota.h`.
#[repr(C)]
#[derive(Default)]
struct Dqblk {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
    padding: u32,
}

/// `struct fs_quota_statv` of `linux/dqblk_xfs.h`; what is of no interest is only room.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    in_core: u32,
    files: [u64; 9],
    rest: [u64; 10],
}

/// Structures that quotactl reads or writes, none longer for the kernel than here.
trait Argument {}
impl Argument for Dqblk {}
impl Argument for State {}

fn call<T: Argument>(file: &File, command: u32, id: u32, argument: &mut T) -> Result<(), Errno> {
    let request = command << 8 | PROJECT;
    let descriptor: RawFd = file.as_raw_fd();
    // SAFETY: the descriptor is open for the whole call. The kernel copies at most the structure that belongs to
    // the command, which is `T` by the callers above: plain data of at least that size (72 bytes, and 160 of 160),
    // for which every bit pattern is a value.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, descriptor, request, id, std::ptr::from_mut(argument))
    };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::os::testing::{Kind, MIB, Pool};

    /// `tests/vm/quota.rs` has a kernel and mounts that can.
    #[test]
    fn nothing_is_enforced_where_nobody_asked_for_it() {
        for (kind, size) in [(Kind::Ext4, 64), (Kind::Xfs, 320), (Kind::Btrfs, 200)] {
            let pool = Pool::new(kind, size * MIB);
            assert!(!enforced(pool.path()).unwrap(), "{kind:?}");
        }
        assert!(!enforced(Path::new("/proc")).unwrap());
        assert!(enforced(Path::new("/nowhere")).unwrap_err().is_not_found());
    }
}
