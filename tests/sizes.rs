//! Sizes, and which requests mean the same volume: claims as users write them, through snapshot, restore,
//! clone and growth.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::needless_pass_by_value,
    clippy::needless_update
)]

#[path = "sizes/claims.rs"]
mod claims;
#[path = "sizes/copies.rs"]
mod copies;
#[path = "sizes/same.rs"]
mod same;
#[path = "sizes/stand.rs"]
mod stand;
mod support;
