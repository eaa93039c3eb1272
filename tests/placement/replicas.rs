//! Two replicas of the controller's pod.

use crate::{
    bed::claims::Binding,
    cluster::{Cluster, to_the_end},
    support::{MIB, co::Spec, eventually, unique},
};
use std::{mem, thread};

const VOLUMES: usize = 12;
const CLAIMS: usize = 20;

#[test]
fn two_controllers_are_asked_the_same_at_once() {
    let mut cluster = Cluster::new();
    let second = cluster.another_controller();
    let names: Vec<_> = (0..VOLUMES).map(|_| unique("pvc")).collect();
    let spec = Spec::new().pool(&cluster.pool).size(16 * MIB);
    let at_both = |work: &(dyn Fn(&mut crate::support::co::Co, usize) -> String + Sync)| -> Vec<[String; 2]> {
        thread::scope(|scope| {
            let calls: Vec<_> = (0..VOLUMES)
                .map(|n| {
                    [&cluster.controller, &second]
                        .map(|driver| scope.spawn(move || work(&mut driver.co(), n)))
                })
                .collect();
            calls.into_iter().map(|pair| pair.map(|call| call.join().unwrap())).collect()
        })
    };
    let ids = at_both(&|co, n| to_the_end(60, || co.create(&names[n], &spec)).unwrap().volume_id);
    assert!(ids.iter().all(|[one, other]| one == other), "{ids:?}");
    assert_eq!(cluster.own_objects().len(), VOLUMES);
    let on_disk: usize = cluster.nodes.iter().map(|node| node.volumes().len()).sum();
    assert_eq!(on_disk, VOLUMES);
    at_both(&|co, n| {
        to_the_end(60, || co.delete(&ids[n][0])).unwrap();
        String::new()
    });
    cluster.assert_empty();
    cluster.assert_content();
}

/// SIGKILL for the replica that leads, amid its work.
#[test]
fn a_second_replica_takes_over() {
    let mut cluster = Cluster::new();
    let second = cluster.another_controller();
    let place = cluster.bed.second_place(&cluster.place);
    let provisioner = cluster.bed.provisioner(&place, &second.socket());
    let class = cluster.class(Binding::Immediate);
    let claims: Vec<_> = (0..CLAIMS).map(|n| format!("data-{n}")).collect();
    claims.iter().for_each(|claim| cluster.claim(claim, &class, "16Mi"));
    eventually("it is at work", 60, || cluster.own_objects().len() > 2);
    cluster.controller.kill();
    cluster.provisioner.kill();
    drop(mem::replace(&mut cluster.controller, second));
    drop(mem::replace(&mut cluster.provisioner, provisioner));
    for claim in &claims {
        // The Lease of who led counts for 15 s.
        cluster.placed(claim, 90);
    }
    assert_eq!(cluster.own_objects().len(), CLAIMS);
    cluster.clear(90);
    cluster.assert_content();
}
