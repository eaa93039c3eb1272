//! The kinds are deleted under running drivers, and applied again.

use crate::{
    bed::{Bed, claims::Binding},
    cluster::{Cluster, Setup, phase_of, uuid_in},
    release::{KINDS, Release, define_kinds},
};
use k8s_openapi::{
    api::core::v1::PersistentVolume,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use wharf::cluster::api::Phase;

/// A control plane of its own: it is taken apart.
#[test]
fn kinds_that_go_and_come_back_while_a_node_is_down() {
    let bed = Bed::start();
    let release = Release::on(&bed);
    let mut cluster = Cluster::on(&release, Setup::default());
    let class = cluster.class(Binding::WaitForFirstConsumer);
    let kept = ["kept-0", "kept-1", "kept-2"];
    // Each is deleted while its kind is away; its node is down, or up.
    let leaving = ["leaving-0", "leaving-1"];
    let all: Vec<(String, usize)> = kept
        .iter()
        .chain(&leaving)
        .map(|claim| {
            let at: usize = claim[claim.len() - 1..].parse().unwrap();
            cluster.claim(claim, &class, "64Mi");
            cluster.pod_on(claim, &[claim], &cluster.nodes[at]);
            let (id, found) = cluster.placed(claim, 60);
            assert_eq!(found, at);
            cluster.nodes[at].fill(&id, 10 + at as u64);
            cluster.pods().delete_now(claim);
            (id, at)
        })
        .collect();
    cluster.nodes[0].kill();

    KINDS.iter().for_each(|kind| bed.all::<CustomResourceDefinition>().delete(kind));
    free_objects_of(&bed, &cluster.nodes[0].name);
    KINDS.iter().for_each(|kind| bed.all::<CustomResourceDefinition>().wait_gone(kind, 60));
    let volumes = leaving.map(|claim| {
        let volume = bed.bound(&cluster.namespace, claim, 1).metadata.name.unwrap();
        cluster.claims().delete(claim);
        volume
    });
    let immediate = cluster.class(Binding::Immediate);
    cluster.claim("meanwhile", &immediate, "64Mi");
    // Long enough for an answer that would be wrong.
    std::thread::sleep(std::time::Duration::from_secs(3));
    for (id, at) in &all {
        assert!(cluster.nodes[*at].volumes().contains(&uuid_in(id)), "a kind took {id} along");
    }

    define_kinds(&bed);
    bed.all::<PersistentVolume>().wait_gone(&volumes[1], 120);
    assert!(!cluster.nodes[1].volumes().contains(&uuid_in(&all[4].0)), "it leaked");
    assert!(bed.all::<PersistentVolume>().get(&volumes[0]).is_some(), "nobody can have deleted it");
    cluster.nodes[0].start();
    bed.all::<PersistentVolume>().wait_gone(&volumes[0], 120);
    assert!(!cluster.nodes[0].volumes().contains(&uuid_in(&all[3].0)), "it leaked");
    cluster.placed("meanwhile", 120);
    for (n, (id, at)) in all.iter().enumerate().take(kept.len()) {
        let key = uuid_in(id);
        // Found on disk, and then taken up by the controller, which looks once a minute.
        cluster.objects().wait(&key, "is ready again", 120, |object| phase_of(object) == Phase::Ready);
        assert_eq!(cluster.placed(kept[n], 1), (id.clone(), *at));
        cluster.nodes[*at].assert_filled(id, 10 + *at as u64);
    }
    cluster.clear(120);
    cluster.assert_content();
}

/// As docs/install.md says for a node that is down: a kind goes when none of its objects is left, and nobody else lets
/// these go. The kind of snapshots, of which there are none, has gone.
fn free_objects_of(bed: &Bed, node: &str) {
    let mut freed = 0;
    for kind in ["localvolumes", "localsnapshots"] {
        let selector = format!("spec.nodeName={node}");
        let arguments = ["get", kind, "--field-selector", &selector, "--output", "name"];
        for object in bed.try_kubectl(&arguments, "").unwrap_or_default().lines() {
            let patch = r#"{"metadata":{"finalizers":null}}"#;
            bed.kubectl(&["patch", object, "--type", "merge", "--patch", patch]);
            freed += 1;
        }
    }
    assert_eq!(freed, 2);
}
