//! Another disk where a node's pool was.

use crate::{
    bed::claims::Binding,
    cluster::{Cluster, phase_of, uuid_in},
    support::{
        MIB,
        co::Spec,
        eventually,
        places::Places,
        pool::{Kind, Pool},
    },
};
use kube::ResourceExt;
use std::mem;
use tonic::Code;
use wharf::cluster::api::Phase;

#[test]
fn a_swapped_disk_is_a_loss_and_nothing_is_made_anew() {
    let mut cluster = Cluster::new();
    let class = cluster.class(Binding::WaitForFirstConsumer);
    cluster.claim("data", &class, "64Mi");
    cluster.pod_on("data", &["data"], &cluster.nodes[0]);
    let (id, at) = cluster.placed("data", 60);
    assert_eq!(at, 0);
    let key = uuid_in(&id);
    cluster.nodes[0].fill(&id, 6);

    cluster.nodes[0].kill();
    let right = mem::replace(&mut cluster.nodes[0].pool, Pool::new(Kind::Xfs, 1024 * MIB));
    cluster.nodes[0].start();
    cluster.objects().wait(&key, "is lost", 60, |object| phase_of(object) == Phase::Lost);
    eventually("an event says so", 20, || cluster.objects().events(&key).contains("Lost"));
    let places = Places::new();
    let status =
        cluster.nodes[0].driver().co().stage(&id, &places.staging("data"), &Spec::new()).unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    assert!(status.message().contains("bring its disk back"), "{status}");
    // As a provisioner does that has forgotten the answer.
    let name = cluster.bed.bound(&cluster.namespace, "data", 1).name_any();
    let spec = Spec::new().pool(&cluster.pool).size(64 * MIB);
    let status = cluster.controller.co().create(&name, &spec).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("bring its disk back"), "{status}");
    // The new disk is as good as any for others.
    cluster.claim("other", &class, "64Mi");
    cluster.pod_on("other", &["other"], &cluster.nodes[0]);
    let (other, at) = cluster.placed("other", 60);
    assert_eq!((at, cluster.nodes[0].volumes()), (0, vec![uuid_in(&other)]));

    cluster.nodes[0].kill();
    let wrong = mem::replace(&mut cluster.nodes[0].pool, right);
    cluster.nodes[0].start();
    cluster.objects().wait(&key, "is found again", 60, |object| phase_of(object) == Phase::Ready);
    cluster.objects().wait(&uuid_in(&other), "is lost", 60, |object| phase_of(object) == Phase::Lost);
    cluster.nodes[0].assert_filled(&id, 6);
    // A volume whose disk is gone for good can be deleted.
    cluster.clear(90);
    drop(wrong);
    cluster.assert_content();
}
