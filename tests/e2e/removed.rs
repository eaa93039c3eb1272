//! A node whose object is deleted, and which comes back.

use crate::{
    bed::plane::NODE,
    cluster::room,
    inside::registration::kill_driver,
    node::is_ready,
    release,
    scene::{PATIENCE, Scene, Use, handle, within},
};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
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
    scene.bed().all::<Node>().delete(NODE);
    scene.bed().all::<Node>().wait_gone(NODE, PATIENCE);
    scene.claims().delete("deleted");
    // The controller runs on, for there is no kubelet that would end it.
    scene.bed().all::<PersistentVolume>().wait_gone(&gone, 120);
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
