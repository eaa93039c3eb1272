//! NodeGetVolumeStats: the volume's own figures, never the pool's.

use crate::{
    scene::{Scene, Volume, block, refused},
    support::{
        MIB,
        co::{Spec, csi},
        data::{bytes, write_durably},
        pool::Kind,
    },
};
use csi::volume_usage::Unit;
use std::{fs, path::Path};
use tonic::Code;

const SIZE: u64 = 64 * MIB;

/// (total, used, available) of one unit, at the target.
fn figures(scene: &mut Scene, volume: &Volume, unit: Unit) -> Option<(i64, i64, i64)> {
    let at = |scene: &mut Scene, path: &Path| {
        let answer = scene.co.stats(&volume.id, path).unwrap();
        let usage = answer.usage.into_iter().find(|usage| usage.unit == unit as i32);
        usage.map(|usage| (usage.total, usage.used, usage.available))
    };
    let published = at(scene, &volume.target);
    assert_eq!(at(scene, &volume.staging), published);
    published
}

fn write(volume: &Volume, name: &str, mib: u64) {
    write_durably(&volume.target.join(name), &bytes(mib, usize::try_from(mib * MIB).unwrap()));
}

#[test]
fn an_image_shows_its_filesystems_figures() {
    for (kind, fs, size) in
        [(Kind::Xfs, "ext4", SIZE), (Kind::Ext4, "xfs", 300 * MIB), (Kind::Btrfs, "ext4", SIZE)]
    {
        let mut scene = Scene::new(kind, 2048 * MIB);
        let volume = scene.running("pod", &Spec::image(fs).size(size));
        write(&volume, "f", 16);
        let (total, used, available) = figures(&mut scene, &volume, Unit::Bytes).unwrap();
        let stat = rustix::fs::statvfs(&volume.target).unwrap();
        let bytes_of = |blocks: u64| i64::try_from(blocks * stat.f_frsize).unwrap();
        assert_eq!(total, bytes_of(stat.f_blocks));
        assert_eq!(used, bytes_of(stat.f_blocks - stat.f_bfree));
        assert_eq!(available, bytes_of(stat.f_bavail));
        assert!(total <= size.cast_signed() && used >= 16 << 20);
        let (inodes, inodes_used, _) = figures(&mut scene, &volume, Unit::Inodes).unwrap();
        assert_eq!(inodes, stat.f_files.cast_signed());
        assert!(inodes_used > 0 && inodes_used < inodes);
        println!("stats: {fs} on {kind:?}: {used} of {total} bytes, {inodes_used} of {inodes} inodes");
    }
}

#[test]
fn an_enforced_directory_shows_its_quotas_figures() {
    let mut scene = Scene::new(Kind::BtrfsQuota, 1024 * MIB);
    let volume = scene.running("pod", &Spec::directory("enforced").size(SIZE));
    let (total, empty, _) = figures(&mut scene, &volume, Unit::Bytes).unwrap();
    write(&volume, "f", 16);
    let (_, used, available) = figures(&mut scene, &volume, Unit::Bytes).unwrap();
    assert_eq!(total, SIZE.cast_signed());
    assert!((empty..empty + MIB.cast_signed()).contains(&(used - (16 << 20))), "{empty} {used}");
    assert_eq!(available, total - used);
    assert_eq!(figures(&mut scene, &volume, Unit::Inodes), None);
    // The limit holds where the figures say that it does.
    let more = bytes(1, usize::try_from(SIZE).unwrap());
    fs::write(volume.target.join("g"), &more)
        .and_then(|()| fs::File::open(volume.target.join("g"))?.sync_all())
        .unwrap_err();
    let (_, used, available) = figures(&mut scene, &volume, Unit::Bytes).unwrap();
    assert!(used <= total && available < (2 * MIB).cast_signed(), "{used} {available}");
    println!("stats: qgroup: empty {empty}, full {used} of {total}");
}

#[test]
fn an_advisory_directory_shows_what_a_walk_counts() {
    for kind in [Kind::Xfs, Kind::Ext4, Kind::Btrfs] {
        let mut scene = Scene::new(kind, 1024 * MIB);
        let volume = scene.running("pod", &Spec::directory("advisory").size(SIZE));
        write(&volume, "f", 16);
        fs::create_dir(volume.target.join("d")).unwrap();
        write_durably(&volume.target.join("d/g"), &bytes(2, 8 << 20));
        // The same file twice is one.
        fs::hard_link(volume.target.join("f"), volume.target.join("h")).unwrap();
        let (total, used, available) = figures(&mut scene, &volume, Unit::Bytes).unwrap();
        assert_eq!(total, SIZE.cast_signed());
        assert!((24 << 20..25 << 20).contains(&used), "{used}");
        assert_eq!(available, total - used);
        assert_eq!(figures(&mut scene, &volume, Unit::Inodes), None);
        println!("stats: walk on {kind:?}: {used} of {total}");
    }
}

#[test]
fn a_raw_block_volume_shows_its_size() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let volume = scene.running("pod", &block(16));
    let (total, used, available) = figures(&mut scene, &volume, Unit::Bytes).unwrap();
    assert_eq!((total, used, available), (16 << 20, 0, 0));
    assert_eq!(figures(&mut scene, &volume, Unit::Inodes), None);
}

#[test]
fn what_is_not_there_has_no_figures() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let [one, other] = ["one", "other"].map(|name| scene.running(name, &Spec::image("ext4").size(SIZE)));
    let absent = scene.places.target("absent");
    let inside = one.target.join("d");
    fs::create_dir(&inside).unwrap();
    for path in [&absent, &inside, &other.target, &scene.places.path().to_owned()] {
        refused(scene.co.stats(&one.id, path), Code::NotFound);
    }
    refused(scene.co.stats(&one.id, Path::new("relative")), Code::NotFound);
}
