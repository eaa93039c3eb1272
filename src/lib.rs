//! wharf: a CSI driver for local and NFS volumes.
//!
//! Layers, each knowing only those to its right: `rpc → service → {volume, store, backend, share} → os`.
//! ARCHITECTURE.md is the map.

pub mod backend;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod commands;
pub mod config;
pub mod error;
pub mod failpoint;
pub mod os;
pub mod rpc;
pub mod server;
pub mod service;
pub mod share;
pub mod store;
pub mod telemetry;
pub mod volume;
