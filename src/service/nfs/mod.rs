//! Volumes on NFS shares: what each RPC means there.

pub mod node;
