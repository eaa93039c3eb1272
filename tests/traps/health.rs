//! What goes wrong under a volume or a pool: the health RPCs say so, and nothing is made worse.

use crate::{
    scene::{Health, Scene, Volume, block, is_mounted, refused},
    space::{fill, settle},
    support::{
        MIB,
        co::Spec,
        data::{bytes, sha256_head, write_direct, write_durably},
        eventually,
        host::{self, run},
        pool::Kind,
    },
};
use std::{fs, fs::OpenOptions, path::Path};
use tonic::Code;

fn ext4() -> Spec {
    Spec::image("ext4").size(64 * MIB)
}

/// A fault as root can induce it: the kernel then does what it does after a real one.
fn fail_ext4(place: &Path) {
    let device = host::mounts().into_iter().rfind(|mount| mount.point == place).unwrap().source;
    let name = device.trim_start_matches("/dev/");
    fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test's error").unwrap();
}

fn fail_xfs(place: &Path) {
    run("xfs_io", ["-x".as_ref(), "-c".as_ref(), "shutdown".as_ref(), place.as_os_str()]);
}

fn report(what: &str, health: &Health) {
    println!("health: {what}: node {:?}, controller {:?}", health.node, health.controller);
}

#[test]
fn what_is_well_is_silent() {
    for kind in [Kind::Xfs, Kind::Ext4, Kind::BtrfsQuota] {
        let mut scene = Scene::new(kind, 2048 * MIB);
        let limit = if kind == Kind::BtrfsQuota { "enforced" } else { "advisory" };
        let specs =
            [ext4(), Spec::image("xfs").size(300 * MIB), block(16), Spec::directory(limit).size(64 * MIB)];
        for (number, spec) in specs.iter().enumerate() {
            let volume = scene.create(&format!("pod-{number}"), spec);
            assert!(scene.health(&volume).controller.is_empty());
            scene.start(&volume);
            let health = scene.health(&volume);
            assert!(health.is_good(), "{kind:?} {number}: {health:?}");
            // Read-only as asked is no error.
            scene.unpublish(&volume).unwrap();
            scene.publish_at(&volume, &volume.target, true).unwrap();
            let health = scene.health(&volume);
            assert!(health.is_good(), "{kind:?} {number} read-only: {health:?}");
        }
        assert!(scene.storage_health().is_empty());
    }
}

#[test]
fn a_filesystem_that_went_read_only_is_seen_and_comes_back() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let volume = scene.running("pod", &ext4());
    write_durably(&volume.target.join("f"), b"kept");
    fail_ext4(&volume.staging);
    fs::write(volume.target.join("g"), "x").unwrap_err();
    let health = scene.health(&volume);
    report("ext4 after an error", &health);
    assert_eq!(health.node, ["INACCESSIBLE FilesystemReadOnly", "INACCESSIBLE FilesystemReadOnly"]);
    // What the kubelet repeats is answered as before.
    scene.start(&volume);
    scene.stop(&volume);
    assert!(scene.loops().is_empty());
    scene.start(&volume);
    assert_eq!(fs::read(volume.target.join("f")).unwrap(), b"kept");
    write_durably(&volume.target.join("g"), b"x");
    assert!(scene.health(&volume).node.is_empty());
}

/// Every look at such a filesystem is EIO.
#[test]
fn a_filesystem_that_shut_down_is_seen_and_comes_back() {
    let mut scene = Scene::new(Kind::Ext4, 1024 * MIB);
    let volume = scene.running("pod", &Spec::image("xfs").size(300 * MIB));
    write_durably(&volume.target.join("f"), b"kept");
    fail_xfs(&volume.staging);
    fs::metadata(&volume.target).unwrap_err();
    let health = scene.health(&volume);
    report("xfs after an error", &health);
    assert!(!health.node.is_empty());
    assert!(health.node.iter().all(|line| line.starts_with("INACCESSIBLE")), "{health:?}");
    refused(scene.co.delete(&volume.id), Code::FailedPrecondition);
    scene.stop(&volume);
    assert!(scene.loops().is_empty());
    scene.start(&volume);
    assert_eq!(fs::read(volume.target.join("f")).unwrap(), b"kept");
    assert!(scene.health(&volume).is_good());
}

/// The kernel tells nothing of a loop whose file is on such a pool. One that stayed would keep the pool from being
/// unmounted and repaired.
#[test]
fn raw_block_volumes_let_go_of_a_pool_that_shut_down() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let (kept, read_only) = (scene.running("kept", &block(16)), scene.create("read-only", &block(16)));
    scene.stage(&read_only).unwrap();
    scene.publish_at(&read_only, &read_only.target, true).unwrap();
    write_direct(&kept.target, 0, &bytes(1, 1 << 20));
    fail_xfs(scene.pool.path());
    for volume in [&kept, &read_only] {
        scene.unpublish(volume).unwrap();
        scene.unstage(volume).unwrap();
        assert!(!is_mounted(&volume.target) && !is_mounted(&volume.staging.join("device")));
        // As the kubelet repeats it.
        scene.unpublish(volume).unwrap();
        scene.unstage(volume).unwrap();
    }
    assert!(scene.loops().is_empty(), "{:?}", scene.loops());
}

/// Missing, cut short or overwritten: reported, not staged, not made anew, and Delete takes the rest away.
#[test]
fn damaged_images_are_reported_and_left_alone() {
    type Damage = (&'static str, fn(&Path), &'static str);
    let damages: [Damage; 3] = [
        ("missing", |image| fs::remove_file(image).unwrap(), "DATA_LOSS ImageMissing"),
        ("truncated", |image| cut_short(image, 16 * MIB), "DATA_LOSS ImageTruncated"),
        ("foreign", |image| write_direct(image, 0, &bytes(9, 1 << 20)), "DATA_LOSS ForeignContent"),
    ];
    let mut scene = Scene::new(Kind::Ext4, 1024 * MIB);
    for (what, damage, reason) in damages {
        let volume = scene.create(what, &ext4());
        scene.start(&volume);
        scene.stop(&volume);
        let image = scene.image_of(&volume);
        damage(&image);
        let before = fs::metadata(&image).map(|found| (found.len(), sha256_head(&image, MIB))).ok();
        let health = scene.health(&volume);
        report(what, &health);
        assert_eq!(health.controller, [reason]);
        assert_eq!(health.listed, [reason]);
        assert!(health.node.contains(&reason.to_owned()), "{health:?}");
        for _ in 0..2 {
            let why = refused(scene.stage(&volume), Code::Internal);
            assert!(why.contains("backup"), "{why}");
        }
        assert!(!is_mounted(&volume.staging) && scene.loops().is_empty());
        let after = fs::metadata(&image).map(|found| (found.len(), sha256_head(&image, MIB))).ok();
        assert_eq!(before, after, "{what}");
        refused(scene.co.snapshot(&format!("of-{what}"), &volume.id), Code::Internal);
        scene.co.delete(&volume.id).unwrap();
        assert!(scene.health_of_none(&volume.id));
    }
    // A raw block volume has no filesystem to look at, but a length.
    let volume = scene.create("block", &block(32));
    cut_short(&scene.image_of(&volume), 16 * MIB);
    assert_eq!(scene.health(&volume).controller, ["DATA_LOSS ImageTruncated"]);
    refused(scene.stage(&volume), Code::Internal);
}

fn cut_short(image: &Path, length: u64) {
    OpenOptions::new().write(true).open(image).unwrap().set_len(length).unwrap();
}

#[test]
fn a_deleted_image_is_seen_while_it_is_in_use() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    for (name, spec) in [("ext4", ext4()), ("block", block(16))] {
        let volume = scene.running(name, &spec);
        fs::remove_file(scene.image_of(&volume)).unwrap();
        let health = scene.health(&volume);
        report(&format!("{name}: deleted in use"), &health);
        assert_eq!(health.controller, ["DATA_LOSS ImageMissing"]);
        for reason in ["DATA_LOSS ImageMissing", "DATA_LOSS ImageDeleted"] {
            assert!(health.node.contains(&reason.to_owned()), "{health:?}");
        }
        // The pod still has its data; when it goes, nothing is left.
        if !spec.block {
            write_durably(&volume.target.join("f"), b"x");
        }
        scene.stop(&volume);
        host_has_no_loop_below(&scene);
        refused(scene.stage(&volume), Code::Internal);
        scene.co.delete(&volume.id).unwrap();
    }
}

fn host_has_no_loop_below(scene: &Scene) {
    eventually("no loop is left", 5, || scene.loops().is_empty());
}

#[test]
fn an_image_cut_short_in_use_is_seen() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let volume = scene.running("pod", &ext4());
    cut_short(&scene.image_of(&volume), 16 * MIB);
    let health = scene.health(&volume);
    report("cut short in use", &health);
    assert!(health.node.contains(&"DATA_LOSS ImageTruncated".to_owned()), "{health:?}");
    scene.stop(&volume);
    refused(scene.stage(&volume), Code::Internal);
}

#[test]
fn what_is_not_where_it_should_be() {
    let mut scene = Scene::new(Kind::Xfs, 1024 * MIB);
    let [mounted, other, raw] = [("mounted", ext4()), ("other", ext4()), ("raw", block(16))]
        .map(|(name, spec)| scene.running(name, &spec));
    run("umount", [mounted.target.as_os_str()]);
    assert_eq!(scene.health(&mounted).node, ["INACCESSIBLE NotMounted"]);
    run("mount", ["--bind".as_ref(), other.staging.as_os_str(), mounted.target.as_os_str()]);
    assert_eq!(scene.health(&mounted).node, ["INACCESSIBLE MountForeign"]);
    run("umount", [mounted.target.as_os_str()]);
    // A device that has lost its loop; its number is one that nobody gets.
    run("umount", [raw.target.as_os_str()]);
    let dead = scene.places.target("dead");
    run("mknod", [dead.as_os_str(), "b".as_ref(), "7".as_ref(), "1040000".as_ref()]);
    run("mount", ["--bind".as_ref(), dead.as_os_str(), raw.target.as_os_str()]);
    let health = scene.health(&raw);
    report("device detached", &health);
    assert_eq!(health.node, ["INACCESSIBLE DeviceDetached"]);
    scene.publish(&raw).unwrap();
    assert!(scene.health(&raw).is_good());
}

#[test]
fn damaged_records_are_reported_and_left_alone() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let volume = scene.running("pod", &ext4());
    let bystander = scene.create("bystander", &ext4());
    let record = scene.home_of(&volume).join("record.json");
    let good = fs::read(&record).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    for (what, damage) in [("flipped", Some(flipped)), ("torn", Some(good[..99].to_vec())), ("lost", None)] {
        match &damage {
            Some(bytes) => fs::write(&record, bytes).unwrap(),
            None => fs::remove_file(&record).unwrap(),
        }
        scene.restart();
        let health = scene.health(&volume);
        report(&format!("record {what}"), &health);
        for lines in [&health.node, &health.controller, &health.listed] {
            assert_eq!(*lines, ["INACCESSIBLE RecordDamaged"]);
        }
        refused(scene.stage(&volume), Code::Internal);
        refused(scene.co.delete(&volume.id), Code::Internal);
        refused(scene.co.create("pod", &ext4()), Code::Internal);
        assert_eq!(fs::read(&record).ok(), damage);
        // Others work, and the pod can still go.
        scene.start(&bystander);
        scene.stop(&bystander);
    }
    scene.stop(&volume);
    fs::write(&record, &good).unwrap();
    assert!(scene.health(&volume).controller.is_empty());
    scene.start(&volume);
}

#[test]
fn a_full_pool_is_reported() {
    for kind in [Kind::Xfs, Kind::Ext4, Kind::Btrfs] {
        let mut scene = Scene::new(kind, 512 * MIB);
        let volume = scene.running("pod", &ext4());
        let foreign = scene.pool.path().join("foreign");
        fill(&foreign);
        let storage = scene.storage_health();
        println!("health: {kind:?} full: {storage:?}");
        assert_eq!(storage, [("STORAGE_DEGRADED".into(), "PoolFull".into())]);
        assert_eq!(scene.capacity(&ext4()), 0);
        scene.start(&volume);
        fs::remove_file(&foreign).unwrap();
        settle(&scene);
        eventually("the pool is well again", 40, || scene.storage_health().is_empty());
    }
}

#[test]
fn a_pool_that_cannot_be_written_is_reported() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let volume = scene.create("pod", &ext4());
    let remount = |scene: &Scene, how: &str| {
        run("mount", ["-o".as_ref(), format!("remount,{how}").as_ref(), scene.pool.path().as_os_str()]);
    };
    remount(&scene, "ro");
    let remounted = scene.storage_health();
    assert!(scene.co.create("another", &ext4()).is_err());
    assert_eq!(scene.capacity(&ext4()), 0);
    remount(&scene, "rw");
    assert!(scene.storage_health().is_empty());
    scene.start(&volume);
    scene.stop(&volume);
    remount(&scene, "errors=remount-ro");
    fail_ext4(scene.pool.path());
    let failed = scene.storage_health();
    println!("health: pool remounted {remounted:?}, after an error {failed:?}");
    for storage in [remounted, failed] {
        assert_eq!(storage, [("STORAGE_UNREACHABLE".into(), "PoolReadOnly".into())]);
    }
    assert_eq!(scene.capacity(&ext4()), 0);
}

#[test]
fn a_pool_that_vanished_is_reported_and_nothing_is_made_in_its_place() {
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let mut scene = Scene::new(kind, 512 * MIB);
        let volume = scene.create("pod", &ext4());
        assert!(scene.pool.detach());
        let storage = scene.storage_health();
        let health = scene.health(&volume);
        report(&format!("{kind:?}: pool vanished, {storage:?}"), &health);
        assert_eq!(storage, [("STORAGE_UNREACHABLE".into(), "PoolUnavailable".into())]);
        assert_eq!(health.node, ["INACCESSIBLE PoolUnavailable"]);
        assert_eq!(health.controller, ["INACCESSIBLE PoolUnavailable"]);
        refused(scene.co.create("another", &ext4()), Code::Unavailable);
        refused(scene.co.delete(&volume.id), Code::Unavailable);
        refused(scene.co.snapshot("s", &volume.id), Code::Unavailable);
        refused(scene.stage(&volume), Code::Unavailable);
        assert_eq!(scene.capacity(&ext4()), 0);
        assert_eq!(
            fs::read_dir(scene.pool.path()).unwrap().count(),
            0,
            "something was made on the disk below"
        );
        scene.pool.attach();
        back_again(&mut scene, &volume, kind);
    }
}

/// No file of such a pool can be looked at.
#[test]
fn a_pool_that_shut_down_is_reported() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let volume = scene.create("pod", &ext4());
    let running = scene.running("running", &ext4());
    fail_xfs(scene.pool.path());
    let storage = scene.storage_health();
    let health = scene.health(&volume);
    report(&format!("pool shut down, {storage:?}"), &health);
    assert_eq!(storage, [("STORAGE_UNREACHABLE".into(), "PoolUnavailable".into())]);
    assert_eq!(health.node, ["INACCESSIBLE PoolUnavailable"]);
    assert_eq!(health.controller, ["INACCESSIBLE PoolUnavailable"]);
    refused(scene.co.create("another", &ext4()), Code::Unavailable);
    refused(scene.co.delete(&volume.id), Code::Unavailable);
    refused(scene.stage(&volume), Code::Unavailable);
    assert_eq!(scene.capacity(&ext4()), 0);
    // The pod can go, and its image with it.
    scene.stop(&running);
    scene.driver.kill();
    assert!(scene.pool.detach());
    scene.pool.attach();
    scene.restart();
    scene.start(&running);
    assert!(scene.health(&running).is_good());
}

/// Another device number (btrfs has a new one with every mount) needs a restart, as the answer says.
fn back_again(scene: &mut Scene, volume: &Volume, kind: Kind) {
    let at_once = scene.storage_health().is_empty();
    println!("health: {kind:?}: the pool is back, well without a restart: {at_once}");
    if !at_once {
        scene.restart();
    }
    assert!(scene.storage_health().is_empty());
    scene.start(volume);
    assert!(scene.health(volume).is_good());
}
