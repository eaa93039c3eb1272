//! The stock sidecars of a controller's pod, as processes beside a CSI socket.

use super::{
    Bed,
    access::Bound,
    plane::{flag, program},
    process::Process,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Where a controller would run: a Deployment's pod, which never gets further than to be scheduled, and its
/// account.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: String,
    pub account: String,
    pub pod: Pod,
}

impl Bed {
    /// A namespace with a Deployment of one pod, whose account may do what the sidecars do.
    pub fn controller_place(&self, prefix: &str) -> Place {
        let namespace = self.namespace(prefix);
        let account = format!("{prefix}-controller");
        self.within::<ServiceAccount>(&namespace).create(json!({ "metadata": { "name": account } }));
        self.allow_provisioning(&namespace, &account);
        self.within::<Deployment>(&namespace).create(json!({
            "metadata": { "name": account },
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": { "app": account } },
                "template": {
                    "metadata": { "labels": { "app": account } },
                    "spec": {
                        "serviceAccountName": account,
                        "containers": [{ "name": "controller", "image": "not-run" }],
                    },
                },
            },
        }));
        let pod = self.pod_of(&namespace, &format!("app={account}"));
        Place { namespace, account, pod }
    }

    /// The Deployment's second pod.
    pub fn second_place(&self, place: &Place) -> Place {
        let deployments = self.within::<Deployment>(&place.namespace);
        deployments.merge(&place.account, json!({ "spec": { "replicas": 2 } })).unwrap();
        let pods = self.within::<Pod>(&place.namespace);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let second = pods.list().into_iter().find(|pod| pod.uid() != place.pod.uid());
            if let Some(pod) = second {
                return Place { pod, ..place.clone() };
            }
            assert!(Instant::now() < deadline, "there is no second pod within 30 s");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the pod that a controller makes.
    pub fn pod_of(&self, namespace: &str, labels: &str) -> Pod {
        let pods = self.within::<Pod>(namespace);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.block_on(pods.api().list(&ListParams::default().labels(labels))).unwrap();
            if let Some(pod) = found.items.into_iter().next() {
                return pod;
            }
            assert!(Instant::now() < deadline, "no pod with {labels} within 30 s");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts the provisioner with the flags that the chart gives it, as the place's pod, on a driver's socket.
    pub fn provisioner(&self, place: &Place, socket: &Path) -> Process {
        let command = self.sidecar("csi-provisioner", place, socket);
        self.run(&format!("csi-provisioner-{}", place.pod.name_any()), &command)
    }

    /// A sidecar's command line, as the chart has it. Who leads is told apart by the host's name: it gets its pod's.
    fn sidecar(&self, name: &str, place: &Place, socket: &Path) -> Command {
        let pod = place.pod.name_any();
        let mut command = Command::new("unshare");
        command
            .args(["--uts", "sh", "-c", "echo \"$0\" >/proc/sys/kernel/hostname && exec \"$@\"", &pod])
            .arg(program(name).get_program())
            .arg("-v=4")
            .arg(format!("--leader-election-namespace={}", place.namespace))
            .arg(flag("--csi-address", socket))
            .arg(flag(
                "--kubeconfig",
                &self.kubeconfig_of(&place.namespace, &place.account, Bound::Pod(&place.pod)),
            ))
            .args(flags_in_manifests(name))
            .env("POD_NAME", &pod)
            .env("NAMESPACE", &place.namespace);
        command
    }

    /// What the provisioner does, in the cluster and in its own namespace.
    fn allow_provisioning(&self, namespace: &str, account: &str) {
        let name = format!("{namespace}-provisioner");
        let subjects = json!([{ "kind": "ServiceAccount", "name": account, "namespace": namespace }]);
        let role =
            |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
        self.all::<ClusterRole>().create(json!({ "metadata": { "name": name }, "rules": [
            rule("", &["persistentvolumes"], &["get", "list", "watch", "create", "patch", "delete"]),
            rule("", &["persistentvolumeclaims"], &["get", "list", "watch", "update"]),
            rule("", &["events"], &["list", "watch", "create", "update", "patch"]),
            rule("", &["nodes"], &["get", "list", "watch"]),
            rule("storage.k8s.io", &["storageclasses", "csinodes", "volumeattachments"], &["get", "list", "watch"]),
            rule("storage.k8s.io", &["volumeattributesclasses"], &["get", "list", "watch"]),
            rule("snapshot.storage.k8s.io", &["volumesnapshots"], &["get", "list", "watch", "update"]),
            rule("snapshot.storage.k8s.io", &["volumesnapshotcontents"], &["get", "list"]),
        ]}));
        self.all::<ClusterRoleBinding>().create(json!({
            "metadata": { "name": name }, "subjects": subjects, "roleRef": role("ClusterRole"),
        }));
        self.within::<Role>(namespace).create(json!({ "metadata": { "name": name }, "rules": [
            rule("coordination.k8s.io", &["leases"], &["get", "list", "watch", "create", "update", "patch", "delete"]),
            rule("storage.k8s.io", &["csistoragecapacities"],
                &["get", "list", "watch", "create", "update", "patch", "delete"]),
            rule("", &["pods"], &["get"]),
            rule("apps", &["replicasets"], &["get"]),
        ]}));
        self.within::<RoleBinding>(namespace).create(json!({
            "metadata": { "name": name }, "subjects": subjects, "roleRef": role("Role"),
        }));
    }
}

/// All that a container of deploy/wharf.yaml is started with, but for the socket's path.
fn flags_in_manifests(container: &str) -> Vec<String> {
    let text = include_str!("../../deploy/wharf.yaml");
    let (_, own) = text.split_once(&format!("- name: {container}\n")).unwrap();
    let (_, arguments) = own.split_once("args:\n").unwrap();
    let lines = arguments.lines().map(str::trim).take_while(|line| line.starts_with(['-', '#']));
    let flags = lines.filter_map(|line| line.strip_prefix("- ").filter(|flag| flag.starts_with("--")));
    let flags: Vec<_> = flags.filter(|flag| !flag.starts_with("--csi-address")).map(str::to_owned).collect();
    assert!(flags.contains(&"--leader-election".to_owned()) && flags.len() > 4, "{container}: {flags:?}");
    flags
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}
