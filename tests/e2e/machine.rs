//! The machine that the scenarios run on, as it is seen from outside: how it is started, ended, and looked for.

use super::bed::{kubectl::run_quietly, process::Process};
use crate::support::host::{self, Loop};
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use wharf::os::loopdev;

/// The variable by which those inside know the machine's directory.
pub const DIRECTORY: &str = "WHARF_E2E_DIRECTORY";

/// Where logs of all runs go.
const LOGS: &str = "build/test/e2e";

/// What a machine without private mounts would write to.
const OUTSIDE: [&str; 8] = [
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/wharf",
    "/var/log/pods",
    "/var/log/containers",
    "/run/containerd",
    "/run/netns",
    "/etc/cni/net.d",
];

/// Waits for its standard input to close; then does what [`Machine::end`] does, as far as that goes without it.
const JANITOR: &str = r#"
cat
sleep 1
# A machine that is busy with another one takes its time to end this one.
for attempt in $(seq 120); do
    find /sys/fs/cgroup -depth -type d -path "*/$(basename "$1")*" -exec rmdir {} + 2>/dev/null
    rm -rf --one-file-system -- "$1" && break
    sleep 0.5
done
"#;

pub struct Machine {
    directory: TempDir,
    janitor: Child,
    running: Option<Process>,
    /// Of its processes: what `/proc/N/ns` names.
    namespaces: BTreeSet<PathBuf>,
    before: Vec<Option<(u64, i64)>>,
    interfaces: String,
}

impl Machine {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("wharf-e2e-").tempdir().unwrap();
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C and a tier's limit are for the tests; this one cleans up after them.
            .process_group(0)
            .spawn()
            .unwrap();
        Self {
            directory,
            janitor,
            running: None,
            namespaces: BTreeSet::new(),
            before: seen_outside(),
            interfaces: interfaces(),
        }
    }

    /// Runs this test program in it, with other arguments, and prints what that prints. `None`: not within `minutes`.
    pub fn run(&mut self, arguments: &[String], minutes: u64) -> Option<ExitStatus> {
        let directory = self.directory.path();
        fs::create_dir(directory.join("tmp")).unwrap();
        let log = directory.join("tests.output");
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/enter"));
        command.arg(directory).arg(std::env::current_exe().unwrap()).args(arguments);
        command.env(DIRECTORY, directory).env("TMPDIR", directory.join("tmp")).env("HOME", directory);
        command.env("RUST_BACKTRACE", std::env::var("RUST_BACKTRACE").unwrap_or_default());
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        fs::write(&log, "").unwrap();
        let mut output = fs::File::open(&log).unwrap();
        let process = self.running.insert(Process::start("enter", &command, &log));
        let deadline = Instant::now() + Duration::from_secs(minutes * 60);
        loop {
            let ended = process.ended();
            show(&mut output);
            if self.namespaces.len() < 2 {
                self.namespaces = namespaces_below(process.pid());
            }
            if ended.is_some() || Instant::now() > deadline {
                return ended;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Switches it off. Gives what is left of it, a line each.
    pub fn end(mut self) -> Vec<String> {
        let mut left = Vec::new();
        if self.namespaces.len() < 2 {
            left.push("its namespaces were never seen".to_owned());
        }
        // The kernel ends all of its processes, and with the last one go its mounts and its network.
        drop(self.running.take());
        let gone = within(Duration::from_secs(20), || self.processes().is_empty());
        if !gone {
            left.extend(self.processes().iter().map(|pid| format!("process {pid}")));
        }
        if !within(Duration::from_secs(20), || self.release_loops().is_empty()) {
            left.extend(self.release_loops().iter().map(|each| format!("{each:?}")));
        }
        if !within(Duration::from_secs(10), || self.remove_groups().is_empty()) {
            left.extend(self.remove_groups().iter().map(|group| format!("cgroup {}", group.display())));
        }
        let below = |path: &Path| path.starts_with(self.directory.path());
        left.extend(
            host::mounts().iter().filter(|mount| below(&mount.point)).map(|mount| format!("{mount:?}")),
        );
        for ((path, before), now) in OUTSIDE.iter().zip(&self.before).zip(seen_outside()) {
            if *before != now {
                left.push(format!("{path} was changed on the host"));
            }
        }
        if interfaces().contains("node0") || interfaces().contains("pods0") {
            left.push(format!("network interfaces: {}; before: {}", interfaces(), self.interfaces));
        }
        self.keep_logs();
        let directory = self.directory.path().to_owned();
        // Not across a mount, if one should be left.
        let removal = ["-rf".as_ref(), "--one-file-system".as_ref(), "--".as_ref(), directory.as_os_str()];
        let _shown_below = host::attempt("rm", removal);
        if directory.exists() {
            left.push(format!("{}", directory.display()));
        }
        left
    }

    /// Of all processes of the host, those in one of its namespaces.
    fn processes(&self) -> Vec<u32> {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| !namespaces_of(*pid).is_disjoint(&self.namespaces))
            .collect()
    }

    /// The pool's loop goes with its last mount, and cannot before those of raw volumes that lie on it. Gives those
    /// that are still there.
    fn release_loops(&self) -> Vec<Loop> {
        let pools = host::loops_below(self.directory.path());
        let numbers: BTreeSet<_> = pools.iter().map(|pool| loopdev::device_number(pool.number)).collect();
        let all = loopdev::all().unwrap();
        let on = |devices: &BTreeSet<u64>| -> BTreeSet<u32> {
            let found = all.iter().filter(|(_, status)| {
                devices.contains(&status.backing.device) || devices.contains(&status.backing_rdev)
            });
            found.map(|(number, _)| *number).collect()
        };
        let images = on(&numbers);
        let devices = images.iter().map(|number| loopdev::device_number(*number)).collect();
        // Stacked ones first: what the kubelet attaches to a raw volume.
        for number in on(&devices).into_iter().chain(images) {
            if let Ok(Some(held)) = loopdev::open(number) {
                let _asked_again = loopdev::clear(held);
            }
        }
        host::loops_below(self.directory.path())
    }

    /// Takes its cgroups away, from the innermost. Gives those that are still there.
    fn remove_groups(&self) -> Vec<PathBuf> {
        groups_of(self.directory.path()).iter().for_each(|group| remove_group(group));
        groups_of(self.directory.path())
    }

    fn keep_logs(&self) {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(LOGS);
        let of_the_last_run = ["-r".as_ref(), "--one-file-system".as_ref(), kept.as_os_str()];
        let _none_yet = host::attempt("rm", of_the_last_run);
        fs::create_dir_all(&kept).unwrap();
        let script = "cd \"$1\" && find . -name '*.log' -o -name '*.output' | grep -v /volumes/ | \
                      tar --create --files-from - | tar --extract --directory \"$2\"";
        let arguments = ["-c", script, "sh"].map(std::ffi::OsStr::new);
        let _best_effort = host::attempt(
            "sh",
            arguments.into_iter().chain([self.directory.path().as_os_str(), kept.as_os_str()]),
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.running.take());
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

/// The driver's image, of this very build, and those of what else is in a pod.
pub fn make_images() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    run_quietly(&mut Command::new(root.join("scripts/cluster/images")));
    let binary = std::env::var("WHARF_E2E_BINARY").unwrap_or_else(|_| "target/release/wharf".to_owned());
    let output = root.join("build/cluster/images/wharf.tar");
    let mut build = Command::new(root.join("deploy/image/build"));
    run_quietly(build.arg("--binary").arg(root.join(binary)).arg("--output").arg(output).current_dir(root));
}

fn show(output: &mut fs::File) {
    let mut text = Vec::new();
    let position = output.stream_position().unwrap();
    output.seek(SeekFrom::Start(position)).unwrap();
    output.read_to_end(&mut text).unwrap();
    let mut terminal = std::io::stdout();
    // Not by print!, which the harness would keep to itself until the end.
    let _closed = terminal.write_all(&text).and_then(|()| terminal.flush());
}

/// The cgroups of a machine, in every hierarchy.
fn groups_of(directory: &Path) -> Vec<PathBuf> {
    let name = directory.file_name().unwrap();
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let groups = hierarchies.chain(["/sys/fs/cgroup".into()]).map(|hierarchy| hierarchy.join(name));
    groups.filter(|group| group.is_dir()).collect()
}

fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    let _looked_at_afterwards = fs::remove_dir(group);
}

/// The pid, mount and network namespaces of the process that `unshare` has started, if they are not this one's.
fn namespaces_below(unshare: u32) -> BTreeSet<PathBuf> {
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap_or_default();
    let Some(first) = children.split_whitespace().next().and_then(|pid| pid.parse().ok()) else {
        return BTreeSet::new();
    };
    namespaces_of(first).difference(&namespaces_of(std::process::id())).cloned().collect()
}

fn namespaces_of(pid: u32) -> BTreeSet<PathBuf> {
    ["pid", "mnt", "net"]
        .iter()
        .filter_map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok())
        .collect()
}

/// The inode and the time of the last change of each of [`OUTSIDE`].
fn seen_outside() -> Vec<Option<(u64, i64)>> {
    OUTSIDE.iter().map(|path| fs::metadata(path).ok().map(|found| (found.ino(), found.mtime()))).collect()
}

fn interfaces() -> String {
    let text = fs::read_to_string("/proc/net/dev").unwrap();
    text.lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ")
}

fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}

#[test]
fn nothing_is_left_of_a_machine_whose_test_is_killed() {
    let logs = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "machine::a_machine_that_waits", "--ignored", "--nocapture"]);
    command.env("TMPDIR", logs.path());
    let mut test = Process::start("test", &command, &logs.path().join("log"));
    let directory = || -> Option<PathBuf> {
        let found = fs::read_dir(logs.path()).unwrap().flatten().map(|entry| entry.path());
        found.into_iter().find(|path| path.join("up").exists())
    };
    let up = within(Duration::from_secs(30), || directory().is_some());
    assert!(up, "the machine did not start:\n{}", test.log());
    let directory = directory().unwrap();
    let namespace = fs::read_link(format!("/proc/{}/ns/mnt", inner_of(test.pid()).unwrap())).unwrap();
    assert!(!host::loops_below(&directory).is_empty() && !groups_of(&directory).is_empty());

    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let mut users: Vec<_> =
        all.filter(|path| fs::read_link(path.join("ns/mnt")).is_ok_and(|found| found == namespace)).collect();
    assert!(!users.is_empty());

    test.kill();
    // Not by the namespace: its number is the next one's as soon as it has gone.
    // Seconds, beside a cluster that starts on the same machine more of them.
    let gone = within(Duration::from_secs(90), || {
        users.retain(|path| path.exists());
        users.is_empty()
            && host::loops_below(&directory).is_empty()
            && groups_of(&directory).is_empty()
            && !directory.exists()
    });
    assert!(
        gone,
        "processes {users:?}, loops {:?}, cgroups {:?}, {directory:?} is {}",
        host::loops_below(&directory),
        groups_of(&directory),
        if directory.exists() { "there" } else { "gone" }
    );
}

/// The machine's first process, of the test that runs it.
fn inner_of(test: u32) -> Option<u32> {
    let children = |pid: u32| -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        lists.collect::<String>().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    };
    let started = children(test).into_iter().flat_map(children);
    let own = fs::read_link(format!("/proc/{test}/ns/mnt")).ok();
    started.into_iter().find(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() != own)
}

#[test]
#[ignore = "started by nothing_is_left_of_a_machine_whose_test_is_killed"]
fn a_machine_that_waits() {
    let mut machine = Machine::new();
    let arguments = ["--exact", "machine::what_waits_in_it", "--ignored"].map(str::to_owned);
    machine.run(&arguments, 1);
}

#[test]
#[ignore = "started by nothing_is_left_of_a_machine_whose_test_is_killed"]
fn what_waits_in_it() {
    super::cluster::make_pool();
    let directory = PathBuf::from(std::env::var(DIRECTORY).unwrap());
    let group = Path::new("/sys/fs/cgroup/pids").join(directory.file_name().unwrap());
    if group.exists() {
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }
    fs::write(directory.join("up"), format!("{}\n", std::process::id())).unwrap();
    thread::sleep(Duration::from_secs(60));
}
