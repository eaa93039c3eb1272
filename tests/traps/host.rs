//! Hosts that differ: a /dev without the node of a new loop, a pool that hands out project ids.

use crate::{
    scene::{Scene, Volume, apart, block, head},
    support::{
        MIB,
        co::{Spec, file_in},
        data::{bytes, write_durably},
        driver::Driver,
        host::{loops_below, release, run},
        places::Places,
        pool::{Kind, Pool},
    },
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// A driver whose /dev holds the least that a container has. Its mounts are its own.
fn driver_without_udev(pool: &Pool) -> Driver {
    let script = "set -e; mount -t tmpfs none /dev; umask 0
        mknod /dev/null c 1 3; mknod /dev/zero c 1 5; mknod /dev/full c 1 7
        mknod /dev/random c 1 8; mknod /dev/urandom c 1 9; mknod /dev/loop-control c 10 237
        exec \"$@\"";
    let mut command = apart(pool.path(), script);
    command
        .arg(env!("CARGO_BIN_EXE_wharf"))
        .args(["standalone", "--node-id", "node-1", "--pool"])
        .arg(format!("default={}", pool.path().display()));
    let mut driver = Driver::spawn_as(command, &[]);
    assert!(driver.wait_until_ready(), "{}", driver.log());
    driver
}

#[test]
fn stage_makes_the_node_where_nobody_else_does() {
    let pool = Pool::new(Kind::Xfs, 1024 * MIB);
    let driver = driver_without_udev(&pool);
    let mut scene = Scene { co: driver.co(), driver, places: Places::new(), pool };
    // Where the driver sees a path of ours.
    let seen = |scene: &Scene, path: &Path| -> PathBuf {
        Path::new("/proc")
            .join(scene.driver.pid().to_string())
            .join("root")
            .join(path.strip_prefix("/").unwrap())
    };
    for (name, spec) in [("ext4", Spec::image("ext4").size(64 * MIB)), ("block", block(16))] {
        let volume: Volume = scene.create(name, &spec);
        scene.start(&volume);
        let node = seen(&scene, &scene.loop_of(&volume).node());
        let made = fs::symlink_metadata(&node).unwrap();
        assert!(made.file_type().is_block_device(), "{made:?}");
        let inside = file_in(&seen(&scene, &volume.target), &spec, "f");
        let content = bytes(1, 4096);
        if spec.block {
            // Through the driver's mount, not our /dev.
            assert_eq!(fs::metadata(&inside).unwrap().rdev(), made.rdev());
            crate::scene::try_write(&inside, &content).unwrap();
        } else {
            write_durably(&inside, &content);
        }
        assert_eq!(head(&inside, 4096), content);
        println!("no udev: {name}: made {}", node.display());
        scene.stop(&volume);
        assert!(scene.loops_of(&volume).is_empty());
    }
    let home = scene.pool.path().to_owned();
    drop(scene);
    assert!(loops_below(&home).is_empty());
}

#[test]
fn a_pool_that_hands_out_project_ids_is_refused() {
    let pool = Pool::new(Kind::Xfs, 512 * MIB);
    let inherit = |on: bool, place: &Path| {
        run(
            "xfs_io",
            ["-c".as_ref(), if on { "chattr +P" } else { "chattr -P" }.as_ref(), place.as_os_str()],
        );
    };
    // A new store, and an old one: each directory that something is renamed into.
    drop_driver(&pool);
    for name in ["", "volumes", "snapshots", "tmp", "trash"] {
        let place = pool.path().join(name);
        inherit(true, &place);
        let mut driver = Driver::spawn(&[("default", pool.path())], &[]);
        let status = driver.wait_exit(Duration::from_secs(20));
        assert!(status.is_some_and(|status| !status.success()), "{}", driver.log());
        let log = driver.log();
        assert!(log.contains("project-inherit") && log.contains("chattr -P"), "{log}");
        assert!(log.contains(&place.display().to_string().trim_end_matches('/').to_owned()), "{log}");
        inherit(false, &place);
        println!("PROJINHERIT on {name:?}: {}", log.lines().last().unwrap_or_default());
    }
    drop_driver(&pool);
    assert!(release(pool.path(), false));
}

/// Starts once, and ends.
fn drop_driver(pool: &Pool) {
    drop(Driver::start(&[("default", pool.path())], &[]));
}
