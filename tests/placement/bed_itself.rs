//! The control plane that the other tests stand on: whom it knows, and that nothing of it stays.

use crate::{
    bed::{Bed, access::Bound, unique},
    support::eventually,
};
use k8s_openapi::api::core::v1::ServiceAccount;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn a_token_tells_whose_pod_and_node_it_is_of() {
    let bed = Bed::shared();
    let node = bed.node(&unique("node"), "other.csi.example", &[]);
    let node = node.metadata.name.unwrap();
    let namespace = bed.namespace("who");
    bed.within::<ServiceAccount>(&namespace).create(json!({ "metadata": { "name": "agent" } }));
    let pod = bed.pod(&namespace, "agent", &[], json!({ "serviceAccountName": "agent", "nodeName": node }));
    let who = |kubeconfig: &Path| -> Value {
        let arguments = ["--kubeconfig", kubeconfig.to_str().unwrap(), "auth", "whoami", "-o", "json"];
        serde_json::from_str(&bed.kubectl(&arguments)).unwrap()
    };
    let known = who(&bed.kubeconfig_of(&namespace, "agent", Bound::Pod(&pod)));
    let user = &known["status"]["userInfo"];
    assert_eq!(user["username"], format!("system:serviceaccount:{namespace}:agent"));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!([node]));
    let unbound = who(&bed.kubeconfig_of(&namespace, "agent", Bound::Nothing));
    assert_eq!(unbound["status"]["userInfo"]["extra"]["authentication.kubernetes.io/node-name"], Value::Null);
}

#[test]
fn nothing_is_left_of_a_bed_whose_process_is_killed() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bed_itself::hold", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(holder.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told = told.filter_map(|line| line.strip_prefix("held: ").map(str::to_owned)).next().unwrap();
    let (directory, pids) = told.split_once(' ').unwrap();
    let pids: Vec<_> = pids.split(' ').map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
    assert_eq!(pids.len(), 4);
    assert!(Path::new(directory).exists() && pids.iter().all(|pid| test_kill_process(*pid).is_ok()));
    kill_process(Pid::from_child(&holder), Signal::KILL).unwrap();
    holder.wait().unwrap();
    eventually("its processes and its directory are gone", 20, || {
        pids.iter().all(|pid| test_kill_process(*pid).is_err()) && !Path::new(directory).exists()
    });
}

#[test]
#[ignore = "started by nothing_is_left_of_a_bed_whose_process_is_killed"]
fn hold() {
    let bed = Bed::start();
    let pids: Vec<_> = bed.pids().iter().map(ToString::to_string).collect();
    println!("held: {} {}", bed.directory().display(), pids.join(" "));
    std::thread::sleep(std::time::Duration::from_secs(60));
}
