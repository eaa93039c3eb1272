//! Shares: what happens on somebody else's server, kept away from everything else.
//!
//! The driver's own process never touches a share. A helper process for each share and its options mounts it in
//! a mount namespace of its own and carries operations out; what hangs is forced off and killed at its
//! deadline, and counts against that server alone.

pub mod breaker;
pub mod client;
pub mod copy;
pub mod helper;
mod keeper;
pub mod node;
pub mod operation;
pub mod owner;
mod refusal;
pub mod remote;
mod roles;
mod server;
pub mod store;
pub mod wire;

pub use crate::error::failure::Failure;
pub use client::{COPIES, Call, Limits, Share, Shares};
pub use helper::{Context, run};
pub use node::{Binding, Children, Looked, Staged, Staging, Unmounted, Unmounting};
pub use operation::Examined;
pub use owner::Owner;
pub use remote::Remote;
pub use server::ServerStatus;
