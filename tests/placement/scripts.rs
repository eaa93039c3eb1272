//! Scripts that judge by themselves, on what is started for them here.

use crate::{
    bed::Bed,
    cluster::{Cluster, Setup},
    release::{at, define_kinds},
    support::{MIB, pool::Kind},
};
use std::process::Command;

/// Checks in tests/chart/denials: none is left out unseen.
const DENIALS: usize = 72;

/// A control plane of its own: its policies would keep other tests' controllers from deleting.
#[test]
fn the_policies_deny_what_they_are_for() {
    let bed = Bed::start();
    define_kinds(&bed);
    let mut denials = bounded(300, "tests/chart/denials");
    denials.env("KUBECONFIG", bed.kubeconfig()).env("KUBECACHEDIR", bed.directory().join("kubectl"));
    let said = run(&mut denials);
    assert!(said.ends_with(&format!("\n{DENIALS} passed, 0 failed\n")), "{said}");
}

/// The API server is between the two processes.
#[test]
fn csi_sanity_finds_nothing_over_controller_and_node() {
    // The other nodes are too small for its volumes: it speaks to one node.
    let small = (Kind::Xfs, 400 * MIB);
    let mut cluster =
        Cluster::with(Setup { pools: [(Kind::Xfs, 20 * 1024 * MIB), small, small], ..Setup::default() });
    let node = &cluster.nodes[0];
    let mut sanity = bounded(420, "sanity-tests/run");
    sanity.arg("--controller").arg(cluster.controller.socket());
    sanity.arg("--node").arg(node.driver().socket());
    sanity.arg("--pool").arg(format!("{}={}", cluster.pool, node.pool.path().display()));
    sanity.args(["--binary", env!("CARGO_BIN_EXE_wharf"), "image-ext4-on-cluster"]);
    eprintln!("{}", run(&mut sanity));
    assert!(cluster.own_objects().is_empty(), "objects stayed behind");
    cluster.assert_content();
}

/// A script of the repository, with the cluster's programs on its path, and so many seconds.
fn bounded(seconds: u32, script: &str) -> Command {
    let mut path = vec![at("build/cluster/bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("timeout");
    command.arg("--kill-after=20").arg(seconds.to_string()).arg(at(script));
    command.env("PATH", std::env::join_paths(path).unwrap());
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    said
}
