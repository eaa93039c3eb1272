//! What the host's kernel may lack, in a guest with Debian's: NFS, project quota, growth of a mounted ext4.
//! `scripts/test vm` runs it there; elsewhere each of its tests refuses.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

#[path = "vm/commands.rs"]
mod commands;
#[path = "vm/container.rs"]
mod container;
#[path = "vm/crash.rs"]
mod crash;
#[path = "vm/dead.rs"]
mod dead;
#[path = "vm/drill.rs"]
mod drill;
#[path = "vm/ends.rs"]
mod ends;
#[path = "vm/export.rs"]
mod export;
#[path = "vm/foreign.rs"]
mod foreign;
#[path = "vm/growth.rs"]
mod growth;
#[path = "vm/guest.rs"]
mod guest;
#[path = "vm/known.rs"]
mod known;
#[path = "vm/late.rs"]
mod late;
#[path = "vm/life.rs"]
mod life;
#[path = "vm/manifest.rs"]
mod manifest;
#[path = "vm/nfs.rs"]
mod nfs;
#[path = "vm/node.rs"]
mod node;
#[path = "crash/points.rs"]
#[allow(dead_code, reason = "shared with tests/crash, which uses all of it")]
mod points;
#[path = "vm/quota.rs"]
mod quota;
#[path = "vm/remote.rs"]
mod remote;
#[path = "vm/runc.rs"]
mod runc;
#[path = "traps/scene.rs"]
#[allow(dead_code, clippy::result_large_err, reason = "shared with tests/traps.rs, which uses all of it")]
mod scene;
#[path = "vm/share.rs"]
mod share;
mod support;
