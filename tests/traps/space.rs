//! Promised space: a thick volume never meets ENOSPC, whoever fills the pool before a snapshot, and
//! whatever wharf is asked for after one. And full pools: Delete writes nothing.

use crate::{
    scene::{Scene, Volume, block, refused},
    support::{
        MIB,
        co::Spec,
        data::{bytes, sha256},
        eventually,
        host::run,
        is_full,
        pool::Kind,
    },
};
use rustix::fs::FallocateFlags;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};
use tonic::Code;

const KINDS: [Kind; 3] = [Kind::Xfs, Kind::Btrfs, Kind::Ext4];

fn pool_size() -> u64 {
    if is_full() { 3072 * MIB } else { 1024 * MIB }
}

/// Of a volume with this filesystem; xfs begins at 300 MiB.
fn size_for(fs: &str) -> u64 {
    if fs == "xfs" || is_full() { 304 * MIB } else { 96 * MIB }
}

/// Makes a file grow until nothing more fits: allocated in ever smaller pieces, the last ones written, so
/// that nothing is left.
pub fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut length = 0;
    for piece in (12..28).rev().map(|bits| 1_u64 << bits) {
        while rustix::fs::fallocate(&file, FallocateFlags::empty(), length, piece).is_ok() {
            length += piece;
        }
    }
    file.seek(SeekFrom::Start(length)).unwrap();
    while file.write_all(&[0xaa; 4096]).is_ok() {}
    let _ = file.sync_all();
}

/// What comes by itself after half a minute: the commit, and on btrfs the removal of deleted subvolumes.
pub fn settle(scene: &Scene) {
    let path = scene.pool.path().as_os_str();
    match scene.pool.kind().is_btrfs() {
        true => run("btrfs", ["filesystem".as_ref(), "sync".as_ref(), path]),
        false => run("sync", ["--file-system".as_ref(), path]),
    };
}

/// Overwrites the first `length` bytes in pieces, each time with something else, and syncs.
fn overwrite(path: &Path, length: u64, seed: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut piece = bytes(seed, 1 << 20);
    for offset in (0..length).step_by(1 << 20) {
        piece[..8].copy_from_slice(&offset.to_le_bytes());
        let end = usize::try_from((length - offset).min(1 << 20)).unwrap();
        file.write_all_at(&piece[..end], offset)?;
        // Often: the filesystem below must not be able to save up its troubles.
        if offset % (32 << 20) == 0 {
            file.sync_data()?;
        }
    }
    file.sync_all()
}

/// Fills a mounted volume with one file; its length. A full volume is the volume's own affair.
fn fill_inside(volume: &Volume) -> (PathBuf, u64) {
    let path = volume.target.join("all-of-it");
    fill(&path);
    let length = fs::metadata(&path).unwrap().len();
    (path, length)
}

/// Everything that can be overwritten in these volumes.
struct Tenants {
    mounted: Volume,
    raw: Volume,
    size: u64,
}

impl Tenants {
    fn new(scene: &mut Scene, size: u64, fs: &str) -> Self {
        Self {
            mounted: scene.running("mounted", &Spec::image(fs).size(size)),
            raw: scene.running("raw", &block(size / MIB)),
            size,
        }
    }

    /// Neither an error now nor one that the kernel keeps for later.
    fn overwrite(&self, what: &str, seed: u64) {
        let (inside, length) = fill_inside(&self.mounted);
        assert!(length > self.size * 7 / 10, "{length}");
        overwrite(&inside, length, seed)
            .unwrap_or_else(|e| panic!("{what}: overwriting a mounted volume: {e}"));
        overwrite(&self.raw.target, self.size, seed)
            .unwrap_or_else(|e| panic!("{what}: overwriting a raw block volume: {e}"));
    }

    /// What was written is there when read from the image again.
    fn restage(&self, scene: &mut Scene) {
        let digest = sha256(&self.raw.target);
        let inside = sha256(&self.mounted.target.join("all-of-it"));
        for volume in [&self.mounted, &self.raw] {
            scene.stop(volume);
            scene.start(volume);
        }
        assert_eq!(sha256(&self.raw.target), digest);
        assert_eq!(sha256(&self.mounted.target.join("all-of-it")), inside);
    }
}

#[test]
fn a_thick_volume_on_a_full_pool_can_be_overwritten() {
    for (kind, fs) in KINDS.into_iter().zip(["ext4", "xfs", "ext4"]) {
        let mut scene = Scene::new(kind, pool_size());
        let tenants = Tenants::new(&mut scene, size_for(fs), fs);
        let foreign = scene.pool.path().join("foreign");
        fill(&foreign);
        tenants.overwrite(&format!("{kind:?} filled by others"), 1);
        tenants.overwrite(&format!("{kind:?} filled by others"), 2);
        tenants.restage(&mut scene);
        let left = rustix::fs::statvfs(scene.pool.path()).unwrap().f_bavail;
        println!(
            "L15: {kind:?}, {fs} inside, filled by others ({left} blocks left): all of it overwritten twice"
        );
    }
}

#[test]
fn a_thick_volume_with_a_snapshot_can_be_overwritten() {
    for (kind, fs) in [(Kind::Xfs, "xfs"), (Kind::Btrfs, "ext4"), (Kind::Ext4, "ext4")] {
        let mut scene = Scene::new(kind, pool_size() * 2);
        let tenants = Tenants::new(&mut scene, size_for(fs), fs);
        tenants.overwrite("before", 1);
        // Without reflinks a snapshot is a copy of what nobody uses.
        let shares = kind != Kind::Ext4;
        for volume in [&tenants.mounted, &tenants.raw] {
            if !shares {
                scene.stop(volume);
            }
            scene.co.snapshot(&format!("of-{}", volume.id), &volume.id).unwrap();
            if !shares {
                scene.start(volume);
            }
        }
        let (mut made, mut size) = (0, 256 * MIB);
        while size >= 8 * MIB {
            match scene.co.create(&format!("more-{made}"), &Spec::image("ext4").size(size)) {
                Ok(_) => made += 1,
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    size /= 2;
                }
            }
        }
        assert!(made > 1);
        assert!(scene.capacity(&Spec::image("ext4")) < 8 << 20);
        tenants.overwrite(&format!("{kind:?} with snapshots, and {made} more volumes"), 2);
        // They own their blocks again, and there is no room for a second copy. That the driver has not looked
        // since must not let it forget that.
        for volume in [&tenants.mounted, &tenants.raw].into_iter().filter(|_| shares) {
            refused(scene.co.snapshot(&format!("again-{}", volume.id), &volume.id), Code::ResourceExhausted);
        }
        tenants.overwrite(&format!("{kind:?} with snapshots, and {made} more volumes"), 3);
        tenants.restage(&mut scene);
        println!(
            "L15: {kind:?}, {fs} inside, snapshots and {made} more volumes: all of it overwritten twice"
        );
    }
}

/// A trim punches holes into the image; the next Stage owns the blocks again.
#[test]
fn a_trimmed_thick_volume_owns_its_blocks_again() {
    for kind in KINDS {
        let mut scene = Scene::new(kind, 1024 * MIB);
        let volume = scene.running("pod", &Spec::image("ext4").size(256 * MIB));
        run("fstrim", [volume.target.as_os_str()]);
        let allocated = |scene: &Scene| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(scene.image_of(&volume)).unwrap().blocks() * 512
        };
        let trimmed = allocated(&scene);
        assert!(trimmed < 128 * MIB, "{trimmed}");
        scene.stop(&volume);
        scene.start(&volume);
        assert!(allocated(&scene) >= 256 * MIB);
        println!("L15: {kind:?}: trimmed to {trimmed} bytes, staged again with {}", allocated(&scene));
    }
}

#[test]
fn capacity_follows_what_a_snapshot_puts_at_risk() {
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let mut scene = Scene::new(kind, 2048 * MIB);
        let spec = Spec::image("ext4").size(256 * MIB);
        let class = Spec::image("ext4");
        let volume = scene.running("pod", &spec);
        // Only what is written can be shared.
        let (inside, length) = fill_inside(&volume);
        overwrite(&inside, length, 1).unwrap();
        run("sync", ["--file-system".as_ref(), scene.pool.path().as_os_str()]);
        // What was allocated and never written is not shared, which is only known after a look at it.
        let near = |a: i64, b: i64| (a - b).abs() < 40 << 20;
        let before = scene.capacity(&class);
        let snapshot = scene.co.snapshot("s", &volume.id).unwrap();
        let with = scene.capacity(&class);
        assert!(near(before - with, 256 << 20), "{before} {with}");
        scene.restart();
        let restarted = scene.capacity(&class);
        assert!(near(with, restarted), "{with} {restarted}");
        scene.co.delete_snapshot(&snapshot.snapshot_id).unwrap();
        eventually("it is purged", 20, || {
            fs::read_dir(scene.pool.path().join("trash")).unwrap().count() == 0
        });
        settle(&scene);
        let mut after = 0;
        eventually("the capacity is back", 30, || {
            after = scene.capacity(&class);
            near(before, after)
        });
        println!(
            "L15: {kind:?}: capacity {before}, with a snapshot {with}, after a restart {restarted}, without it {after}"
        );
    }
}

#[test]
fn a_full_pool_can_be_emptied() {
    for kind in KINDS {
        let mut scene = Scene::new(kind, 1024 * MIB);
        let free = |scene: &Scene| {
            let stat = rustix::fs::statvfs(scene.pool.path()).unwrap();
            stat.f_bfree * stat.f_frsize
        };
        let layouts =
            [Spec::image("ext4").size(96 * MIB), block(96), Spec::directory("advisory").size(96 * MIB)];
        let volumes: Vec<_> = layouts
            .iter()
            .zip(["ext4", "block", "directory"])
            .map(|(spec, name)| scene.running(name, spec))
            .collect();
        for volume in &volumes {
            match volume.spec.block {
                true => overwrite(&volume.target, 32 << 20, 1).unwrap(),
                false => fs::write(volume.target.join("f"), bytes(1, 32 << 20)).unwrap(),
            }
        }
        volumes.iter().for_each(|volume| scene.stop(volume));
        let mut snapshots = Vec::new();
        let many = if kind == Kind::Ext4 { 3 } else { 12 };
        for (number, volume) in volumes.iter().cycle().take(many).enumerate() {
            snapshots.push(scene.co.snapshot(&format!("s-{number}"), &volume.id).unwrap().snapshot_id);
        }
        let foreign = scene.pool.path().join("foreign");
        fill(&foreign);
        let full = free(&scene);
        refused(scene.co.create("one-more", &layouts[0]).map(drop), Code::ResourceExhausted);
        for id in &snapshots {
            scene.co.delete_snapshot(id).unwrap();
        }
        for volume in &volumes {
            scene.co.delete(&volume.id).unwrap();
        }
        let mut back = 0;
        eventually("the space comes back", 40, || {
            settle(&scene);
            back = free(&scene) - full;
            back > 200 * MIB
        });
        assert_eq!(scene.co.volumes().unwrap(), Vec::<String>::new());
        assert_eq!(scene.co.snapshots().unwrap(), Vec::<String>::new());
        println!(
            "L16: {kind:?}: {full} bytes free, 3 volumes and {many} snapshots deleted, {back} came back"
        );
    }
}
