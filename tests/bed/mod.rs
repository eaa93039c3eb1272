//! A real control plane without kubelets: etcd, API server, scheduler and controllers of a stock Kubernetes, and
//! nodes that are nothing but objects. Pods are scheduled and claims are bound; nothing runs.
//!
//! `scripts/cluster/setup placement` builds the programs. Everything ends, and every file goes, with the
//! [`Bed`], and with this process, however that ends.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value,
    reason = "test code; not every test uses all of it"
)]

pub mod access;
pub mod claims;
pub mod kubectl;
pub mod nodes;
pub mod objects;
pub mod plane;
pub mod process;
pub mod sidecars;
pub mod snapshots;

use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use plane::Plan;
use process::{Process, Scratch};
use std::{
    future::Future,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Runtime};

/// For a start; a dozen seconds on two cores that have nothing else to do.
const START: Duration = Duration::from_secs(120);

/// How many starts are tried: another program may take a port between the look and the start.
const STARTS: usize = 3;

/// What may be different from bed to bed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Whether the controller runs that takes a node for lost whose lease nobody renews.
    pub node_lifecycle: bool,
    /// Where the API server listens: an address that pods reach, for a bed with a kubelet. Without one it is the
    /// loopback, which clusters do not take for the address of a service.
    pub address: Option<Ipv4Addr>,
}

/// A running control plane.
pub struct Bed {
    // In this order: what uses the others ends first, and the directory goes last.
    scheduler: Process,
    controllers: Process,
    api_server: Process,
    etcd: Process,
    plan: Plan,
    client: Client,
    runtime: Runtime,
    scratch: Scratch,
}

impl Bed {
    /// The one of this process: tests that only need an API server share it, in namespaces and on nodes of their own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Bed> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub fn start() -> Self {
        Self::start_with(Settings::default())
    }

    pub fn start_with(settings: Settings) -> Self {
        for attempt in 1.. {
            match Self::try_start(settings) {
                Ok(bed) => return bed,
                Err(why) if attempt == STARTS => panic!("no control plane in {STARTS} attempts: {why}"),
                Err(why) => eprintln!("bed: once more: {why}"),
            }
        }
        unreachable!("the loop returns or panics")
    }

    fn try_start(settings: Settings) -> Result<Self, String> {
        let mut phase = Phase::new();
        let scratch =
            Scratch::new("wharf-bed-", &Path::new(env!("CARGO_MANIFEST_DIR")).join("build/test/bed"));
        let plan = Plan::new(scratch.path(), settings);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut etcd = plan.start(&plan.etcd());
        let mut api_server = plan.start(&plan.api_server());
        phase.done("keys");
        await_ready(&mut [&mut etcd, &mut api_server], || plan.authority().exists())?;
        let kubeconfig = |user: &str| plan.kubeconfig(user);
        let client = runtime.block_on(client_from(&kubeconfig("admin")));
        let ready = || is_ready(&runtime, &client);
        await_ready(&mut [&mut etcd, &mut api_server], ready)?;
        phase.done("etcd and API server");
        let mut controllers =
            plan.start(&plan.controller_manager(&kubeconfig("system:kube-controller-manager")));
        let mut scheduler = plan.start(&plan.scheduler(&kubeconfig("system:kube-scheduler")));
        let accounts =
            kube::Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(client.clone(), "default");
        let working = || matches!(runtime.block_on(accounts.get_opt("default")), Ok(Some(_)));
        await_ready(&mut [&mut api_server, &mut controllers, &mut scheduler], working)?;
        phase.done("controllers");
        Ok(Self { scheduler, controllers, api_server, etcd, plan, client, runtime, scratch })
    }

    /// The administrator's.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory().join("admin.kubeconfig")
    }

    /// Of one of the cluster's own users, such as `system:kube-proxy`.
    pub fn kubeconfig_of_user(&self, user: &str) -> PathBuf {
        self.plan.kubeconfig(user)
    }

    /// For files of a test; it goes with the bed.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    pub fn server(&self) -> String {
        self.plan.server()
    }

    /// What the server's certificate can be checked against.
    pub fn authority(&self) -> PathBuf {
        self.plan.authority()
    }

    /// Its processes.
    pub fn pids(&self) -> [u32; 4] {
        [&self.etcd, &self.api_server, &self.controllers, &self.scheduler].map(Process::pid)
    }

    /// Starts a program that ends with the bed's process, and with what this gives; its log lies in the bed's
    /// directory.
    pub fn run(&self, name: &str, command: &std::process::Command) -> Process {
        Process::start(name, command, &self.directory().join(format!("{name}.log")))
    }

    /// Kills the API server, keeps it away for as long as `meanwhile` runs, and starts it again on the same
    /// data.
    pub fn without_api_server<T>(&mut self, meanwhile: impl FnOnce(&Runtime) -> T) -> T {
        self.api_server.kill();
        let value = meanwhile(&self.runtime);
        self.api_server = self.plan.start(&self.plan.api_server());
        let ready = || is_ready(&self.runtime, &self.client);
        await_ready(&mut [&mut self.etcd, &mut self.api_server], ready).unwrap();
        value
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if thread::panicking() {
            for process in [&self.etcd, &self.api_server, &self.controllers, &self.scheduler] {
                eprintln!("--- {}'s last lines\n{}", process.name(), process.tail(5));
            }
        }
    }
}

/// Prints what took how long.
#[derive(Debug)]
pub struct Phase(Instant);

impl Phase {
    pub fn new() -> Self {
        Self(Instant::now())
    }

    pub fn done(&mut self, what: &str) {
        eprintln!("bed: {what}: {:.1} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

async fn client_from(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
}

/// Whether the API server has done all that it does when it starts.
fn is_ready(runtime: &Runtime, client: &Client) -> bool {
    let request = axum::http::Request::get("/readyz").body(Vec::new()).unwrap();
    runtime.block_on(client.request_text(request)).is_ok()
}

/// Waits until `ready`, as long as all of them run.
fn await_ready(processes: &mut [&mut Process], ready: impl Fn() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + START;
    while !ready() {
        for process in &mut *processes {
            if let Some(status) = process.ended() {
                return Err(format!("{} ended with {status}:\n{}", process.name(), process.tail(20)));
            }
        }
        if Instant::now() > deadline {
            let tails: Vec<_> = processes.iter().map(|p| format!("{}:\n{}", p.name(), p.tail(10))).collect();
            return Err(format!("not ready within {START:?}\n{}", tails.join("\n")));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A name that no other test has used, in the form that objects want.
pub fn unique(prefix: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &id[..8])
}
