//! Pools that are not what they should be: full, gone, elsewhere, not empty, damaged.

use crate::{
    calls::ask,
    support::{
        MIB,
        co::{Spec, csi, file_in},
        data,
        driver::Driver,
        host::run,
        places::Places,
        pool::{Kind, Pool},
        unique,
    },
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};
use tonic::{Code, Status};

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

/// Takes all that is left of a filesystem. A btrfs of the fixture's kind begins with 8 MiB for metadata,
/// in which nothing can be renamed any more when data has taken the rest; small files make it take a
/// share as any larger one has it.
fn fill(directory: &Path, kind: Kind) -> PathBuf {
    if kind.is_btrfs() {
        let small = directory.join("small");
        fs::create_dir(&small).unwrap();
        for number in 0..5000 {
            fs::write(small.join(number.to_string()), [1; 2000]).unwrap();
        }
        run("sync", ["-f".as_ref(), directory.as_os_str()]);
    }
    let path = directory.join("filler");
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path).unwrap();
    for size in [4 << 20, 64 << 10, 4096, 1] {
        let piece = data::bytes(1, size);
        while file.write_all(&piece).is_ok() {}
        let _ = file.sync_all();
    }
    path
}

/// What exists works on, and can be deleted; what is new is refused and leaves nothing.
#[test]
fn full_pools() {
    let mut cases = 0;
    for (kind, size) in [(Kind::Ext4, 256 * MIB), (Kind::Xfs, 400 * MIB), (Kind::Btrfs, 1 << 30)] {
        let pool = Pool::new(kind, size);
        let driver = Driver::start(&[("default", pool.path())], &[]);
        let (mut co, places) = (driver.co(), Places::new());
        let spec = Spec::new().size(16 * MIB);
        let [id, other] = [(); 2].map(|()| co.create(&unique("v"), &spec).unwrap().volume_id);
        let (staging, target) = (places.staging("v"), places.target("v"));
        let filler = fill(pool.path(), kind);
        co.stage(&id, &staging, &spec).unwrap();
        co.publish(&id, &staging, &target, &spec, false).unwrap();
        // Thick: a write inside never meets the pool's end.
        data::write_durably(&file_in(&target, &spec, "file"), &data::bytes(2, 4 << 20));
        assert_eq!(code(co.create(&unique("v"), &spec)), Code::ResourceExhausted, "{kind:?}");
        let snapshot = co.snapshot(&unique("s"), &other);
        assert_eq!(code(snapshot), Code::ResourceExhausted, "{kind:?}");
        assert_eq!(code(co.expand(&other, 32 * MIB)), Code::OutOfRange, "{kind:?}");
        for directory in ["tmp", "snapshots"] {
            assert_eq!(fs::read_dir(pool.path().join(directory)).unwrap().count(), 0, "{kind:?} {directory}");
        }
        co.stats(&id, &target).unwrap();
        co.delete(&other).unwrap_or_else(|status| panic!("{kind:?}: {status:?}"));
        co.unpublish(&id, &target).unwrap();
        co.unstage(&id, &staging).unwrap();
        fs::remove_file(&filler).unwrap();
        run("sync", ["-f".as_ref(), pool.path().as_os_str()]);
        let again = co.create(&unique("v"), &spec).unwrap().volume_id;
        co.delete(&again).unwrap();
        co.stage(&id, &staging, &spec).unwrap();
        assert_eq!(fs::read(staging.join("file")).unwrap(), data::bytes(2, 4 << 20), "{kind:?}");
        co.unstage(&id, &staging).unwrap();
        cases += 1;
    }
    println!("{cases} cases");
}

/// How a start with these pools ends: the exit code, and what is said.
fn start(pools: &[String]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(["standalone", "--node-id", "node-1"]);
    for pool in pools {
        command.args(["--pool", pool]);
    }
    let mut driver = Driver::spawn_as(command, &[]);
    if driver.wait_until_ready() {
        return None;
    }
    assert_eq!(driver.ended().and_then(|status| status.code()), Some(1), "{}", driver.log());
    Some(driver.log())
}

#[test]
fn pools_that_are_refused_at_start() {
    let good = Pool::new(Kind::Ext4, 192 * MIB);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("empty")).unwrap();
    symlink(path("empty"), path("link")).unwrap();
    fs::write(path("file"), "x").unwrap();
    fs::create_dir(path("occupied")).unwrap();
    fs::write(path("occupied").join("theirs"), "x").unwrap();
    fs::create_dir_all(path("headless/volumes/00000000-0000-0000-0000-000000000001")).unwrap();
    fs::create_dir(path("damaged")).unwrap();
    fs::write(path("damaged/format.json"), "{").unwrap();
    fs::create_dir(path("newer")).unwrap();
    fs::write(path("newer/format.json"), newer_format()).unwrap();
    let mut cases = 0;
    for (name, options, said) in [
        ("link", "", "symlink"),
        ("file", "", "no directory"),
        ("absent", "", "does not exist"),
        ("empty", ",mounted", "mount"),
        ("occupied", "", "not empty"),
        ("headless", "", "format.json"),
        ("damaged", "", "format.json"),
        ("newer", "", "newer driver"),
    ] {
        let bad = format!("{}{options}", path(name).display());
        let before = listing(directory.path());
        // Alone it is an error, which says what to change.
        let message = start(&[format!("default={bad}")]).unwrap_or_else(|| panic!("{name} was accepted"));
        let last = message.lines().last().unwrap();
        assert!(last.contains(said) && last.contains(name), "{name}: {message}");
        // Beside a good one it is reported, and the good one is served.
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["standalone", "--node-id", "node-1", "--pool", &format!("bad={bad}")]);
        command.arg("--pool").arg(format!("default={}", good.path().display()));
        let mut driver = Driver::spawn_as(command, &[]);
        assert!(driver.wait_until_ready(), "{name}: {}", driver.log());
        let mut co = driver.co();
        let health = ask(&mut co, csi::NodeGetStorageHealthRequest::default()).unwrap().backend_health;
        assert_eq!(health.len(), 1, "{name}");
        assert!(health[0].message.contains(said), "{name}: {}", health[0].message);
        let spec = Spec::directory("advisory").size(MIB);
        co.create(&unique("v"), &spec).unwrap();
        assert_eq!(code(co.create(&unique("v"), &spec.pool("bad"))), Code::Unavailable, "{name}");
        // Whether such a volume exists nobody can tell while a pool is away.
        assert_eq!(code(co.delete("local-00000000-0000-0000-0000-000000000002.node-1")), Code::Unavailable);
        assert_eq!(listing(directory.path()), before, "{name} was changed");
        cases += 1;
    }
    println!("{cases} cases");
}

/// What a container sees of the host: every directory that it is given is the root of a mount.
struct Bind(PathBuf);

impl Bind {
    fn new(source: &Path, target: PathBuf) -> Self {
        fs::create_dir(&target).unwrap();
        run("mount", ["--bind".as_ref(), source.as_os_str(), target.as_os_str()]);
        Self(target)
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        run("umount", [self.0.as_os_str()]);
    }
}

/// In a container too, a disk that is not mounted is told from one that is.
#[test]
fn a_directory_that_is_only_bound_is_no_mounted_pool() {
    let (ext4, btrfs) = (Pool::new(Kind::Ext4, 192 * MIB), Pool::new(Kind::Btrfs, 256 * MIB));
    let directory = tempfile::tempdir().unwrap();
    let below = ext4.path().join("below");
    fs::create_dir(&below).unwrap();
    run("btrfs", ["subvolume".as_ref(), "create".as_ref(), btrfs.path().join("sub").as_os_str()]);
    let mounted = |bind: &Bind| start(&[format!("default={},mounted", bind.0.display())]);
    let said =
        mounted(&Bind::new(&below, directory.path().join("a"))).expect("a directory of a disk was accepted");
    assert!(said.contains("was bound there") && said.contains("mount its disk first"), "{said}");
    assert_eq!(listing(&below), std::slice::from_ref(&below), "a store was made on the disk below");
    fs::remove_dir(&below).unwrap();
    run("rmdir", [ext4.path().join("lost+found").as_os_str()]);
    for (source, name) in [(ext4.path().to_owned(), "b"), (btrfs.path().join("sub"), "c")] {
        let said = mounted(&Bind::new(&source, directory.path().join(name)));
        assert_eq!(said, None, "{name} is a whole filesystem");
    }
}

fn newer_format() -> String {
    let record = r#"{"version":2,"uuid":"00000000-0000-4000-8000-000000000001"}"#;
    let checksum = uuid::Uuid::new_v5(&uuid::Uuid::nil(), record.as_bytes());
    format!(r#"{{"checksum":"{checksum}","record":{record}}}"#)
}

fn listing(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(path) = rest.pop() {
        if path.is_dir() && !path.is_symlink() {
            rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.push(path);
    }
    all.sort();
    all
}

/// The disk is gone while the driver runs: nothing is made in the empty directory, the other pool works on;
/// when it is back its volumes are.
#[test]
fn a_pool_that_goes_away_and_comes_back() {
    let (mut pool, other) = (Pool::new(Kind::Ext4, 256 * MIB), Pool::new(Kind::Ext4, 256 * MIB));
    let driver = Driver::start(&[("default", pool.path()), ("other", other.path())], &[]);
    let (mut co, places) = (driver.co(), Places::new());
    let spec = Spec::new().thin().size(8 * MIB);
    let id = co.create(&unique("v"), &spec).unwrap().volume_id;
    let elsewhere = spec.clone().pool("other");
    let safe = co.create(&unique("v"), &elsewhere).unwrap().volume_id;
    let staging = places.staging("v");
    assert!(pool.detach());
    let mut cases = 0;
    for answer in [
        co.create(&unique("v"), &spec).map(drop),
        co.snapshot(&unique("s"), &id).map(drop),
        co.delete(&id),
        co.expand(&id, 16 * MIB).map(drop),
        co.stage(&id, &staging, &spec),
    ] {
        assert_eq!(code(answer), Code::Unavailable);
        cases += 1;
    }
    assert_eq!(fs::read_dir(pool.path()).unwrap().count(), 0, "something was made on the disk below");
    assert_eq!(co.volumes().unwrap(), std::slice::from_ref(&safe));
    co.stage(&safe, &staging, &elsewhere).unwrap();
    co.unstage(&safe, &staging).unwrap();
    // Another filesystem in its place is not the pool.
    run("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", pool.path().to_str().unwrap()]);
    let answer = co.create(&unique("v"), &spec);
    run("umount", [pool.path()]);
    assert_eq!(code(answer), Code::Unavailable);
    pool.attach();
    crate::support::eventually("the pool is served again", 10, || co.stage(&id, &staging, &spec).is_ok());
    co.unstage(&id, &staging).unwrap();
    co.delete(&id).unwrap();
    println!("{cases} cases");
}

/// Somebody put another filesystem, or other data, into an image: it is never formatted, mounted or grown.
#[test]
fn images_with_a_foreign_signature() {
    let pool = Pool::new(Kind::Xfs, 4 << 30);
    let driver = Driver::start(&[("default", pool.path())], &[]);
    let (mut co, places) = (driver.co(), Places::new());
    let mut cases = 0;
    for (fs, other) in [
        ("ext4", &["mkfs.xfs", "-q", "-f"][..]),
        ("xfs", &["mkfs.ext4", "-q", "-F"]),
        ("ext4", &["mkfs.btrfs", "-q", "-f"]),
    ] {
        let spec = Spec::image(fs).thin().size(320 * MIB);
        let id = co.create(&unique("v"), &spec).unwrap().volume_id;
        let image = pool.path().join("volumes").join(&id["local-".len()..][..36]).join("data/disk.img");
        run(other[0], other[1..].iter().map(std::ffi::OsStr::new).chain([image.as_os_str()]));
        let head = data::sha256_head(&image, 1 << 20);
        let staging = places.staging(&unique("s"));
        assert_eq!(code(co.stage(&id, &staging, &spec)), Code::Internal);
        assert_eq!(code(co.snapshot(&unique("s"), &id)), Code::Internal);
        assert_eq!(code(co.clone_volume(&unique("c"), &spec, &id)), Code::Internal);
        assert_eq!(data::sha256_head(&image, 1 << 20), head, "it was written to");
        let request = csi::ControllerGetVolumeHealthRequest { volume_id: id.clone(), ..Default::default() };
        let found = ask(&mut co, request).unwrap().volume_health.unwrap().health_statuses;
        assert!(found.iter().any(|entry| entry.reason == "ForeignContent"), "{found:?}");
        co.delete(&id).unwrap();
        cases += 1;
    }
    // What stands in the image's place.
    let spec = Spec::new().thin().size(8 * MIB);
    for kind in ["directory", "symlink", "fifo"] {
        let id = co.create(&unique("v"), &spec).unwrap().volume_id;
        let image = pool.path().join("volumes").join(&id["local-".len()..][..36]).join("data/disk.img");
        let aside = image.with_file_name("aside");
        fs::rename(&image, &aside).unwrap();
        match kind {
            "directory" => fs::create_dir(&image).unwrap(),
            "symlink" => symlink(&aside, &image).unwrap(),
            _ => drop(run("mkfifo", [&image])),
        }
        let staging = places.staging(&unique("s"));
        assert_eq!(code(co.stage(&id, &staging, &spec)), Code::Internal, "{kind}");
        let answer = co.snapshot(&unique("s"), &id);
        assert_eq!(code(answer), Code::Internal, "{kind}");
        cases += 1;
    }
    // Opening for writing proves that nothing holds the pool's files.
    drop(OpenOptions::new().write(true).open(pool.path().join("lock")).unwrap());
    println!("{cases} cases");
}

/// A pool that its own volumes have filled to the last one is emptied again.
#[test]
fn a_pool_full_of_volumes() {
    let mut cases = 0;
    for (kind, spec) in [
        (Kind::Btrfs, Spec::block()),
        (Kind::BtrfsQuota, Spec::directory("enforced")),
        (Kind::Btrfs, Spec::block().thin()),
        (Kind::Xfs, Spec::block()),
        (Kind::Ext4, Spec::block()),
    ] {
        for step in [64 * MIB, 200 * MIB] {
            let pool = Pool::new(kind, 2 << 30);
            let driver = Driver::start(&[("default", pool.path())], &[]);
            let mut co = driver.co();
            let spec = spec.clone().size(step);
            let mut made = Vec::new();
            let refusal = loop {
                match co.create(&unique("v"), &spec) {
                    Ok(volume) => made.push(volume.volume_id),
                    Err(status) => break status,
                }
            };
            assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
            assert!(made.len() as u64 * step > 1 << 30, "{kind:?}: only {} fit", made.len());
            for id in &made {
                co.delete(id).unwrap_or_else(|status| panic!("{kind:?} {step}: {status:?}"));
            }
            cases += 1;
        }
    }
    println!("{cases} cases");
}
