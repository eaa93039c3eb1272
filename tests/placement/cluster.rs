//! Three nodes with `wharf node` and a pool each, and `wharf controller` behind the stock provisioner. Names of nodes,
//! pools and drivers are no other test's: all tests share a control plane.

use crate::{
    bed::{
        Bed,
        claims::{Binding, Claim},
        nodes::TOPOLOGY,
        objects::Objects,
        process::Process,
        sidecars::Place,
        unique,
    },
    release::Release,
    support::{
        MIB,
        co::{Co, Spec, csi},
        data::{bytes, write_durably},
        driver::Driver,
        eventually,
        places::Places,
        pool::{Kind, Pool},
    },
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::CSIStorageCapacity,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};
use wharf::cluster::api::{LocalVolume, Phase, StorageNode};

/// What a test may have otherwise.
pub struct Setup {
    /// Of the pools, in bytes, on a filesystem of this kind each; at least 300 MiB.
    pub pools: [(Kind, u64); 3],
    /// The grace for a deleted Node, in seconds.
    pub node_gone_after: u32,
    /// The provisioner, too, runs as the chart has it: one test at a time.
    pub as_the_chart_has_it: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let pool = (Kind::Xfs, 1024 * MIB);
        Self { pools: [pool; 3], node_gone_after: 300, as_the_chart_has_it: false }
    }
}

pub struct Cluster<'a> {
    // In this order: who calls ends before who is called, and the pools go last.
    pub provisioner: Process,
    pub controller: Driver,
    pub nodes: [Member<'a>; 3],
    pub release: &'a Release<'a>,
    pub bed: &'a Bed,
    /// Of the driver.
    pub driver: String,
    /// Every node of this test has it, and no other.
    pub pool: String,
    /// Of the provisioner.
    pub place: Place,
    /// Of users.
    pub namespace: String,
    node_gone_after: u32,
}

impl Cluster<'static> {
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        Self::on(Release::shared(), setup)
    }
}

impl<'a> Cluster<'a> {
    pub fn on(release: &'a Release<'a>, setup: Setup) -> Self {
        let bed = release.bed;
        let (driver, pool, place) = if setup.as_the_chart_has_it {
            ("wharf.csi.dev".to_owned(), "default".to_owned(), release.controller.clone())
        } else {
            // csi-sanity wants a letter at the end.
            let driver = format!("{}.csi", unique("driver"));
            bed.csi_driver(&driver);
            (driver, unique("pool"), bed.controller_place("sidecars"))
        };
        let nodes =
            setup.pools.map(|(kind, size)| Member::new(release, &driver, &pool, Pool::new(kind, size)));
        let controller = start_controller(release, &driver, setup.node_gone_after);
        // The provisioner asks for capacities when it starts, and then once a minute.
        let spec = Spec::new().pool(&pool);
        let mut co = controller.co();
        for node in &nodes {
            node.wait_until_told();
            eventually("the controller knows of all nodes", 30, || room(&mut co, &spec, &node.name) > 0);
        }
        let provisioner = bed.provisioner(&place, &controller.socket());
        let namespace = bed.namespace("user");
        let node_gone_after = setup.node_gone_after;
        Self { provisioner, controller, nodes, release, bed, driver, pool, place, namespace, node_gone_after }
    }

    /// One more of the same release.
    pub fn another_controller(&self) -> Driver {
        start_controller(self.release, &self.driver, self.node_gone_after)
    }

    pub fn claims(&self) -> Objects<PersistentVolumeClaim> {
        self.bed.within(&self.namespace)
    }

    pub fn pods(&self) -> Objects<Pod> {
        self.bed.within(&self.namespace)
    }

    pub fn objects(&self) -> Objects<LocalVolume> {
        self.bed.all()
    }

    /// Those of this test's nodes.
    pub fn own_objects(&self) -> Vec<LocalVolume> {
        let mut all = self.objects().list();
        all.retain(|object| self.nodes.iter().any(|node| node.name == object.spec.node_name));
        all
    }

    pub fn class(&self, binding: Binding) -> String {
        self.class_with(binding, json!({}))
    }

    pub fn class_with(&self, binding: Binding, more: Value) -> String {
        self.bed.class_with(&self.driver, binding, &[("pool", &self.pool)], more)
    }

    pub fn claim(&self, name: &str, class: &str, size: &str) {
        self.claim_of(name, class, size, Value::Null);
    }

    pub fn claim_of(&self, name: &str, class: &str, size: &str, source: Value) {
        self.bed.claim(&self.namespace, &Claim { name, class, size, source });
    }

    /// A pod that rather runs there.
    pub fn pod_near(&self, name: &str, claims: &[&str], node: &Member) {
        let preference = json!({ "matchExpressions": [
            { "key": "kubernetes.io/hostname", "operator": "In", "values": [node.name] },
        ] });
        let affinity = json!({ "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{ "weight": 100, "preference": preference }],
        } });
        self.bed.pod(&self.namespace, name, claims, json!({ "affinity": affinity }));
    }

    /// A pod that runs there or nowhere.
    pub fn pod_on(&self, name: &str, claims: &[&str], node: &Member) {
        let selector = json!({ "nodeSelector": { "kubernetes.io/hostname": node.name } });
        self.bed.pod(&self.namespace, name, claims, selector);
    }

    /// Waits until the scheduler can see what is free on each node for a class. A node that it does not know of is
    /// none that it would rather have.
    pub fn wait_for_capacities(&self, class: &str) {
        eventually("the scheduler can see what is free on each node", 60, || {
            let all = self.bed.within::<CSIStorageCapacity>(&self.place.namespace).list();
            let known = |one: &&CSIStorageCapacity| {
                one.storage_class_name == class
                    && one.capacity.as_ref().is_some_and(|capacity| capacity.0 != "0")
            };
            all.iter().filter(known).count() == self.nodes.len()
        });
    }

    /// The largest volume that a node can take, as the scheduler sees it for a class; in bytes.
    pub fn capacity_at(&self, class: &str, node: &str) -> Option<u64> {
        let all = self.bed.within::<CSIStorageCapacity>(&self.place.namespace).list();
        let of_node = |one: &CSIStorageCapacity| {
            let labels = one.node_topology.iter().flat_map(|selector| selector.match_labels.iter().flatten());
            labels.into_iter().any(|(_, value)| value == node)
        };
        let found = all.into_iter().find(|one| one.storage_class_name == class && of_node(one))?;
        found.maximum_volume_size.map(|size| bytes_of(&size))
    }

    /// Where the scheduler wanted a claim's volume.
    pub fn wanted_at(&self, claim: &str) -> String {
        self.claims().get(claim).unwrap().annotations()["volume.kubernetes.io/selected-node"].clone()
    }

    /// Waits for a claim's volume; gives its id and the place of its node among the nodes. The affinity, the id and the
    /// object agree, and the data is there and nowhere else.
    pub fn placed(&self, claim: &str, seconds: u64) -> (String, usize) {
        let volume = self.bed.bound(&self.namespace, claim, seconds);
        let (node, handle) = (node_of(&volume), handle_of(&volume));
        let at = self.index_of(&node);
        let key = uuid_in(&handle);
        assert_eq!(handle, format!("local-{key}.{node}"));
        let object = self.objects().get(&key).expect("a bound volume without an object");
        assert_eq!((&object.spec.node_name, phase_of(&object)), (&node, Phase::Ready));
        assert_eq!(object.spec.name, volume.name_any());
        let holders: Vec<_> = (0..3).filter(|n| self.nodes[*n].volumes().contains(&key)).collect();
        assert_eq!(holders, [at], "where its data is");
        (handle, at)
    }

    pub fn index_of(&self, node: &str) -> usize {
        let found = self.nodes.iter().position(|member| member.name == node);
        found.unwrap_or_else(|| panic!("{node} is a node of another test"))
    }

    /// What the controller says of each CreateVolume for a claim.
    pub fn creations(&self, claim: &str) -> Vec<String> {
        let name = format!("pvc-{}", self.claims().get(claim).unwrap().uid().unwrap());
        let log = self.controller.log();
        let calls = log.lines().filter(|line| line.contains("\"CreateVolume\"") && line.contains(&name));
        calls.map(str::to_owned).collect()
    }

    /// Deletes all claims of the namespace, and looks that nothing is left of them anywhere.
    pub fn clear(&self, seconds: u64) {
        for pod in self.pods().list() {
            self.pods().delete_now(&pod.name_any());
        }
        let claims = self.claims().list();
        claims.iter().for_each(|claim| self.claims().delete(&claim.name_any()));
        for claim in claims {
            self.claims().wait_gone(&claim.name_any(), seconds);
            let volume = claim.spec.and_then(|spec| spec.volume_name);
            volume.iter().for_each(|name| self.bed.all::<PersistentVolume>().wait_gone(name, seconds));
        }
        self.assert_empty();
    }

    /// Nothing is left of any volume, in the API server or on a disk.
    pub fn assert_empty(&self) {
        // The provisioner deletes some of them twice, and then each node is asked again.
        eventually("no object is left", 20, || self.own_objects().is_empty());
        for node in &self.nodes {
            eventually("nothing is left on disk", 20, || {
                ["volumes", "tmp", "trash"]
                    .iter()
                    .all(|directory| entries(&node.pool.path().join(directory)).is_empty())
            });
        }
    }

    /// All of them run, and were allowed to do whatever they tried.
    pub fn assert_content(&mut self) {
        assert!(self.provisioner.ended().is_none(), "{}", self.provisioner.tail(20));
        assert!(self.controller.ended().is_none(), "{}", self.controller.log());
        let mut logs = vec![self.provisioner.log(), self.controller.log()];
        for node in &mut self.nodes {
            if let Some(driver) = &mut node.driver {
                assert!(driver.ended().is_none(), "{}", driver.log());
                logs.push(driver.log());
            }
        }
        // A kind that is on its way out takes nothing new, whoever may do what.
        let is_denied = |line: &&str| line.contains("forbidden") && !line.contains("is terminating");
        let denied: Vec<_> = logs.iter().flat_map(|log| log.lines()).filter(is_denied).collect();
        assert!(denied.is_empty(), "{denied:#?}");
    }
}

fn start_controller(release: &Release, driver: &str, node_gone_after: u32) -> Driver {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(["controller", "--driver-name", driver, "--namespace", &release.namespace]);
    command.arg("--node-gone-after").arg(node_gone_after.to_string());
    command.arg("--kubeconfig").arg(release.kubeconfig_of_controller());
    let mut controller = Driver::spawn_as(command, &[]);
    assert!(controller.wait_until_ready(), "the controller did not start:\n{}", controller.log());
    controller
}

/// What a volume of this class may still claim on a node, as the controller knows it; in bytes.
pub fn room(co: &mut Co, spec: &Spec, node: &str) -> i64 {
    let request = csi::GetCapacityRequest {
        volume_capabilities: vec![spec.capability()],
        parameters: spec.parameters.iter().cloned().collect(),
        accessible_topology: Some(csi::Topology {
            segments: [(TOPOLOGY.to_owned(), node.to_owned())].into(),
        }),
    };
    co.call(|mut client| async move { client.controller.get_capacity(request).await })
        .unwrap()
        .available_capacity
}

/// A node: its objects, its driver, its pool.
pub struct Member<'a> {
    pub driver: Option<Driver>,
    pub pool: Pool,
    pub name: String,
    release: &'a Release<'a>,
    csi_name: String,
    pool_name: String,
}

impl<'a> Member<'a> {
    fn new(release: &'a Release<'a>, csi_name: &str, pool_name: &str, pool: Pool) -> Self {
        let name = unique("node");
        let (csi_name, pool_name) = (csi_name.to_owned(), pool_name.to_owned());
        let mut member = Self { driver: None, pool, name, release, csi_name, pool_name };
        member.join();
        member
    }

    /// A Node is made, and its agent is started with a token of it.
    pub fn join(&mut self) {
        self.release.bed.node(&self.name, &self.csi_name, &[]);
        self.start();
    }

    /// As a new pod on this Node.
    pub fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["node", "--register", "false", "--driver-name", &self.csi_name]);
        command.args(["--node-id", &self.name, "--namespace", &self.release.namespace]);
        command.arg("--pool").arg(format!("{}={}", self.pool_name, self.pool.path().display()));
        command.arg("--kubeconfig").arg(self.release.kubeconfig_of_node(&self.name));
        let mut driver = Driver::spawn_as(command, &[("WHARF_LOG_LEVEL", "info,wharf::cluster=debug")]);
        assert!(driver.wait_until_ready(), "the node's driver did not start:\n{}", driver.log());
        self.driver = Some(driver);
    }

    /// SIGKILL for the driver.
    pub fn kill(&mut self) {
        self.driver.take().unwrap().kill();
    }

    /// After [`Driver::stop`].
    pub fn resume(&self) {
        let pid = i32::try_from(self.driver().pid()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT).unwrap();
    }

    pub fn driver(&self) -> &Driver {
        self.driver.as_ref().unwrap()
    }

    /// Waits until its StorageNode tells of this pool.
    pub fn wait_until_told(&self) -> StorageNode {
        let path = self.pool.path().display().to_string();
        self.release.bed.all::<StorageNode>().wait(&self.name, "tells of its pool", 30, |node| {
            let pools = node.status.iter().flat_map(|status| &status.pools);
            pools.into_iter().any(|pool| pool.path == path && pool.uuid.is_some())
        })
    }

    /// Names of what is on its disk.
    pub fn volumes(&self) -> Vec<String> {
        entries(&self.pool.path().join("volumes"))
    }

    /// Lets `work` have a volume as a pod has it.
    pub fn with_mounted<T>(&self, id: &str, work: impl FnOnce(&Path) -> T) -> T {
        let places = Places::new();
        let (staging, target) = (places.staging("volume"), places.target("volume"));
        let (spec, mut co) = (Spec::new(), self.driver().co());
        co.stage(id, &staging, &spec).unwrap();
        co.publish(id, &staging, &target, &spec, false).unwrap();
        let value = work(&target);
        co.unpublish(id, &target).unwrap();
        co.unstage(id, &staging).unwrap();
        value
    }

    /// Writes a file into a volume; what it says is of `seed`.
    pub fn fill(&self, id: &str, seed: u64) {
        self.with_mounted(id, |root| {
            write_durably(&root.join("content"), &bytes(seed, 1 << 20));
        });
    }

    /// The file of [`Member::fill`] is there, as it was written.
    pub fn assert_filled(&self, id: &str, seed: u64) {
        let found = self.with_mounted(id, |root| fs::read(root.join("content")).unwrap());
        assert!(found == bytes(seed, 1 << 20), "other data");
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let Ok(all) = fs::read_dir(directory) else { return Vec::new() };
    all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub fn phase_of(object: &LocalVolume) -> Phase {
    object.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// Of a quantity of whole bytes.
fn bytes_of(quantity: &Quantity) -> u64 {
    let digits = quantity.0.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &quantity.0[digits.len()..] {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        unit => panic!("a unit that no size of a test has: {unit}"),
    };
    digits.parse::<u64>().unwrap() << shift
}

/// The node that a volume's affinity names.
pub fn node_of(volume: &PersistentVolume) -> String {
    let affinity = volume.spec.as_ref().unwrap().node_affinity.as_ref().unwrap();
    let terms = &affinity.required.as_ref().unwrap().node_selector_terms;
    let values: Vec<_> = terms
        .iter()
        .flat_map(|term| term.match_expressions.iter().flatten())
        .flat_map(|each| each.values.iter().flatten())
        .collect();
    assert_eq!(values.len(), 1, "{affinity:?}");
    values[0].clone()
}

pub fn handle_of(volume: &PersistentVolume) -> String {
    volume.spec.as_ref().unwrap().csi.as_ref().unwrap().volume_handle.clone()
}

/// The uuid in the id of a volume or a snapshot.
pub fn uuid_in(handle: &str) -> String {
    let rest = handle.trim_start_matches("local-").trim_start_matches("snap-");
    rest.split('.').next().unwrap().to_owned()
}

/// CreateVolume past the provisioner, on one node.
pub fn create_at(co: &mut Co, name: &str, spec: &Spec, node: &str) -> Result<csi::Volume, tonic::Status> {
    let mut request = spec.request(name);
    let there = csi::Topology { segments: [(TOPOLOGY.to_owned(), node.to_owned())].into() };
    request.accessibility_requirements =
        Some(csi::TopologyRequirement { requisite: vec![there.clone()], preferred: vec![there] });
    co.call(|mut client| async move { client.controller.create_volume(request).await })
        .map(|answer| answer.volume.unwrap())
}

/// As an orchestrator does: what is not final is asked again.
pub fn to_the_end<T>(
    seconds: u64,
    mut call: impl FnMut() -> Result<T, tonic::Status>,
) -> Result<T, tonic::Status> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        match call() {
            Err(status) if matches!(status.code(), tonic::Code::Aborted | tonic::Code::Unavailable) => {
                assert!(std::time::Instant::now() < deadline, "not final within {seconds} s: {status}");
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            answer => return answer,
        }
    }
}
