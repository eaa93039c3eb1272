//! `wharf gc`: what is planted is found, what may go goes, everything else stays.

use super::{Outcome, listing, pool, support, wharf};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use support::{
    MIB,
    co::Spec,
    driver::Driver,
    host::{attempt, run},
    pool::{Kind, Pool},
};
use uuid::Uuid;
use wharf::{
    os::lock::Mode,
    store::{self, PoolConfig},
    volume::Key,
};

/// A store without a driver, in a temporary directory or on a filesystem of its own.
struct Home {
    path: PathBuf,
}

impl Home {
    /// Made by a driver's first start.
    fn new(path: &Path) -> Self {
        Driver::start(&[("p", path)], &[]).terminate();
        Self { path: path.to_owned() }
    }

    /// An entry of tmp, trash, volumes or snapshots with an image in it.
    fn plant(&self, directory: &str, name: &str) -> PathBuf {
        let place = self.path.join(directory).join(name);
        fs::create_dir_all(place.join("data")).unwrap();
        fs::write(place.join("data/disk.img"), vec![7; 256 << 10]).unwrap();
        place
    }

    fn gc(&self, apply: bool) -> Outcome {
        let pool = pool("p", &self.path);
        let mut arguments = vec!["gc", "--output", "json", "--pool", &pool];
        arguments.extend(apply.then_some("--apply"));
        let outcome = wharf(&arguments);
        assert_eq!(outcome.err, "", "{outcome:?}");
        outcome
    }

    fn pool(&self) -> Arc<store::Pool> {
        let config = PoolConfig { name: "p".into(), path: self.path.clone(), mounted: false };
        store::Pool::inspect(&config).unwrap()
    }
}

fn new_key() -> String {
    Uuid::new_v4().to_string()
}

fn parsed(key: &str) -> Key {
    Key::parse(key).unwrap()
}

/// The finding at a place.
fn at<'a>(report: &'a Value, place: &Path) -> &'a Value {
    let found = report["leftovers"].as_array().unwrap();
    let found = found.iter().find(|row| row["place"] == place.to_str().unwrap());
    found.unwrap_or_else(|| panic!("{} was not found: {report}", place.display()))
}

fn numbers(report: &Value) -> (u64, u64, usize) {
    let number = |name: &str| report[name].as_u64().unwrap();
    (number("removable"), number("removed"), report["leftovers"].as_array().unwrap().len())
}

#[test]
fn a_clean_pool_has_nothing_and_a_pool_that_is_none_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::new(directory.path());
    for apply in [false, true] {
        let outcome = home.gc(apply);
        assert_eq!((outcome.code, numbers(&outcome.json())), (Some(0), (0, 0, 0)), "{outcome:?}");
    }
    let table = wharf(&["gc", "--pool", &pool("p", directory.path())]);
    assert_eq!((table.code, table.out.as_str()), (Some(0), "nothing is left over\n"));
    let empty = tempfile::tempdir().unwrap();
    let refused = wharf(&["gc", "--apply", "--pool", &pool("p", empty.path())]);
    assert!(refused.sentence().contains("no store of this driver"), "{refused:?}");
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn what_was_planted_is_found_and_only_leftovers_go() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let filesystem = Pool::new(kind, 320 * MIB);
        let home = Home::new(filesystem.path());
        let (alive, dead, cut) = (new_key(), new_key(), new_key());
        let volume = home.plant("tmp", &dead);
        let snapshot = home.plant("tmp", &format!("{cut}.snap"));
        let living = home.plant("tmp", &alive);
        let removed = home.plant("trash", &format!("{}.{}", new_key(), Uuid::new_v4().simple()));
        let locked = new_key();
        let being_purged = home.plant("trash", &format!("{locked}.snap.{}", Uuid::new_v4().simple()));
        let strangers = [
            home.plant("tmp", "notes"),
            home.plant("trash", "old-stuff"),
            home.plant("volumes", "pvc-1"),
            home.plant("snapshots", "a\u{1b}[2J"),
            home.path.join("README.txt"),
            // Names of ours, but nothing that this driver makes.
            home.path.join("tmp").join(new_key()),
            home.path.join("trash").join(format!("{}.x", new_key())),
        ];
        fs::write(&strangers[4], "whose?").unwrap();
        fs::write(&strangers[5], "a file").unwrap();
        symlink("/etc", &strangers[6]).unwrap();
        let lost = home.plant("volumes", &new_key());
        let pool = home.pool();
        let _making = pool.try_lock(store::Kind::Volume, parsed(&alive), Mode::Exclusive).unwrap().unwrap();
        let purging = pool.try_lock(store::Kind::Trash, parsed(&locked), Mode::Exclusive).unwrap().unwrap();

        let before = listing(&home.path);
        let dry = home.gc(false);
        assert_eq!(listing(&home.path), before, "{kind:?}: a dry run has written");
        let report = dry.json();
        assert_eq!((dry.code, numbers(&report)), (Some(1), (3, 0, 13)), "{kind:?}: {report}");
        for place in [&volume, &snapshot, &removed] {
            let row = at(&report, place);
            assert!(row["removable"] == true && row["removed"] == false && row["reason"].is_null(), "{row}");
            assert!(
                row["bytes"].as_u64().unwrap() >= 256 << 10 && row["age_seconds"].as_u64().unwrap() < 60,
                "{row}"
            );
        }
        assert!(at(&report, &living)["reason"].as_str().unwrap().contains("being worked on"));
        assert!(at(&report, &being_purged)["reason"].as_str().unwrap().contains("being purged"));
        assert!(at(&report, &lost)["what"].as_str().unwrap().contains("without a readable record"));
        for stranger in &strangers {
            assert_eq!(at(&report, stranger)["what"], "stranger");
        }
        let table = wharf(&["gc", "--pool", &super::pool("p", &home.path)]);
        assert!(table.code == Some(1) && !table.out.contains('\u{1b}'), "{table:?}");
        assert!(table.out.ends_with("\n3 can be removed with --apply; 10 to stay\n"), "{}", table.out);

        let applied = home.gc(true);
        let report = applied.json();
        assert_eq!((applied.code, numbers(&report)), (Some(0), (0, 3, 13)), "{kind:?}: {report}");
        assert!(at(&report, &volume)["removed"] == true && at(&report, &living)["removed"] == false);
        for gone in [&volume, &snapshot, &removed] {
            assert!(!gone.exists(), "{}", gone.display());
        }
        for stays in strangers.iter().chain([&living, &being_purged, &lost]) {
            assert!(stays.symlink_metadata().is_ok(), "{} is gone", stays.display());
        }
        assert_eq!(fs::read_dir(home.path.join("trash")).unwrap().count(), 3, "left in trash on the way");

        drop(purging);
        assert_eq!(numbers(&home.gc(true).json()), (0, 1, 10), "{kind:?}");
        assert!(!being_purged.exists() && living.exists());
    }
}

#[test]
fn btrfs_subvolumes_go_too() {
    let filesystem = Pool::new(Kind::BtrfsQuota, 320 * MIB);
    let home = Home::new(filesystem.path());
    let place = home.path.join("tmp").join(new_key());
    fs::create_dir(&place).unwrap();
    let data = place.join("data");
    run("btrfs", ["subvolume".as_ref(), "create".as_ref(), data.as_os_str()]);
    fs::write(data.join("disk.img"), vec![7; 1 << 20]).unwrap();
    run("btrfs", ["property", "set", "-ts", data.to_str().unwrap(), "ro", "true"]);
    let report = home.gc(false).json();
    assert!(at(&report, &place)["bytes"].as_u64().unwrap() >= MIB, "{report}");
    let applied = home.gc(true);
    assert_eq!((applied.code, place.exists()), (Some(0), false), "{applied:?}");
    assert_eq!(home.gc(true).code, Some(0));
}

#[test]
fn records_that_a_crash_left_beside_others() {
    let directory = tempfile::tempdir().unwrap();
    let mut driver = Driver::start(&[("p", directory.path())], &[]);
    let mut co = driver.co();
    let spec = Spec::image("ext4").pool("p").size(8 * MIB);
    let ids = ["good", "torn", "held"].map(|name| co.create(name, &spec).unwrap().volume_id);
    drop(co);
    driver.terminate();
    let home = Home { path: directory.path().to_owned() };
    let keys = ids.map(|id| id.strip_prefix("local-").unwrap().split('.').next().unwrap().to_owned());
    let [good, torn, held] = keys.clone().map(|key| directory.path().join("volumes").join(key));
    for volume in [&good, &torn, &held] {
        fs::write(volume.join("record.json.new"), "{").unwrap();
    }
    fs::write(torn.join("record.json"), "{}").unwrap();
    let pool = home.pool();
    let _working = pool.try_lock(store::Kind::Volume, parsed(&keys[2]), Mode::Exclusive).unwrap().unwrap();

    let report = home.gc(false).json();
    assert_eq!(numbers(&report), (1, 0, 3), "{report}");
    assert!(at(&report, &torn)["reason"].as_str().unwrap().contains("left alone"), "{report}");
    let applied = home.gc(true);
    assert_eq!((applied.code, numbers(&applied.json())), (Some(0), (0, 1, 3)), "{applied:?}");
    assert!(!good.join("record.json.new").exists() && good.join("record.json").exists());
    // What may help to mend a record stays beside it.
    assert!(torn.join("record.json.new").exists() && held.join("record.json.new").exists());
}

/// Detaches when dropped.
struct Attached(String);

impl Attached {
    fn to(image: &Path) -> Self {
        Self(run("losetup", ["--find".as_ref(), "--show".as_ref(), image.as_os_str()]))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = attempt("losetup", ["--detach", &self.0]);
    }
}

#[test]
fn images_that_somebody_has_attached_stay() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::new(directory.path());
    let trash = home.plant("trash", &format!("{}.{}", new_key(), Uuid::new_v4().simple()));
    let tmp = home.plant("tmp", &new_key());
    let [rescue, other] = [&trash, &tmp].map(|place| Attached::to(&place.join("data/disk.img")));
    let report = home.gc(true);
    assert_eq!((report.code, numbers(&report.json())), (Some(0), (0, 0, 4)), "{report:?}");
    let report = report.json();
    assert!(at(&report, &trash)["reason"].as_str().unwrap().contains(&rescue.0), "{report}");
    let stray = at(&report, &trash.join("data/disk.img"));
    assert!(stray["what"].as_str().unwrap().contains(&rescue.0), "{stray}");
    assert!(at(&report, &tmp)["reason"].as_str().unwrap().contains(&other.0), "{report}");
    drop((rescue, other));
    assert_eq!(numbers(&home.gc(true).json()), (0, 2, 2));
    assert!(!trash.exists() && !tmp.exists());
}

/// Unmounts when dropped.
struct Bound<'a>(&'a Path);

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        let _ = attempt("umount", [self.0.as_os_str()]);
    }
}

#[test]
fn nothing_is_deleted_through_a_mount() {
    let directory = tempfile::tempdir().unwrap();
    let precious = tempfile::tempdir().unwrap();
    fs::write(precious.path().join("file"), "precious").unwrap();
    let home = Home::new(directory.path());
    let inside = home.plant("trash", &format!("{}.{}", new_key(), Uuid::new_v4().simple())).join("data/mnt");
    let simple = home.plant("tmp", &new_key());
    fs::create_dir(&inside).unwrap();
    run("mount", ["--bind".as_ref(), precious.path().as_os_str(), inside.as_os_str()]);
    let bound = Bound(&inside);
    let applied = home.gc(true);
    // The other one went, this one could not, and that is no success.
    assert_eq!((applied.code, numbers(&applied.json())), (Some(1), (1, 1, 2)), "{applied:?}");
    assert!(precious.path().join("file").exists() && !simple.exists());
    drop(bound);
    assert_eq!(home.gc(true).code, Some(0));
    assert!(precious.path().join("file").exists() && !inside.exists());
}

#[test]
fn beside_a_driver_at_work_no_living_volume_is_touched() {
    let filesystem = Pool::new(Kind::Xfs, 600 * MIB);
    let driver = Driver::start(&[("p", filesystem.path())], &[]);
    let home = Home { path: filesystem.path().to_owned() };
    let done = AtomicBool::new(false);
    let kept: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let (driver, done) = (&driver, &done);
                scope.spawn(move || work(driver, worker, done))
            })
            .collect();
        let deadline = Instant::now() + Duration::from_secs(4);
        let mut rounds = 0;
        while Instant::now() < deadline {
            let outcome = home.gc(true);
            // What the driver itself purges or finishes meanwhile may show; nothing of it fails.
            assert!(outcome.code == Some(0), "{outcome:?}");
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
        assert!(rounds > 3, "{rounds} rounds");
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let mut listed = driver.co().volumes().unwrap();
    listed.sort();
    let mut kept = kept;
    kept.sort();
    assert_eq!(listed, kept);
    assert!(!driver.log().contains("ERROR"), "{}", driver.log());
}

/// Makes volumes and deletes every other one, as fast as it goes; gives the ids of those it kept.
fn work(driver: &Driver, worker: usize, done: &AtomicBool) -> Vec<String> {
    let mut co = driver.co();
    let spec = Spec::image("ext4").pool("p").size(8 * MIB);
    let mut kept = Vec::new();
    for number in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("volume-{worker}-{number}");
        let id = retried(|| co.create(&name, &spec)).volume_id;
        if number % 20 == 0 {
            kept.push(id);
        } else {
            retried(|| co.delete(&id));
        }
    }
    kept
}

/// As an orchestrator: the same call again while the answer is ABORTED.
fn retried<T>(mut call: impl FnMut() -> Result<T, tonic::Status>) -> T {
    for _ in 0..200 {
        match call() {
            Ok(answer) => return answer,
            Err(status) if status.code() == tonic::Code::Aborted => thread::sleep(Duration::from_millis(10)),
            Err(status) => panic!("{status}"),
        }
    }
    panic!("aborted again and again");
}
