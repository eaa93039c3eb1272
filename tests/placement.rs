//! Where volumes are placed, on a real control plane: API server, scheduler and PV binder of a stock Kubernetes, the
//! stock provisioner, and nodes that are nothing but objects.
//!
//! `scripts/cluster/setup placement` builds them; without it these tests fail and say so.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod bed;
#[path = "placement/bed_itself.rs"]
mod bed_itself;
#[path = "placement/one_node.rs"]
mod one_node;
mod support;
