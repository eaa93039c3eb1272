//! The traps that loop devices, reflinks, mounts and full disks set, one test for each, with the real
//! binary on the real kernel. Every test prints what it measured (`--nocapture` shows it).
//!
//! `WHARF_TEST_FULL=1` makes the long ones as large as the traps were first seen.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cloned_ref_to_slice_refs,
    clippy::type_complexity,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err
)]

#[path = "traps/block.rs"]
mod block;
#[path = "traps/busy.rs"]
mod busy;
#[path = "traps/cut.rs"]
mod cut;
#[path = "traps/health.rs"]
mod health;
#[path = "traps/host.rs"]
mod host;
#[path = "traps/hostile.rs"]
mod hostile;
#[path = "traps/mounts.rs"]
mod mounts;
#[path = "traps/one_loop.rs"]
mod one_loop;
#[path = "traps/processes.rs"]
mod processes;
#[path = "traps/reboot.rs"]
mod reboot;
#[path = "traps/scene.rs"]
mod scene;
#[path = "traps/space.rs"]
mod space;
#[path = "traps/stats.rs"]
mod stats;
mod support;
#[path = "traps/unsound.rs"]
mod unsound;
