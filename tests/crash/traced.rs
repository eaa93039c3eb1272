//! The same without failpoints, whose author may have missed a place: at a system call that is drawn by
//! lot, strace(1) kills the process, or lets the call fail.

use crate::{
    case::{self, Reference, Result},
    model::{Model, Step},
    rig::{Rig, has_ended},
    scenario::Scenario,
    support::{co::Co, driver::Driver, eventually, inventory::Inventory},
};
use std::{
    collections::BTreeMap,
    fmt, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tonic::Code;

/// What changes something on disk or in the kernel.
const CALLS: &str = "mkdirat,unlinkat,renameat,renameat2,linkat,symlinkat,mknodat,write,pwrite64,fallocate,\
    ftruncate,copy_file_range,fchmod,fchmodat,fchown,fchownat,utimensat,fsetxattr,setxattr,fsync,fdatasync,\
    syncfs,ioctl,fsopen,fsconfig,fsmount,open_tree,move_mount,mount,mount_setattr,umount2,flock";

/// What happens at the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Fail(&'static str),
}

/// The `number`-th call of that name in one of the threads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub name: String,
    pub number: u64,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.number)
    }
}

/// What came of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    Killed,
    /// The call was answered with an error.
    Refused,
    /// It was answered as ever: the call did not matter, or did not come this time.
    Unharmed,
}

/// A strace(1) on a running driver; detached when dropped.
struct Tracer {
    child: Child,
    traced: u32,
    directory: TempDir,
}

impl Tracer {
    fn attach(driver: &Driver, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(directory.path().join("calls"))
            .args(["-e", "signal=none"])
            .args(options)
            .args(["-p", &driver.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(fs::File::create(directory.path().join("errors")).unwrap())
            .spawn()
            .expect("strace can be started");
        eventually("strace is attached", 20, || {
            assert!(child.try_wait().unwrap().is_none(), "strace has ended");
            is_traced(driver.pid())
        });
        Self { child, traced: driver.pid(), directory }
    }

    /// Ends the tracing and gives the calls.
    fn detach(mut self) -> Vec<Call> {
        self.end();
        calls(&self.directory.path().join("calls"))
    }

    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // On SIGTERM it lets go of the threads; but when these have been killed it may wait for one of
        // them for ever, and must be killed itself before anybody else can wait for the process.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let patience = Duration::from_millis(if is_dead(self.traced) { 100 } else { 2_000 });
        let deadline = Instant::now() + patience;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_traced(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}

fn is_dead(pid: u32) -> bool {
    matches!(crate::support::host::state_of(pid), None | Some('Z'))
}

fn calls(log: &Path) -> Vec<Call> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut seen: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        let unknown = name.is_empty() || name.starts_with("syscall_");
        if unknown || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue; // `<... mount resumed>`, `+++ exited`
        }
        let number = seen.entry((thread, name)).or_default();
        *number += 1;
        found.push(Call { name: name.to_owned(), number: *number });
    }
    found
}

/// The calls of the operation when nothing is done to it.
pub fn record(rig: &Rig, scenario: &Scenario) -> Result<Vec<Call>> {
    let mut model = rig.prepare(scenario)?;
    let mut driver = rig.driver(&[]);
    let trace = format!("trace={CALLS}");
    let tracer = Tracer::attach(&driver, &["-e", &trace]);
    let answer = model.perform(scenario.operation, &mut driver.co(), &rig.places);
    let calls = tracer.detach();
    answer.map_err(|status| format!("recording: {status}"))?;
    case::empty(&mut model, rig, &mut driver)?;
    Ok(calls)
}

/// One case.
pub fn run(
    rig: &Rig,
    scenario: &Scenario,
    reference: &Reference,
    call: &Call,
    fault: Fault,
) -> Result<Effect> {
    let model = rig.prepare(scenario)?;
    let before = rig.inventory();
    let mut driver = rig.driver(&[]);
    let what = match fault {
        Fault::Kill => "signal=KILL".to_owned(),
        Fault::Fail(errno) => format!("error={errno}"),
    };
    let inject = format!("inject={}:{what}:when={}", call.name, call.number);
    let trace = format!("trace={}", call.name);
    let tracer = Tracer::attach(&driver, &["-e", &trace, "-e", &inject]);
    let mut known = model.clone();
    let answer = match Co::try_connect(&driver.socket()) {
        Ok(mut co) => known.perform(scenario.operation, &mut co, &rig.places),
        // It was struck while it let the orchestrator in.
        Err(error) => Err(tonic::Status::unknown(error.to_string())),
    };
    drop(tracer);
    // It may be struck just after its answer.
    let moment = Duration::from_millis(if fault == Fault::Kill { 50 } else { 0 });
    let killed = has_ended(&answer, &mut driver) || driver.wait_exit(moment).is_some();
    let effect = match &answer {
        _ if killed => Effect::Killed,
        Ok(_) => Effect::Unharmed,
        Err(status) => {
            if makes_something(scenario.operation) {
                check_finality(rig, status, &before, &driver)?;
            }
            Effect::Refused
        }
    };
    recover(rig, scenario, reference, &model, (!killed).then_some(driver))?;
    Ok(effect)
}

/// The others are repeated until they go through.
fn makes_something(operation: Step) -> bool {
    matches!(
        operation,
        Step::Create
            | Step::Clone
            | Step::Restore { .. }
            | Step::Snapshot
            | Step::Stage
            | Step::Publish { .. }
    )
}

/// An error that the orchestrator takes as the last word comes after complete rollback (design invariant 6).
fn check_finality(rig: &Rig, status: &tonic::Status, before: &Inventory, driver: &Driver) -> Result<()> {
    if matches!(
        status.code(),
        Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
    ) {
        return Ok(());
    }
    // A loop goes when the last one who looks at it has closed it.
    let deadline = Instant::now() + Duration::from_secs(3);
    let difference = loop {
        let difference = before.difference(&rig.inventory());
        if difference.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            break difference;
        }
        thread::sleep(Duration::from_millis(20));
    };
    Err(format!(
        "{status}\nis final, but something of the attempt is left:\n{}\nthe driver's log:\n{}",
        difference.join("\n"),
        driver.log()
    ))
}

/// The same call again, by the same process where it still lives. A purge that has failed is tried again
/// a minute later, or after a start.
fn recover(
    rig: &Rig,
    scenario: &Scenario,
    reference: &Reference,
    model: &Model,
    driver: Option<Driver>,
) -> Result<()> {
    let driver = driver.filter(|_| rig.trash_is_empty()).unwrap_or_else(|| rig.driver(&[]));
    let mut model = model.clone();
    let answer = model.perform(scenario.operation, &mut driver.co(), &rig.places);
    case::conclude(rig, reference, case::Expected::Undisturbed, Some(&answer), model, driver)
}
