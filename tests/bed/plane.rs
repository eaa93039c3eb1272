//! The programs of a control plane, and what each is told.

use super::{Settings, access, process::Process};
use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below this run's directory: where its parts find each other.
#[derive(Debug)]
pub struct Plan {
    directory: PathBuf,
    etcd: u16,
    api: u16,
    settings: Settings,
}

/// The name of the node that has a kubelet.
pub const NODE: &str = "here";

/// Who speaks to the API server with a token of its own, and the groups that it is in, as the server's file
/// has them.
const USERS: &[(&str, &str)] = &[
    ("admin", ",system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
    ("system:node:here", ",system:nodes"),
];

impl Plan {
    pub fn new(directory: &Path, settings: Settings) -> Self {
        let plan = Self { directory: directory.to_owned(), etcd: free_port(), api: free_port(), settings };
        let lines: Vec<_> = USERS
            .iter()
            .map(|(user, groups)| format!("{},{user},{user}{groups}\n", uuid::Uuid::new_v4().simple()))
            .collect();
        write_private(&plan.tokens(), &lines.concat());
        super::kubectl::run_quietly(Command::new("openssl").args([
            "ecparam".as_ref(),
            "-name".as_ref(),
            "prime256v1".as_ref(),
            "-genkey".as_ref(),
            "-noout".as_ref(),
            "-out".as_ref(),
            plan.account_key().as_os_str(),
        ]));
        plan
    }

    pub fn server(&self) -> String {
        format!("https://{}:{}", self.address(), self.api)
    }

    fn address(&self) -> Ipv4Addr {
        self.settings.address.unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// A file by which one of [`USERS`] reaches the server.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        let path = self.directory.join(format!("{}.kubeconfig", user.trim_start_matches("system:")));
        access::write_kubeconfig(&path, &self.server(), &self.authority(), &self.token_of(user));
        path
    }

    /// What the server's certificate can be checked against; it makes both when it starts.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("certificates/apiserver.crt")
    }

    /// The token of one of [`USERS`].
    pub fn token_of(&self, user: &str) -> String {
        let all = fs::read_to_string(self.tokens()).unwrap();
        let mut lines = all.lines().map(|line| line.split(',').collect::<Vec<_>>());
        lines.find(|fields| fields[1] == user).unwrap()[0].to_owned()
    }

    /// Without a sync for each write: what it holds goes with the run.
    pub fn etcd(&self) -> Command {
        let client = format!("http://127.0.0.1:{}", self.etcd);
        let mut command = program("etcd");
        command
            .arg("--data-dir")
            .arg(self.directory.join("etcd"))
            .args(["--unsafe-no-fsync", "--log-level=warn", "--listen-peer-urls=http://127.0.0.1:0"])
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")]);
        command
    }

    pub fn api_server(&self) -> Command {
        let mut command = program("kube-apiserver");
        command
            .args([
                "--service-cluster-ip-range=10.255.0.0/24",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--profiling=false",
            ])
            .arg(format!("--bind-address={}", self.address()))
            .arg(format!("--advertise-address={}", self.address()))
            .arg(format!("--secure-port={}", self.api))
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd))
            // Should two runs have found the same port free, they do not write over each other.
            .arg(format!("--etcd-prefix=/{}", self.directory.file_name().unwrap().display()))
            .arg(flag("--cert-dir", self.authority().parent().unwrap()))
            .arg(flag("--token-auth-file", &self.tokens()))
            // The public half is in the same file.
            .arg(flag("--service-account-key-file", &self.account_key()))
            .arg(flag("--service-account-signing-key-file", &self.account_key()));
        match self.settings.address {
            // Of a node's names the API server would take the host's own, which nobody resolves.
            Some(_) => command.arg("--kubelet-preferred-address-types=InternalIP"),
            None => command.arg("--endpoint-reconciler-type=none"),
        };
        command
    }

    /// Every controller with an account of its own, as in a real cluster. Nobody renews a node's lease here: the
    /// controllers that would then take the node for lost are left out, unless asked for.
    pub fn controller_manager(&self, kubeconfig: &Path) -> Command {
        let mut command = program("kube-controller-manager");
        let without = if self.settings.node_lifecycle { "" } else { ",-node-lifecycle-controller" };
        command
            .args(["--leader-elect=false", "--secure-port=0", "--use-service-account-credentials=true"])
            // More than the PV binder's 20 a second: it is not what is measured here.
            .args(["--kube-api-qps=200", "--kube-api-burst=400"])
            .arg(format!("--controllers=*{without}"))
            .arg(flag("--kubeconfig", kubeconfig))
            .arg(flag("--root-ca-file", &self.authority()))
            .arg(flag("--service-account-private-key-file", &self.account_key()));
        command
    }

    pub fn scheduler(&self, kubeconfig: &Path) -> Command {
        let mut command = program("kube-scheduler");
        command
            .args(["--leader-elect=false", "--secure-port=0", "--kube-api-qps=200", "--kube-api-burst=400"])
            .arg(flag("--kubeconfig", kubeconfig));
        command
    }

    /// Starts one of them; its log has its name.
    pub fn start(&self, command: &Command) -> Process {
        let name = Path::new(command.get_program()).file_name().unwrap().to_str().unwrap();
        Process::start(name, command, &self.directory.join(format!("{name}.log")))
    }

    fn tokens(&self) -> PathBuf {
        self.directory.join("tokens.csv")
    }

    fn account_key(&self) -> PathBuf {
        self.directory.join("accounts.key")
    }
}

/// Built by `scripts/cluster/setup`.
pub fn program(name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/cluster/bin").join(name);
    assert!(path.exists(), "{} is missing: run scripts/cluster/setup placement", path.display());
    Command::new(path)
}

pub fn flag(name: &str, value: &Path) -> OsString {
    let mut text = OsString::from(name);
    text.push("=");
    text.push(value);
    text
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A port of the loopback that nobody listens on, below those that the kernel gives to clients, which may
/// take one before its server does.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).unwrap();
    for _ in 0..1000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port of the loopback is free");
}
