//! Nodes that are silent, gone, or new under an old name.

use crate::{
    bed::{claims::Binding, nodes::TOPOLOGY},
    cluster::{Cluster, Setup, phase_of, uuid_in},
    support::{
        MIB,
        co::Spec,
        places::Places,
        pool::{Kind, Pool},
    },
};
use serde_json::json;
use std::{mem, time::Instant};
use wharf::cluster::api::{Desired, Phase};

/// Of claims that have nothing to do with what is wrong elsewhere, in seconds: seldom more than one.
const UNDISTURBED: u64 = 15;

/// SIGSTOP: its Lease counts for a while, and what it is asked for meanwhile it sees when it goes on.
#[test]
fn an_agent_that_hangs_holds_up_nobody_else() {
    let pool = |mib| (Kind::Xfs, mib * MIB);
    let mut cluster = Cluster::with(Setup { pools: [pool(1600), pool(800), pool(800)], ..Setup::default() });
    let immediate = cluster.class(Binding::Immediate);
    let waiting = cluster.class(Binding::WaitForFirstConsumer);
    let there = json!({ "allowedTopologies": [{
        "matchLabelExpressions": [{ "key": TOPOLOGY, "values": [cluster.nodes[1].name] }],
    }] });
    let there = cluster.class_with(Binding::Immediate, there);
    cluster.claim("before", &immediate, "64Mi");
    let (before, at) = cluster.placed("before", 60);
    assert_eq!(at, 0);
    cluster.nodes[0].fill(&before, 3);
    cluster.wait_for_capacities(&waiting);

    cluster.nodes[0].driver.as_mut().unwrap().stop();
    cluster.claim("moves", &immediate, "64Mi");
    cluster.claim("follows", &waiting, "64Mi");
    cluster.pod_near("follows", &["follows"], &cluster.nodes[0]);
    let began = Instant::now();
    cluster.claim("elsewhere", &there, "64Mi");
    assert_eq!(cluster.placed("elsewhere", UNDISTURBED).1, 1);
    eprintln!("placement: a claim beside a silent node: {:.1} s", began.elapsed().as_secs_f64());
    for claim in ["moves", "follows"] {
        assert_ne!(cluster.placed(claim, 150).1, 0, "{claim}");
        eprintln!("placement: {claim} on from a silent node: {:.1} s", began.elapsed().as_secs_f64());
    }
    let follows = cluster.placed("follows", 1).1;
    assert_eq!(cluster.bed.scheduled(&cluster.namespace, "follows", 30), cluster.nodes[follows].name);

    cluster.nodes[0].resume();
    cluster.nodes[0].assert_filled(&before, 3);
    assert_eq!(cluster.nodes[0].volumes(), [uuid_in(&before)], "what moved on was made here, too");
    cluster.clear(90);
    cluster.assert_content();
}

#[test]
fn a_deleted_node_gives_its_volumes_up_and_purges_them_when_it_comes_back() {
    let mut cluster = Cluster::with(Setup { node_gone_after: 2, ..Setup::default() });
    let class = cluster.class(Binding::WaitForFirstConsumer);
    for claim in ["kept", "deleted"] {
        cluster.claim(claim, &class, "64Mi");
        cluster.pod_on(claim, &[claim], &cluster.nodes[0]);
    }
    let [kept, deleted] = ["kept", "deleted"].map(|claim| cluster.placed(claim, 60).0);
    cluster.nodes[0].fill(&kept, 4);
    ["kept", "deleted"].iter().for_each(|pod| cluster.pods().delete_now(pod));

    cluster.nodes[0].kill();
    cluster.bed.remove_node(&cluster.nodes[0].name);
    let volume = cluster.bed.bound(&cluster.namespace, "deleted", 1).metadata.name.unwrap();
    cluster.claims().delete("deleted");
    let now = cluster.class(Binding::Immediate);
    cluster.claim("meanwhile", &now, "64Mi");
    assert_ne!(cluster.placed("meanwhile", UNDISTURBED).1, 0);
    // Its Lease counts for 40 s, and the provisioner asks every 30 s.
    cluster.bed.all::<k8s_openapi::api::core::v1::PersistentVolume>().wait_gone(&volume, 150);
    let tombstone = cluster.objects().get(&uuid_in(&deleted)).expect("nothing tells the node to purge it");
    assert_eq!(tombstone.spec.desired, Desired::Absent);
    assert_eq!(cluster.nodes[0].volumes().len(), 2, "nobody was there to purge it");
    assert_eq!(cluster.objects().get(&uuid_in(&kept)).unwrap().spec.desired, Desired::Present);

    cluster.nodes[0].join();
    cluster.objects().wait_gone(&uuid_in(&deleted), 60);
    assert_eq!(cluster.nodes[0].volumes(), [uuid_in(&kept)]);
    assert_eq!(cluster.placed("kept", 1).1, 0);
    cluster.nodes[0].assert_filled(&kept, 4);
    cluster.clear(90);
    cluster.assert_content();
}

/// The name and the disk stay; the Node, and with it every token, is another one.
#[test]
fn a_reinstalled_node_has_what_is_on_its_disk() {
    let mut cluster = Cluster::new();
    let class = cluster.class(Binding::WaitForFirstConsumer);
    cluster.claim("kept", &class, "64Mi");
    cluster.pod_on("kept", &["kept"], &cluster.nodes[0]);
    let (kept, at) = cluster.placed("kept", 60);
    assert_eq!(at, 0);
    cluster.nodes[0].fill(&kept, 5);
    cluster.pods().delete_now("kept");

    reinstall(&mut cluster, None);
    cluster.claim("next", &class, "64Mi");
    cluster.pod_on("next", &["next"], &cluster.nodes[0]);
    assert_eq!(cluster.placed("next", 60).1, 0);
    assert_eq!(cluster.placed("kept", 1).1, 0);
    cluster.nodes[0].assert_filled(&kept, 5);
    cluster.pods().delete_now("next");

    // The disk is another one, too.
    let old = reinstall(&mut cluster, Some(Pool::new(Kind::Xfs, 1024 * MIB)));
    cluster.objects().wait(&uuid_in(&kept), "is lost", 60, |object| phase_of(object) == Phase::Lost);
    let places = Places::new();
    let status =
        cluster.nodes[0].driver().co().stage(&kept, &places.staging("kept"), &Spec::new()).unwrap_err();
    assert!(status.message().contains("bring its disk back"), "{status}");
    cluster.claim("last", &class, "64Mi");
    cluster.pod_on("last", &["last"], &cluster.nodes[0]);
    let (last, at) = cluster.placed("last", 60);
    assert_eq!((at, cluster.nodes[0].volumes()), (0, vec![uuid_in(&last)]));
    cluster.clear(90);
    drop(old);
    cluster.assert_content();
}

/// Gives back the pool that was there when it gets another one.
fn reinstall(cluster: &mut Cluster, disk: Option<Pool>) -> Option<Pool> {
    let bed = cluster.bed;
    let node = &mut cluster.nodes[0];
    node.kill();
    bed.remove_node(&node.name);
    let old = disk.map(|disk| mem::replace(&mut node.pool, disk));
    node.join();
    node.wait_until_told();
    old
}
