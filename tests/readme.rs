//! Every command that README.md and the pages of docs/ show is run here, or the test fails.
//!
//! Paths of the installed system lead into a temporary directory; the init system's part (start the
//! unit's commands with its environment and its capabilities) is played by this test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

const WHARF: &str = env!("CARGO_BIN_EXE_wharf");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// How a command is run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// A target of the Makefile whose recipe is this. What it builds is the binary under test.
    Target(&'static str, &'static [&'static str]),
    /// As it stands, simulated: the packages exist.
    Packages,
    /// As it stands, with the paths of [`MOVED`].
    Shell,
    /// The init system reads the unit.
    Reload,
    /// The init system starts the unit.
    Start,
    /// Needs a cluster, which is not here: this is done instead. tests/e2e/pages.rs does what docs/install.md says on a
    /// real one; what moves volumes is tested in tests/migrate.rs, as far as that goes without one.
    Cluster(&'static str),
}

/// Nothing can be done instead.
const IN_A_CLUSTER: How = How::Cluster("true");

/// Every command of the pages. One that is missing here fails the test, and so does one that no page has.
const COMMANDS: [(&str, How); 40] = [
    (
        "make demo",
        How::Target(
            "demo",
            &["@scripts/setup demo", "cargo build --release --locked", "target/release/wharf demo"],
        ),
    ),
    ("make test", How::Target("test", &["@scripts/setup test", "@scripts/test"])),
    ("make image", How::Target("image", &["cargo build --release --locked", "deploy/image/build"])),
    ("kubectl apply --server-side --filename deploy/crds.yaml", How::Cluster("test -s deploy/crds.yaml")),
    (
        "helm upgrade --install wharf deploy/chart --namespace wharf --create-namespace",
        How::Cluster("deploy/render -- wharf --namespace wharf >/dev/null"),
    ),
    ("kubectl apply --filename deploy/wharf.yaml", How::Cluster("test -s deploy/wharf.yaml")),
    ("kubectl --namespace wharf rollout status daemonset/wharf-node --timeout 2m", IN_A_CLUSTER),
    ("kubectl --namespace wharf rollout status deployment/wharf-controller --timeout 2m", IN_A_CLUSTER),
    ("kubectl get storagenodes", IN_A_CLUSTER),
    (
        "kubectl apply --filename deploy/examples/first.yaml",
        How::Cluster("test -s deploy/examples/first.yaml"),
    ),
    ("kubectl wait --for condition=Ready pod/first --timeout 2m", IN_A_CLUSTER),
    ("kubectl get persistentvolumeclaims,localvolumes", IN_A_CLUSTER),
    ("kubectl exec first -- cat /data/started", IN_A_CLUSTER),
    ("kubectl delete --filename deploy/examples/first.yaml", IN_A_CLUSTER),
    ("helm uninstall wharf --namespace wharf", IN_A_CLUSTER),
    ("kubectl delete --filename deploy/wharf.yaml", IN_A_CLUSTER),
    ("kubectl get localvolumes,localsnapshots", IN_A_CLUSTER),
    ("kubectl delete --filename deploy/crds.yaml", IN_A_CLUSTER),
    (
        "kubectl get localvolumes --field-selector spec.nodeName=worker-3 --output name |    xargs --no-run-if-empty \
         --max-args 1 kubectl patch --type merge --patch '{\"metadata\":{\"finalizers\":null}}'",
        IN_A_CLUSTER,
    ),
    (
        "kubectl get localsnapshots --field-selector spec.nodeName=worker-3 --output name |    xargs --no-run-if-empty \
         --max-args 1 kubectl patch --type merge --patch '{\"metadata\":{\"finalizers\":null}}'",
        IN_A_CLUSTER,
    ),
    ("apt-get install --yes gcc libc6-dev e2fsprogs xfsprogs", How::Packages),
    ("make build", How::Target("build", &["cargo build --release --locked"])),
    ("install -D -m 0755 target/release/wharf /usr/local/bin/wharf", How::Shell),
    ("install -D -m 0644 deploy/systemd/wharf.env /etc/wharf/wharf.env", How::Shell),
    ("install -D -m 0644 deploy/systemd/wharf.service /etc/systemd/system/wharf.service", How::Shell),
    ("mkdir -p -m 0700 /var/lib/wharf", How::Shell),
    ("systemctl daemon-reload", How::Reload),
    ("systemctl enable --now wharf", How::Start),
    ("set -a && . /etc/wharf/wharf.env && set +a", How::Shell),
    ("wharf check", How::Shell),
    ("wharf probe", How::Shell),
    ("wharf volumes", How::Shell),
    ("wharf gc", How::Shell),
    ("wharf gc --apply", How::Shell),
    ("wharf volumes --output json", How::Shell),
    (
        "kubectl get localvolumes --output custom-columns='NAME:.spec.name,NODE:.spec.nodeName,\
         HEALTHY:.status.conditions[?(@.type==\"Healthy\")].reason'",
        IN_A_CLUSTER,
    ),
    ("wharf gc --node worker-3", IN_A_CLUSTER),
    ("wharf gc --node worker-3 --apply", IN_A_CLUSTER),
    (
        "scripts/migrate-pv --output /var/tmp/moving",
        How::Cluster(
            "mkdir -p /var/tmp/ && scripts/migrate-pv --file tests/migrate/volumes.json --output /var/tmp/moving",
        ),
    ),
    ("bash /var/tmp/moving/apply.sh", How::Cluster("bash -n /var/tmp/moving/apply.sh")),
];

/// Paths of the installed system. `target/release/wharf` becomes the binary under test.
const MOVED: [&str; 5] = ["/usr/local/bin/", "/etc/", "/var/lib/wharf", "/var/tmp/", "/run/wharf"];

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn every_command_is_known() {
    let shown: Vec<String> = pages().iter().flat_map(|page| blocks(page)).flatten().collect();
    let known: BTreeSet<&str> = COMMANDS.iter().map(|(command, _)| *command).collect();
    let unknown: Vec<_> = shown.iter().filter(|command| !known.contains(command.as_str())).collect();
    assert!(unknown.is_empty(), "say in tests/readme.rs how to run these: {unknown:#?}");
    let stale: Vec<_> = known.iter().filter(|command| !shown.iter().any(|s| s == *command)).collect();
    assert!(stale.is_empty(), "no page shows these any more: {stale:#?}");
    for command in &shown {
        let placeholder = command.contains(['<', '>', '…']) || command.contains("...");
        assert!(!placeholder, "{command}: cannot be pasted as it is");
    }
}

#[test]
fn make_targets_do_what_the_pages_say() {
    for (command, how) in COMMANDS {
        if let How::Target(target, recipe) = how {
            assert_eq!(command, format!("make {target}"));
            assert_eq!(recipe_of(target), recipe, "{command}");
        }
    }
    let ci = read(".ci/run");
    assert!(
        ci.contains("for target in test test-placement e2e; do") && ci.contains("make \"$target\""),
        "CI runs something else than the README:\n{ci}"
    );
    let tiers = read("scripts/test");
    let all =
        tiers.lines().find_map(|line| line.strip_prefix("all=(")).expect("scripts/test lists its tiers");
    let all: Vec<_> = all.trim_end_matches(')').split(' ').collect();
    for tier in ["unit", "kernel", "vm", "interop", "sanity", "deploy", "docs"] {
        assert!(all.contains(&tier), "`make test` leaves out the tier {tier}");
    }
}

#[test]
fn the_demo_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let mut demo = Command::new(WHARF);
    demo.arg("demo").env("TMPDIR", scratch.path());
    run(demo, "wharf demo");
    let left: Vec<_> =
        fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "the demo left {left:?}");
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let folder = page.parent().unwrap();
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !file.is_empty() {
                assert!(folder.join(file).exists(), "{}: {link} does not exist", page.display());
            }
        }
    }
}

#[test]
fn the_table_of_commands_is_complete() {
    let mut help = Command::new(WHARF);
    help.arg("--help");
    let help = run(help, "wharf --help");
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A longer text goes on below itself.
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    let readme = read("README.md");
    let mut count = 0;
    for name in names {
        count += 1;
        assert!(
            readme.contains(&format!("\n| `wharf {name}` |")),
            "README.md does not explain `wharf {name}`"
        );
    }
    assert!(count >= 6, "only {count} commands were found in:\n{help}");
}

#[test]
fn the_installation_works() {
    let mut machine = Machine::new();
    for block in blocks(&Path::new(ROOT).join("README.md")) {
        machine.perform(&block);
    }
    for page in pages().iter().filter(|page| !page.ends_with("README.md")) {
        for block in blocks(page) {
            machine.perform(&block);
        }
    }
    machine.stop();
}

/// A directory that stands for a machine, and its init system.
struct Machine {
    root: tempfile::TempDir,
    driver: Option<Child>,
}

impl Machine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), driver: None }
    }

    /// The commands of one block: those for a shell go to one shell, as when they are pasted.
    fn perform(&mut self, block: &[String]) {
        let mut script = String::new();
        for command in block {
            let how = COMMANDS.iter().find(|(known, _)| known == command).map(|(_, how)| *how);
            match how.unwrap_or_else(|| panic!("{command}: unknown")) {
                How::Target(..) => {}
                How::Packages => {
                    let simulated = command.replacen("apt-get ", "apt-get --simulate --quiet ", 1);
                    script.push_str(&format!("{simulated} >/dev/null\n"));
                }
                How::Shell => {
                    script.push_str(&self.moved(command));
                    script.push('\n');
                }
                How::Cluster(instead) => {
                    script.push_str(&self.moved(instead));
                    script.push('\n');
                }
                How::Reload => {
                    self.shell(&std::mem::take(&mut script));
                    self.verify_unit();
                }
                How::Start => {
                    self.shell(&std::mem::take(&mut script));
                    self.start();
                }
            }
        }
        self.shell(&script);
    }

    fn path(&self, installed: &str) -> PathBuf {
        self.root.path().join(installed.trim_start_matches('/'))
    }

    /// A text in which the installed system's paths lead into this machine.
    fn moved(&self, text: &str) -> String {
        let root = self.root.path().display();
        let text = text.replace("target/release/wharf", WHARF);
        MOVED.iter().fold(text, |text, path| text.replace(path, &format!("{root}{path}")))
    }

    fn shell(&self, script: &str) {
        if script.is_empty() {
            return;
        }
        let mut shell = Command::new("/bin/sh");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("/usr/local/bin").display());
        shell.args(["-eu", "-c", script]).current_dir(ROOT).env_clear().env("PATH", path);
        run(shell, script);
    }

    /// Of the unit: all values of a key, in order.
    fn settings(&self, key: &str) -> Vec<String> {
        let unit = self.moved(&fs::read_to_string(self.path("/etc/systemd/system/wharf.service")).unwrap());
        let of_key = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
        unit.lines().filter_map(of_key).collect()
    }

    /// systemd's own opinion where it is installed; and what the mounts need, in any case.
    fn verify_unit(&self) {
        let unit = self.path("/etc/systemd/system/wharf.service");
        if Path::new("/usr/bin/systemd-analyze").exists() {
            let moved = self.path("/verified/wharf.service");
            fs::create_dir(moved.parent().unwrap()).unwrap();
            fs::write(&moved, self.moved(&fs::read_to_string(&unit).unwrap())).unwrap();
            let mut verify = Command::new("/usr/bin/systemd-analyze");
            verify.arg("verify").arg(moved);
            run(verify, "systemd-analyze verify");
        }
        let one = |key| self.settings(key).join(" ");
        assert_eq!(one("PrivateMounts"), "no");
        assert_eq!(one("MountFlags"), "shared");
        assert!(["mixed", "process"].contains(&one("KillMode").as_str()), "a mkfs must not be killed first");
        // Shares are mounted in namespaces of their own, which setns(2) enters.
        assert_eq!(one("RestrictNamespaces"), "mnt");
        assert!(one("CapabilityBoundingSet").contains("CAP_SYS_CHROOT"));
        // systemd.exec(5): each of these gives the service a mount namespace, or takes its devices.
        for hiding in [
            "ProtectSystem",
            "ProtectHome",
            "PrivateTmp",
            "ReadWritePaths",
            "ReadOnlyPaths",
            "InaccessiblePaths",
            "ProtectKernelModules",
            "ProtectKernelTunables",
            "ProtectKernelLogs",
            "ProtectControlGroups",
            "ProtectClock",
            "ProtectProc",
            "BindPaths",
            "TemporaryFileSystem",
            "RootDirectory",
            "DynamicUser",
        ] {
            assert_eq!(
                self.settings(hiding),
                Vec::<String>::new(),
                "{hiding} would hide the mounts or devices"
            );
        }
    }

    /// What systemd does: the environment file and nothing else, the commands before, the service with
    /// the unit's capabilities.
    fn start(&mut self) {
        let file = self.settings("EnvironmentFile").join(" ");
        let text = self.moved(&fs::read_to_string(file).unwrap());
        fs::write(self.path("/etc/wharf/wharf.env"), &text).unwrap();
        let environment: Vec<(String, String)> = text.lines().filter_map(assignment).collect();
        for command in self.settings("ExecStartPre") {
            let (program, arguments) = split(&command);
            let mut before = Command::new(program);
            before.args(arguments).env_clear().envs(environment.clone());
            run(before, &command);
        }
        for directory in self.settings("RuntimeDirectory") {
            fs::create_dir_all(self.path("/run").join(directory)).unwrap();
        }
        let command = self.settings("ExecStart").join(" ");
        let mut service = Command::new("/usr/bin/setpriv");
        service.arg("--no-new-privs").arg(format!("--bounding-set={}", self.bounding_set()));
        let (program, arguments) = split(&command);
        service.arg(program).args(arguments).env_clear().envs(environment);
        self.driver = Some(service.spawn().unwrap());
        let socket = self.path("/run/wharf/csi.sock");
        let deadline = Instant::now() + PATIENCE;
        while !socket.exists() {
            let ended = self.driver.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{command} made no socket: {ended:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything that the unit does not keep is dropped. (What this machine lacks cannot be added.)
    fn bounding_set(&self) -> String {
        let kept = self.settings("CapabilityBoundingSet").join(" ").to_ascii_lowercase();
        let kept: Vec<_> = kept.split(' ').map(|name| name.trim_start_matches("cap_")).collect();
        let mut list = Command::new("/usr/bin/setpriv");
        list.arg("--list-caps");
        let all = run(list, "setpriv --list-caps");
        let all: Vec<_> = all.lines().map(str::trim).collect();
        assert!(kept.iter().all(|name| all.contains(name)), "{kept:?} are not all capabilities");
        all.iter()
            .filter(|name| !kept.contains(name))
            .map(|name| format!("-{name}"))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// As systemd does: SIGTERM, and the end is expected to be orderly.
    fn stop(mut self) {
        let mut driver = self.driver.take().expect("the README starts the driver");
        let mut kill = Command::new("/bin/kill");
        kill.args(["-TERM", &driver.id().to_string()]);
        run(kill, "kill -TERM");
        let status = wait(&mut driver, "the driver");
        assert!(status.success(), "the driver ended with {status}");
        assert!(self.path("/var/lib/wharf/format.json").exists(), "the pool of wharf.env was not used");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut driver) = self.driver.take() {
            let _ = driver.kill();
            let _ = driver.wait();
        }
    }
}

/// Runs to the end, bounded in time; success is expected. Gives what it printed.
#[track_caller]
fn run(mut command: Command, what: &str) -> String {
    let (log, output) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let clone = |file: &fs::File| Stdio::from(file.try_clone().unwrap());
    let mut child = command.stdin(Stdio::null()).stdout(clone(&output)).stderr(clone(&log)).spawn().unwrap();
    let status = wait(&mut child, what);
    let (output, log) = (content(output), content(log));
    assert!(status.success(), "{what}\nended with {status}\n{output}{log}");
    output
}

fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{what} took longer than {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A child wrote through a copy of the descriptor, so the offset is at the end.
fn content(mut file: fs::File) -> String {
    use std::io::Seek;
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// `KEY=VALUE` of an environment file, as systemd reads it.
fn assignment(line: &str) -> Option<(String, String)> {
    let (key, value) = line.split_once('=').filter(|(key, _)| !key.starts_with('#'))?;
    Some((key.to_owned(), value.trim_matches('"').to_owned()))
}

fn split(command: &str) -> (&str, Vec<&str>) {
    let mut words = command.split(' ');
    (words.next().unwrap(), words.collect())
}

/// The recipe of a target of the Makefile.
fn recipe_of(target: &str) -> Vec<String> {
    let makefile = read("Makefile");
    let mut lines = makefile.lines().skip_while(|line| !line.starts_with(&format!("{target}:")));
    assert!(lines.next().is_some(), "the Makefile has no target {target}");
    lines.map_while(|line| line.strip_prefix('\t')).map(str::to_owned).collect()
}

/// README.md and everything below docs/.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![Path::new(ROOT).join("README.md")];
    let mut folders = vec![Path::new(ROOT).join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The commands of each ```sh block: comments left out, lines that end in a backslash joined.
fn blocks(page: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(page).unwrap().replace("\\\n", " ");
    let mut blocks = Vec::new();
    let mut open: Option<Vec<String>> = None;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        match &mut open {
            None if fence
                && matches!(line.trim_start_matches(['`', ' ']), "sh" | "bash" | "shell" | "console") =>
            {
                open = Some(Vec::new());
            }
            Some(_) if fence => blocks.extend(open.take()),
            Some(commands) => {
                let command = line.split(" #").next().unwrap_or_default().trim();
                if !command.is_empty() && !command.starts_with('#') {
                    commands.push(command.to_owned());
                }
            }
            None => {}
        }
    }
    assert!(open.is_none(), "{}: a block is not closed", page.display());
    blocks
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}
