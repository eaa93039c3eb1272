//! The node /dev/loopN: numbers, names and opening.

use super::Held;
use crate::os::{At as _, Error, Result};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, major, makedev, minor, mknodat, openat},
    io::Errno,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// The loop driver's major number.
const MAJOR: u32 = 7;
const DEV: &str = "/dev";

/// The device number (`st_rdev`) of loop N.
pub fn device_number(number: u32) -> u64 {
    makedev(MAJOR, number)
}

/// N, when `rdev` is a loop's device number.
pub fn number_of(rdev: u64) -> Option<u32> {
    (major(rdev) == MAJOR).then(|| minor(rdev))
}

/// Opens /dev/loopN (made with mknod where there is no udev); `None` when there is no such device, or
/// when it is just being detached. Opened for reading, which is enough for everything but attaching:
/// closing a file that was open for writing makes udev probe the device.
pub fn open(number: u32) -> Result<Option<Held>> {
    // Opening a node without a device would make the kernel create one.
    if !exists(number) {
        return Ok(None);
    }
    open_listed(number)
}

/// As [`open`], of a device that sysfs has just listed.
pub(super) fn open_listed(number: u32) -> Result<Option<Held>> {
    Ok(open_in(Path::new(DEV), number, OFlags::RDONLY)?.map(|file| Held { number, file }))
}

/// As [`open`], to attach a file for writing.
pub(super) fn open_for_attach(number: u32, read_only: bool) -> Result<Option<File>> {
    open_in(Path::new(DEV), number, if read_only { OFlags::RDONLY } else { OFlags::RDWR })
}

pub(super) fn open_in(directory: &Path, number: u32, access: OFlags) -> Result<Option<File>> {
    let path = directory.join(format!("loop{number}"));
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match openat(CWD, &path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            make(&path, number)?;
            openat(CWD, &path, flags, Mode::empty())
        }
        other => other,
    };
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(Errno::NXIO | Errno::NODEV) => return Ok(None),
        Err(e) => return Err(e).at("open", path),
    };
    let stat = fstat(&file).at("examine", &path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice && stat.st_rdev == device_number(number)
    {
        return Ok(Some(file));
    }
    Err(Error::Unexpected(format!(
        "{path:?} is not block device {MAJOR}:{number}: remove it, or load the loop module with max_part=0"
    )))
}

/// A container's own /dev has no nodes for devices that were made after its start.
fn make(path: &Path, number: u32) -> Result<()> {
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
    match mknodat(CWD, path, FileType::BlockDevice, mode, device_number(number)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e).at("make the node", path),
    }
}

/// Where its node is.
pub fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("{DEV}/loop{number}"))
}

/// Whether the kernel has such a device, attached or not.
pub(super) fn exists(number: u32) -> bool {
    Path::new(&format!("/sys/block/loop{number}")).exists()
}

pub(super) fn missing(number: u32) -> Error {
    Error::Unexpected(format!(
        "there is no {:?}: it was detached and removed behind wharf's back",
        path(number)
    ))
}
