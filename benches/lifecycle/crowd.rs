//! Whether the same calls cost the same when much is there already; the driver's memory.

use super::{
    Effort,
    figures::{Table, Times, ms, verdict},
    ground::Ground,
    lives::{self, Life, RPCS, eight},
    machine::checkpoint,
    support::{
        MIB,
        co::{Co, Spec},
        driver::Driver,
        places::Places,
        pool::Kind,
        unique,
    },
};
use std::{fs, sync::Mutex, thread, time::Duration};

/// What may be on the pool beside the volume whose life is measured.
struct Crowd<'a> {
    ground: &'a Ground,
    driver: Driver,
    places: Places,
    effort: Effort,
    /// Of directories, in the order in which they were made.
    ids: Vec<String>,
}

const IMAGE: &str = "image, ext4, 1 GiB";
const DIRECTORY: &str = "directory, advisory";

impl Crowd<'_> {
    /// Directories without a limit: a record and an empty directory each.
    fn plant(&mut self, total: usize) {
        let missing = total - self.ids.len();
        let left = Mutex::new(missing);
        let next = || {
            checkpoint();
            let mut left = left.lock().unwrap();
            *left = left.checked_sub(1)?;
            Some(unique("crowd"))
        };
        let spec = Spec::directory("advisory").size(MIB);
        self.ids.extend(eight(&self.driver, |co| {
            std::iter::from_fn(next).map(|name| co.create(&name, &spec).unwrap().volume_id).collect()
        }));
    }

    /// Stages and publishes `count` of the directories: two mounts each.
    fn mount(&self, count: usize) {
        let spec = Spec::directory("advisory");
        self.each(self.ids[..count].to_vec(), |co, id| {
            let staging = self.places.staging(id);
            co.stage(id, &staging, &spec).unwrap();
            co.publish(id, &staging, &self.places.target(id), &spec, false).unwrap();
        });
    }

    fn unmount(&self, count: usize) {
        self.each(self.ids[..count].to_vec(), |co, id| {
            co.unpublish(id, &self.places.target(id)).unwrap();
            co.unstage(id, &self.places.staging(id)).unwrap();
        });
    }

    /// Raw block volumes that stay attached.
    fn attach(&self, count: usize) -> Vec<String> {
        let made = Mutex::new(Vec::new());
        let spec = Spec::block().thin().size(MIB);
        self.each((0..count).map(|_| unique("block")).collect(), |co, name| {
            let id = co.create(name, &spec).unwrap().volume_id;
            co.stage(&id, &self.places.staging(&id), &spec).unwrap();
            made.lock().unwrap().push(id);
        });
        made.into_inner().unwrap()
    }

    fn detach(&self, ids: Vec<String>) {
        self.each(ids, |co, id| co.unstage(id, &self.places.staging(id)).unwrap());
    }

    fn each(&self, items: Vec<String>, work: impl Fn(&mut Co, &str) + Sync) {
        let items = Mutex::new(items);
        eight(&self.driver, |co| {
            loop {
                checkpoint();
                let Some(item) = items.lock().unwrap().pop() else { return Vec::<()>::new() };
                work(co, &item);
            }
        });
    }

    /// What a life costs now, for an image and a directory. Purging waits until nobody is measured.
    fn measure(&self) -> [(&'static str, Life); 2] {
        thread::sleep(Duration::from_millis(500));
        [(IMAGE, Spec::image("ext4").size(1024 * MIB)), (DIRECTORY, Spec::directory("advisory").size(MIB))]
            .map(|(what, spec)| {
                (what, lives::many(&self.driver, &self.places, &spec, 1, self.effort.of(8, 40)))
            })
    }

    fn lists(&mut self) -> [Times; 3] {
        let mut co = self.driver.co();
        let [mut list, mut capacity, mut start] = <[Times; 3]>::default();
        for _ in 0..5 {
            assert!(list.of(|| co.volumes()).unwrap().len() >= self.ids.len());
            capacity.of(|| co.capacity(&Spec::new())).unwrap();
        }
        for _ in 0..3 {
            checkpoint();
            self.driver.terminate();
            self.driver = start.of(|| self.ground.driver());
        }
        [list, capacity, start]
    }
}

pub fn print(effort: Effort) {
    let ground = Ground::new(Kind::Xfs, 256);
    let driver = ground.driver();
    let mut crowd = Crowd { ground: &ground, driver, places: Places::new(), effort, ids: Vec::new() };
    let [some, most, mounted, attached] = effort.of([100, 1000, 200, 100], [1000, 10_000, 1000, 1000]);

    let mut states = Vec::new();
    let mut lists = Table::new(["volumes", "ListVolumes, all", "GetCapacity", "start to first answer"]);
    for volumes in [10, some, most] {
        crowd.plant(volumes);
        states.push((format!("{volumes} volumes"), crowd.measure()));
        let [list, capacity, start] = crowd.lists();
        let start = start.against((volumes == most).then_some(2000.0));
        lists.row([volumes.to_string(), list.shown(), capacity.shown(), start]);
    }
    crowd.mount(mounted);
    states.push((format!("and {} mounts", mounted * 2), crowd.measure()));
    let blocks = crowd.attach(attached);
    states.push((format!("and {attached} loops"), crowd.measure()));
    print_states(&states);
    lists.print("Lists and start, XFS: ms, median / p95");
    println!("\nresident after all this: {}", memory(&crowd.driver));
    crowd.detach(blocks);
    crowd.unmount(mounted);
}

fn print_states(states: &[(String, [(&'static str, Life); 2])]) {
    for (index, what) in [IMAGE, DIRECTORY].into_iter().enumerate() {
        let mut table = Table::new(["there already"].into_iter().chain(RPCS));
        let first = &states[0].1[index].1;
        for (state, lives) in states {
            let cells = lives[index].1.iter().zip(first).enumerate().map(|(rpc, (times, base))| {
                if rpc == 0 && std::ptr::eq(times, base) {
                    return times.shown();
                }
                format!("{} ({})", times.shown(), ratio(times.median() / base.median()))
            });
            table.row([state.clone()].into_iter().chain(cells));
        }
        table.print(&format!(
            "With much there already, XFS, {what}, one caller: ms, median / p95 (times the first row)"
        ));
    }
}

fn ratio(value: f64) -> String {
    if value <= 1.5 { format!("×{value:.2}") } else { format!("×{value:.2} **missed**") }
}

/// Idle with a few volumes, and the most that a busy minute takes.
pub fn print_memory(effort: Effort) {
    let ground = Ground::new(Kind::Xfs, 32);
    let driver = ground.driver();
    let places = Places::new();
    let mut table = Table::new(["the process", "memory"]);
    let spec = Spec::directory("advisory").size(MIB);
    let mut co = driver.co();
    (0..10).for_each(|_| drop(co.create(&unique("idle"), &spec).unwrap()));
    thread::sleep(Duration::from_secs(2));
    let idle = memory(&driver);
    let verdict = verdict(idle.resident, 10.0);
    table.row(["idle, 10 volumes".to_owned(), format!("{idle}, {verdict} (MiB)")]);
    for (_, spec) in lives::specs(Kind::Xfs) {
        lives::many(&driver, &places, &spec, 8, effort.of(2, 8));
    }
    let busy = memory(&driver);
    table.row([
        "after 8 callers' lives of images and directories".to_owned(),
        format!("{busy}; peak {} MiB", ms(busy.peak)),
    ]);
    thread::sleep(Duration::from_secs(effort.of(2, 15)));
    table.row(["idle again".to_owned(), memory(&driver).to_string()]);
    table.print("Memory");
}

/// In MiB.
struct Memory {
    resident: f64,
    anonymous: f64,
    peak: f64,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB resident, {} of it its own (anonymous)", ms(self.resident), ms(self.anonymous))
    }
}

fn memory(driver: &Driver) -> Memory {
    let status = fs::read_to_string(format!("/proc/{}/status", driver.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    };
    Memory { resident: field("VmRSS:"), anonymous: field("RssAnon:"), peak: field("VmHWM:") }
}
