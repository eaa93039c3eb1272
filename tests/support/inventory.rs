//! Everything that volumes leave on a machine, in a form that can be compared.

use super::{
    data,
    host::{self, Loop},
    pool::Pool,
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use wharf::os::{loopdev::number_of, mountinfo::Mount};

/// Above this a file's content is not part of the inventory (images are compared through their volumes).
const LARGEST_HASHED: u64 = 1 << 20;
/// How long trash, and what the kernel still works on, are waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// One line for each thing: what it is and where, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory(BTreeMap<String, String>);

impl Inventory {
    /// Mounts below `directories`, and everything of the pool: files, records, subvolumes and their
    /// limits, loop devices. Waits until trash has been purged.
    pub fn take(pool: &Pool, directories: &[&Path]) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let inventory = Self::look(pool, directories);
            if !inventory.is_unsettled() || Instant::now() >= deadline {
                return inventory;
            }
            if inventory.has_stale_qgroups() {
                // Kernels from 6.x on remove it themselves, when their cleaner has dropped the subvolume:
                // at the next commit but one, for which this does not wait half a minute.
                let _ =
                    host::attempt("btrfs", ["filesystem".as_ref(), "sync".as_ref(), pool.path().as_os_str()]);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// As [`Inventory::take`], without waiting.
    pub fn look(pool: &Pool, directories: &[&Path]) -> Self {
        let loops = host::loops_below(pool.path());
        let mut entries = BTreeMap::new();
        for each in &loops {
            let flags = format!(
                "autoclear={} ro={} block={} size={}{}",
                each.autoclear,
                each.read_only,
                each.block_size,
                each.size,
                if each.deleted { " deleted" } else { "" }
            );
            insert(&mut entries, format!("loop {}", name_of(each, &loops, pool)), flags);
        }
        for directory in directories {
            add_mounts(&mut entries, directory, &loops, pool);
            add_places(&mut entries, directory);
        }
        walk(&mut entries, pool, Path::new(""));
        if pool.kind().is_btrfs() {
            add_qgroups(&mut entries, pool);
        }
        Self(entries)
    }

    /// The lines.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(|(what, how)| format!("{what}: {how}")).collect()
    }

    /// Lines that only one of the two has, `-` for this, `+` for the other.
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, how) in &self.0 {
            if other.0.get(what) != Some(how) {
                lines.push(format!("- {what}: {how}"));
            }
        }
        for (what, how) in &other.0 {
            if self.0.get(what) != Some(how) {
                lines.push(format!("+ {what}: {how}"));
            }
        }
        lines
    }

    fn has_stale_qgroups(&self) -> bool {
        self.0.keys().any(|what| what.starts_with("qgroup stale"))
    }

    fn is_unsettled(&self) -> bool {
        self.0.keys().any(|what| {
            what.starts_with("file trash/")
                || what.starts_with("qgroup stale")
                || what.starts_with("subvolume trash")
        }) || self.0.iter().any(|(what, how)| what.starts_with("loop ") && how.contains("deleted"))
    }
}

/// Panics with the difference, if there is one.
pub fn assert_same(expected: &Inventory, found: &Inventory) {
    let difference = expected.difference(found);
    assert!(
        difference.is_empty(),
        "the inventories differ (- expected, + found):\n{}",
        difference.join("\n")
    );
}

/// A second one of the same name gets a number, so that nothing hides.
fn insert(entries: &mut BTreeMap<String, String>, what: String, how: String) {
    let mut name = what.clone();
    let mut number = 2;
    while entries.contains_key(&name) {
        name = format!("{what} #{number}");
        number += 1;
    }
    entries.insert(name, how);
}

fn relative(path: &Path, pool: &Pool) -> String {
    path.strip_prefix(pool.path()).unwrap_or(path).display().to_string()
}

/// A loop by what it shows: the number changes from run to run.
fn name_of(device: &Loop, loops: &[Loop], pool: &Pool) -> String {
    match device.base().and_then(|base| loops.iter().find(|each| each.number == base)) {
        Some(base) => format!("on {}", relative(&base.backing, pool)),
        None => relative(&device.backing, pool),
    }
}

fn add_mounts(entries: &mut BTreeMap<String, String>, directory: &Path, loops: &[Loop], pool: &Pool) {
    for mount in host::mounts() {
        let Ok(place) = mount.point.strip_prefix(directory) else { continue };
        insert(entries, format!("mount {}", place.display()), describe(&mount, loops, pool));
    }
}

fn describe(mount: &Mount, loops: &[Loop], pool: &Pool) -> String {
    let of =
        |number: u32| loops.iter().find(|each| each.number == number).map(|each| name_of(each, loops, pool));
    let mut options: Vec<_> = mount.options.split(',').collect();
    options.sort_unstable();
    let options = options.join(",");
    let read_only = mount.super_options.split(',').any(|option| option == "ro");
    let source = match number_of(mount.device) {
        Some(number) if mount.root == Path::new("/") => of(number).unwrap_or_else(|| "a foreign loop".into()),
        _ => match mount.root.to_str().and_then(|root| root.strip_prefix("/loop")?.parse().ok()) {
            Some(number) => {
                format!("device {}", of(number).unwrap_or_else(|| "with nothing behind it".into()))
            }
            None => mount.root.display().to_string(),
        },
    };
    format!("{} {source} {options}{}", mount.fstype, if read_only { " super=ro" } else { "" })
}

/// What has been made to mount on, below the orchestrator's directories; not what is in the mounts.
fn add_places(entries: &mut BTreeMap<String, String>, directory: &Path) {
    let mounted: Vec<PathBuf> = host::mounts().into_iter().map(|mount| mount.point).collect();
    let mut rest = vec![directory.to_owned()];
    while let Some(path) = rest.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let is_mount = path != directory && mounted.contains(&path);
        let kind = if is_mount { "mounted" } else { kind_of(&metadata) };
        insert(
            entries,
            format!("place {}", path.strip_prefix(directory).unwrap_or(&path).display()),
            kind.to_owned(),
        );
        if metadata.is_dir() && !is_mount {
            rest.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
}

fn kind_of(metadata: &fs::Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_file() {
        "file"
    } else if kind.is_symlink() {
        "symlink"
    } else {
        "special"
    }
}

fn walk(entries: &mut BTreeMap<String, String>, pool: &Pool, below: &Path) {
    let directory = pool.path().join(below);
    let Ok(children) = fs::read_dir(&directory) else { return };
    for child in children.flatten() {
        let path = below.join(child.file_name());
        // It may have gone since: trash is being purged.
        let Ok(metadata) = fs::symlink_metadata(pool.path().join(&path)) else { continue };
        let how = describe_file(pool, &path, &metadata);
        insert(entries, format!("file {}", path.display()), how);
        if metadata.is_dir() {
            walk(entries, pool, &path);
        }
    }
}

fn describe_file(pool: &Pool, path: &Path, metadata: &fs::Metadata) -> String {
    let full = pool.path().join(path);
    let owner =
        format!("{} {:o} {}:{}", kind_of(metadata), metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    if metadata.is_dir() {
        // The first inode of a btrfs subvolume.
        let subvolume = if pool.kind().is_btrfs() && metadata.ino() == 256 { " subvolume" } else { "" };
        return format!("{owner}{subvolume}{}", read_only_subvolume(pool, &full, metadata));
    }
    if !metadata.is_file() {
        return owner;
    }
    let name = path.file_name().unwrap_or_default();
    if name == "record.json" {
        return format!("{owner} {}", record(&full));
    }
    if name == "format.json" {
        return owner; // A uuid and its checksum.
    }
    let size = metadata.len();
    let allocated = if metadata.blocks() * 512 >= size { "whole" } else { "sparse" };
    if size > LARGEST_HASHED || name == "disk.img" {
        return format!("{owner} {size} bytes {allocated}");
    }
    match data::try_sha256(&full) {
        Ok(sum) => format!("{owner} {size} bytes sha256 {sum}"),
        Err(error) => format!("{owner} {size} bytes {error}"),
    }
}

fn read_only_subvolume(pool: &Pool, path: &Path, metadata: &fs::Metadata) -> &'static str {
    if !pool.kind().is_btrfs() || metadata.ino() != 256 {
        return "";
    }
    let shown = host::attempt(
        "btrfs",
        ["property".as_ref(), "get".as_ref(), "-ts".as_ref(), path.as_os_str(), "ro".as_ref()],
    );
    if shown.is_ok_and(|text| text == "ro=true") { " read-only" } else { "" }
}

/// The record without what differs from run to run.
fn record(path: &Path) -> String {
    let Ok(text) = fs::read(path) else { return "unreadable".into() };
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&text) else { return "no JSON".into() };
    let Some(record) = value.get_mut("record").and_then(serde_json::Value::as_object_mut) else {
        return "no record".into();
    };
    record.remove("created");
    serde_json::Value::Object(record.clone()).to_string()
}

/// Limits by path; a qgroup without its subvolume is a leftover.
fn add_qgroups(entries: &mut BTreeMap<String, String>, pool: &Pool) {
    let path = pool.path().as_os_str();
    let Ok(groups) =
        host::attempt("btrfs", ["qgroup".as_ref(), "show".as_ref(), "-re".as_ref(), "--raw".as_ref(), path])
    else {
        return; // Quota is off.
    };
    let subvolumes = host::run("btrfs", ["subvolume".as_ref(), "list".as_ref(), path]);
    let places: BTreeMap<&str, &str> = subvolumes
        .lines()
        .filter_map(|line| Some((line.split_whitespace().nth(1)?, line.split_once(" path ")?.1)))
        .collect();
    for line in groups.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [id, _, _, limit, exclusive, ..] = fields.as_slice() else { continue };
        let Some(subvolume) = id.strip_prefix("0/") else { continue };
        let limits = format!("referenced {limit} exclusive {exclusive}");
        match places.get(subvolume) {
            Some(place) => insert(entries, format!("qgroup {place}"), limits),
            None if subvolume == "5" => {}
            None => insert(entries, "qgroup stale".into(), limits),
        }
    }
}
