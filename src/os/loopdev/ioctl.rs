//! The loop driver's and the block layer's ioctls, each as one safe function.

use linux_raw_sys::{
    ioctl::{BLKGETSIZE64, BLKROGET, BLKROSET, BLKSSZGET},
    loop_device::{
        _bindgen_ty_1 as Flag, LOOP_CLR_FD, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, LOOP_GET_STATUS64,
        LOOP_SET_CAPACITY, LOOP_SET_STATUS64, loop_config, loop_info64,
    },
};
use nix::Result;
use std::{
    fs::File,
    os::fd::{AsRawFd, RawFd},
};

pub(super) const AUTOCLEAR: u32 = Flag::LO_FLAGS_AUTOCLEAR as u32;
pub(super) const READ_ONLY: u32 = Flag::LO_FLAGS_READ_ONLY as u32;
pub(super) const DIRECT_IO: u32 = Flag::LO_FLAGS_DIRECT_IO as u32;

nix::ioctl_none_bad!(loop_ctl_get_free, LOOP_CTL_GET_FREE);
nix::ioctl_write_ptr_bad!(loop_configure, LOOP_CONFIGURE, loop_config);
nix::ioctl_none_bad!(loop_clr_fd, LOOP_CLR_FD);
nix::ioctl_read_bad!(loop_get_status64, LOOP_GET_STATUS64, loop_info64);
nix::ioctl_write_ptr_bad!(loop_set_status64, LOOP_SET_STATUS64, loop_info64);
nix::ioctl_none_bad!(loop_set_capacity, LOOP_SET_CAPACITY);
nix::ioctl_read_bad!(blk_get_size64, BLKGETSIZE64, u64);
nix::ioctl_read_bad!(blk_sector_size, BLKSSZGET, libc::c_int);
nix::ioctl_read_bad!(blk_ro_get, BLKROGET, libc::c_int);
nix::ioctl_write_ptr_bad!(blk_ro_set, BLKROSET, libc::c_int);

/// A number that is free now; `control` is /dev/loop-control.
pub(super) fn free_number(control: &File) -> Result<u32> {
    // SAFETY: takes no argument; the descriptor is open.
    let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
    u32::try_from(number).map_err(|_| nix::errno::Errno::EINVAL)
}

/// Attaches `backing` in one step: EBUSY when something is attached already.
pub(super) fn configure(device: &File, backing: &File, block_size: u32, flags: u32) -> Result<()> {
    // SAFETY: integers and arrays of integers, for which all zeroes is a value (and the kernel's default).
    let mut config: loop_config = unsafe { std::mem::zeroed() };
    config.fd = RawFd::cast_unsigned(backing.as_raw_fd());
    config.block_size = block_size;
    config.info.lo_flags = flags;
    // SAFETY: the kernel reads one loop_config, which outlives the call.
    unsafe { loop_configure(device.as_raw_fd(), &raw const config) }.map(drop)
}

/// Detaches, or, while others have the device open, arms AUTOCLEAR.
pub(super) fn clear(device: &File) -> Result<()> {
    // SAFETY: takes no argument; the descriptor is open.
    unsafe { loop_clr_fd(device.as_raw_fd()) }.map(drop)
}

/// ENXIO: nothing is attached.
pub(super) fn get_status(device: &File) -> Result<loop_info64> {
    // SAFETY: integers and arrays of integers, for which all zeroes is a value.
    let mut info: loop_info64 = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one loop_info64, which outlives the call.
    unsafe { loop_get_status64(device.as_raw_fd(), &raw mut info) }?;
    Ok(info)
}

pub(super) fn set_status(device: &File, info: &loop_info64) -> Result<()> {
    // SAFETY: the kernel reads one loop_info64, which outlives the call.
    unsafe { loop_set_status64(device.as_raw_fd(), info) }.map(drop)
}

pub(super) fn set_capacity(device: &File) -> Result<()> {
    // SAFETY: takes no argument; the descriptor is open.
    unsafe { loop_set_capacity(device.as_raw_fd()) }.map(drop)
}

pub(super) fn size(device: &File) -> Result<u64> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one u64, which outlives the call.
    unsafe { blk_get_size64(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

pub(super) fn block_size(device: &File) -> Result<i32> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one int, which outlives the call.
    unsafe { blk_sector_size(device.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

pub(super) fn is_read_only(device: &File) -> Result<bool> {
    let mut on = 0;
    // SAFETY: the kernel writes one int, which outlives the call.
    unsafe { blk_ro_get(device.as_raw_fd(), &raw mut on) }?;
    Ok(on != 0)
}

pub(super) fn set_read_only(device: &File, on: bool) -> Result<()> {
    let on = libc::c_int::from(on);
    // SAFETY: the kernel reads one int, which outlives the call.
    unsafe { blk_ro_set(device.as_raw_fd(), &raw const on) }.map(drop)
}
