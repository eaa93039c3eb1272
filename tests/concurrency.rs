//! Many requests at once: nothing is done twice, nothing hangs, every lock is free afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::needless_pass_by_value,
    clippy::needless_update
)]

#[path = "errors/calls.rs"]
mod calls;
#[path = "concurrency/copies.rs"]
mod copies;
#[path = "concurrency/crowd.rs"]
mod crowd;
#[path = "concurrency/paging.rs"]
mod paging;
#[path = "concurrency/pairs.rs"]
mod pairs;
#[path = "concurrency/settle.rs"]
mod settle;
#[path = "concurrency/storm.rs"]
mod storm;
mod support;
