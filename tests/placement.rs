//! Where volumes are placed, on a real control plane: API server, scheduler and PV binder of a stock Kubernetes, the
//! stock provisioner, and nodes that are nothing but objects. `wharf controller` and three `wharf node` do what they do
//! in a cluster, with the rights that the chart gives them, and pools of their own.
//!
//! `scripts/cluster/setup placement` builds what is not the driver's; without it these tests fail and say so.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value
)]

mod bed;
#[path = "placement/bed_itself.rs"]
mod bed_itself;
#[path = "placement/binding.rs"]
mod binding;
#[path = "placement/cluster.rs"]
mod cluster;
#[path = "placement/copies.rs"]
mod copies;
#[path = "placement/definitions.rs"]
mod definitions;
#[path = "placement/disks.rs"]
mod disks;
#[path = "placement/monitoring.rs"]
mod monitoring;
#[path = "placement/nodes.rs"]
mod nodes;
#[path = "placement/one_node.rs"]
mod one_node;
#[path = "placement/release.rs"]
mod release;
#[path = "placement/replicas.rs"]
mod replicas;
#[path = "placement/scripts.rs"]
mod scripts;
mod support;
