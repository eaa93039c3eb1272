//! Snapshots: what they do to the block size of a pool's files, what is in them, and how long writers wait.

use crate::{
    scene::{Scene, Volume, block, read, write},
    support::{
        MIB,
        co::{Spec, file_in},
        host::run,
        is_full,
        pool::Kind,
    },
};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What a loop with direct I/O would take for a block size, if it were not told.
fn natural_block_size(image: &Path) -> String {
    let arguments = ["--find", "--show", "--read-only", "--direct-io=on"].map(AsRef::as_ref);
    let device = run("losetup", arguments.into_iter().chain([image.as_os_str()]));
    let size = run("blockdev", ["--getss", &device]);
    crate::support::host::detach(device.trim_start_matches("/dev/loop").parse().unwrap(), image);
    size
}

#[test]
fn a_volume_is_staged_again_after_its_first_snapshot() {
    for kind in [Kind::Xfs, Kind::BtrfsQuota, Kind::Ext4] {
        let mut scene = Scene::new(kind, 2560 * MIB);
        let limit = if kind == Kind::BtrfsQuota { "enforced" } else { "advisory" };
        let layouts = [
            ("ext4", Spec::image("ext4").size(64 * MIB)),
            ("xfs", Spec::image("xfs").size(300 * MIB)),
            ("thin", Spec::image("ext4").size(64 * MIB).thin()),
            ("block", block(16)),
            ("directory", Spec::directory(limit).size(64 * MIB)),
        ];
        for (name, spec) in layouts {
            let volume = scene.running(name, &spec);
            write(&volume, 1);
            let data = read(&volume);
            let first = block_sizes(&scene, &volume);
            if kind == Kind::Ext4 {
                // Nothing is shared there: only what nobody uses can be copied.
                scene.stop(&volume);
            }
            let before = (kind == Kind::Xfs && name == "ext4").then(|| {
                scene.stop(&volume);
                let size = natural_block_size(&scene.image_of(&volume));
                scene.start(&volume);
                size
            });
            let snapshot = scene.co.snapshot(&format!("of-{name}"), &volume.id).unwrap();
            if kind != Kind::Ext4 {
                scene.stop(&volume);
            }
            if let Some(before) = before {
                let after = natural_block_size(&scene.image_of(&volume));
                println!(
                    "L5: {kind:?}: a loop that is not told takes {before} before, {after} after a reflink"
                );
            }
            scene.start(&volume);
            assert_eq!(read(&volume), data);
            assert_eq!(block_sizes(&scene, &volume), first);
            write(&volume, 2);
            let made = scene.co.restore(&format!("restored-{name}"), &spec, &snapshot.snapshot_id).unwrap();
            let restored = scene.volume(&made.volume_id, &format!("restored-{name}"), &spec);
            scene.start(&restored);
            assert_eq!(read(&restored), data);
            assert_eq!(block_sizes(&scene, &restored), first);
            scene.stop(&restored);
            scene.stop(&volume);
            println!("L5: {kind:?} {name}: block sizes {first:?}");
        }
    }
}

fn block_sizes(scene: &Scene, volume: &Volume) -> Vec<u64> {
    let sizes: Vec<_> = scene.loops_of(volume).iter().map(|each| each.block_size).collect();
    assert!(sizes.iter().all(|size| *size == 4096), "{sizes:?}");
    sizes
}

/// What the long test cuts.
struct Plan {
    kind: Kind,
    fs: &'static str,
    size: u64,
    extents: usize,
    cuts: usize,
}

#[test]
fn no_acknowledged_record_is_lost_by_a_snapshot() {
    let (size, extents, cuts) = if is_full() { (10_240 * MIB, 30_000, 100) } else { (1024 * MIB, 3_000, 10) };
    let plan = |kind, fs| Plan { kind, fs, size, extents, cuts };
    let mut plans = vec![plan(Kind::Xfs, "ext4"), plan(Kind::Btrfs, "xfs"), plan(Kind::Xfs, "block")];
    if is_full() {
        plans.extend([plan(Kind::Xfs, "xfs"), plan(Kind::Btrfs, "ext4"), plan(Kind::Btrfs, "block")]);
    }
    plans.iter().for_each(cut_under_a_writer);
}

fn cut_under_a_writer(plan: &Plan) {
    // The volume in full, its promise while blocks are shared, and what the writer leaves in each cut.
    let mut scene = Scene::new(plan.kind, plan.size * 4);
    let spec = if plan.fs == "block" { block(plan.size / MIB) } else { Spec::image(plan.fs).size(plan.size) };
    let volume = scene.create("pod", &spec.thin());
    let extents = shatter(&scene.image_of(&volume), plan.extents);
    scene.start(&volume);
    let records = file_in(&volume.target, &volume.spec, "records");
    let writer = Writer::default();
    let (mut longest_cut, mut pauses) = (Duration::ZERO, Vec::new());
    let mut restores = Vec::new();
    thread::scope(|scope| {
        let _stop = Stop(&writer);
        scope.spawn(|| writer.run(&records));
        for number in 0..plan.cuts {
            writer.more();
            writer.longest.store(0, Ordering::SeqCst);
            let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
            let start = Instant::now();
            let snapshot = scene.co.snapshot(&format!("cut-{number}"), &volume.id).unwrap().snapshot_id;
            longest_cut = longest_cut.max(start.elapsed());
            writer.more();
            pauses.push(writer.longest.load(Ordering::SeqCst));
            restores.push((snapshot, acknowledged));
        }
    });
    let last = restores.last().unwrap().1;
    for (number, (snapshot, acknowledged)) in restores.into_iter().enumerate() {
        check_restore(&mut scene, &volume.spec, number, &snapshot, acknowledged);
        // Each holds what was written before the next: the pool is not meant for all of them.
        scene.co.delete_snapshot(&snapshot).unwrap();
    }
    pauses.sort_unstable();
    println!(
        "L9: {} on {:?}, {} MiB in {extents} extents: {} cuts, the longest took {longest_cut:?}, {last} records \
         acknowledged, none lost; a writer's longest pause: median {} µs, most {} µs",
        plan.fs,
        plan.kind,
        plan.size / MIB,
        plan.cuts,
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1]
    );
}

/// Makes the image consist of many extents, by filling single blocks of its holes with zeroes: nobody who
/// reads it notices. How many there are then.
fn shatter(image: &Path, extents: usize) -> usize {
    let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
    let length = file.metadata().unwrap().len();
    let stride = length / extents as u64 / 4096 * 4096;
    for offset in (stride..length - stride).step_by(usize::try_from(stride).unwrap()) {
        if rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(offset)).unwrap() == offset {
            file.write_all_at(&[0; 4096], offset).unwrap();
        }
    }
    file.sync_all().unwrap();
    // The summary leaves out those that happen to lie beside each other on disk.
    let listed = run("filefrag", ["-v".as_ref(), image.as_os_str()]);
    let found =
        listed.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).count();
    assert!(found >= extents * 9 / 10, "{found} extents");
    found
}

/// A record is one block; its first eight bytes are its number.
const RECORD: usize = 4096;

/// Where a record lies.
fn place(number: u64) -> u64 {
    (number - 1) * RECORD as u64
}

/// More than any run writes.
const MOST: u64 = 100_000;

/// Writes numbered records, each synced before the next.
#[derive(Default)]
struct Writer {
    acknowledged: AtomicU64,
    /// Microseconds between two acknowledgements.
    longest: AtomicU64,
    ended: AtomicBool,
}

/// Ends the writer, also when the test fails.
struct Stop<'a>(&'a Writer);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::SeqCst);
    }
}

impl Writer {
    fn run(&self, records: &Path) {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(records).unwrap();
        let mut record = [0x5a; RECORD];
        for number in 1..MOST {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let start = Instant::now();
            record[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all_at(&record, place(number)).unwrap();
            file.sync_data().unwrap();
            self.acknowledged.store(number, Ordering::SeqCst);
            self.longest.fetch_max(u64::try_from(start.elapsed().as_micros()).unwrap(), Ordering::SeqCst);
        }
    }

    /// Waits for a few more records.
    fn more(&self) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + 5;
        crate::support::eventually("the writer goes on", 60, || {
            self.acknowledged.load(Ordering::SeqCst) >= goal
        });
    }
}

fn check_restore(scene: &mut Scene, spec: &Spec, number: usize, snapshot: &str, acknowledged: u64) {
    let name = format!("restored-{number}");
    let made = scene.co.restore(&name, spec, snapshot).unwrap();
    let restored = scene.volume(&made.volume_id, &name, spec);
    scene.start(&restored);
    let records: PathBuf = file_in(&restored.target, spec, "records");
    let file = File::open(&records).unwrap();
    let mut record = [0; RECORD];
    for number in 1..=acknowledged {
        file.read_exact_at(&mut record, place(number)).unwrap();
        assert_eq!(
            record[..8],
            number.to_le_bytes(),
            "record {number} of {acknowledged} is not in {snapshot}"
        );
        assert!(record[8..].iter().all(|byte| *byte == 0x5a), "record {number} is torn");
    }
    drop(file);
    scene.stop(&restored);
    scene.co.delete(&restored.id).unwrap();
    fs::remove_dir(&restored.staging).unwrap();
}
