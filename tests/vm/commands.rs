//! The commands against real servers: what they list, find, remove and say about a share.

use crate::{
    guest::{A, A6, Corner, Frozen, required},
    support::{MIB, co::Spec, driver::Driver, eventually, places::Places},
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use uuid::Uuid;

const XFS: &str = "127.0.0.1:/export/xfs";

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn wharf(arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WHARF_")) {
        command.env_remove(name);
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn driver(owner: &str) -> Driver {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(["standalone", "--node-id", "node-1", "--owner", owner, "--share", XFS]);
    let mut driver = Driver::spawn_as(command, &[("WHARF_MOUNT_TIMEOUT", "30")]);
    assert!(driver.wait_until_ready(), "{}", driver.log());
    driver
}

fn volumes(owner: &str) -> Value {
    let listed = wharf(&["volumes", "--output", "json", "--share", XFS, "--owner", owner]);
    assert_eq!((listed.code, listed.err.as_str()), (Some(0), ""), "{listed:?}");
    listed.json()
}

fn row<'a>(listed: &'a Value, list: &str, id: &str) -> &'a Value {
    let rows = listed[list].as_array().unwrap();
    rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no {id}: {listed}"))
}

#[test]
fn volumes_of_the_owner_and_nobody_elses() {
    required();
    let owner = "commands-volumes";
    let corner = Corner::new(A, "xfs", owner);
    let places = Places::new();
    let mut driver = driver(owner);
    let mut co = driver.co();
    let class = |name: &str, end: &str| {
        Spec::nfs(A.address, "/export/xfs")
            .parameter("subDir", &format!("{owner}/{name}"))
            .parameter("onDelete", end)
            .size(64 * MIB)
    };
    let made = co.create(&format!("{owner}-a"), &class("a", "retain")).unwrap();
    let lost = co.create(&format!("{owner}-lost"), &class("lost", "delete")).unwrap();
    let snapshot = co.snapshot(&format!("{owner}-cut"), &made.volume_id).unwrap();
    let used = class("a", "retain").context(made.volume_context.clone());
    co.stage(&made.volume_id, &places.staging("a"), &used).unwrap();
    co.publish(&made.volume_id, &places.staging("a"), &places.target("a"), &used, false).unwrap();
    fs::remove_dir(corner.0.join("lost")).unwrap();

    let listed = volumes(owner);
    let a = row(&listed, "volumes", &made.volume_id);
    assert_eq!((&a["share"], &a["health"]), (&XFS.into(), &"healthy".into()), "{a}");
    assert_eq!((&a["directory"], &a["on_delete"]), (&format!("{owner}/a").into(), &"retain".into()), "{a}");
    assert_eq!((a["size"].as_u64(), a["adopted"].as_bool()), (Some(64 * MIB), Some(false)), "{a}");
    assert!(a["pool"].is_null() && a["promised"].is_null(), "{a}");
    let mounts: Vec<_> =
        a["mounts"].as_array().unwrap().iter().map(|at| PathBuf::from(at.as_str().unwrap())).collect();
    assert!(mounts.contains(&places.staging("a")) && mounts.contains(&places.target("a")), "{a}");
    let gone = row(&listed, "volumes", &lost.volume_id);
    assert_eq!(gone["health"], "data-loss");
    assert!(gone["ailments"][0].as_str().unwrap().starts_with("DirectoryMissing: "), "{gone}");
    let cut = row(&listed, "snapshots", &snapshot.snapshot_id);
    assert_eq!(cut["source"], format!("volume {}", a["uuid"].as_str().unwrap()));
    let figures = &listed["shares"][0];
    assert_eq!((figures["volumes"].as_u64(), figures["snapshots"].as_u64()), (Some(2), Some(1)), "{figures}");
    assert!(figures["available"].as_u64().unwrap() > 0 && figures["owner"] == owner, "{figures}");

    let table = wharf(&["volumes", "--share", XFS, "--owner", owner]);
    assert!(table.out.contains(&format!("directory {owner}/a, retained")), "{}", table.out);
    let last = format!("share {XFS}: 2 volumes, 1 snapshot of owner {owner}; ");
    assert!(table.out.contains(&last) && table.out.contains("2 mounts"), "{}", table.out);

    let others = volumes("commands-nobody");
    assert_eq!((&others["volumes"], &others["snapshots"]), (&Value::Array(vec![]), &Value::Array(vec![])));

    co.unpublish(&made.volume_id, &places.target("a")).unwrap();
    co.unstage(&made.volume_id, &places.staging("a")).unwrap();
    co.delete_snapshot(&snapshot.snapshot_id).unwrap();
    for id in [&made.volume_id, &lost.volume_id] {
        co.delete(id).unwrap();
    }
    assert_eq!(volumes(owner)["volumes"], Value::Array(vec![]));
    drop(co);
    driver.terminate();
}

/// As the store writes an owner in names.
fn tag(owner: &str) -> String {
    format!("{:016x}", Uuid::new_v5(&Uuid::NAMESPACE_OID, owner.as_bytes()).as_u64_pair().0)
}

#[test]
fn leftovers_are_found_and_only_ours_go() {
    required();
    let (owner, other) = ("commands-gc", "commands-gc-other");
    let _corner = Corner::new(A, "xfs", owner);
    let mut driver = driver(owner);
    let mut co = driver.co();
    let class = Spec::nfs(A.address, "/export/xfs").parameter("subDir", &format!("{owner}/a"));
    let made = co.create(&format!("{owner}-a"), &class).unwrap();
    drop(co);
    let tasks = fs::read_dir(format!("/proc/{}/task", driver.pid())).unwrap();
    let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let helpers: String = tasks.map(|task| children(task.unwrap())).collect();
    driver.terminate();
    // They may be purging still.
    for helper in helpers.split_whitespace() {
        eventually("the driver's helpers end", 60, || !Path::new("/proc").join(helper).exists());
    }

    let home = A.inside("xfs").join(".wharf");
    let plant = |part: &str, name: &dyn Fn(u64) -> String| {
        let place = home.join(part).join(Uuid::new_v4().to_string());
        fs::create_dir(&place).unwrap();
        fs::write(place.join("f"), vec![7; 64 << 10]).unwrap();
        let named = home.join(part).join(name(fs::metadata(&place).unwrap().ino()));
        fs::rename(&place, &named).unwrap();
        named
    };
    let key = Uuid::new_v4;
    let draft = |owner: &str| format!("{}.root.{}.{}", key(), tag(owner), Uuid::new_v4().simple());
    let trashed = |owner: &str, fileid: u64| format!("{}.root.{fileid:x}.{}", key(), tag(owner));
    let ours = [plant("tmp", &|_| draft(owner)), plant("trash", &|fileid| trashed(owner, fileid))];
    let swapped = plant("trash", &|fileid| trashed(owner, fileid + 1));
    let theirs = [plant("tmp", &|_| draft(other)), plant("trash", &|fileid| trashed(other, fileid))];
    let stranger = plant("tmp", &|_| format!("notes-{owner}"));

    let gc = |apply: bool| {
        let mut arguments = vec!["gc", "--output", "json", "--share", XFS, "--owner", owner];
        arguments.extend(apply.then_some("--apply"));
        wharf(&arguments)
    };
    let place = |path: &PathBuf| format!("/{}", path.strip_prefix(A.inside("xfs")).unwrap().display());
    let dry = gc(false);
    assert_eq!((dry.code, dry.err.as_str()), (Some(1), ""), "{dry:?}");
    let report = dry.json();
    let find = |report: &Value, path: &PathBuf| {
        let rows = report["leftovers"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["place"] == place(path))
    };
    assert_eq!(report["removable"].as_u64(), Some(2), "{report}");
    for path in &ours {
        let row = find(&report, path).unwrap();
        assert!(row["removable"] == true && row["share"] == XFS && row["reason"].is_null(), "{row}");
        assert!(row["bytes"].as_u64().unwrap() >= 64 << 10, "{row}");
        assert!(path.exists());
    }
    let row = find(&report, &swapped).unwrap();
    assert!(
        row["removable"] == false && row["reason"].as_str().unwrap().contains("another directory"),
        "{row}"
    );
    assert_eq!(find(&report, &stranger).unwrap()["what"], "stranger");
    assert!(theirs.iter().all(|path| find(&report, path).is_none()), "{report}");

    let applied = gc(true);
    assert_eq!((applied.code, applied.json()["removed"].as_u64()), (Some(0), Some(2)), "{applied:?}");
    assert!(ours.iter().all(|path| !path.exists()));
    // Whoever purges takes the name for itself first; it is not touched otherwise.
    let name = swapped.file_name().unwrap().to_str().unwrap();
    let names = fs::read_dir(home.join("trash")).unwrap().map(|entry| entry.unwrap().path());
    let swapped = names.into_iter().find(|path| path.to_str().unwrap().contains(name)).unwrap();
    assert_eq!(fs::read(swapped.join("f")).unwrap().len(), 64 << 10);
    for path in theirs.iter().chain([&swapped, &stranger]) {
        assert!(path.exists(), "{}", path.display());
        fs::remove_file(path.join("f")).unwrap();
        fs::remove_dir(path).unwrap();
    }
    let table = wharf(&["gc", "--share", XFS, "--owner", "commands-nobody"]);
    assert_eq!(table.code, Some(0), "{table:?}");
    assert_eq!(volumes(owner)["volumes"].as_array().unwrap().len(), 1, "the volume stays");

    let mut driver = self::driver(owner);
    let mut co = driver.co();
    co.delete(&made.volume_id).unwrap();
    drop(co);
    driver.terminate();
}

/// The item of that name: its state and meaning.
fn item(outcome: &Outcome, name: &str) -> (String, String) {
    let report = outcome.json();
    let items = report["items"].as_array().unwrap();
    let found = items.iter().find(|item| item["item"] == name);
    let found = found.unwrap_or_else(|| panic!("no {name}: {outcome:?}"));
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("state"), text("meaning"))
}

#[test]
fn each_export_is_told_for_what_it_is() {
    required();
    let (local, six) = (A.address, format!("[{}]", A6.address));
    let shares = [
        (format!("{local}:/export/xfs"), ["ok", "ok", "ok", "ok"], "4.2"),
        (format!("{six}:/export/ext4"), ["ok", "ok", "ok", "limited"], "4.2"),
        (format!("{local}:/export/squash"), ["ok", "ok", "limited", "limited"], "4.2"),
        (format!("{local}:/export/xfs,vers=4.1"), ["ok", "ok", "ok", "limited"], "4.1"),
        (format!("{local}:/export/xfs,vers=3"), ["ok", "limited", "ok", "limited"], "NFS 3"),
    ];
    let mut arguments = vec!["check", "--output", "json"];
    arguments.extend(shares.iter().flat_map(|(share, ..)| ["--share", share]));
    let outcome = wharf(&arguments);
    assert_eq!((outcome.code, outcome.json()["ready"].as_bool()), (Some(0), Some(true)), "{outcome:?}");
    for (share, states, version) in &shares {
        for (what, state) in ["", ": version", ": root", ": reflink"].iter().zip(states) {
            let (found, meaning) = item(&outcome, &format!("share {share}{what}"));
            assert_eq!(&found, state, "{share}{what}: {meaning}");
        }
        assert!(item(&outcome, &format!("share {share}: version")).1.contains(version), "{share}");
        assert!(item(&outcome, &format!("share {share}: space")).1.contains("are free"), "{share}");
    }
    let (state, meaning) = item(&outcome, "NFS client");
    assert_eq!((state.as_str(), meaning.as_str()), ("ok", "the kernel can mount NFS 4.2, 4.1, 4.0, 3"));

    let refused = wharf(&["check", "--output", "json", "--share", "127.0.0.1:/export/ro"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let (state, meaning) = item(&refused, "share 127.0.0.1:/export/ro");
    assert!(state == "missing" && meaning.contains("read-only"), "{meaning}");
    let absent = wharf(&["check", "--share", "127.0.0.1:/export/none"]);
    assert!(absent.code == Some(1) && absent.out.contains("/export/none"), "{absent:?}");

    for export in ["xfs", "ext4", "squash"] {
        eventually("nothing is left", 30, || left(export).is_empty());
    }
}

/// What a look may leave for a moment.
fn left(export: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(A.inside(export)).unwrap().map(|entry| entry.unwrap().path());
    let is_left = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(".nfs") || name.starts_with(".wharf-check-")
    };
    entries.filter(is_left).collect()
}

#[test]
fn a_store_of_this_version_needs_no_migration_and_none_cannot_be() {
    required();
    let owner = "commands-migrate";
    let _corner = Corner::new(A, "xfs", owner);
    let mut driver = driver(owner);
    let mut co = driver.co();
    let class = Spec::nfs(A.address, "/export/xfs").parameter("subDir", &format!("{owner}/a"));
    let made = co.create(owner, &class).unwrap();
    let done = wharf(&["migrate", "--share", XFS]);
    assert!(done.code == Some(0) && done.err.is_empty(), "{done:?}");
    assert_eq!(done.out, format!("{XFS}: the store has this driver's version, 1: nothing to do\n"));
    let report = wharf(&["migrate", "--output", "json", "--share", XFS]).json();
    let row = &report["shares"][0];
    assert_eq!((row["from"].as_u64(), row["version"].as_u64()), (Some(1), Some(1)), "{report}");
    let none = wharf(&["migrate", "--share", XFS, "--share", "127.0.0.1:/export/small"]);
    assert!(none.code == Some(1) && none.out.contains("nothing to do"), "{none:?}");
    let sentence = "wharf: the store on 127.0.0.1:/export/small was not migrated: ";
    assert!(none.err.starts_with(sentence) && none.err.contains("no store"), "{none:?}");
    co.delete(&made.volume_id).unwrap();
    drop(co);
    driver.terminate();
}

/// A frozen export answers what only reads, and never what writes; an address where nobody is, nothing.
#[test]
fn a_dead_server_is_named_in_time() {
    required();
    let in_time = |arguments: &[&str]| {
        let begun = Instant::now();
        let outcome = wharf(arguments);
        // Its own limits, in a guest where everything takes its time.
        assert!(begun.elapsed() < Duration::from_secs(120), "{:?}: {outcome:?}", begun.elapsed());
        println!("vm: {arguments:?} took {:?}", begun.elapsed());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        outcome
    };
    for name in ["volumes", "gc", "migrate"] {
        let outcome = in_time(&[name, "--share", "10.77.0.99:/export/xfs"]);
        assert!(
            outcome.err.contains("10.77.0.99:/export/xfs") && outcome.err.lines().count() == 1,
            "{outcome:?}"
        );
    }
    let frozen = Frozen::new(A, "small");
    let share = "127.0.0.1:/export/small";
    let outcome = in_time(&["check", "--output", "json", "--share", share]);
    let (state, meaning) = item(&outcome, &format!("share {share}"));
    assert!(state == "missing" && meaning.contains("did not answer"), "{meaning}");
    drop(frozen);
    let after = wharf(&["check", "--output", "json", "--share", share]);
    assert_eq!(after.code, Some(0), "{after:?}");
    // What the server does late carries a name that says whose it was.
    left("small").iter().for_each(|path| fs::remove_file(path).unwrap());
}
