//! Helpers of shares, with real processes, mount namespaces and filesystems. This machine's kernel may have no
//! NFS: tmpfs, and ext4 that is frozen so that its writers hang in the kernel, stand in for a server.
//!
//! The test binary is its own helper: children are this file started again, see `shares/child.rs`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_possible_wrap,
    clippy::needless_pass_by_value
)]

#[path = "shares/child.rs"]
mod child;
#[path = "shares/frozen.rs"]
mod frozen;
#[path = "shares/fuse.rs"]
mod fuse;
#[path = "shares/helpers.rs"]
mod helpers;
#[path = "shares/host.rs"]
mod host;
#[path = "shares/paths.rs"]
mod paths;
