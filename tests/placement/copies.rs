//! Restores and clones lie where their source lies, also when the scheduler would rather have them elsewhere.

use crate::{
    bed::{claims::Binding, snapshots::Cut},
    cluster::Cluster,
    support::unique,
};
use serde_json::{Value, json};
use std::time::Instant;

/// From a pod to its node, and CreateVolume calls.
const SECONDS: f64 = 10.0;
const CALLS: usize = 2;

#[test]
fn the_pod_follows_the_source_of_its_volume() {
    let mut cluster = Cluster::new();
    let class = cluster.class(Binding::WaitForFirstConsumer);
    cluster.claim("origin", &class, "64Mi");
    cluster.pod_on("origin", &["origin"], &cluster.nodes[0]);
    let (origin, at) = cluster.placed("origin", 60);
    assert_eq!(at, 0);
    cluster.nodes[0].fill(&origin, 7);
    let cut = cluster.controller.co().snapshot(&unique("snapshot"), &origin).unwrap();
    cluster.nodes[0].fill(&origin, 8);
    let restore_size = cut.size_bytes.try_into().unwrap();
    let snapshot = Cut { driver: &cluster.driver, handle: &cut.snapshot_id, restore_size };
    let snapshot = cluster.bed.snapshot(&cluster.namespace, "snapshot", &snapshot);
    let volume = json!({ "kind": "PersistentVolumeClaim", "name": "origin" });

    cluster.wait_for_capacities(&class);
    let sources: [(&str, Value, u64); 2] = [("restore", snapshot.clone(), 7), ("clone", volume, 8)];
    for (name, source, seed) in sources {
        cluster.claim_of(name, &class, "64Mi", source);
        let began = Instant::now();
        cluster.pod_near(name, &[name], &cluster.nodes[1]);
        assert_eq!(cluster.bed.scheduled(&cluster.namespace, name, 60), cluster.nodes[0].name, "{name}");
        let (took, calls) = (began.elapsed().as_secs_f64(), cluster.creations(name).len());
        eprintln!(
            "placement: a {name} away from the scheduler's choice: {took:.1} s, CreateVolume calls: {calls}"
        );
        assert_eq!(cluster.wanted_at(name), cluster.nodes[1].name, "the scheduler has to want it elsewhere");
        assert!((1..=CALLS).contains(&calls) && took <= SECONDS, "{name}: {took:.1} s, {calls} calls");
        let (id, at) = cluster.placed(name, 10);
        assert_eq!(at, 0);
        cluster.nodes[0].assert_filled(&id, seed);
    }
    // Where the class leaves the source's node out, the claim says so.
    let elsewhere = cluster.class_with(
        Binding::Immediate,
        json!({ "allowedTopologies": [{
        "matchLabelExpressions": [{ "key": crate::bed::nodes::TOPOLOGY, "values": [cluster.nodes[2].name] }],
    }] }),
    );
    cluster.claim_of("misplaced", &elsewhere, "64Mi", snapshot);
    crate::support::eventually("its events name the way out", 60, || {
        cluster.claims().events("misplaced").contains("allow it in the class's allowedTopologies")
    });
    cluster.controller.co().delete_snapshot(&cut.snapshot_id).unwrap();
    cluster.clear(60);
    cluster.assert_content();
}
