//! Real pods on a real node: kubelet, containerd and control plane of a stock Kubernetes, the chart with the image that
//! is built here, and a pool made for the run.
//!
//! One test starts a machine of its own for them, on which the others run, and looks for what is left of it.
//! `scripts/cluster/setup e2e` builds what it is made of; without it these tests fail and say so.
//! `WHARF_E2E_ONLY='snapshots grow'` runs only tests whose names begin so, `WHARF_E2E_BINARY` takes another binary than the
//! release's.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod bed;
mod support;

#[path = "e2e/cluster.rs"]
mod cluster;
#[path = "e2e/machine.rs"]
mod machine;
#[path = "e2e/node.rs"]
mod node;
#[path = "e2e/release.rs"]
mod release;
#[path = "e2e/scene.rs"]
mod scene;

/// They share one cluster.
#[path = "e2e"]
mod inside {
    mod crowd;
    mod disturbed;
    mod figures;
    mod grow;
    mod kept;
    mod life;
    mod pages;
    mod registration;
    mod removed;
    mod snapshots;
}

use machine::Machine;

/// How long all of them together may take, in minutes: four times what they do.
const LIMIT: u64 = 35;

#[test]
fn scenarios_pass_and_nothing_is_left_of_their_machine() {
    machine::make_images();
    let mut machine = Machine::new();
    let only = std::env::var("WHARF_E2E_ONLY").unwrap_or_default();
    let mut arguments: Vec<_> = ["--ignored", "--nocapture", "--test-threads=4"].map(str::to_owned).to_vec();
    if only.is_empty() {
        arguments.push("inside::".to_owned());
    }
    arguments.extend(only.split_whitespace().map(|part| format!("inside::{part}")));
    let status = machine.run(&arguments, LIMIT);
    let left = machine.end();
    assert_eq!(left, Vec::<String>::new(), "left behind");
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}; None: took longer than {LIMIT} minutes"
    );
}
