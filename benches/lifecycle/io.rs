//! What a pod's I/O costs inside an image, by fio with direct I/O: sequential against the pool's filesystem,
//! random against the same image attached and mounted by hand.

use super::{
    Effort,
    figures::Table,
    ground::{Ground, KINDS, name},
    machine::{checkpoint, progress},
    support::{
        MIB,
        co::Spec,
        host::{attempt, run},
        places::Places,
        unique,
    },
};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

const FILE: &str = "fio.data";
const SIZE: u64 = 512 * MIB;

#[derive(Clone, Copy)]
struct Job {
    title: &'static str,
    pattern: &'static str,
    block: &'static str,
    depth: u32,
}

const SEQUENTIAL: [Job; 2] = [
    Job { title: "1 M sequential read", pattern: "read", block: "1M", depth: 8 },
    Job { title: "1 M sequential write", pattern: "write", block: "1M", depth: 8 },
];
const RANDOM: [Job; 2] = [
    Job { title: "4 k random read", pattern: "randread", block: "4k", depth: 16 },
    Job { title: "4 k random write", pattern: "randwrite", block: "4k", depth: 16 },
];

/// MiB/s.
fn fio(job: Job, directory: &Path, seconds: u64) -> f64 {
    checkpoint();
    let text = run(
        "fio",
        [
            "--name=bench",
            "--direct=1",
            "--ioengine=libaio",
            "--time_based=1",
            "--output-format=json",
            &format!("--filename={}", directory.join(FILE).display()),
            &format!("--size={SIZE}"),
            &format!("--rw={}", job.pattern),
            &format!("--bs={}", job.block),
            &format!("--iodepth={}", job.depth),
            &format!("--runtime={seconds}"),
        ],
    );
    let start = text.find('{').unwrap_or(0);
    let value: serde_json::Value = serde_json::from_str(&text[start..]).unwrap();
    let direction = if job.pattern.ends_with("read") { "read" } else { "write" };
    value["jobs"][0][direction]["bw_bytes"].as_f64().unwrap() / MIB as f64
}

/// Every block written once, so that no place is quicker for being empty.
fn fill(directory: &Path) {
    let file = format!("of={}", directory.join(FILE).display());
    run(
        "dd",
        ["if=/dev/zero", &file, "bs=1M", &format!("count={}", SIZE / MIB), "oflag=direct", "conv=fsync"],
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn print(effort: Effort) {
    let (rounds, seconds) = effort.of((1, 1), (3, 2));
    let mut table = Table::new(["pool", "fio", "in the image, MiB/s", "compared with", "MiB/s", "ratio"]);
    for kind in KINDS {
        progress(&format!("fio on {}", name(kind)));
        let ground = Ground::new(kind, 8);
        let volume = Volume::new(&ground);
        fill(ground.mount());
        volume.publish();
        fill(&volume.target);
        for job in SEQUENTIAL {
            let [mut inside, mut outside] = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                inside.push(fio(job, &volume.target, seconds));
                outside.push(fio(job, ground.mount(), seconds));
            }
            row(&mut table, name(kind), job, inside, "the pool's filesystem", outside);
        }
        volume.unpublish();
        for job in RANDOM {
            let [mut inside, mut outside] = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                volume.publish();
                inside.push(fio(job, &volume.target, seconds));
                volume.unpublish();
                let by_hand = ByHand::mount(&volume.image, ground.mount().parent().unwrap());
                outside.push(fio(job, &by_hand.mount, seconds));
            }
            row(&mut table, name(kind), job, inside, "mounted by hand", outside);
        }
    }
    table.print("I/O inside a 2 GiB image (ext4), median of the rounds");
}

fn row(table: &mut Table, pool: &str, job: Job, inside: Vec<f64>, what: &str, outside: Vec<f64>) {
    let (inside, outside) = (median(inside), median(outside));
    let ratio = inside / outside;
    let verdict = if ratio >= 0.95 { "≥0.95 ok" } else { "≥0.95 **missed**" };
    table.row([
        pool.to_owned(),
        job.title.to_owned(),
        format!("{inside:.0}"),
        what.to_owned(),
        format!("{outside:.0}"),
        format!("{ratio:.2}, {verdict}"),
    ]);
}

/// A volume that is published and taken away again and again.
struct Volume {
    driver: super::support::driver::Driver,
    places: Places,
    spec: Spec,
    id: String,
    target: PathBuf,
    image: PathBuf,
}

impl Volume {
    fn new(ground: &Ground) -> Self {
        let driver = ground.driver();
        let places = Places::new();
        let spec = Spec::image("ext4").size(2048 * MIB);
        let id = driver.co().create(&unique("io"), &spec).unwrap().volume_id;
        let key = id.strip_prefix("local-").and_then(|id| id.split('.').next()).unwrap();
        let image = ground.home().join("volumes").join(key).join("data/disk.img");
        Self { target: places.target("io"), driver, places, spec, id, image }
    }

    fn publish(&self) {
        let mut co = self.driver.co();
        let staging = self.places.staging("io");
        co.stage(&self.id, &staging, &self.spec).unwrap();
        co.publish(&self.id, &staging, &self.target, &self.spec, false).unwrap();
    }

    fn unpublish(&self) {
        let mut co = self.driver.co();
        co.unpublish(&self.id, &self.target).unwrap();
        co.unstage(&self.id, &self.places.staging("io")).unwrap();
    }
}

/// What an administrator would do with the same file.
struct ByHand {
    device: String,
    mount: PathBuf,
}

impl ByHand {
    fn mount(image: &Path, below: &Path) -> Self {
        let mount = below.join("by-hand");
        fs::create_dir(&mount).unwrap();
        let options = ["--find", "--show", "-b", "4096", "--direct-io=on"].map(OsStr::new);
        let device = run("losetup", options.into_iter().chain([image.as_os_str()]));
        let by_hand = Self { device, mount };
        run(
            "mount",
            ["-t".as_ref(), "ext4".as_ref(), OsStr::new(&by_hand.device), by_hand.mount.as_os_str()],
        );
        by_hand
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = attempt("umount", [&self.mount]);
        let _ = attempt("losetup", ["--detach", &self.device]);
        let _ = fs::remove_dir(&self.mount);
    }
}
