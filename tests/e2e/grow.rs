//! Volumes that grow while pods use them.

use crate::scene::{PATIENCE, Scene, Use, within};
use serde_json::json;

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_mounted_volume_grows_under_its_pod() {
    let scene = Scene::shared("grow");
    scene.claim("data", "local-xfs", "320Mi");
    scene.run("pod", Use::Mount("data"));
    let sum = scene.fill("pod", "/data/file", 32);
    let before = scene.size("pod");
    scene
        .claims()
        .merge("data", json!({ "spec": { "resources": { "requests": { "storage": "640Mi" } } } }))
        .unwrap();
    scene.claims().wait("data", "has its new size", PATIENCE, |claim| {
        let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
        capacity.and_then(|capacity| capacity.get("storage")).is_some_and(|size| size.0 == "640Mi")
    });
    within("the pod sees more", PATIENCE, || scene.size("pod") >= before + 300);
    assert_eq!(scene.sum("pod", "/data/file"), sum);
    let restarts = scene.kubectl(&[
        "get",
        "pod",
        "pod",
        "--output",
        "jsonpath={.status.containerStatuses[0].restartCount}",
    ]);
    assert_eq!(restarts, "0");
    scene.stop("pod");
    scene.delete_claim("data");
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_raw_block_volume_grows_under_its_pod() {
    let scene = Scene::shared("growraw");
    scene.claim_with("disk", "wharf-local", "32Mi", &json!({ "volumeMode": "Block" }));
    scene.run("pod", Use::Device("disk"));
    scene
        .claims()
        .merge("disk", json!({ "spec": { "resources": { "requests": { "storage": "96Mi" } } } }))
        .unwrap();
    within("the pod sees more", PATIENCE, || {
        scene.exec("pod", "blockdev --getsize64 /dev/volume") == (96u64 << 20).to_string()
    });
    scene.stop("pod");
    scene.delete_claim("disk");
}
