//! How the kubelet finds the driver, and finds it again.

use crate::{
    bed::plane::NODE,
    release::{self, NAMESPACE, is_registered},
    scene::{PATIENCE, Scene, Use, is_ready, within},
};
use k8s_openapi::api::{core::v1::Pod, storage::v1::CSINode};
use kube::{ResourceExt, api::ListParams};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// The driver's pods of one role.
pub fn pods_of(scene: &Scene, component: &str) -> Vec<Pod> {
    let labels = format!("app.kubernetes.io/name=wharf,app.kubernetes.io/component={component}");
    let pods = scene.bed().within::<Pod>(NAMESPACE);
    scene.bed().block_on(pods.api().list(&ListParams::default().labels(&labels))).unwrap().items
}

/// The one that is to stay, and is ready.
pub fn node_pod(scene: &Scene) -> Pod {
    let staying = || {
        let mut pods = pods_of(scene, "node");
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod));
        pods.pop()
    };
    within("there is a node pod", PATIENCE, || staying().is_some());
    staying().unwrap()
}

/// SIGKILL for the driver's own processes of one role, as soon as there is one: the kubelet may be about to start it.
/// Nobody else's can be meant, for the processes that are seen here are this machine's own.
pub fn kill_driver(role: &str) {
    within(&format!("a process of the driver runs as {role}"), PATIENCE, || {
        let found = processes(role);
        found.iter().for_each(|pid| kill_process(*pid, Signal::KILL).unwrap());
        !found.is_empty()
    });
}

/// The driver's own processes of one role.
pub fn processes(role: &str) -> Vec<Pid> {
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of_driver = |pid: &i32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split('\0').take(2).eq(["/wharf", role])
    };
    pids.filter(of_driver).filter_map(Pid::from_raw).collect()
}

pub fn restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|each| each.restart_count)
        .sum()
}

/// A volume can be staged and published: the kubelet knows the driver and reaches it.
fn a_pod_gets_a_volume(scene: &Scene, name: &str) {
    scene.claim(name, "wharf-local", "32Mi");
    scene.run(name, Use::Mount(name));
    scene.stop(name);
    scene.delete_claim(name);
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_new_node_pod_is_registered_where_the_old_one_left_its_socket() {
    let scene = Scene::alone("newpod");
    let old = node_pod(&scene);
    let socket = format!("/var/lib/kubelet/plugins_registry/{}-reg.sock", crate::scene::DRIVER);
    let before = fs::metadata(&socket).unwrap_or_else(|e| panic!("{socket}: {e}"));
    let pods = scene.bed().within::<Pod>(NAMESPACE);
    pods.delete(&old.name_any());
    pods.wait_gone(&old.name_any(), PATIENCE);
    within("there is another node pod", PATIENCE, || pods_of(&scene, "node").first().is_some_and(is_ready));
    let after = fs::metadata(&socket).unwrap();
    assert_ne!(before.modified().unwrap(), after.modified().unwrap(), "the socket was made anew");
    release::wait_registered(scene.bed());
    a_pod_gets_a_volume(&scene, "data");
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_driver_that_is_killed_is_registered_again() {
    let scene = Scene::alone("killed");
    let pod = node_pod(&scene);
    kill_driver("node");
    let again = |now: &Pod| now.uid() == pod.uid() && restarts(now) > restarts(&pod) && is_ready(now);
    scene.bed().within::<Pod>(NAMESPACE).wait(&pod.name_any(), "was started again", PATIENCE, again);
    release::wait_registered(scene.bed());
    a_pod_gets_a_volume(&scene, "data");
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_new_kubelet_finds_the_driver_and_the_volumes_of_its_pods() {
    let scene = Scene::alone("kubelet");
    scene.claim("data", "wharf-local", "64Mi");
    scene.run("pod", Use::Mount("data"));
    let sum = scene.fill("pod", "/data/file", 8);
    let before = node_pod(&scene);
    scene.cluster.node().restart_kubelet();
    // With the new one only: the old one's answer would still be in CSINode.
    a_pod_gets_a_volume(&scene, "other");
    assert!(scene.bed().all::<CSINode>().get(NODE).is_some_and(|node| is_registered(&node)));
    assert_eq!(scene.sum("pod", "/data/file"), sum);
    assert_eq!(node_pod(&scene).uid(), before.uid(), "the node pod is the same");
    scene.stop("pod");
    scene.delete_claim("data");
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_refused_driver_says_why_and_is_registered_when_the_cause_is_gone() {
    let scene = Scene::alone("refused");
    let pod = node_pod(&scene);
    release::label_node(scene.bed(), "elsewhere");
    kill_driver("node");
    within("the pod says why it ended", 120, || {
        let ended =
            scene.bed().try_kubectl(&["--namespace", NAMESPACE, "logs", "--previous", &pod.name_any()], "");
        ended.is_ok_and(|said| said.contains("the kubelet refuses the driver") && said.contains("elsewhere"))
    });
    release::label_node(scene.bed(), NODE);
    scene.bed().within::<Pod>(NAMESPACE).wait(&pod.name_any(), "is ready", 120, is_ready);
    release::wait_registered(scene.bed());
    a_pod_gets_a_volume(&scene, "data");
}
