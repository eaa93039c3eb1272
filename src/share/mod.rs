//! Volumes on NFS shares: what stands there, and how trees are copied.

pub mod copy;
pub mod store;
