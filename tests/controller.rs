//! `wharf controller` against a real API server: agents are scripted here, so that they do what real ones
//! rarely do; `together` has real ones.
//!
//! `scripts/cluster/setup placement` builds the control plane; without it these tests fail and say so.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::needless_pass_by_value
)]

#[path = "controller/agent.rs"]
mod agent;
#[path = "controller/answers.rs"]
mod answers;
mod bed;
#[path = "controller/crashes.rs"]
mod crashes;
#[path = "controller/leftovers.rs"]
mod leftovers;
#[path = "controller/life.rs"]
mod life;
#[path = "controller/losses.rs"]
mod losses;
#[path = "controller/places.rs"]
mod places;
#[path = "controller/rig.rs"]
mod rig;
mod support;
#[path = "controller/together.rs"]
mod together;
