//! A share for one test alone, a directory below an export, as the driver works on it; and the helper, which is this
//! test binary started again.

#![allow(unsafe_code)]

use crate::guest::{Corner, Server};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use wharf::{
    os::child::Launcher,
    share::{
        self, Limits, Remote,
        store::{NewSnapshot, NewVolume, OnDelete, Place},
    },
    volume::{
        Key, Name, Owner, Source,
        nfs::{self, Connection},
    },
};

const NAME: &str = "share-helper";

extern "C" fn begin() {
    if std::env::args_os().nth(1).is_some_and(|name| name == NAME) {
        let outcome = share::run(share::operation::handler());
        if let Err(error) = &outcome {
            eprintln!("share-helper: {}", error.chain());
        }
        std::process::exit(i32::from(outcome.is_err()));
    }
}

// A helper has to be in the first thread, which the harness's tests are not.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

pub fn launcher() -> Launcher {
    Launcher::new([NAME])
}

/// A share that nobody else uses.
pub struct Scene {
    pub remote: Remote,
    pub share: share::Share,
    source: String,
    corner: Corner,
}

impl Scene {
    /// `options` as a StorageClass gives them: `vers=4.1`.
    pub fn new(server: Server, export: &str, name: &str, options: &str) -> Self {
        let name = &name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let corner = Corner::new(server, export, name);
        let six = server.address.contains(':');
        let host = if six { format!("[{}]", server.address) } else { server.address.to_owned() };
        let source = format!("{host}:/export/{export}/{name}");
        let connection = Connection::parse(options).unwrap();
        let share = share::Share::nfs(&nfs::Share::parse(&source).unwrap(), &connection);
        Self { remote: remote("here"), share, source, corner }
    }

    /// As the server sees it.
    pub fn path(&self) -> &Path {
        &self.corner.0
    }

    pub fn at(&self, below: &str) -> PathBuf {
        self.corner.0.join(below)
    }

    /// The helpers that have it mounted.
    pub fn helpers(&self) -> Vec<u32> {
        let own = std::process::id().to_string();
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
            let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
            let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            if parent == Some(own.as_str()) && mounts.contains(&format!(" {} ", self.source)) {
                found.push(process.file_name().to_str().unwrap().parse().unwrap());
            }
        }
        found
    }

    /// How often each operation of the protocol was asked for since the helpers have mounted it.
    pub fn operations(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for helper in self.helpers() {
            let Ok(text) = fs::read_to_string(format!("/proc/{helper}/mountstats")) else { continue };
            for (name, count) in operations_in(&text) {
                *counts.entry(name).or_default() += count;
            }
        }
        counts
    }

    /// What `action` asks of the server; the helper has to be there. What a client gives back when it likes is not
    /// counted.
    pub fn counted(&self, what: &str, action: impl FnOnce()) -> u64 {
        let (before, begin) = (self.operations(), Instant::now());
        assert!(!before.is_empty(), "no helper yet");
        action();
        let mut more = self.operations();
        more.iter_mut().for_each(|(name, count)| *count -= before.get(name).unwrap_or(&0));
        more.retain(|name, count| *count > 0 && name != "DELEGRETURN");
        let sum = more.values().sum();
        println!("vm: {what}: {sum} operations, {} ms: {more:?}", begin.elapsed().as_millis());
        sum
    }

    /// The same of an action that has a helper of its own, which ends with it: what that had asked when it was looked at
    /// last.
    pub fn counted_meanwhile(&self, action: impl FnOnce()) -> u64 {
        let sum = || self.operations().values().sum::<u64>();
        let (before, ended) = (sum(), AtomicBool::new(false));
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = before;
                while !ended.load(Ordering::Acquire) {
                    most = most.max(sum());
                    thread::sleep(Duration::from_millis(20));
                }
                most
            });
            action();
            ended.store(true, Ordering::Release);
            watch.join().unwrap() - before
        })
    }

    /// Nobody's volumes and nothing half done: after a sweep the store holds nothing but itself.
    #[track_caller]
    pub fn assert_empty(&self) {
        let purge = self.remote.sweep(&self.share).unwrap();
        assert_eq!(purge.left, [], "something could not be purged");
        assert_eq!(self.remote.leftovers(&self.share).unwrap(), []);
        for part in ["volumes", "snapshots", "claims", "trash"] {
            assert_eq!(names(&self.at(".wharf").join(part)), [""; 0], "{part}");
        }
        let strangers: Vec<_> =
            names(&self.at(".wharf/tmp")).into_iter().filter(|name| !name.ends_with(".alive")).collect();
        assert!(strangers.is_empty(), "left in tmp: {strangers:?}");
    }
}

/// Of the first NFS mount in such a text: nfsstat(8) reads it, too.
fn operations_in(mountstats: &str) -> BTreeMap<String, u64> {
    let rest = mountstats.split_once("per-op statistics").map_or("", |(_, rest)| rest);
    let lines = rest.lines().skip(1).map_while(|line| line.split_once(':'));
    let count = |figures: &str| figures.split_whitespace().next().unwrap().parse().unwrap();
    let counts = lines.map(|(name, figures)| (name.trim().to_owned(), count(figures)));
    counts.filter(|(_, count)| *count > 0).collect()
}

/// What has been asked of the server for what is mounted here.
pub fn operations_at(point: &Path) -> u64 {
    let text = fs::read_to_string("/proc/self/mountstats").unwrap();
    let (_, rest) = text.split_once(&format!(" mounted on {} ", point.display())).unwrap();
    operations_in(rest).values().sum()
}

pub fn remote(cluster: &str) -> Remote {
    // The guest is slow, and slower beside others.
    let limits = Limits {
        answering: Duration::from_secs(10),
        mounting: Duration::from_secs(90),
        looking: Duration::from_secs(30),
        ..Limits::default()
    };
    Remote::new(launcher(), limits, share::Owner::new(cluster))
}

pub fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .map(|entries| {
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

pub fn key(name: &str) -> Key {
    Key::of(&Name::new(name).unwrap())
}

pub fn place(path: &str) -> Place {
    Place::new(path.split('/').map(str::to_owned).collect()).unwrap()
}

pub fn volume(name: &str, root: &str) -> NewVolume {
    NewVolume {
        name: name.into(),
        key: key(name),
        id: format!("nfs-{name}"),
        root: place(root),
        on_delete: OnDelete::Delete,
        owner: Owner::default(),
        source: None,
        required_bytes: 1 << 20,
        size_bytes: 1 << 20,
        context: BTreeMap::new(),
    }
}

pub fn copy_of(name: &str, source: Source) -> NewVolume {
    NewVolume { source: Some(source), ..volume(name, name) }
}

pub fn snapshot(name: &str, of: &str) -> NewSnapshot {
    NewSnapshot { name: name.into(), key: key(name), id: format!("nfs-snap-{name}"), volume: key(of) }
}
