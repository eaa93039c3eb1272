//! The node: containerd, kubelet and kube-proxy, as processes of the machine.

use super::{
    bed::{
        Bed, Phase,
        kubectl::run_quietly,
        plane::{NODE, flag, program},
        process::Process,
    },
    machine,
};
use k8s_openapi::api::core::v1::Node as NodeObject;
use serde_json::json;
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

/// The node's; tests/e2e/enter gives it to a bridge.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
/// Where pods have theirs.
const PODS: &str = "10.253.0.0/16";
const SOCKET: &str = "/run/containerd/containerd.sock";
/// As scripts/cluster/images names it.
const PAUSE: &str = "registry.k8s.io/pause:3.10.1";

#[derive(Debug)]
pub struct Node {
    kubelet: Process,
    _proxy: Process,
    _containerd: Process,
    directory: PathBuf,
    kubeconfig: PathBuf,
}

impl Node {
    /// Returns when the API server calls it ready.
    pub fn start(bed: &Bed) -> Self {
        let mut phase = Phase::new();
        let directory = bed.directory().to_owned();
        let containerd = containerd(bed);
        import_images();
        phase.done("containerd and its images");
        let kubeconfig = bed.kubeconfig_of_user(&format!("system:node:{NODE}"));
        fs::write(directory.join("kubelet.json"), kubelet_settings().to_string()).unwrap();
        let kubelet = kubelet(&directory, &kubeconfig);
        let proxy = proxy(bed);
        bed.all::<NodeObject>().wait(NODE, "is ready", 90, is_ready);
        phase.done("kubelet");
        Self { kubelet, _proxy: proxy, _containerd: containerd, directory, kubeconfig }
    }

    /// Pods run on.
    pub fn stop_kubelet(&mut self) {
        self.kubelet.kill();
    }

    /// A test that failed may have left it stopped.
    pub fn ensure_kubelet(&mut self) {
        if self.kubelet.ended().is_some() {
            self.restart_kubelet();
        }
    }

    /// Ends the kubelet and starts another one; pods run on meanwhile.
    pub fn restart_kubelet(&mut self) {
        self.stop_kubelet();
        self.kubelet = kubelet(&self.directory, &self.kubeconfig);
    }
}

pub fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|each| each.type_ == "Ready" && each.status == "True")
        && node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).next().is_none()
}

fn containerd(bed: &Bed) -> Process {
    let networks = bed.directory().join("networks");
    fs::create_dir(&networks).unwrap();
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": "/run/cni",
                "ranges": [[{ "subnet": PODS }]], "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    fs::write(networks.join("pods.conflist"), network.to_string()).unwrap();
    // Where the machine may not raise anybody's score for the OOM killer, runc would fail.
    let settings = format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "/run/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "{PAUSE}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{}"
"#,
        networks.display()
    );
    let file = bed.directory().join("containerd.toml");
    fs::write(&file, settings).unwrap();
    let mut command = Command::new("containerd");
    command.arg("--config").arg(file);
    let mut containerd = bed.run("containerd", &command);
    crate::support::eventually("containerd answers", 30, || {
        assert!(containerd.ended().is_none(), "containerd has ended:\n{}", containerd.tail(10));
        Command::new("ctr").arg("version").output().unwrap().status.success()
    });
    containerd
}

fn import_images() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/cluster/images");
    for entry in fs::read_dir(images).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "tar") {
            import(&entry.path());
        }
    }
}

/// Makes containerd know an image, or more than one, of an OCI archive.
pub fn import(archive: &Path) {
    run_quietly(Command::new("ctr").args(["--namespace", "k8s.io", "images", "import"]).arg(archive));
}

fn kubelet(directory: &Path, kubeconfig: &Path) -> Process {
    let mut command = program("kubelet");
    command
        .arg(flag("--config", &directory.join("kubelet.json")))
        .arg(flag("--kubeconfig", kubeconfig))
        .arg(format!("--hostname-override={NODE}"))
        .arg(format!("--node-ip={ADDRESS}"))
        .arg("--v=2");
    Process::start("kubelet", &command, &directory.join("kubelet.log"))
}

fn kubelet_settings() -> serde_json::Value {
    let directory = std::env::var(machine::DIRECTORY).unwrap();
    let group = Path::new(&directory).file_name().unwrap().to_str().unwrap().to_owned();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS.to_string(),
        // Nobody else is on this network.
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{group}"),
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        // Its own needs a capability that not every machine has.
        "oomScoreAdj": 0,
        "resolvConf": "",
        "readOnlyPort": 0,
        "healthzPort": 0,
        "maxPods": 400,
        // How often it looks at a pod for which nothing happens: a filesystem that is to grow waits for it.
        "syncFrequency": "10s",
        "serializeImagePulls": false,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        // The host's disk may be as full as it likes, and images cannot be pulled again.
        "evictionHard": {
            "memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    })
}

/// The API server's address within the cluster, at which the driver's pods look for it, is one of its rules.
fn proxy(bed: &Bed) -> Process {
    let mut command = program("kube-proxy");
    command
        .arg(flag("--kubeconfig", &bed.kubeconfig_of_user("system:kube-proxy")))
        .args(["--proxy-mode=iptables", "--conntrack-max-per-core=0"])
        .args(["--healthz-bind-address=", "--metrics-bind-address="])
        .arg(format!("--hostname-override={NODE}"))
        .arg(format!("--cluster-cidr={PODS}"));
    bed.run("kube-proxy", &command)
}
