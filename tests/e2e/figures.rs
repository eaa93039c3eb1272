//! Figures that users feel; they are printed, and judged only where something must be broken.

use crate::{
    inside::{crowd::calls, registration::processes},
    scene::{PATIENCE, Scene, Use, within},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::{fs, time::Instant};
use wharf::cluster::api::LocalVolume;

const ROUNDS: usize = 20;
/// Those that a start waits for.
const CALLS: [(&str, &str); 3] =
    [("controller", "CreateVolume"), ("node", "NodeStageVolume"), ("node", "NodePublishVolume")];

/// What a pod has at `/data`.
const EMPTY: &str = "an emptyDir";
/// The kube-scheduler looks once a second whether a claim is bound that waited for its consumer
/// (pkg/scheduler/framework/plugins/volumebinding/binder.go), and never at once: no driver can take less.
const WAITING: &str = "wharf-local";
/// Of release.rs, bound Immediate.
const IMMEDIATE: &str = "local-now";

/// From both objects' creation until the pod runs, in seconds.
fn start(scene: &Scene, number: usize, what: &str) -> f64 {
    let name = format!("{}-{number}", what.replace(' ', "-").to_lowercase());
    let with_claim = what != EMPTY;
    let start = Instant::now();
    if with_claim {
        scene.claim(&name, what, "64Mi");
    }
    scene.pod(&name, if with_claim { Use::Mount(&name) } else { Use::Nothing }, &json!({}));
    scene.pods().wait(&name, "runs", PATIENCE, |pod: &Pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    });
    let seconds = start.elapsed().as_secs_f64();
    scene.pods().delete_now(&name);
    scene.pods().wait_gone(&name, PATIENCE);
    if with_claim {
        scene.claims().delete(&name);
    }
    seconds
}

/// Of what is sorted.
fn median(all: &[f64]) -> f64 {
    f64::midpoint(all[(all.len() - 1) / 2], all[all.len() / 2])
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_pod_with_a_claim_starts_hardly_later_than_one_with_an_empty_directory() {
    let scene = Scene::alone("start");
    let before = CALLS.map(|(role, method)| calls(role, method));
    let mut starts = [EMPTY, IMMEDIATE, WAITING].map(|what| (what, Vec::new()));
    for number in 0..ROUNDS {
        for (what, seconds) in &mut starts {
            seconds.push(start(&scene, number, what));
        }
    }
    for ((role, method), before) in CALLS.iter().zip(before) {
        let now = calls(role, method);
        let mean = (now.1 - before.1) / (now.0 - before.0);
        println!("figure: of that {method} took {:.0} ms in the mean of {}", mean * 1e3, now.0 - before.0);
    }
    for (what, all) in &mut starts {
        all.sort_by(f64::total_cmp);
        let all: Vec<_> = all.iter().map(|seconds| format!("{seconds:.2}")).collect();
        println!("figure: starts with {what}: {}", all.join(" "));
    }
    // The kubelet looks once a second what its containers do, so single starts are told apart by whole seconds: means, too.
    let mean = |all: &[f64]| all.iter().sum::<f64>() / ROUNDS as f64;
    let [(_, empty), claims @ ..] = starts;
    let mut differences = Vec::new();
    for (class, all) in claims {
        differences.push(median(&all) - median(&empty));
        println!(
            "figure: from claim ({class}) and pod to Running {:.2} s, with an emptyDir {:.2} s, difference {:.2} s \
             (medians of {ROUNDS}), {:.2} s by their means",
            median(&all),
            median(&empty),
            median(&all) - median(&empty),
            mean(&all) - mean(&empty)
        );
    }
    // The next test may compare how much room there is.
    within("its volumes are gone", PATIENCE, || scene.bed().all::<LocalVolume>().list().is_empty());
    for role in ["node", "controller"] {
        println!("figure: the driver's process as {role} uses {:.1} MiB", memory(role) as f64 / 1_048_576.0);
    }
    assert!(differences.iter().all(|seconds| *seconds < 3.0), "a claim costs {differences:.2?} s");
}

/// Of the driver's process, in bytes: what of it is resident.
fn memory(role: &str) -> u64 {
    let process = processes(role)[0];
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
