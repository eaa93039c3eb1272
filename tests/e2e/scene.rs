//! What a test does as a user of the cluster: claims, pods, and commands in pods, in a namespace of its own.

use super::{
    bed::{Bed, objects::Objects},
    cluster::{Cluster, Turn},
};
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wharf::cluster::api::{LocalSnapshot, LocalVolume};

pub const DRIVER: &str = "wharf.csi.dev";
/// As scripts/cluster/images names it.
pub const SHELL: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";

/// For a pod to run, or to be gone; a second or two on a machine that has nothing else to do.
pub const PATIENCE: u64 = 60;

pub struct Scene {
    pub cluster: &'static Cluster,
    pub namespace: String,
    start: Instant,
    _turn: Turn,
}

/// How a pod sees a claim.
#[derive(Clone, Copy, Debug)]
pub enum Use<'a> {
    /// At `/data`.
    Mount(&'a str),
    /// As `/dev/volume`.
    Device(&'a str),
    /// An emptyDir at `/data`.
    Nothing,
}

impl Scene {
    pub fn shared(name: &str) -> Self {
        Self::new(name, Cluster::shared())
    }

    pub fn alone(name: &str) -> Self {
        Self::new(name, Cluster::alone())
    }

    fn new(name: &str, (cluster, turn): (&'static Cluster, Turn)) -> Self {
        Self { cluster, namespace: cluster.bed.namespace(name), start: Instant::now(), _turn: turn }
    }

    pub fn bed(&self) -> &'static Bed {
        &self.cluster.bed
    }

    pub fn pods(&self) -> Objects<Pod> {
        self.bed().within(&self.namespace)
    }

    pub fn claims(&self) -> Objects<PersistentVolumeClaim> {
        self.bed().within(&self.namespace)
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.bed().kubectl(&[&["--namespace", &self.namespace], arguments].concat())
    }

    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.bed().try_kubectl(&[&["--namespace", &self.namespace], arguments].concat(), "")
    }

    pub fn claim(&self, name: &str, class: &str, size: &str) {
        self.claim_with(name, class, size, &json!({}));
    }

    /// `more`: fields of its spec.
    pub fn claim_with(&self, name: &str, class: &str, size: &str, more: &Value) {
        let spec = json!({
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": class,
            "resources": { "requests": { "storage": size } },
        });
        let labels = json!({ "name": name });
        self.claims()
            .create(json!({ "metadata": { "name": name, "labels": labels }, "spec": merged(spec, more) }));
    }

    /// A pod that runs until it is stopped; returns when it is ready.
    pub fn run(&self, name: &str, uses: Use) {
        self.pod(name, uses, &json!({}));
        self.ready(name);
    }

    /// Writes a pod down. `more`: fields of its spec.
    pub fn pod(&self, name: &str, uses: Use, more: &Value) {
        self.pods().create(json!({ "metadata": { "name": name }, "spec": merged(pod_spec(uses, "exec sleep 100000"), more) }));
    }

    pub fn ready(&self, pod: &str) -> Pod {
        self.pods().wait(pod, "is ready", PATIENCE, is_ready)
    }

    /// Runs a script in a pod; gives what it prints.
    pub fn exec(&self, pod: &str, script: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-ec", script])
    }

    /// Ends a pod as a user does, without patience; returns when it is gone, its volumes unmounted.
    pub fn stop(&self, pod: &str) {
        self.pods().delete(pod);
        self.pods().wait_gone(pod, PATIENCE);
    }

    /// Deletes a claim; returns when its volume is gone, too: for the API server and for the driver.
    pub fn delete_claim(&self, name: &str) {
        let volume = self.volume(name);
        let object = self.local_volume(name).name_any();
        self.claims().delete(name);
        self.claims().wait_gone(name, PATIENCE);
        self.bed().all::<PersistentVolume>().wait_gone(&volume.name_any(), PATIENCE);
        self.bed().all::<LocalVolume>().wait_gone(&object, PATIENCE);
    }

    /// The volume that a claim has.
    pub fn volume(&self, claim: &str) -> PersistentVolume {
        let claim = self.claims().get(claim).unwrap();
        self.bed().all().get(&claim.spec.unwrap().volume_name.unwrap()).unwrap()
    }

    /// The driver's object for a claim's volume.
    pub fn local_volume(&self, claim: &str) -> LocalVolume {
        self.object_of(&handle(&self.volume(claim)))
            .unwrap_or_else(|| panic!("no LocalVolume of {claim}'s volume"))
    }

    /// The driver's object that has this id.
    pub fn object_of(&self, id: &str) -> Option<LocalVolume> {
        let known = |volume: &LocalVolume| volume.status.as_ref().and_then(|status| status.volume_id.clone());
        self.bed().all::<LocalVolume>().list().into_iter().find(|each| known(each).as_deref() == Some(id))
    }

    pub fn local_snapshots(&self) -> Vec<LocalSnapshot> {
        self.bed().all::<LocalSnapshot>().list()
    }

    /// Fills a file with what cannot be guessed and makes it last; gives its sum.
    pub fn fill(&self, pod: &str, file: &str, mebibytes: u32) -> String {
        self.exec(
            pod,
            &format!("dd if=/dev/urandom of={file} bs=1M count={mebibytes} 2>/dev/null; sync {file}"),
        );
        self.sum(pod, file)
    }

    pub fn sum(&self, pod: &str, file: &str) -> String {
        let line = self.exec(pod, &format!("sha256sum {file}"));
        line.split_whitespace().next().unwrap().to_owned()
    }

    /// Which of the volume's capacity the pod sees, in MiB.
    pub fn size(&self, pod: &str) -> u64 {
        self.exec(pod, "df -m /data | tail -n 1 | awk '{ print $2 }'").parse().unwrap()
    }
}

impl Drop for Scene {
    /// What a test has not deleted goes when nobody waits for it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = self.try_kubectl(&["get", "pods,persistentvolumeclaims", "--output", "wide"]);
            let events = self.try_kubectl(&["get", "events", "--sort-by", ".lastTimestamp"]);
            eprintln!("{}\n{}\n", told.unwrap_or_default(), events.unwrap_or_default());
            eprintln!("{}", super::release::told(self.bed()));
            // Whoever comes next is not to fail for this.
            self.cluster.node().ensure_kubelet();
        }
        self.bed().all::<Namespace>().delete(&self.namespace);
        eprintln!("scene: {}: {:.1} s", self.namespace, self.start.elapsed().as_secs_f64());
    }
}

/// One container with a shell. It ends at once when it is told to: the shell is not its first process's child.
pub fn pod_spec(uses: Use, script: &str) -> Value {
    let mut container = json!({
        "name": "main", "image": SHELL, "imagePullPolicy": "Never",
        "command": ["sh", "-c", format!("trap 'exit 0' TERM; {script} & wait")],
    });
    let volume = match uses {
        Use::Mount(claim) | Use::Device(claim) => json!({ "persistentVolumeClaim": { "claimName": claim } }),
        Use::Nothing => json!({ "emptyDir": {} }),
    };
    match uses {
        Use::Device(_) => {
            container["volumeDevices"] = json!([{ "name": "data", "devicePath": "/dev/volume" }])
        }
        Use::Mount(_) | Use::Nothing => {
            container["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
        }
    }
    json!({
        "terminationGracePeriodSeconds": 5,
        "enableServiceLinks": false,
        "automountServiceAccountToken": false,
        "containers": [container],
        "volumes": [merged(json!({ "name": "data" }), &volume)],
    })
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|each| each.type_ == "Ready" && each.status == "True")
}

/// `into` with the fields of `more`.
pub fn merged(mut into: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        into[key] = value.clone();
    }
    into
}

/// What a volume's handle is.
pub fn handle(volume: &PersistentVolume) -> String {
    volume.spec.as_ref().unwrap().csi.as_ref().unwrap().volume_handle.clone()
}

/// Waits for what no object tells.
pub fn within(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
