//! `wharf node` and the kubelet: the registration socket from first start to refusal, with the real binary.
//!
//! Here a client of ours plays the kubelet; tests/interop.rs has the kubelet's own code do it.

#![allow(clippy::disallowed_methods, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use support::{co::csi, driver::Driver, eventually};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use wharf::rpc::registration::proto::{
    InfoRequest, PluginInfo, RegistrationStatus, registration_client::RegistrationClient,
};

const NAME: &str = "wharf.csi.dev";

/// A kubelet's directory, and what the kubelet does with it.
struct Kubelet {
    directory: TempDir,
    runtime: Runtime,
}

impl Kubelet {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("wharf-kubelet-").tempdir().unwrap();
        fs::create_dir(directory.path().join("plugins_registry")).unwrap();
        let kubelet = Self { directory, runtime: Builder::new_multi_thread().enable_all().build().unwrap() };
        kubelet.prepare(NAME);
        kubelet
    }

    /// What a DaemonSet's mounts make.
    fn prepare(&self, name: &str) {
        fs::create_dir_all(self.endpoint(name).parent().unwrap()).unwrap();
    }

    fn endpoint(&self, name: &str) -> PathBuf {
        self.directory.path().join("plugins").join(name).join("csi.sock")
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join("plugins_registry").join(format!("{name}-reg.sock"))
    }

    fn sockets(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("plugins_registry")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Starts the driver, with further flags.
    fn spawn(&self, name: &str, flags: &[&str]) -> Driver {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["node", "--node-id", "node-1", "--driver-name", name]);
        command.args(flags);
        // Nobody answers there: CSI never needs the API server.
        let config = self.directory.path().join("kubeconfig");
        fs::write(&config, KUBECONFIG).unwrap();
        let environment = [
            ("CSI_ENDPOINT", self.endpoint(name)),
            ("WHARF_KUBELET_DIR", self.directory.path().to_owned()),
            ("KUBECONFIG", config),
        ];
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (*name, value.to_str().unwrap())).collect();
        Driver::spawn_as(command, &environment)
    }

    fn channel(&self, socket: &Path) -> Option<Channel> {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
        self.runtime.block_on(endpoint.timeout(Duration::from_secs(10)).connect()).ok()
    }

    fn get_info(&self, name: &str) -> Option<PluginInfo> {
        let mut client = RegistrationClient::new(self.channel(&self.socket(name))?);
        self.runtime.block_on(client.get_info(InfoRequest {})).ok().map(tonic::Response::into_inner)
    }

    /// As the kubelet asks whoever is new.
    fn wait_for(&self, name: &str, driver: &mut Driver) -> PluginInfo {
        let mut info = None;
        eventually("the driver answers on its registration socket", 30, || {
            assert!(driver.ended().is_none(), "the driver has ended:\n{}", driver.log());
            info = self.get_info(name);
            info.is_some()
        });
        info.unwrap()
    }

    fn notify(&self, name: &str, error: &str) -> Result<(), Status> {
        let mut client = RegistrationClient::new(self.channel(&self.socket(name)).unwrap());
        let status = RegistrationStatus { plugin_registered: error.is_empty(), error: error.to_owned() };
        self.runtime.block_on(client.notify_registration_status(status)).map(|_| ())
    }

    fn node_info(&self, endpoint: &str) -> csi::NodeGetInfoResponse {
        let channel = self.channel(Path::new(endpoint)).expect("the driver's own socket is served first");
        let mut client = csi::node_client::NodeClient::new(channel);
        self.runtime.block_on(client.node_get_info(csi::NodeGetInfoRequest {})).unwrap().into_inner()
    }

    /// All that the kubelet does with a driver that it takes.
    fn register(&self, name: &str, driver: &mut Driver) {
        let info = self.wait_for(name, driver);
        assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", name));
        assert_eq!(info.supported_versions, ["1.0.0"]);
        assert_eq!(Path::new(&info.endpoint), self.endpoint(name));
        assert_eq!(self.node_info(&info.endpoint).node_id, "node-1");
        self.notify(name, "").unwrap();
    }

    /// A Probe that has begun and waits for the rest of its request.
    fn begin_probe(&self, name: &str) -> (mpsc::UnboundedSender<()>, JoinHandle<Result<(), Status>>) {
        let mut grpc = tonic::client::Grpc::new(self.channel(&self.endpoint(name)).unwrap());
        let (finish, wait) = mpsc::unbounded_channel();
        let request = UnboundedReceiverStream::new(wait).map(|()| csi::ProbeRequest {});
        let call = self.runtime.spawn(async move {
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<csi::ProbeRequest, csi::ProbeResponse>::default();
            let path = "/csi.v1.Identity/Probe".parse().unwrap();
            grpc.client_streaming(tonic::Request::new(request), path, codec).await.map(|_| ())
        });
        std::thread::sleep(Duration::from_millis(300));
        (finish, call)
    }
}

const KUBECONFIG: &str = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
 "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
 "users": [{"name": "u", "user": {}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}"#;

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// The driver ends by itself; its last words.
fn last_words(driver: &mut Driver) -> String {
    let ended = driver.wait_exit(Duration::from_secs(40));
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "{}", driver.log());
    driver.log().lines().last().unwrap().to_owned()
}

#[test]
fn the_first_start() {
    let kubelet = Kubelet::new();
    let mut driver = kubelet.spawn(NAME, &[]);
    kubelet.register(NAME, &mut driver);
    assert_eq!(kubelet.sockets(), ["wharf.csi.dev-reg.sock"]);
    let meta = fs::symlink_metadata(kubelet.socket(NAME)).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);

    let info = kubelet.node_info(kubelet.endpoint(NAME).to_str().unwrap());
    let segments = info.accessible_topology.unwrap().segments;
    assert_eq!(segments.into_iter().collect::<Vec<_>>(), [("wharf.csi.dev/node".into(), "node-1".into())]);

    assert_eq!(driver.terminate().code(), Some(0));
    let log = driver.log();
    assert!(
        log.contains("serving Identity and Node") && log.contains("registered with the kubelet"),
        "{log}"
    );
    assert!(kubelet.socket(NAME).exists(), "without it the kubelet drops the driver at once");
}

#[test]
fn a_node_serves_identity_and_node_alone() {
    let kubelet = Kubelet::new();
    let mut driver = kubelet.spawn(NAME, &[]);
    kubelet.wait_for(NAME, &mut driver);
    let channel = kubelet.channel(&kubelet.endpoint(NAME)).unwrap();
    let mut controller = csi::controller_client::ControllerClient::new(channel.clone());
    let answer = kubelet
        .runtime
        .block_on(controller.controller_get_capabilities(csi::ControllerGetCapabilitiesRequest {}));
    assert_eq!(answer.err().unwrap().code(), Code::Unimplemented);
    // The plugin as a whole: the same from each of its processes.
    let mut identity = csi::identity_client::IdentityClient::new(channel);
    let answer = identity.get_plugin_capabilities(csi::GetPluginCapabilitiesRequest {});
    let capabilities = kubelet.runtime.block_on(answer).unwrap().into_inner().capabilities;
    let service = csi::plugin_capability::Type::Service(csi::plugin_capability::Service {
        r#type: csi::plugin_capability::service::Type::ControllerService.into(),
    });
    assert!(capabilities.iter().any(|capability| capability.r#type == Some(service)));
}

#[test]
fn each_start_makes_the_socket_anew() {
    let kubelet = Kubelet::new();
    let mut inodes = Vec::new();
    for round in 0..4 {
        let mut driver = kubelet.spawn(NAME, &[]);
        kubelet.register(NAME, &mut driver);
        // Kept open, so that its number is not given to the next one.
        inodes.push((inode(&kubelet.socket(NAME)), kubelet.channel(&kubelet.socket(NAME))));
        match round % 2 {
            0 => assert_eq!(driver.terminate().code(), Some(0)),
            _ => driver.kill(),
        }
        assert!(kubelet.socket(NAME).exists());
        let keep = kubelet.directory.path().join(format!("kept-{round}"));
        fs::hard_link(kubelet.socket(NAME), keep).unwrap();
    }
    let mut numbers: Vec<_> = inodes.iter().map(|(inode, _)| inode).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "the kubelet sees a new socket, not one that it knows");
}

#[test]
fn a_kubelet_that_starts_again_asks_again() {
    let kubelet = Kubelet::new();
    let mut driver = kubelet.spawn(NAME, &[]);
    for _ in 0..3 {
        kubelet.register(NAME, &mut driver);
    }
    assert!(driver.ended().is_none());
    assert_eq!(driver.log().matches("registered with the kubelet").count(), 3);
}

#[test]
fn a_refusal_ends_the_driver_and_says_why() {
    let kubelet = Kubelet::new();
    let mut driver = kubelet.spawn(NAME, &[]);
    kubelet.register(NAME, &mut driver);
    kubelet.notify(NAME, "RegisterPlugin error -- \u{1b}[31mno\nroom").unwrap();
    assert_eq!(
        last_words(&mut driver),
        "wharf: the kubelet refuses the driver \"wharf.csi.dev\", and asks again only after a restart: \
         RegisterPlugin error -- \\u{1b}[31mno\\nroom"
    );
    assert!(driver.log().contains("every call was answered"));
    assert!(kubelet.socket(NAME).exists() && kubelet.endpoint(NAME).exists());
    // The container is started again, and the kubelet has changed its mind.
    let mut driver = kubelet.spawn(NAME, &[]);
    kubelet.register(NAME, &mut driver);
}

#[test]
fn a_refusal_lets_running_calls_finish_and_counts_after_sigterm_too() {
    let kubelet = Kubelet::new();
    let mut driver = kubelet.spawn(NAME, &[]);
    kubelet.wait_for(NAME, &mut driver);
    let (finish, call) = kubelet.begin_probe(NAME);
    kubelet.notify(NAME, "no").unwrap();
    assert_eq!(driver.wait_exit(Duration::from_secs(1)), None, "a call is running");
    // The first signal asks for what is going on already.
    let pid = rustix::process::Pid::from_raw(driver.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(driver.wait_exit(Duration::from_millis(500)), None, "a call is running");
    finish.send(()).unwrap();
    drop(finish);
    kubelet.runtime.block_on(call).unwrap().unwrap();
    assert!(last_words(&mut driver).ends_with("asks again only after a restart: no"));
}

#[test]
fn a_socket_of_an_earlier_install_is_replaced() {
    let kubelet = Kubelet::new();
    drop(UnixListener::bind(kubelet.socket(NAME)).unwrap());
    let stale = inode(&kubelet.socket(NAME));
    fs::hard_link(kubelet.socket(NAME), kubelet.directory.path().join("kept")).unwrap();
    let mut driver = kubelet.spawn(NAME, &[]);
    kubelet.register(NAME, &mut driver);
    assert_ne!(inode(&kubelet.socket(NAME)), stale);
    assert_eq!(kubelet.sockets(), ["wharf.csi.dev-reg.sock"]);
}

#[test]
fn a_socket_that_somebody_serves_is_left_alone() {
    let kubelet = Kubelet::new();
    let foreign = UnixListener::bind(kubelet.socket(NAME)).unwrap();
    let before = inode(&kubelet.socket(NAME));
    let mut driver = kubelet.spawn(NAME, &[]);
    assert_eq!(
        last_words(&mut driver),
        format!(
            "wharf: another process registers a driver {NAME:?} on {:?}: end it (an earlier install, or \
             node-driver-registrar), or let it do that with --register=false",
            kubelet.socket(NAME)
        )
    );
    assert_eq!(inode(&kubelet.socket(NAME)), before);
    drop(foreign);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let kubelet = Kubelet::new();
    fs::write(kubelet.socket(NAME), "precious").unwrap();
    let mut driver = kubelet.spawn(NAME, &[]);
    let said = last_words(&mut driver);
    assert!(said.ends_with("it is a file: remove it or choose another path"), "{said}");
    assert_eq!(fs::read_to_string(kubelet.socket(NAME)).unwrap(), "precious");
}

#[test]
fn two_drivers_and_two_of_one_name() {
    let kubelet = Kubelet::new();
    let (mut first, mut other) = (kubelet.spawn(NAME, &[]), {
        kubelet.prepare("second.example.com");
        kubelet.spawn("second.example.com", &[])
    });
    kubelet.register(NAME, &mut first);
    kubelet.register("second.example.com", &mut other);
    assert_eq!(kubelet.sockets(), ["second.example.com-reg.sock", "wharf.csi.dev-reg.sock"]);

    let elsewhere = kubelet.directory.path().join("csi.sock");
    let mut third = kubelet.spawn(NAME, &["--endpoint", elsewhere.to_str().unwrap()]);
    let said = last_words(&mut third);
    assert!(said.starts_with("wharf: another process registers a driver"), "{said}");
    kubelet.register(NAME, &mut first);
    assert!(other.ended().is_none());
}

#[test]
fn the_path_that_the_kubelet_is_told() {
    let kubelet = Kubelet::new();
    let mut driver = kubelet.spawn(NAME, &["--kubelet-endpoint", "/on/the/host/csi.sock"]);
    assert_eq!(kubelet.wait_for(NAME, &mut driver).endpoint, "/on/the/host/csi.sock");
}

#[test]
fn without_registration_no_kubelet_is_needed() {
    let kubelet = Kubelet::new();
    fs::remove_dir(kubelet.directory.path().join("plugins_registry")).unwrap();
    let mut driver = kubelet.spawn(NAME, &["--register=false"]);
    eventually("the driver serves", 30, || kubelet.channel(&kubelet.endpoint(NAME)).is_some());
    kubelet.node_info(kubelet.endpoint(NAME).to_str().unwrap());
    assert!(!kubelet.directory.path().join("plugins_registry").exists());
    assert_eq!(driver.terminate().code(), Some(0));
}

#[test]
fn what_is_missing_is_named_before_anything_is_made() {
    let kubelet = Kubelet::new();
    let registry = kubelet.directory.path().join("plugins_registry");
    fs::remove_dir(&registry).unwrap();
    let mut driver = kubelet.spawn(NAME, &[]);
    assert_eq!(
        last_words(&mut driver),
        format!(
            "wharf: directory {registry:?} does not exist: mount the one of the host there, or give --kubelet-dir \
             the directory that this host's kubelet uses"
        )
    );
    assert!(!kubelet.endpoint(NAME).exists());
    let mut driver = kubelet.spawn(NAME, &["--kubelet-dir", "var/lib/kubelet"]);
    let said = last_words(&mut driver);
    assert!(said.starts_with("wharf: --kubelet-dir must be absolute"), "{said}");
    let long = format!("/{}/csi.sock", "a".repeat(100));
    let mut driver = kubelet.spawn(NAME, &["--kubelet-endpoint", &long]);
    let said = last_words(&mut driver);
    assert!(
        said.starts_with("wharf: --kubelet-endpoint: ") && said.ends_with("choose a shorter one"),
        "{said}"
    );
}

#[test]
fn a_socket_that_was_removed_is_made_again() {
    let kubelet = Kubelet::new();
    let mut driver = kubelet.spawn(NAME, &[]);
    kubelet.register(NAME, &mut driver);
    fs::remove_file(kubelet.socket(NAME)).unwrap();
    let begun = Instant::now();
    kubelet.register(NAME, &mut driver);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(driver.terminate().code(), Some(0));
}

#[test]
fn a_pool_that_is_away_keeps_no_node_from_serving() {
    let kubelet = Kubelet::new();
    let (disk, away) = (kubelet.directory.path().join("disk"), kubelet.directory.path().join("away"));
    fs::create_dir(&disk).unwrap();
    let pool = format!("default={}", disk.display());
    let mut driver = kubelet.spawn(NAME, &["--pool", &pool]);
    kubelet.register(NAME, &mut driver);
    assert_eq!(driver.terminate().code(), Some(0));
    fs::rename(&disk, &away).unwrap();

    let mut driver = kubelet.spawn(NAME, &["--pool", &pool]);
    kubelet.register(NAME, &mut driver);
    let channel = kubelet.channel(&kubelet.endpoint(NAME)).unwrap();
    let mut identity = csi::identity_client::IdentityClient::new(channel.clone());
    let ready = kubelet.runtime.block_on(identity.probe(csi::ProbeRequest {})).unwrap().into_inner().ready;
    assert_eq!(ready, Some(true));
    let reasons = || {
        let mut node = csi::node_client::NodeClient::new(channel.clone());
        let health = node.node_get_storage_health(csi::NodeGetStorageHealthRequest::default());
        let health = kubelet.runtime.block_on(health).unwrap().into_inner().backend_health;
        health.into_iter().map(|pool| pool.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(), ["PoolUnavailable"]);
    // It comes back without a restart.
    fs::rename(&away, &disk).unwrap();
    eventually("the pool is used", 10, || reasons().is_empty());
    assert_eq!(driver.terminate().code(), Some(0));
}
