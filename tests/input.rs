//! Bad input: in requests, in the pool's files, in the pool itself. Nothing outside the volume that is
//! meant is touched, nothing is made or deleted by mistake, and the server lives on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::needless_pass_by_value,
    clippy::needless_update,
    clippy::type_complexity
)]

#[path = "input/bytes.rs"]
mod bytes;
#[path = "errors/calls.rs"]
mod calls;
#[path = "input/fields.rs"]
mod fields;
#[path = "input/pools.rs"]
mod pools;
#[path = "input/raw.rs"]
mod raw;
#[path = "input/records.rs"]
mod records;
#[path = "input/secrets.rs"]
mod secrets;
mod support;
