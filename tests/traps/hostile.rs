//! A pod that does what it can with its directory on btrfs: limits hold against accidents, not attackers,
//! but what they do is seen, and the volume can always be deleted.

use crate::{
    scene::{Scene, Volume, refused},
    support::{
        MIB,
        co::Spec,
        data::{bytes, write_durably},
        eventually,
        host::{attempt, run},
        pool::Kind,
    },
};
use std::{ffi::OsStr, fs, path::Path};
use tonic::Code;

fn btrfs(arguments: &[&str], place: &Path) {
    run("btrfs", arguments.iter().map(OsStr::new).chain([place.as_os_str()]));
}

fn trash(scene: &Scene) -> Vec<String> {
    let entries = fs::read_dir(scene.pool.path().join("trash")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn subvolumes(scene: &Scene) -> Vec<String> {
    let list = run("btrfs", ["subvolume".as_ref(), "list".as_ref(), scene.pool.path().as_os_str()]);
    list.lines().filter_map(|line| line.split(" path ").nth(1).map(str::to_owned)).collect()
}

/// Deletes, and waits until nothing is left of it on disk.
fn delete_entirely(scene: &mut Scene, volume: &Volume) {
    scene.stop(volume);
    scene.co.delete(&volume.id).unwrap();
    eventually("trash is empty", 20, || trash(scene).is_empty());
}

fn attack(volume: &Volume) {
    let root = &volume.target;
    btrfs(&["subvolume", "create"], &root.join("nested"));
    fs::create_dir(root.join("nested/d")).unwrap();
    btrfs(&["subvolume", "create"], &root.join("nested/d/deeper"));
    write_durably(&root.join("nested/d/deeper/f"), &bytes(1, 4 << 20));
    let read_only = root.join("read-only");
    run(
        "btrfs",
        [
            "subvolume".as_ref(),
            "snapshot".as_ref(),
            "-r".as_ref(),
            root.join("nested").as_os_str(),
            read_only.as_os_str(),
        ],
    );
    write_durably(&root.join("immutable"), b"x");
    fs::create_dir(root.join("appended")).unwrap();
    write_durably(&root.join("appended/f"), b"x");
    write_durably(&root.join("nested/d/immutable"), b"x");
    for place in ["immutable", "nested/d/immutable"] {
        run("chattr", ["+i".as_ref(), root.join(place).as_os_str()]);
    }
    run("chattr", ["+a".as_ref(), root.join("appended").as_os_str()]);
    fs::create_dir(root.join("closed")).unwrap();
    run("chmod", ["000".as_ref(), root.join("closed").as_os_str()]);
}

#[test]
fn what_escapes_is_seen_refused_and_deleted() {
    for (kind, limit) in [(Kind::BtrfsQuota, "enforced"), (Kind::Btrfs, "advisory")] {
        let mut scene = Scene::new(kind, 1024 * MIB);
        let spec = Spec::directory(limit).size(64 * MIB);
        let volume = scene.running("pod", &spec);
        assert!(scene.health(&volume).is_good());
        let snapshot = scene.co.snapshot("before", &volume.id).unwrap();
        attack(&volume);
        let health = scene.health(&volume);
        for lines in [&health.node, &health.controller, &health.listed] {
            assert_eq!(*lines, ["DEGRADED LimitEscaped"]);
        }
        let why = refused(scene.co.snapshot("after", &volume.id), Code::FailedPrecondition);
        assert!(why.contains("nested subvolumes"), "{why}");
        refused(scene.co.clone_volume("clone", &spec, &volume.id), Code::FailedPrecondition);
        // A snapshot from before is as good as ever.
        let restored = scene.co.restore("restored", &spec, &snapshot.snapshot_id).unwrap();
        let restored = scene.volume(&restored.volume_id, "restored", &spec);
        scene.start(&restored);
        delete_entirely(&mut scene, &restored);
        delete_entirely(&mut scene, &volume);
        let left = subvolumes(&scene);
        assert!(left.iter().all(|path| path.starts_with("snapshots/")) && left.len() == 1, "{left:?}");
        scene.co.delete_snapshot(&snapshot.snapshot_id).unwrap();
        eventually("the snapshot is gone", 20, || subvolumes(&scene).is_empty());
        println!("L17: {limit}: seen as {:?}, refused ({why}), deleted", health.controller);
    }
}

/// A whole directory that is a snapshot of another pod's cannot be had: the root stays as it is.
#[test]
fn a_root_that_is_made_immutable_or_read_only_can_be_deleted() {
    let mut scene = Scene::new(Kind::BtrfsQuota, 512 * MIB);
    let spec = Spec::directory("enforced").size(64 * MIB);
    let immutable = scene.running("immutable", &spec);
    write_durably(&immutable.target.join("f"), b"x");
    run("chattr", ["+i".as_ref(), immutable.target.as_os_str()]);
    delete_entirely(&mut scene, &immutable);
    let read_only = scene.running("read-only", &spec);
    write_durably(&read_only.target.join("f"), b"x");
    run("btrfs", ["property", "set", "-ts", read_only.target.to_str().unwrap(), "ro", "true"]);
    scene.start(&read_only);
    delete_entirely(&mut scene, &read_only);
    assert!(subvolumes(&scene).is_empty());
}

/// Where the pool's filesystem knows project ids, an owner may set any, and have them inherited.
#[test]
fn project_ids_disturb_neither_snapshot_nor_deletion() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let spec = Spec::directory("advisory").size(64 * MIB);
    let volume = scene.running("pod", &spec);
    let project = |place: &Path, id: u32| {
        run(
            "xfs_io",
            [
                "-c".as_ref(),
                format!("chproj {id}").as_ref(),
                "-c".as_ref(),
                "chattr +P".as_ref(),
                place.as_os_str(),
            ],
        );
    };
    for (name, id) in [("none", 0), ("other", 77)] {
        let place = volume.target.join(name);
        fs::create_dir(&place).unwrap();
        project(&place, id);
        write_durably(&place.join("f"), b"kept");
    }
    project(&volume.target, 78);
    let snapshot = scene.co.snapshot("s", &volume.id).unwrap();
    let restored = scene.co.restore("restored", &spec, &snapshot.snapshot_id).unwrap();
    let restored = scene.volume(&restored.volume_id, "restored", &spec);
    scene.start(&restored);
    for name in ["none", "other"] {
        assert_eq!(fs::read(restored.target.join(name).join("f")).unwrap(), b"kept");
    }
    delete_entirely(&mut scene, &restored);
    delete_entirely(&mut scene, &volume);
    scene.co.delete_snapshot(&snapshot.snapshot_id).unwrap();
    eventually("trash is empty", 20, || trash(&scene).is_empty());
    scene.restart();
}

/// What is mounted inside must not be deleted through: the purge stops there, and goes on when it is gone.
#[test]
fn a_bind_mount_left_inside_stops_the_purge_and_loses_nothing() {
    for kind in [Kind::BtrfsQuota, Kind::Xfs] {
        let limit = if kind == Kind::BtrfsQuota { "enforced" } else { "advisory" };
        let mut scene = Scene::new(kind, 512 * MIB);
        let spec = Spec::directory(limit).size(64 * MIB);
        let volume = scene.running("pod", &spec);
        let bystander = scene.running("bystander", &spec);
        write_durably(&bystander.target.join("f"), b"kept");
        let inside = volume.target.join("a/b");
        fs::create_dir_all(&inside).unwrap();
        scene.stop(&volume);
        let place = scene.home_of(&volume).join("data/a/b");
        run("mount", ["--bind".as_ref(), bystander.target.as_os_str(), place.as_os_str()]);
        let answer = scene.co.delete(&volume.id);
        let deleted = answer.is_ok();
        if let Err(status) = &answer {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
        // A second process tries, too.
        scene.restart();
        let gc = attempt(
            env!("CARGO_BIN_EXE_wharf"),
            ["gc", "--apply", "--pool", &format!("default={}", scene.pool.path().display())],
        );
        assert_eq!(fs::read(bystander.target.join("f")).unwrap(), b"kept");
        let stuck = trash(&scene);
        println!(
            "L17: {kind:?}: Delete with a mount inside answered OK: {deleted}; trash {stuck:?}; gc {gc:?}"
        );
        assert_eq!(stuck.len(), usize::from(deleted));
        let mounted = match stuck.first() {
            Some(entry) => scene.pool.path().join("trash").join(entry).join("data/a/b"),
            None => place,
        };
        assert_eq!(fs::read(mounted.join("f")).unwrap(), b"kept");
        run("umount", [mounted.as_os_str()]);
        scene.restart();
        if !deleted {
            scene.co.delete(&volume.id).unwrap();
        }
        eventually("trash is empty", 20, || trash(&scene).is_empty());
        assert_eq!(fs::read(bystander.target.join("f")).unwrap(), b"kept");
    }
}
