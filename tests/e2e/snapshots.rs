//! Snapshots, what is restored from them, and clones.

use crate::scene::{PATIENCE, Scene, Use, within};
use serde_json::{Value, json};

fn snapshot(scene: &Scene, name: &str, claim: &str) {
    let object = json!({
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": { "name": name },
        "spec": { "volumeSnapshotClassName": "wharf", "source": { "persistentVolumeClaimName": claim } },
    });
    let arguments = ["--namespace", &scene.namespace, "apply", "--filename", "-"];
    scene.bed().try_kubectl(&arguments, &object.to_string()).unwrap();
    scene.kubectl(&[
        "wait",
        "--for",
        "jsonpath={.status.readyToUse}=true",
        "--timeout=50s",
        &format!("volumesnapshot/{name}"),
    ]);
}

fn from_snapshot(name: &str) -> Value {
    json!({ "dataSource": { "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name } })
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_snapshot_under_a_running_pod_is_restored_and_outlives_its_source() {
    let scene = Scene::shared("snap");
    scene.claim("data", "wharf-local", "64Mi");
    scene.run("writer", Use::Mount("data"));
    let sum = scene.fill("writer", "/data/file", 16);
    snapshot(&scene, "then", "data");
    scene.fill("writer", "/data/file", 8);
    scene.claim_with("restored", "wharf-local", "64Mi", &from_snapshot("then"));
    scene.run("reader", Use::Mount("restored"));
    assert_eq!(scene.sum("reader", "/data/file"), sum, "what was there at that moment");
    // Each is a volume of its own.
    scene.fill("reader", "/data/file", 4);
    scene.stop("reader");
    scene.stop("writer");
    scene.delete_claim("restored");
    scene.delete_claim("data");
    scene.claim_with("late", "wharf-local-restore", "128Mi", &from_snapshot("then"));
    scene.run("late", Use::Mount("late"));
    assert_eq!(scene.sum("late", "/data/file"), sum, "the source is gone, the snapshot is not");
    assert!(scene.size("late") > 100, "restored into a larger one: {} MiB", scene.size("late"));
    scene.stop("late");
    scene.delete_claim("late");
    let content = scene.kubectl(&[
        "get",
        "volumesnapshot",
        "then",
        "--output",
        "jsonpath={.status.boundVolumeSnapshotContentName}",
    ]);
    let id = scene.kubectl(&[
        "get",
        "volumesnapshotcontent",
        &content,
        "--output",
        "jsonpath={.status.snapshotHandle}",
    ]);
    let object = || {
        scene.local_snapshots().into_iter().find(|each| {
            each.status.as_ref().and_then(|status| status.snapshot_id.as_deref()) == Some(id.as_str())
        })
    };
    assert!(object().is_some(), "no LocalSnapshot has the id {id}");
    scene.kubectl(&["delete", "volumesnapshot", "then"]);
    within("the driver's object goes with it", PATIENCE, || object().is_none());
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_clone_has_its_sources_data_and_goes_its_own_way() {
    let scene = Scene::shared("clone");
    scene.claim("data", "wharf-local", "64Mi");
    scene.run("writer", Use::Mount("data"));
    let sum = scene.fill("writer", "/data/file", 16);
    let source = json!({ "dataSource": { "kind": "PersistentVolumeClaim", "name": "data" } });
    scene.claim_with("copy", "wharf-local", "64Mi", &source);
    scene.run("reader", Use::Mount("copy"));
    assert_eq!(scene.sum("reader", "/data/file"), sum);
    scene.exec("reader", "rm /data/file; sync");
    assert_eq!(scene.sum("writer", "/data/file"), sum);
    scene.stop("reader");
    scene.stop("writer");
    scene.delete_claim("copy");
    scene.delete_claim("data");
}
