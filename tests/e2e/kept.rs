//! Everything may be taken away but the claims: no byte goes, and a new installation takes up every volume.

use crate::{
    bed::{Bed, Phase, plane::program},
    cluster::room,
    release::{self, NAMESPACE},
    scene::{PATIENCE, Scene, Use, handle, within},
};
use serde_json::json;
use std::process::Command;
use wharf::cluster::api;

/// A volume that is in use all the time, one whose pod has gone, and a raw one.
fn keeps_everything(name: &str, take_away: impl FnOnce(&Bed)) {
    let scene = Scene::alone(name);
    let before = room();
    scene.claim("used", "wharf-local", "64Mi");
    scene.claim("idle", "wharf-local", "64Mi");
    scene.claim_with("raw", "wharf-local", "32Mi", &json!({ "volumeMode": "Block" }));
    scene.run("used", Use::Mount("used"));
    scene.run("idle", Use::Mount("idle"));
    scene.run("raw", Use::Device("raw"));
    let used = scene.fill("used", "/data/file", 16);
    let idle = scene.fill("idle", "/data/file", 16);
    let raw = scene.fill("raw", "/dev/volume", 32);
    scene.stop("idle");
    let ids = ["used", "idle", "raw"].map(|claim| handle(&scene.volume(claim)));

    let mut phase = Phase::new();
    take_away(scene.bed());
    phase.done("everything taken away");
    assert_eq!(scene.sum("used", "/data/file"), used);
    scene.exec("used", "echo more >/data/more; sync /data/more");

    release::install(scene.bed());
    phase.done("everything installed anew");
    for id in &ids {
        within("the new installation knows the volume", PATIENCE, || {
            let known = scene.object_of(id).and_then(|object| object.status);
            known.is_some_and(|status| matches!(status.phase, api::Phase::Ready | api::Phase::Orphaned))
        });
    }
    phase.done("every volume adopted");
    assert_eq!(scene.sum("used", "/data/file"), used);
    assert_eq!(scene.sum("raw", "/dev/volume"), raw);
    scene.stop("used");
    scene.stop("raw");
    for (claim, uses, file, sum) in [
        ("used", Use::Mount("used"), "/data/file", &used),
        ("idle", Use::Mount("idle"), "/data/file", &idle),
        ("raw", Use::Device("raw"), "/dev/volume", &raw),
    ] {
        scene.run("reader", uses);
        assert_eq!(scene.sum("reader", file), *sum, "{claim}");
        if claim == "used" {
            assert_eq!(scene.exec("reader", "cat /data/more"), "more");
        }
        scene.stop("reader");
        scene.delete_claim(claim);
    }
    within("the room comes back", PATIENCE, || room() + (8 << 20) >= before);
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn after_helm_uninstall() {
    keeps_everything("uninstalled", release::helm_uninstall);
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn after_kubectl_delete() {
    keeps_everything("deleted", |bed| {
        let mut helm = Command::new(program("helm").get_program());
        helm.args(["get", "manifest", "wharf", "--namespace", NAMESPACE, "--kubeconfig"])
            .arg(bed.kubeconfig());
        let manifest = String::from_utf8(helm.output().unwrap().stdout).unwrap();
        assert!(manifest.contains("kind: DaemonSet"), "{manifest}");
        bed.try_kubectl(&["delete", "--wait", "--timeout", "55s", "--filename", "-"], &manifest).unwrap();
        // helm believes that all of it is there.
        release::helm_uninstall(bed);
    });
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn after_the_kinds_were_deleted_under_the_driver() {
    keeps_everything("kinds", |bed| {
        let file = release::file("deploy/crds.yaml");
        bed.kubectl(&["delete", "--wait", "--timeout", "55s", "--filename", &file]);
    });
}
