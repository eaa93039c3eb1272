//! The driver as the chart installs it, short of its pods: kinds, accounts, roles and admission policies. What runs here
//! for these pods has their tokens, and may do no more than they.

use crate::bed::{Bed, access::Bound, sidecars::Place};
use k8s_openapi::api::core::v1::Node;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// `helm install wharf` into a namespace that is not called so.
pub struct Release<'a> {
    pub bed: &'a Bed,
    pub namespace: String,
    /// A pod of the Deployment, which gets no further than to be scheduled.
    pub controller: Place,
}

const TEMPLATES: [&str; 5] =
    ["admission.yaml", "rbac-controller.yaml", "rbac-node.yaml", "csidriver.yaml", "controller.yaml"];

impl Release<'static> {
    /// The one of the shared control plane. There is one in a cluster: its policies let nobody else delete.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Release> = OnceLock::new();
        SHARED.get_or_init(|| Self::on(Bed::shared()))
    }
}

impl<'a> Release<'a> {
    pub fn on(bed: &'a Bed) -> Self {
        let namespace = bed.namespace("storage");
        define_kinds(bed);
        bed.define_snapshots();
        let rendered = rendered(&namespace, &TEMPLATES, &["--api-versions=snapshot.storage.k8s.io/v1"]);
        // A pod of the Deployment needs a node.
        bed.node(&crate::bed::unique("control-plane"), "other.csi.example", &[]);
        bed.apply(&rendered);
        let pod = bed.pod_of(&namespace, "app.kubernetes.io/component=controller");
        let controller = Place { namespace: namespace.clone(), account: "wharf-controller".into(), pod };
        let release = Self { bed, namespace, controller };
        release.wait_for_policies();
        release
    }

    /// A new policy counts after a moment.
    fn wait_for_policies(&self) {
        let unwished = r#"{"apiVersion": "wharf.csi.dev/v1alpha1", "kind": "LocalVolume",
            "metadata": {"name": "nobodys"}, "spec": {"nodeName": "none", "name": "nobodys", "pool": "default",
            "access": "Mount", "desired": "Absent"}}"#;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let said = self.bed.try_kubectl(&["create", "--dry-run=server", "-f", "-"], unwished);
            if said.as_ref().is_err_and(|said| said.contains("only the controller")) {
                return;
            }
            assert!(Instant::now() < deadline, "the policies do not count within 30 s: {said:?}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn kubeconfig_of_controller(&self) -> PathBuf {
        let Place { namespace, account, pod } = &self.controller;
        self.bed.kubeconfig_of(namespace, account, Bound::Pod(pod))
    }

    /// Of the agent of a node: good as long as this Node is there.
    pub fn kubeconfig_of_node(&self, node: &str) -> PathBuf {
        let node = self.bed.all::<Node>().get(node).unwrap();
        self.bed.kubeconfig_of(&self.namespace, "wharf-node", Bound::Node(&node))
    }
}

/// As `kubectl apply -f deploy/crds.yaml` does; they are served when it returns.
pub fn define_kinds(bed: &Bed) {
    bed.apply(&std::fs::read_to_string(at("deploy/crds.yaml")).unwrap());
    let kinds = KINDS.map(|kind| format!("crd/{kind}"));
    bed.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &kinds[0], &kinds[1], &kinds[2]]);
}

pub const KINDS: [&str; 3] =
    ["localvolumes.wharf.csi.dev", "localsnapshots.wharf.csi.dev", "storagenodes.wharf.csi.dev"];

pub fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// These templates of the chart, as installed into the namespace.
pub fn rendered(namespace: &str, templates: &[&str], arguments: &[&str]) -> String {
    let mut render = Command::new(at("deploy/render"));
    render.args(["--", "wharf", "--namespace", namespace]).args(arguments);
    render.args(templates.iter().map(|template| format!("--show-only=templates/{template}")));
    output(&mut render)
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
