//! The node's agent, as the real binary, with a real API server and a real pool.
//!
//! `scripts/cluster/setup placement` builds the server; without it these tests fail and say so.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value
)]

mod bed;
mod support;

#[path = "agent/crash.rs"]
mod crash;
#[path = "agent/edited.rs"]
mod edited;
#[path = "agent/keep.rs"]
mod keep;
#[path = "agent/life.rs"]
mod life;
#[path = "agent/load.rs"]
mod load;
#[path = "agent/stand.rs"]
mod stand;
