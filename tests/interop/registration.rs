//! Registration with the kubelet's own plugin watcher and reconciler (`tests/interop/kubelet`).

use super::{built, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const NAME: &str = "wharf.csi.dev";
const OTHER: &str = "second.example.com";

/// A kubelet's directory; its kubelet and drivers come and go.
struct Node {
    directory: TempDir,
}

/// A process and what it writes; killed when dropped.
struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    fn start(mut command: Command, output: PathBuf) -> Self {
        let file = File::create(&output).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, output }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    /// How often it wrote this line.
    fn count(&self, line: &str) -> usize {
        self.said().lines().filter(|said| *said == line).count()
    }

    fn wait_for(&mut self, line: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(40);
        while self.count(line) < times {
            assert!(Instant::now() < deadline, "no {line:?} for the {times}th time:\n{}", self.said());
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn terminate(&mut self) -> Option<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        wait(&mut self.child, Duration::from_secs(30))
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("wharf-kubelet-").tempdir().unwrap();
        for name in ["plugins_registry", "plugins/wharf.csi.dev", "plugins/second.example.com"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn endpoint(&self, name: &str) -> PathBuf {
        self.path(&format!("plugins/{name}/csi.sock"))
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.path(&format!("plugins_registry/{name}-reg.sock"))
    }

    fn kubelet(&self, flags: &[&str]) -> Process {
        let mut command = built("build/interop/go/kubelet");
        command.arg("--plugins-registry").arg(self.path("plugins_registry")).args(flags);
        let mut kubelet = Process::start(command, self.path("kubelet.log"));
        kubelet.wait_for("watching", 1);
        kubelet
    }

    fn driver(&self, name: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["node", "--node-id=node-1", "--driver-name", name]);
        command.arg("--endpoint").arg(self.endpoint(name));
        command.arg("--kubelet-dir").arg(self.directory.path());
        Process::start(command, self.path(&format!("{name}.log")))
    }
}

fn validated(name: &str, endpoint: &Path) -> String {
    format!("validate {name} {} 1.0.0", endpoint.display())
}

fn registered(name: &str) -> String {
    format!("register {name} node-1 map[wharf.csi.dev/node:node-1]")
}

fn deregistered(name: &str) -> String {
    format!("deregister {name}")
}

#[test]
fn the_kubelet_takes_the_driver_and_takes_it_again() {
    let node = Node::new();
    let mut kubelet = node.kubelet(&[]);
    let mut driver = node.driver(NAME);
    kubelet.wait_for(&validated(NAME, &node.endpoint(NAME)), 1);
    kubelet.wait_for(&registered(NAME), 1);

    // An end in order: the kubelet keeps the driver until the next one is there.
    assert_eq!(driver.terminate().and_then(|status| status.code()), Some(0));
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(kubelet.count(&deregistered(NAME)), 0);
    let mut driver = node.driver(NAME);
    kubelet.wait_for(&registered(NAME), 2);

    driver.kill();
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(kubelet.count(&deregistered(NAME)), 1, "by the start before");
    let mut driver = node.driver(NAME);
    kubelet.wait_for(&registered(NAME), 3);

    // Another kubelet finds it as it stands.
    kubelet.terminate();
    let mut kubelet = node.kubelet(&[]);
    kubelet.wait_for(&registered(NAME), 1);
    assert_eq!(driver.terminate().and_then(|status| status.code()), Some(0));
    assert!(driver.said().contains("registered with the kubelet"));
}

#[test]
fn a_driver_that_was_first_and_left_its_socket() {
    let node = Node::new();
    drop(UnixListener::bind(node.socket(NAME)).unwrap());
    let _driver = node.driver(NAME);
    let mut kubelet = node.kubelet(&[]);
    kubelet.wait_for(&registered(NAME), 1);
}

#[test]
fn two_drivers_are_kept_apart() {
    let node = Node::new();
    let mut kubelet = node.kubelet(&[]);
    let (_first, mut second) = (node.driver(NAME), node.driver(OTHER));
    kubelet.wait_for(&registered(NAME), 1);
    kubelet.wait_for(&registered(OTHER), 1);
    second.kill();
    let _second = node.driver(OTHER);
    kubelet.wait_for(&registered(OTHER), 2);
    assert_eq!((kubelet.count(&registered(NAME)), kubelet.count(&deregistered(NAME))), (1, 0));
}

#[test]
fn a_refusal_of_the_kubelet_ends_the_driver() {
    let node = Node::new();
    let mut kubelet = node.kubelet(&["--refuse=no room for it"]);
    let mut driver = node.driver(NAME);
    let status = wait(&mut driver.child, Duration::from_secs(40));
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{}", driver.said());
    assert_eq!(
        driver.said().lines().last(),
        Some(
            "wharf: the kubelet refuses the driver \"wharf.csi.dev\", and asks again only after a restart: \
             RegisterPlugin error -- plugin registration failed with err: no room for it"
        )
    );
    kubelet.terminate();
    let mut kubelet = node.kubelet(&[]);
    let _driver = node.driver(NAME);
    kubelet.wait_for(&registered(NAME), 1);
}
