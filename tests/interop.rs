//! gRPC clients in other languages: each sends its own idea of an `:authority` over a unix socket.
//!
//! `tests/interop/setup` builds them; without it these tests fail and say so.

#![allow(clippy::disallowed_methods, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod identity;
#[path = "interop/registration.rs"]
mod registration;

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use std::{
    fs,
    io::{Read, Seek},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio_stream::wrappers::UnixListenerStream;
use wharf::server::{self, Shutdown};

/// For a client from start to end.
const LIMIT: Duration = Duration::from_secs(60);

/// The ways to connect, as a client's command line.
const GO: &[&str] = &["build/interop/go/client", "--dial=plain"];
const PLUGIN_MANAGER: &[&str] = &["build/interop/go/client", "--dial=pluginmanager"];
const PYTHON: &[&str] = &["build/interop/python/venv/bin/python", "tests/interop/python/client.py"];

/// A program that `tests/interop/setup` has built, up to date.
fn built(program: &str) -> Command {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let check = Command::new(repository.join("tests/interop/setup")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let mut command = Command::new(repository.join(program));
    command.current_dir(repository);
    command
}

fn client(way: &[&str], socket: &Path) -> Command {
    let mut command = built(way[0]);
    command.args(&way[1..]);
    command.arg(format!("--endpoint=unix://{}", socket.display()));
    command
}

/// Runs a client to its end; returns whether it succeeded, and what it wrote.
fn run(mut client: Command) -> (bool, String) {
    let mut log = tempfile::tempfile().unwrap();
    client.stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
    let status = wait(&mut client.spawn().unwrap(), LIMIT);
    let mut said = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut said).unwrap();
    (status.is_some_and(|status| status.success()), said)
}

/// Waits for a process, which is killed when it takes too long.
fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_is_understood() {
    // The plugin manager's directory, since its path becomes the authority.
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("plugins_registry/wharf.csi.dev-reg.sock");
    fs::create_dir(socket.parent().unwrap()).unwrap();
    let listener = server::listen(&socket.to_str().unwrap().parse().unwrap()).unwrap();
    let (_trigger, shutdown) = Shutdown::new();
    tokio::spawn(server::serve(listener, identity::routes(None), shutdown, LIMIT));
    for way in [GO, PLUGIN_MANAGER, PYTHON] {
        let mut client = client(way, &socket);
        client.arg("--identity-only");
        let (understood, said) = tokio::task::spawn_blocking(move || run(client)).await.unwrap();
        assert!(understood, "{way:?}: {said}");
        assert_eq!(said, "GetPluginInfo: ok\n");
    }
}

/// What the adapter is for. When this fails because h2 has become lenient, it is needed no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_adapter_h2_refuses_them() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("csi.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let bare = tonic::transport::Server::builder().add_routes(identity::routes(None));
    tokio::spawn(bare.serve_with_incoming(UnixListenerStream::new(listener)));
    for (way, refused) in [(GO, false), (PLUGIN_MANAGER, true), (PYTHON, true)] {
        let mut client = client(way, &socket);
        client.arg("--identity-only");
        let (understood, said) = tokio::task::spawn_blocking(move || run(client)).await.unwrap();
        assert_eq!(understood, !refused, "{way:?}: {said}");
    }
}

/// The real driver in a directory of its own; whatever happens, no process and no mount stays.
struct Driver {
    child: Child,
    directory: TempDir,
}

impl Driver {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = directory.path().join("pool");
        fs::create_dir(&pool).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_wharf"))
            .arg("standalone")
            .arg(format!("--endpoint=unix://{}", directory.path().join("csi.sock").display()))
            .arg(format!("--pool=default={}", pool.display()))
            .arg("--node-id=n1")
            .spawn()
            .unwrap();
        let mut driver = Self { child, directory };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(driver.socket()).is_err() {
            let ended = driver.child.try_wait().unwrap();
            assert!(ended.is_none(), "the driver has ended: {ended:?}");
            assert!(Instant::now() < deadline, "the driver does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        driver
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("csi.sock")
    }

    /// Where something is mounted below the test's directory, innermost first.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut below: Vec<_> = points.filter(|point| point.starts_with(self.directory.path())).collect();
        below.reverse();
        below
    }

    /// Ends as Kubernetes would have it end.
    fn stop(&mut self) -> Option<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        wait(&mut self.child, Duration::from_secs(30))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for point in self.mounts() {
            let _ = unmount(point, UnmountFlags::NOFOLLOW);
        }
    }
}

fn drive_a_whole_life(way: &[&str], parameters: &[&str]) {
    let mut driver = Driver::start();
    let work = driver.directory.path().join("work");
    fs::create_dir(&work).unwrap();
    let mut client = client(way, &driver.socket());
    client.arg(format!("--work={}", work.display()));
    client.args(parameters.iter().map(|parameter| format!("--parameter={parameter}")));
    let (lived, said) = run(client);
    assert!(lived, "{said}");
    let steps: Vec<_> = said.lines().filter_map(|line| line.strip_suffix(": ok")).collect();
    assert_eq!(
        steps,
        [
            "GetPluginInfo",
            "Probe",
            "CreateVolume",
            "NodeStageVolume",
            "NodePublishVolume",
            "write and read",
            "NodeGetVolumeStats",
            "NodeUnpublishVolume",
            "NodeUnstageVolume",
            "DeleteVolume"
        ]
    );
    assert_eq!(driver.mounts(), [] as [PathBuf; 0]);
    assert_eq!(driver.stop().and_then(|status| status.code()), Some(0));
    assert!(driver.socket().exists(), "the socket file must stay");
}

const IMAGE: &[&str] = &["layout=image"];
const DIRECTORY: &[&str] = &["layout=directory", "limit=advisory"];

#[test]
fn a_whole_life_through_go() {
    drive_a_whole_life(GO, IMAGE);
    drive_a_whole_life(GO, DIRECTORY);
}

#[test]
fn a_whole_life_through_go_as_the_plugin_manager_dials() {
    drive_a_whole_life(PLUGIN_MANAGER, IMAGE);
}

#[test]
fn a_whole_life_through_python() {
    drive_a_whole_life(PYTHON, IMAGE);
    drive_a_whole_life(PYTHON, DIRECTORY);
}
