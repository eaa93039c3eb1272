//! What is killed or replaced while pods write and volumes are made.

use crate::{
    inside::registration::{kill_driver, node_pod, pods_of, restarts},
    release::{self, NAMESPACE},
    scene::{PATIENCE, Scene, Use, is_ready, pod_spec, within},
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::json;
use wharf::cluster::api::LocalVolume;

/// Writes numbered lines, each of which lasts before the next one is written, and fails at the first error.
const WRITER: &str =
    "n=0; while :; do n=$((n + 1)); echo $n >>/data/lines && sync /data/lines || exit 1; sleep 0.01; done";

fn write(scene: &Scene, pod: &str, claim: &str) {
    let mut spec = pod_spec(Use::Mount(claim), WRITER);
    spec["restartPolicy"] = json!("Never");
    scene.pods().create(json!({ "metadata": { "name": pod }, "spec": spec }));
    scene.ready(pod);
}

/// How many lines there are; every one is there, in order.
fn lines(scene: &Scene, pod: &str) -> u64 {
    scene.exec(pod, "awk '$1 != NR { exit 1 } END { print NR }' /data/lines").parse().unwrap()
}

fn writes_on(scene: &Scene, pod: &str, after: u64) -> u64 {
    within("the writer goes on", PATIENCE, || lines(scene, pod) > after + 20);
    let found = scene.pods().get(pod).unwrap();
    assert!(is_ready(&found) && restarts(&found) == 0, "the writer was disturbed: {:?}", found.status);
    lines(scene, pod)
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_writer_loses_nothing_when_the_node_pod_is_killed_deleted_and_rolled() {
    let scene = Scene::alone("rolled");
    for (claim, class, size) in [("ext4", "wharf-local", "64Mi"), ("xfs", "local-xfs", "320Mi")] {
        scene.claim(claim, class, size);
        write(&scene, claim, claim);
    }
    let mut seen = writes_on(&scene, "ext4", 0);
    for _ in 0..2 {
        kill_driver("node");
        seen = writes_on(&scene, "ext4", seen);
    }
    release::wait_ready(scene.bed());
    let old = node_pod(&scene);
    scene.bed().within::<Pod>(NAMESPACE).delete(&old.name_any());
    seen = writes_on(&scene, "ext4", seen);
    release::wait_ready(scene.bed());
    let old = node_pod(&scene);
    let generation = crate::bed::unique("rolled");
    release::helm_install(scene.bed(), &["--set", &format!("node.podAnnotations.generation={generation}")]);
    within("the DaemonSet has rolled", PATIENCE, || {
        pods_of(&scene, "node").iter().any(|pod| pod.uid() != old.uid() && is_ready(pod))
    });
    release::wait_ready(scene.bed());
    seen = writes_on(&scene, "ext4", seen);
    writes_on(&scene, "xfs", 0);
    for claim in ["ext4", "xfs"] {
        scene.stop(claim);
        // By another pod, staged anew by the new driver.
        scene.run("reader", Use::Mount(claim));
        let last = lines(&scene, "reader");
        assert!(claim != "ext4" || last >= seen, "{last} lines of {seen}");
        scene.stop("reader");
        scene.delete_claim(claim);
    }
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn volumes_are_made_once_each_although_the_controller_is_killed() {
    const COUNT: usize = 24;
    let scene = Scene::alone("midway");
    let names: Vec<_> = (0..COUNT).map(|number| format!("data-{number}")).collect();
    for name in &names {
        scene.claim(name, "local-now", "16Mi");
    }
    let bound = || -> usize {
        let is_bound = |claim: &PersistentVolumeClaim| {
            claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
        };
        scene.claims().list().iter().filter(|claim| is_bound(claim)).count()
    };
    let mut kills = 0;
    for after in [1, 6, 12] {
        within("some are bound", 120, || bound() >= after);
        if bound() < COUNT {
            kill_driver("controller");
            kills += 1;
        }
    }
    assert!(kills > 0, "all were made before one could be disturbed");
    within("all are bound", 180, || bound() == COUNT);
    let mine: Vec<_> = names.iter().map(|name| scene.volume(name).name_any()).collect();
    let objects = || -> Vec<_> {
        let all = scene.bed().all::<LocalVolume>().list();
        all.into_iter().filter(|object| mine.contains(&object.spec.name)).collect()
    };
    assert_eq!(objects().len(), COUNT, "one object for each volume");
    for name in &names {
        scene.claims().delete(name);
    }
    within("all are gone", 180, || objects().is_empty());
    let volumes = scene.bed().all::<PersistentVolume>();
    within("their PersistentVolumes, too", PATIENCE, || {
        volumes.list().iter().all(|volume| !mine.contains(&volume.name_any()))
    });
    release::wait_ready(scene.bed());
}
