//! A node whose object is deleted, and which comes back.

use crate::{
    bed::plane::NODE,
    cluster::room,
    inside::registration::kill_driver,
    node::is_ready,
    release,
    scene::{PATIENCE, Scene, Use, handle, within},
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, PersistentVolume},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_node_that_comes_back_has_what_was_kept_and_purges_what_was_deleted() {
    let scene = Scene::alone("removed");
    let before = room();
    for claim in ["kept", "deleted"] {
        scene.claim(claim, "wharf-local", "128Mi");
        scene.run(claim, Use::Mount(claim));
    }
    let sum = scene.fill("kept", "/data/file", 16);
    scene.stop("kept");
    scene.stop("deleted");
    let (gone, id) = (scene.volume("deleted").name_any(), handle(&scene.volume("deleted")));

    // As if somebody had pulled the plug: nobody is left there who could do anything.
    scene.cluster.node().stop_kubelet();
    kill_driver("node");
    within("the agent is taken for dead", PATIENCE, || is_dead(&scene));
    scene.bed().all::<Node>().delete(NODE);
    scene.bed().all::<Node>().wait_gone(NODE, PATIENCE);
    scene.claims().delete("deleted");
    // The controller runs on, for there is no kubelet that would end it. Its token does so for 40 s: then Kubernetes takes
    // the pods of a Node that is gone away, and a token ends with its pod.
    scene.bed().all::<PersistentVolume>().wait_gone(&gone, PATIENCE);
    assert!(scene.object_of(&id).is_some(), "what the node will have to do is remembered");

    scene.cluster.node().restart_kubelet();
    scene.bed().all::<Node>().wait(NODE, "is back", 90, is_ready);
    release::wait_ready(scene.bed());
    within("the node does it", 120, || scene.object_of(&id).is_none());
    scene.run("reader", Use::Mount("kept"));
    assert_eq!(scene.sum("reader", "/data/file"), sum);
    scene.stop("reader");
    scene.delete_claim("kept");
    within("the room comes back", PATIENCE, || room() + (8 << 20) >= before);
}

/// Its Lease has run out, also for a controller with another clock.
fn is_dead(scene: &Scene) -> bool {
    let lease = scene.bed().within::<Lease>(release::NAMESPACE).get(&format!("wharf-node-{NODE}")).unwrap();
    let spec = lease.spec.unwrap();
    let lasts = SignedDuration::from_secs(i64::from(spec.lease_duration_seconds.unwrap()) + 6);
    Timestamp::now().duration_since(spec.renew_time.unwrap().0) > lasts
}
