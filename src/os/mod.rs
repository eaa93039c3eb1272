//! The kernel and the host's tools: the only code that makes system calls or starts a program.
//!
//! Every function is free-standing and synchronous, named after what it does to the system, and
//! returns [`Error`], which names the operation and the object. Nothing here knows volumes or gRPC.

// The wrappers of ioctl, fcntl and mount_setattr that no crate has.
#![allow(unsafe_code)]

pub mod btrfs;
pub mod child;
pub mod command;
pub mod directory;
pub mod error;
pub mod file;
pub mod format;
pub mod host;
mod ioctl;
pub mod lock;
pub mod loopdev;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod nfs;
pub mod presence;
pub mod quota;
pub mod reflink;
pub mod socket;
pub mod space;
#[cfg(test)]
pub mod testing;
pub mod tree;

pub use error::{At, Error, Result};
