//! Containers of the chart's pods, started and ended by plain runc, as containerd would have it do.

use crate::{
    manifest::Pod,
    support::{
        co::Co,
        eventually,
        host::{attempt, run},
    },
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};
use tempfile::TempDir;

/// A certificate that proves nothing, and that nobody asks for: a service account comes with one, and the image has none
/// of its own, without which the client would not start.
const AUTHORITY: &str = "\
    LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJlVENDQVIrZ0F3SUJBZ0lVTzFtUHpSN3lmZlB2NUkyNU1EZklOeU1s\
    RTZZd0NnWUlLb1pJemowRUF3SXcKRVRFUE1BMEdBMVVFQXd3R2JtOWliMlI1TUNBWERUSTJNVEV5T1RBNU1qazBNRm9ZRHpJ\
    eE1qWXhNVEExTURreQpPVFF3V2pBUk1ROHdEUVlEVlFRRERBWnViMkp2Wkhrd1dUQVRCZ2NxaGtqT1BRSUJCZ2dxaGtqT1BR\
    TUJCd05DCkFBU1VnelhzdHQxSU40SUFid2pXWk9KMTk1ZVlXcnJ5bGVrOVRNSklzc1dxbVNDTDhNR09GSWRwMUxqOWE3QkUK\
    MUYrM1h0YzJSclgwRXA5cXowWjkxWFgxbzFNd1VUQWRCZ05WSFE0RUZnUVU1cUo5djlrKzJJaUlFRUVMVU1nWQplWnpLRURj\
    d0h3WURWUjBqQkJnd0ZvQVU1cUo5djlrKzJJaUlFRUVMVU1nWWVaektFRGN3RHdZRFZSMFRBUUgvCkJBVXdBd0VCL3pBS0Jn\
    Z3Foa2pPUFFRREFnTklBREJGQWlBQTVtZ2EvSXI4OWphWDIrYUcwOGJ6TEFYVC94cTcKUHUyTmQyb3M5SmxvTmdJaEFNd1du\
    b21oOStTbm9paFRKZElJblNOZTVsbURlNFVNT0Z1a2Y1RjQ5b3lKCi0tLS0tRU5EIENFUlRJRklDQVRFLS0tLS0K";
/// Nobody listens there.
const NO_API_SERVER: &str = "http://127.0.0.1:9";

/// The image's files, as `scripts/test vm` lays them out before the guest starts, with the binary of these tests.
fn image() -> &'static Path {
    let image = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/build/test/image"));
    let age = |path: &Path| fs::metadata(path).ok().map(|found| (found.len(), found.modified().unwrap()));
    let binary = age(Path::new(env!("CARGO_BIN_EXE_wharf"))).unwrap();
    let is_current = age(&image.join("wharf")).is_some_and(|copy| copy.0 == binary.0 && copy.1 >= binary.1);
    assert!(
        is_current,
        "{} is missing or older than the binary: on the host, `deploy/image/build --binary {} --directory {}`",
        image.display(),
        env!("CARGO_BIN_EXE_wharf"),
        image.display()
    );
    image
}

/// A container that runs until it is killed, stopped or dropped; nothing of it is left then.
#[derive(Debug)]
pub struct Container {
    pod: Pod,
    /// What runc is given, and the layer that takes writes.
    bundle: TempDir,
    /// Its first process, as the host knows it.
    process: i32,
}

impl Container {
    /// Returns when the kubelet's probe finds it alive. `api_server` is where the service account leads.
    pub fn start(pod: &Pod, api_server: Option<&ApiServer>) -> Self {
        let bundle = tempfile::Builder::new().prefix("wharf-bundle-").tempdir().unwrap();
        for name in ["rootfs", "upper", "work", "account"] {
            fs::create_dir(bundle.path().join(name)).unwrap();
        }
        let account = bundle.path().join("account");
        let server = api_server.map_or_else(|| NO_API_SERVER.to_owned(), |server| server.address.clone());
        fs::write(account.join("kubeconfig"), kubeconfig(&server).to_string()).unwrap();
        let pod = pod.clone().with("KUBECONFIG", &format!("{}/kubeconfig", crate::manifest::ACCOUNT));
        pod.prepare();
        let configuration = pod.configuration(&account);
        fs::write(bundle.path().join("config.json"), configuration.to_string()).unwrap();
        let [image, upper, work] = [image(), &bundle.path().join("upper"), &bundle.path().join("work")]
            .map(|path| path.to_str().unwrap().to_owned());
        let layers = format!("lowerdir={image},upperdir={upper},workdir={work}");
        run(
            "mount",
            ["-t", "overlay", "-o", &layers, "overlay", bundle.path().join("rootfs").to_str().unwrap()],
        );
        let mut container = Self { pod, bundle, process: 0 };
        container.process = container.run();
        container.wait_until_alive();
        container
    }

    /// Gives its first process. What is written to standard output and error, runc's own words too, is in the log.
    fn run(&self) -> i32 {
        let log = File::create(self.log_file()).unwrap();
        let pid = self.bundle.path().join("pid");
        let status = Command::new("timeout")
            .args(["60", "runc", "run", "--detach", "--bundle"])
            .arg(self.bundle.path())
            .arg("--pid-file")
            .arg(&pid)
            .arg(&self.pod.name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
        assert!(status.success(), "{}: runc: {status}\n{}", self.pod.name, self.log());
        fs::read_to_string(pid).unwrap().trim().parse().unwrap()
    }

    fn wait_until_alive(&self) {
        let probe = self.pod.liveness();
        eventually(&format!("{} is alive", self.pod.name), 60, || {
            assert!(self.is_running(), "{} has ended:\n{}", self.pod.name, self.log());
            self.pod.socket().exists() && self.execute(&probe).is_ok()
        });
    }

    /// Runs a program of the image in it.
    pub fn execute(&self, command: &[String]) -> Result<String, String> {
        attempt("runc", ["exec", &self.pod.name].into_iter().chain(command.iter().map(|word| &**word)))
    }

    /// A client, as a sidecar or the kubelet.
    pub fn co(&self) -> Co {
        Co::connect(&self.pod.socket())
    }

    /// A file of its first process in the host's /proc.
    pub fn process(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.process.to_string()).join(file)
    }

    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.bundle.path().join("log")
    }

    fn is_running(&self) -> bool {
        // One that has ended and was not waited for has no files open.
        self.process != 0 && fs::read_link(self.process("exe")).is_ok()
    }

    /// Every process in it.
    pub fn processes(&self) -> Vec<i32> {
        let file = Path::new("/sys/fs/cgroup/kubepods").join(&self.pod.name).join("cgroup.procs");
        let all = fs::read_to_string(file).unwrap_or_default();
        all.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// SIGKILL to its first process, as when it runs out of memory: the kernel ends the others with it.
    pub fn kill(self) {
        run("kill", ["-KILL", &self.process.to_string()]);
        self.end();
    }

    /// SIGTERM, as when the pod is deleted.
    pub fn stop(self) {
        run("kill", ["-TERM", &self.process.to_string()]);
        self.end();
    }

    fn end(self) {
        eventually(&format!("{} has ended", self.pod.name), 60, || self.processes().is_empty());
        run("runc", ["delete", &self.pod.name]);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if thread::panicking() {
            let state = if self.is_running() { "runs" } else { "has ended" };
            eprintln!(
                "--- {} {state}; its processes: {:?}; its last lines:",
                self.pod.name,
                self.processes()
            );
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(30).collect();
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        // Says that there is none, where it has ended.
        let _ = attempt("runc", ["delete", "--force", &self.pod.name]);
        if let Err(why) = attempt("umount", [self.bundle.path().join("rootfs")]) {
            eprintln!("left behind: {:?}: {why}", self.bundle.path());
        }
    }
}

fn kubeconfig(server: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "pod",
        "clusters": [{"name": "cluster", "cluster": {"server": server, "certificate-authority-data": AUTHORITY}}],
        "users": [{"name": "account", "user": {}}],
        "contexts": [{"name": "pod", "context": {"cluster": "cluster", "user": "account"}}],
    })
}

/// In place of a cluster: it knows what the cluster is called, and nothing else.
#[derive(Debug)]
pub struct ApiServer {
    address: String,
}

impl ApiServer {
    /// Until these tests end.
    pub fn start(uid: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": uid},
        });
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let namespace = namespace.clone();
                // Whoever goes away before it has its answer does not need it.
                thread::spawn(move || answer(stream, &namespace));
            }
        });
        Self { address }
    }
}

fn answer(mut stream: TcpStream, namespace: &Value) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let (status, body) = if request.starts_with("GET /api/v1/namespaces/kube-system ") {
        ("200 OK", namespace.to_string())
    } else {
        let body = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
            "message": "there is nothing of this name",
            // By this the kind is known, and the object is not there.
            "details": {"name": object_in(&request)},
        });
        ("404 Not Found", body.to_string())
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// `GET /apis/GROUP/VERSION/PLURAL/NAME HTTP/1.1`: the name, or nothing where the path is a list's.
fn object_in(request: &str) -> &str {
    let path = request.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    path.split('/').nth(5).unwrap_or_default()
}
