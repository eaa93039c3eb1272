//! The real binary, started and ended.

use super::co::Co;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a start may take.
const START: Duration = Duration::from_secs(30);

/// A running `wharf standalone`; killed when dropped.
#[derive(Debug)]
pub struct Driver {
    child: Child,
    ended: Option<ExitStatus>,
    directory: TempDir,
}

impl Driver {
    /// Starts the binary on these pools and waits until Probe answers. Its name as a node is `node-1`.
    pub fn start(pools: &[(&str, &Path)], environment: &[(&str, &str)]) -> Self {
        let mut driver = Self::spawn(pools, environment);
        if !driver.wait_until_ready() {
            panic!("the driver did not start ({:?}):\n{}", driver.ended, driver.log());
        }
        driver
    }

    /// Starts it without waiting.
    pub fn spawn(pools: &[(&str, &Path)], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["standalone", "--node-id", "node-1"]);
        for (name, path) in pools {
            command.arg("--pool").arg(format!("{name}={}", path.display()));
        }
        Self::spawn_as(command, environment)
    }

    /// As [`Driver::spawn`], for a test that gives its own flags; socket and log are added.
    pub fn spawn_as(mut command: Command, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("wharf-driver-").tempdir().unwrap();
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WHARF_")) {
            command.env_remove(name);
        }
        command
            .env("CSI_ENDPOINT", directory.path().join("csi.sock"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.path().join("log")).unwrap());
        Self { child: command.spawn().unwrap(), ended: None, directory }
    }

    /// Whether Probe answers before the process ends or time is up.
    pub fn wait_until_ready(&mut self) -> bool {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline && self.ended().is_none() {
            if self.socket().exists()
                && let Ok(mut co) = Co::try_connect(&self.socket())
                && co.probe().is_ok()
            {
                return true;
            }
            thread::sleep(Duration::from_millis(2));
        }
        false
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("csi.sock")
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A client of its own.
    pub fn co(&self) -> Co {
        Co::connect(&self.socket())
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// SIGSTOP; returns when the process stands still.
    pub fn stop(&mut self) {
        if self.ended().is_none() {
            kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
            super::eventually("the driver stands still", 10, || self.is_stopped());
        }
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        if self.ended().is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        }
        match self.wait_exit(Duration::from_secs(60)) {
            Some(status) => status,
            None => panic!("the driver does not end on SIGTERM:\n{}", self.log()),
        }
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.ended
    }

    /// Whether the process has been stopped by a signal (state `T` of proc_pid_stat(5)).
    pub fn is_stopped(&self) -> bool {
        super::host::state_of(self.pid()) == Some('T')
    }

    /// Kilobytes of memory that are resident.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("--- the driver's last lines");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A port of the loopback that nobody uses now.
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The metrics of the one that serves them at this address.
pub fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: here\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// One sample; `None`: there is none.
pub fn sample(page: &str, name: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok())
}
