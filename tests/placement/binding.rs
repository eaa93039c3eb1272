//! Claims of each kind of class, and nodes that have no room.

use crate::{
    bed::claims::Binding,
    bed::nodes::TOPOLOGY,
    cluster::{Cluster, Setup, room},
    support::{MIB, co::Spec, eventually, pool::Kind, unique},
};
use serde_json::{Value, json};

fn only(nodes: &[&str]) -> Value {
    json!({ "allowedTopologies": [{ "matchLabelExpressions": [{ "key": TOPOLOGY, "values": nodes }] }] })
}

/// With the chart's own account for the sidecar, too, and the driver's real name.
#[test]
fn a_claim_follows_its_pod() {
    let mut cluster = Cluster::with(Setup { as_the_chart_has_it: true, ..Setup::default() });
    let class = cluster.class(Binding::WaitForFirstConsumer);
    for n in 0..3 {
        let (claim, pod) = (format!("data-{n}"), format!("pod-{n}"));
        cluster.claim(&claim, &class, "64Mi");
        cluster.pod_on(&pod, &[&claim], &cluster.nodes[n]);
    }
    for n in 0..3 {
        assert_eq!(cluster.bed.scheduled(&cluster.namespace, &format!("pod-{n}"), 60), cluster.nodes[n].name);
        let (id, at) = cluster.placed(&format!("data-{n}"), 30);
        assert_eq!(at, n);
        cluster.nodes[n].fill(&id, 1);
        cluster.nodes[n].assert_filled(&id, 1);
    }
    cluster.clear(60);
    cluster.assert_content();
}

/// The scheduler asks for room before anybody asks for the volume, and would have the pod wait for some that no disk
/// brings.
#[test]
fn a_class_that_cannot_be_is_told_at_the_claim_that_waits_for_its_pod() {
    let mut cluster = Cluster::new();
    let pool = cluster.pool.clone();
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case; 3] = [
        ("unknown-key", &[("pool", &pool), ("layuot", "image")], "layuot"),
        ("no-such-pool", &[("pool", "nowhere")], "no node has a pool called"),
        ("no-limits", &[("pool", &pool), ("layout", "directory")], "no node can limit directories"),
    ];
    for (name, parameters, _) in cases {
        let class = cluster.bed.class(&cluster.driver, Binding::WaitForFirstConsumer, parameters);
        cluster.claim(name, &class, "64Mi");
        cluster.bed.pod(&cluster.namespace, name, &[name], json!({}));
    }
    for (name, _, cause) in cases {
        eventually(&format!("{name} is told"), 60, || {
            let told = cluster.claims().events(name);
            told.contains("ProvisioningFailed") && told.contains(cause)
        });
    }
    assert!(cluster.own_objects().is_empty());
    cluster.clear(60);
    cluster.assert_content();
}

#[test]
fn an_immediate_claim_goes_where_most_room_is() {
    let pool = |mib| (Kind::Xfs, mib * MIB);
    let mut cluster = Cluster::with(Setup { pools: [pool(600), pool(1600), pool(1100)], ..Setup::default() });
    let class = cluster.class(Binding::Immediate);
    // 1600 less 800 is below 1100.
    for (claim, at) in [("first", 1), ("second", 2)] {
        cluster.claim(claim, &class, "800Mi");
        assert_eq!(cluster.placed(claim, 60).1, at, "{claim}");
    }
    cluster.claim("too-much", &class, "1000Mi");
    eventually("its events say how much is free", 60, || {
        let told = cluster.claims().events("too-much");
        told.contains("ResourceExhausted") && told.contains("the most that is free is")
    });
    assert_eq!(cluster.own_objects().len(), 2);
    cluster.clear(90);
    cluster.assert_content();
}

#[test]
fn allowed_topologies_are_kept_to() {
    let pool = |mib| (Kind::Xfs, mib * MIB);
    let mut cluster = Cluster::with(Setup { pools: [pool(600), pool(1600), pool(800)], ..Setup::default() });
    let names = [0, 1, 2].map(|n| cluster.nodes[n].name.clone());
    let one = cluster.class_with(Binding::Immediate, only(&[&names[0]]));
    let two = cluster.class_with(Binding::Immediate, only(&[&names[0], &names[2]]));
    let waiting = cluster.class_with(Binding::WaitForFirstConsumer, only(&[&names[2]]));
    cluster.claim("one", &one, "64Mi");
    cluster.claim("two", &two, "64Mi");
    cluster.claim("waiting", &waiting, "64Mi");
    cluster.pod_near("pod", &["waiting"], &cluster.nodes[1]);
    assert_eq!(cluster.placed("one", 60).1, 0);
    assert_eq!(cluster.placed("two", 60).1, 2, "the roomier one of the two");
    assert_eq!(cluster.bed.scheduled(&cluster.namespace, "pod", 60), names[2]);
    assert_eq!(cluster.placed("waiting", 10).1, 2);
    cluster.clear(60);
    cluster.assert_content();
}

#[test]
fn a_claim_moves_on_from_a_full_node() {
    let mut cluster = Cluster::new();
    let class = cluster.class(Binding::WaitForFirstConsumer);
    let full = &cluster.nodes[0];
    // The scheduler is told of room that is then taken behind its back.
    cluster.claim("first", &class, "64Mi");
    cluster.pod_on("first", &["first"], full);
    assert_eq!(cluster.placed("first", 60).1, 0);
    let mut co = cluster.controller.co();
    let spec = Spec::new().pool(&cluster.pool);
    let taken = u64::try_from(room(&mut co, &spec, &full.name)).unwrap() - 100 * MIB;
    cluster.wait_for_capacities(&class);
    let there =
        crate::cluster::create_at(&mut co, &unique("filler"), &spec.clone().size(taken), &full.name).unwrap();
    cluster.claim("second", &class, "256Mi");
    cluster.pod_near("second", &["second"], full);
    let (id, at) = cluster.placed("second", 90);
    assert_ne!(at, 0);
    assert!(refused(&cluster, "second"), "nobody tried the full node");
    assert_eq!(cluster.bed.scheduled(&cluster.namespace, "second", 30), cluster.nodes[at].name);
    cluster.nodes[at].fill(&id, 2);
    // By now the scheduler has been told.
    eventually("its capacity is published anew", 30, || {
        cluster.capacity_at(&class, &full.name).is_some_and(|bytes| bytes < 256 * MIB)
    });
    cluster.claim("told", &class, "256Mi");
    cluster.pod_near("told", &["told"], full);
    assert_ne!(cluster.placed("told", 60).1, 0);
    assert_eq!((refused(&cluster, "told"), cluster.creations("told").len()), (false, 1));
    // What still fits there goes there.
    cluster.claim("third", &class, "32Mi");
    cluster.pod_on("third", &["third"], full);
    assert_eq!(cluster.placed("third", 60).1, 0);
    co.delete(&there.volume_id).unwrap();
    cluster.clear(60);
    cluster.assert_content();
}

/// Whether the driver has had to say that there is no room where the scheduler wanted a claim.
fn refused(cluster: &Cluster, claim: &str) -> bool {
    cluster.creations(claim).iter().any(|line| line.contains("RESOURCE_EXHAUSTED"))
}
