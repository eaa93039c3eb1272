//! A server of the tests that end things: its exports, what is on them, and its power.

use crate::support::{
    data::try_sha256,
    driver::Driver,
    host::{attempt, run},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

pub const ADDRESS: &str = "10.77.3.2";
const NAME: &str = "c";
/// How long is waited for what the driver does by itself: trash, what is being made, claims of what is gone.
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs scripts/vm/server; the second argument is the server's name.
pub fn server(arguments: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/vm/server");
    // Its daemons keep what they were started with open, so that is a file.
    let command = ["-c", r#"exec "$0" "$@" >"/tmp/server-$2.log" 2>&1"#, script];
    let ended = attempt("bash", command.iter().chain(arguments));
    ended.unwrap_or_else(|e| {
        let log = format!("/tmp/server-{}.log", arguments[1]);
        panic!("{arguments:?}: {e}: {}", fs::read_to_string(log).unwrap_or_default())
    });
}

/// Starts a server with these exports (name, filesystem, size), unless an earlier process of this guest has: what has
/// failed is tried again by another one.
pub fn start_server(name: &str, number: &str, exports: &[[&str; 3]]) {
    let started = format!("/run/vm/{name}.started");
    if Path::new(&started).exists() {
        return;
    }
    server(&["link", name, number]);
    server(&["make", name]);
    for [export, filesystem, size] in exports {
        server(&["export", name, export, filesystem, size, "rw,no_root_squash"]);
    }
    server(&["start", name]);
    fs::write(started, "").unwrap();
}

/// The server is started by the first who needs it: nobody else uses it, so what is on it is known.
fn started() {
    static STARTED: OnceLock<()> = OnceLock::new();
    let exports = [["xfs", "xfs", "512M"], ["ext4", "ext4", "128M"], ["third", "xfs", "512M"]];
    STARTED.get_or_init(|| start_server(NAME, "3", &exports));
}

/// One of its exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export(&'static str);

impl Export {
    pub fn xfs() -> Self {
        started();
        Self("xfs")
    }

    pub fn ext4() -> Self {
        started();
        Self("ext4")
    }

    /// XFS, too.
    pub fn third() -> Self {
        started();
        Self("third")
    }

    /// As clients name it.
    pub fn share(self) -> String {
        format!("/export/{}", self.0)
    }

    /// As the server sees it.
    pub fn inside(self) -> PathBuf {
        Path::new("/run/vm").join(NAME).join("export").join(self.0)
    }

    /// Removes everything; no client may be at work.
    pub fn clear(self) {
        for entry in fs::read_dir(self.inside()).unwrap().flatten() {
            if entry.file_name() != "lost+found" {
                run("rm", ["-rf".as_ref(), entry.path().as_os_str()]);
            }
        }
    }

    /// What has reached the disk by now is what [`Export::reboot`] finds.
    pub fn cut(self) {
        server(&["cut", NAME, self.0]);
    }

    /// The server starts anew. No client may have the export mounted: nobody is to reclaim anything.
    pub fn reboot(self) {
        server(&["reboot", NAME, self.0]);
    }

    /// What is there when nothing is being made or purged any more.
    pub fn inventory(self) -> Inventory {
        self.inventory_when(|found| found.has_none_below(&[".wharf/tmp/", ".wharf/trash/"]))
    }

    /// Returns when what was deleted is gone.
    pub fn wait_for_purge(self) {
        self.inventory_when(|found| found.has_none_below(&[".wharf/trash/"]));
    }

    /// What is there once it is as it should be, or after all patience.
    pub fn inventory_when(self, settled: impl Fn(&Inventory) -> bool) -> Inventory {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.look();
            if settled(&found) || Instant::now() >= deadline {
                return found;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn look(self) -> Inventory {
        let top = self.inside();
        let (mut found, mut rest) = (BTreeMap::new(), vec![top.clone()]);
        while let Some(directory) = rest.pop() {
            // It may have gone since: trash is being purged.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                let name = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
                // Heartbeats stay for as long as they may tell something.
                if name == "lost+found" || name.ends_with(".alive") {
                    continue;
                }
                found.insert(without_instances(&name), describe(&path, &name, &metadata));
                if metadata.is_dir() {
                    rest.push(path);
                }
            }
        }
        Inventory(found)
    }
}

/// Every path of an export, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory(BTreeMap<String, String>);

impl Inventory {
    fn has_none_below(&self, directories: &[&str]) -> bool {
        !self.0.keys().any(|path| directories.iter().any(|below| path.starts_with(below)))
    }

    /// Lines that only one of the two has, `-` for this, `+` for the other.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let only = |these: &Self, others: &Self, sign: char| {
            let differs = |(path, how): &(&String, &String)| others.0.get(*path) != Some(how);
            let line = |(path, how): (&String, &String)| format!("{sign} {path}: {how}");
            these.0.iter().filter(differs).map(line).collect::<Vec<_>>()
        };
        [only(self, other, '-'), only(other, self, '+')].concat()
    }
}

fn describe(path: &Path, name: &str, metadata: &fs::Metadata) -> String {
    let owner = format!("{:o} {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
    let of_the_store = name.starts_with(".wharf/") && !name.contains("/data/");
    if metadata.is_symlink() {
        format!("{owner} -> {}", fs::read_link(path).unwrap_or_default().display())
    } else if metadata.is_file() && !of_the_store {
        // It may have gone since, as above.
        let sum = try_sha256(path).unwrap_or_else(|e| e.to_string());
        format!("{owner} {} links, {sum}", metadata.nlink())
    } else {
        owner
    }
}

/// Processes, clusters and incarnations differ from run to run: long runs of hexadecimal digits, and what an archived
/// directory is called behind its last dot. The names of volumes and snapshots, which do not, have dashes in between.
fn without_instances(name: &str) -> String {
    let parts = name.split('/').map(|part| match part.rsplit_once('.') {
        Some((archived, _)) if archived.starts_with("archived-") => format!("{archived}.#"),
        _ => without_runs(part),
    });
    parts.collect::<Vec<_>>().join("/")
}

fn without_runs(name: &str) -> String {
    let (mut out, mut run) = (String::new(), String::new());
    for c in name.chars().chain([' ']) {
        if c.is_ascii_hexdigit() {
            run.push(c);
            continue;
        }
        out += if run.len() >= 16 { "#" } else { &run };
        run.clear();
        out.push(c);
    }
    out.trim_end().to_owned()
}

/// The processes by which a driver works on shares.
pub fn helpers(driver: &Driver) -> Vec<i32> {
    let parent = driver.pid().to_string();
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        fields.split_whitespace().nth(1) == Some(&*parent)
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// kill -9 of a driver and its helpers, as when their container ends. Returns when nothing of them is left.
pub fn kill_all(driver: &mut Driver) {
    let helpers = helpers(driver);
    driver.kill();
    for pid in &helpers {
        let _ = attempt("kill", ["-KILL", &pid.to_string()]);
    }
    crate::support::eventually("the helpers are gone", 20, || {
        // Whoever adopts them may take a while to reap them.
        helpers.iter().all(|pid| matches!(crate::support::host::state_of(pid), None | Some('Z')))
    });
}
