//! Processes that end with this one, however it ends, and the directory that goes with them.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A running program; killed with its children when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a process group of its own. What it writes goes to `log`, which is extended if it is
    /// there. Without input, and of this process's environment with nothing but the search path.
    pub fn start(name: &str, command: &Command, log: &Path) -> Self {
        let mut wrapped = Command::new("setpriv");
        // It becomes the program: the process keeps its id.
        wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        wrapped.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        wrapped.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        let output = File::options().create(true).append(true).open(log).unwrap();
        wrapped.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).process_group(0);
        Self { name: name.to_owned(), child: spawn(wrapped), ended: None, log: log.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of that.
    pub fn tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
    }

    /// SIGKILL for it and its children; returns when it is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _gone_already = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            self.ended = self.child.wait().ok();
        }
    }

    /// SIGTERM; waits for the end, which is made one when it takes longer than `limit`.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + limit;
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        self.ended.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The kernel ends a child when the *thread* that started it ends, and a test has a thread of its own: what
/// several tests use is started from one that stays.
fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<Child>);
    static STARTER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, received) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in received {
                let child = command.spawn().unwrap_or_else(|e| panic!("setpriv cannot be started: {e}"));
                let _nobody_waits = answer.send(child);
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = mpsc::channel();
    STARTER.lock().unwrap().send((command, answer)).unwrap();
    child.recv().unwrap()
}

/// A temporary directory that goes with this process also when that is killed: another one waits for it.
#[derive(Debug)]
pub struct Scratch {
    directory: Option<TempDir>,
    janitor: Child,
    /// Closes with this process.
    alive: Option<ChildStdin>,
}

impl Scratch {
    pub fn new(prefix: &str) -> Self {
        let directory = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
        let script = "cat; for n in 1 2 3 4 5 6 7 8 9; do rm -rf --one-file-system -- \"$1\" && break; sleep 0.3; done";
        let mut janitor = Command::new("sh")
            .args([OsStr::new("-c"), OsStr::new(script), OsStr::new("sh"), directory.path().as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C and a tier's limit are for the tests; this one cleans up after them.
            .process_group(0)
            .spawn()
            .unwrap();
        let alive = janitor.stdin.take();
        Self { directory: Some(directory), janitor, alive }
    }

    pub fn path(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.directory.take());
        drop(self.alive.take());
        let _ = self.janitor.wait();
    }
}
