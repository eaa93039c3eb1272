//! Snapshots and clones of a large image in many pieces, while somebody writes to it and waits for the disk.

use super::{
    Effort,
    figures::{Table, Times, ms, verdict},
    ground::{Ground, name},
    machine::{checkpoint, progress},
    support::{MIB, co::Spec, host::run, places::Places, pool::Kind, unique},
};
use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const GIB: u64 = 1024 * MIB;

/// Inside the image: most of it, never written except for its pieces.
const FILLER: u64 = 9 * GIB;

/// A program that writes a record, waits for the disk, and notes how long that took.
struct Writer {
    stop: Arc<AtomicBool>,
    longest: Arc<Mutex<Duration>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(path: &Path) -> Self {
        let file = File::create(path).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let (stopped, slowest) = (Arc::clone(&stop), Arc::clone(&longest));
        let thread = thread::spawn(move || {
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                file.write_all_at(&number.to_le_bytes().repeat(512), number % 1024 * 4096).unwrap();
                file.sync_data().unwrap();
                number += 1;
                let mut longest = slowest.lock().unwrap();
                *longest = (*longest).max(start.elapsed());
            }
        });
        Self { stop, longest, thread: Some(thread) }
    }

    /// The longest pause since the last time this was asked.
    fn longest(&self) -> Duration {
        std::mem::take(&mut *self.longest.lock().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Breaks the image into about `extents` pieces: each write into the untouched filler makes one of its own.
fn fragment(filler: &File, extents: u64) {
    let pieces = extents / 2;
    for piece in 0..pieces {
        filler.write_all_at(&[1; 4096], piece * (FILLER / pieces) / 4096 * 4096).unwrap();
    }
    filler.sync_all().unwrap();
}

/// As the filesystem keeps them: filefrag's own count takes neighbours together.
fn extents(image: &Path) -> u64 {
    let text = run("filefrag", [OsStr::new("-v"), image.as_os_str()]);
    let is_extent = |line: &&str| {
        line.trim_start().split_once(':').is_some_and(|(number, _)| number.parse::<u64>().is_ok())
    };
    text.lines().filter(is_extent).count() as u64
}

fn image_of(ground: &Ground, id: &str) -> PathBuf {
    let key = id.strip_prefix("local-").and_then(|id| id.split('.').next()).unwrap();
    ground.home().join("volumes").join(key).join("data/disk.img")
}

pub fn print(effort: Effort) {
    let mut table = Table::new([
        "pool",
        "extents",
        "snapshot, ms",
        "clone, ms",
        "longest pause of the writer: snapshot",
        "clone",
        "no cut",
    ]);
    for kind in [Kind::Xfs, Kind::BtrfsQuota] {
        for wanted in effort.of([0, 1000, 0, 0], [0, 1000, 5000, 30_000]).into_iter().take(effort.of(2, 4)) {
            checkpoint();
            progress(&format!("cutting on {}, {wanted} extents", name(kind)));
            table.row(measure(kind, wanted, effort.of(2, 5)));
        }
    }
    table.print("Snapshot and clone of a 10 GiB image (ext4 inside) under a writer that waits for the disk");
}

fn measure(kind: Kind, wanted: u64, rounds: usize) -> Vec<String> {
    let ground = Ground::new(kind, 64);
    let driver = ground.driver();
    let places = Places::new();
    let mut co = driver.co();
    let spec = Spec::image("ext4").size(10 * GIB);
    let (staging, target) = (places.staging("source"), places.target("source"));
    let id = co.create(&unique("source"), &spec).unwrap().volume_id;
    co.stage(&id, &staging, &spec).unwrap();
    co.publish(&id, &staging, &target, &spec, false).unwrap();
    let filler = OpenOptions::new().create_new(true).write(true).open(target.join("filler")).unwrap();
    run("fallocate", ["-l".as_ref(), FILLER.to_string().as_ref(), target.join("filler").as_os_str()]);
    fragment(&filler, wanted);
    drop(filler);

    let writer = Writer::start(&target.join("records"));
    thread::sleep(Duration::from_millis(500));
    let pause_without = writer.longest();
    let found = extents(&image_of(&ground, &id));
    let [mut snapshots, mut clones, mut snapshot_pauses, mut clone_pauses] = <[Times; 4]>::default();
    for _ in 0..rounds {
        checkpoint();
        thread::sleep(Duration::from_millis(200));
        writer.longest();
        let snapshot = snapshots.of(|| co.snapshot(&unique("cut"), &id)).unwrap().snapshot_id;
        thread::sleep(Duration::from_millis(50));
        snapshot_pauses.add(writer.longest());
        let clone = clones.of(|| co.clone_volume(&unique("clone"), &spec, &id)).unwrap().volume_id;
        thread::sleep(Duration::from_millis(50));
        clone_pauses.add(writer.longest());
        co.delete_snapshot(&snapshot).unwrap();
        co.delete(&clone).unwrap();
    }
    drop(writer);
    co.unpublish(&id, &target).unwrap();
    co.unstage(&id, &staging).unwrap();

    let budget = match kind {
        Kind::Xfs => 100.0 + found.saturating_sub(5000) as f64 * 0.015,
        _ => 50.0,
    };
    let judged = |times: &Times| format!("{}, {}", ms(times.median()), verdict(times.median(), budget));
    vec![
        name(kind).to_owned(),
        found.to_string(),
        judged(&snapshots),
        judged(&clones),
        ms(snapshot_pauses.max()),
        ms(clone_pauses.max()),
        ms(pause_without.as_secs_f64() * 1000.0),
    ]
}
