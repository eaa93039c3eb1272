//! An agent that does as it is told: a thread that reads the objects of one node and answers them, with a set of names
//! for a disk.

use crate::{bed::Bed, support::eventually};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use wharf::{
    cluster::api::{Desired, FINALIZER, Failure, LocalSnapshot, LocalVolume, Phase, StorageNode},
    error::Error,
};

/// How long its Lease lasts: short, so that tests of dead agents are.
const LEASE: u64 = 6;
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);

/// How it treats wishes.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Takes them on and carries them out.
    Serves,
    /// Takes them on, and no more.
    Accepts,
    /// Does not see them.
    Sleeps,
    /// Says that it cannot, and leaves nothing behind.
    Refuses(fn() -> Error),
    /// Says that it cannot grow anything.
    RefusesGrowth,
}

/// What is on its disk: by the name of the object.
pub type Disk = Arc<Mutex<BTreeMap<String, i64>>>;

/// Ends with what it is held by; its Lease then runs out.
#[derive(Debug)]
pub struct Agent {
    pub node: String,
    pub disk: Disk,
    manner: Arc<Mutex<Manner>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    shown: Arc<AtomicBool>,
}

/// What an agent reports of its only pool.
pub fn report(bed: &Bed, node: &str, pool: &str, available: i64) {
    let reports = bed.all::<StorageNode>();
    let _there_already = reports.try_create(json!({
        "apiVersion": "wharf.csi.dev/v1alpha1", "kind": "StorageNode", "metadata": { "name": node }, "spec": {},
    }));
    let status = json!({ "status": {
        "version": "test", "topologyValue": node, "observedTime": Timestamp::now().to_string(),
        "pools": [{ "name": pool, "uuid": "0b0e2a3c", "path": "/pool", "filesystem": "xfs", "reflink": true,
            "directoryLimits": true, "capacityBytes": available, "availableBytes": available }],
    } });
    reports.merge_status(node, status).unwrap();
}

impl Agent {
    pub fn start(client: Client, namespace: &str, node: &str, manner: Manner, disk: Disk) -> Self {
        let (told, stop) = (Arc::new(Mutex::new(manner)), Arc::new(AtomicBool::new(false)));
        let mut work = Work {
            volumes: Api::all(client.clone()),
            snapshots: Api::all(client.clone()),
            leases: Api::namespaced(client, namespace),
            node: node.to_owned(),
            disk: Arc::clone(&disk),
            renewed: None,
            shown: Arc::default(),
        };
        let shown = Arc::clone(&work.shown);
        let (manner, ending) = (Arc::clone(&told), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            while !ending.load(Ordering::Relaxed) {
                let now = *manner.lock().unwrap();
                // Conflicts and an API server that is away: the next look mends it.
                if let Err(error) = runtime.block_on(work.once(now)) {
                    eprintln!("agent {}: {error}", work.node);
                }
                thread::sleep(LOOK);
            }
        });
        let agent = Self { node: node.to_owned(), disk, manner: told, stop, thread: Some(thread), shown };
        eventually("the agent shows that it is alive", 30, || agent.shown.load(Ordering::Relaxed));
        agent
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// It dies; returns when its Lease has run out.
    pub fn die(mut self) -> Disk {
        self.end();
        thread::sleep(Duration::from_secs(LEASE + 1));
        Arc::clone(&self.disk)
    }

    pub fn holds(&self, name: &str) -> bool {
        self.disk.lock().unwrap().contains_key(name)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

struct Work {
    volumes: Api<LocalVolume>,
    snapshots: Api<LocalSnapshot>,
    leases: Api<Lease>,
    node: String,
    disk: Disk,
    renewed: Option<Instant>,
    shown: Arc<AtomicBool>,
}

impl Work {
    async fn once(&mut self, manner: Manner) -> kube::Result<()> {
        self.renew().await?;
        if matches!(manner, Manner::Sleeps) {
            return Ok(());
        }
        let own = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        for volume in self.volumes.list(&own).await?.items {
            let size = volume.spec.required_bytes.max(4096);
            let held = volume.status.as_ref().and_then(|status| status.size_bytes);
            if let Some(answer) = self.treat(&self.volumes, &volume, volume.spec.desired, manner).await? {
                let id = volume.id().unwrap().to_string();
                let status = match answer {
                    Ok(())
                        if matches!(manner, Manner::RefusesGrowth)
                            && held.is_some_and(|held| size > held) =>
                    {
                        ready(
                            &volume,
                            json!({ "volumeID": id, "sizeBytes": held,
                            "failure": Failure::from(&Error::OutOfRange("the pool is too full".into())) }),
                        )
                    }
                    Ok(()) => {
                        let size = size.max(held.unwrap_or_default());
                        self.disk.lock().unwrap().insert(volume.name_any(), size);
                        ready(&volume, json!({ "volumeID": id, "sizeBytes": size, "failure": null }))
                    }
                    Err(error) => failed(&volume, &error),
                };
                self.volumes.patch_status(&volume.name_any(), &PatchParams::default(), &status).await?;
            }
        }
        for snapshot in self.snapshots.list(&own).await?.items {
            if let Some(answer) =
                self.treat(&self.snapshots, &snapshot, snapshot.spec.desired, manner).await?
            {
                let status = match answer {
                    Ok(()) => {
                        self.disk.lock().unwrap().insert(snapshot.name_any(), 0);
                        let id = format!("local-snap-{}.{}", snapshot.name_any(), self.node);
                        ready(
                            &snapshot,
                            json!({ "snapshotID": id, "askedBytes": 4096, "failure": null,
                            "creationTime": Timestamp::now().to_string() }),
                        )
                    }
                    Err(error) => failed(&snapshot, &error),
                };
                self.snapshots.patch_status(&snapshot.name_any(), &PatchParams::default(), &status).await?;
            }
        }
        Ok(())
    }

    /// What an agent does with every kind; the answer, where it has one to give.
    async fn treat<K>(
        &self,
        api: &Api<K>,
        object: &K,
        desired: Desired,
        manner: Manner,
    ) -> kube::Result<Option<Result<(), Error>>>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + serde::Serialize,
    {
        let (name, leaving) = (object.name_any(), object.meta().deletion_timestamp.is_some());
        let accepted = object.finalizers().iter().any(|one| one == FINALIZER);
        let mark = |finalizers: Vec<&str>| {
            let meta = json!({ "resourceVersion": object.resource_version(), "finalizers": finalizers });
            Patch::Merge(json!({ "metadata": meta }))
        };
        if leaving && !matches!(manner, Manner::Accepts) {
            // Without the wish no data is touched.
            if desired == Desired::Absent {
                self.disk.lock().unwrap().remove(&name);
            }
            api.patch(&name, &PatchParams::default(), &mark(Vec::new())).await?;
            return Ok(None);
        }
        if !accepted && !leaving {
            api.patch(&name, &PatchParams::default(), &mark(vec![FINALIZER])).await?;
            return Ok(None);
        }
        let status: Value = serde_json::to_value(object).unwrap()["status"].clone();
        let found = status["phase"] == json!(Phase::Orphaned);
        let done = status["observedGeneration"].as_i64() == object.meta().generation && !found;
        if leaving || done || desired == Desired::Absent {
            return Ok(None);
        }
        // What an agent has found is not taken up before somebody asks for it.
        if object.labels().contains_key("wharf.csi.dev/orphaned") {
            return Ok(None);
        }
        Ok(match manner {
            Manner::Serves | Manner::RefusesGrowth => Some(Ok(())),
            Manner::Refuses(error) => Some(Err(error())),
            Manner::Accepts | Manner::Sleeps => None,
        })
    }

    async fn renew(&mut self) -> kube::Result<()> {
        if self.renewed.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            return Ok(());
        }
        let name = format!("wharf-node-{}", self.node);
        let now = format!("{:.6}", Timestamp::now());
        let spec = json!({ "holderIdentity": "test", "leaseDurationSeconds": LEASE, "renewTime": now });
        let lease: Lease = serde_json::from_value(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name }, "spec": spec,
        }))
        .unwrap();
        match self.leases.create(&PostParams::default(), &lease).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.leases
                    .patch(&name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec })))
                    .await?;
            }
            other => drop(other?),
        }
        self.renewed = Some(Instant::now());
        self.shown.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn ready<K: Resource>(object: &K, mut more: Value) -> Patch<Value> {
    more["phase"] = json!("Ready");
    more["observedGeneration"] = json!(object.meta().generation);
    Patch::Merge(json!({ "metadata": { "resourceVersion": object.meta().resource_version }, "status": more }))
}

fn failed<K: Resource>(object: &K, error: &Error) -> Patch<Value> {
    Patch::Merge(json!({
        "metadata": { "resourceVersion": object.meta().resource_version },
        "status": { "phase": "Failed", "observedGeneration": object.meta().generation, "failure": Failure::from(error) },
    }))
}
