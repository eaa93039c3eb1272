//! The registry of failpoints: what the source says there is, and how tests choose among them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};
use uuid::Uuid;

/// Points of volumes on shares, in the store's protocol and on the node: not this test's, which has no NFS (see
/// src/share/store/tests/crash.rs, tests/vm/crash.rs). And those of the agent and the controller, which have no cluster here (see
/// tests/agent/crash.rs, tests/controller/crashes.rs).
const ELSEWHERE: [&str; 4] = ["share.", "share-node.", "agent.", "cluster."];

/// Every failpoint in src/ and the file it stands in. A name that stands in two places is an error.
pub fn in_source() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut rest = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        for part in fs::read_to_string(&path).unwrap().split("failpoint!(\"").skip(1) {
            let name = part.split('"').next().unwrap_or_default().to_owned();
            if ELSEWHERE.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            if let Some(other) = found.insert(name.clone(), path.clone()) {
                panic!("failpoint {name:?} stands in {} and in {}", other.display(), path.display());
            }
        }
    }
    found
}

/// The names in a log, each with the number of its hit.
pub fn read_log(log: &Path) -> Vec<Hit> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    text.lines()
        .map(|name| {
            let number = seen.entry(name).or_default();
            *number += 1;
            Hit { point: name.to_owned(), number: *number }
        })
        .collect()
}

/// A failpoint reached for the `number`-th time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    pub point: String,
    pub number: u64,
}

impl Hit {
    /// As WHARF_FAILPOINT takes it.
    pub fn armed(&self, action: &str) -> String {
        format!("{}@{}={action}", self.point, self.number)
    }
}

/// Which of `names` did not get their turn.
pub fn missing<'a>(names: impl Iterator<Item = &'a String>, struck: &BTreeSet<String>) -> Vec<&'a String> {
    names.filter(|name| !struck.contains(*name)).collect()
}

/// Deals: the same for the same commit, another choice for the next.
pub struct Deal {
    commit: String,
}

impl Deal {
    pub fn new() -> Self {
        let commit = env::var("WHARF_COMMIT").ok().or_else(head).unwrap_or_else(|| "unknown".into());
        Self { commit }
    }

    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// One of `count`.
    pub fn choose(&self, what: &str, count: usize) -> usize {
        let text = format!("{what} {}", self.commit);
        let (high, _) = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_u64_pair();
        usize::try_from(high % count as u64).unwrap_or(0)
    }
}

fn head() -> Option<String> {
    let output =
        Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
