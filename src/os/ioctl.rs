//! The common shape of an ioctl: a pointer to one plain structure.

use rustix::{
    io::Errno,
    ioctl::{Opcode, Updater, ioctl},
};
use std::os::fd::AsFd;

/// Calls `CALL` with a pointer to `value`, which must be the plain-data structure of that call.
pub(super) fn update<const CALL: Opcode, T>(file: impl AsFd, value: &mut T) -> Result<(), Errno> {
    // The size is part of the number: the kernel copies that much in and out.
    const { assert!(size_of::<T>() == (CALL as usize >> 16) & 0x3fff) };
    // SAFETY: the kernel reads and writes exactly as many bytes as the number says, which is the size
    // of `T` by the assertion above, and every bit pattern is a value of the structures in use. Calls
    // that write beyond (a header with an array behind it) do not come here.
    unsafe { ioctl(file, Updater::<CALL, T>::new(value)) }
}
