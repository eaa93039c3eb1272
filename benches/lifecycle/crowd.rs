//! Whether the same calls cost the same when much is there already; the driver's memory.
//!
//! Machines are not equally busy from one minute to the next, so each state is compared with a second driver,
//! the control, whose volumes live by turns with those of the first. It has ten volumes on a pool of its own
//! and a mount namespace of its own. Loop devices are the machine's: there the control lives before and after.

use super::{
    Effort,
    figures::{Table, Times, ms, verdict},
    ground::Ground,
    lives::{self, Life, RPCS, eight},
    machine::{checkpoint, progress},
    support::{
        MIB,
        co::{Co, Spec},
        driver::Driver,
        places::Places,
        pool::Kind,
        unique,
    },
};
use std::{fs, process::Command, sync::Mutex, thread, time::Duration};

/// What may be on the pool beside the volume whose life is measured.
struct Crowd<'a> {
    ground: &'a Ground,
    driver: Driver,
    places: Places,
    effort: Effort,
    /// Of directories, in the order in which they were made.
    ids: Vec<String>,
}

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

    /// What lives cost here and, by turns, what they cost the control.
    fn compare(&self, control: &Control) -> [Pair; 3] {
        // Purging waits until nobody is measured.
        thread::sleep(Duration::from_millis(500));
        specs().map(|spec| {
            let mut pair = Pair::default();
            let mut warm = Pair::default();
            let (mut here, mut there) = (self.driver.co(), control.driver.co());
            for round in 0..=self.effort.of(8, 40) {
                let pair = if round == 0 { &mut warm } else { &mut pair };
                lives::live(&mut here, &self.places, &spec, &mut pair.crowd);
                lives::live(&mut there, &control.places, &spec, &mut pair.control);
            }
            pair
        })
    }

    fn lists(&mut self) -> [Times; 3] {
        let mut co = self.driver.co();
        let [mut list, mut capacity, mut start] = <[Times; 3]>::default();
        for _ in 0..5 {
            assert!(list.of(|| co.volumes()).unwrap().len() >= self.ids.len());
            capacity.of(|| co.capacity(&Spec::new())).unwrap();
        }
        // A client that is not listening would have to be waited for.
        drop(co);
        for _ in 0..3 {
            checkpoint();
            self.driver.terminate();
            self.driver = start.of(|| self.ground.driver());
        }
        [list, capacity, start]
    }
}

/// Lives of the crowd's and of the control's volumes.
#[derive(Default)]
struct Pair {
    crowd: Life,
    control: Life,
}

struct Control {
    driver: Driver,
    places: Places,
    _ground: Ground,
}

impl Control {
    fn new() -> Self {
        let ground = Ground::new(Kind::Xfs, 32);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", env!("CARGO_BIN_EXE_wharf"), "standalone"]);
        command.args(["--node-id", "node-1", "--pool"]).arg(format!("default={}", ground.home().display()));
        let mut driver = Driver::spawn_as(command, &[]);
        assert!(driver.wait_until_ready(), "{}", driver.log());
        let mut co = driver.co();
        let spec = Spec::directory("advisory").size(MIB);
        (0..10).for_each(|_| drop(co.create(&unique("control"), &spec).unwrap()));
        Self { driver, places: Places::new(), _ground: ground }
    }

    fn lives(&self, effort: Effort) -> [Life; 3] {
        specs().map(|spec| lives::many(&self.driver, &self.places, &spec, 1, effort.of(8, 40)))
    }
}

const WHAT: [&str; 3] = ["image, ext4, 1 GiB", "directory, advisory", "raw block, thin"];

fn specs() -> [Spec; 3] {
    [
        Spec::image("ext4").size(1024 * MIB),
        Spec::directory("advisory").size(MIB),
        Spec::block().thin().size(MIB),
    ]
}

pub fn print(effort: Effort) {
    let control = Control::new();
    let ground = Ground::new(Kind::Xfs, 256);
    let driver = ground.driver();
    let mut crowd = Crowd { ground: &ground, driver, places: Places::new(), effort, ids: Vec::new() };
    let [some, most, mounted, attached] = effort.of([100, 1000, 200, 100], [1000, 10_000, 1000, 1000]);

    let mut states = Vec::new();
    let mut lists = Table::new(["volumes", "ListVolumes, all", "GetCapacity", "start to first answer"]);
    for volumes in [10, some, most] {
        progress(&format!("making {volumes} volumes"));
        crowd.plant(volumes);
        progress("living with them");
        states.push((format!("{volumes} volumes"), crowd.compare(&control)));
        progress("listing and restarting");
        let [list, capacity, start] = crowd.lists();
        let start = start.against((volumes == most).then_some(2000.0));
        lists.row([volumes.to_string(), list.shown(), capacity.shown(), start]);
    }
    progress("mounting");
    crowd.mount(mounted);
    progress("living with mounts");
    states.push((format!("and {} mounts", mounted * 2), crowd.compare(&control)));
    let before = control.lives(effort);
    progress("attaching");
    let blocks = crowd.attach(attached);
    progress("living with loops");
    let mut with_loops = crowd.compare(&control);
    let resident = memory(&crowd.driver);
    progress("detaching");
    crowd.detach(blocks);
    progress("living without loops");
    let after = control.lives(effort);
    for ((pair, before), after) in with_loops.iter_mut().zip(before).zip(after) {
        pair.control = before;
        pair.control.iter_mut().zip(after).for_each(|(times, more)| times.append(more));
    }
    states.push((format!("and {attached} loops"), with_loops));
    progress("unmounting");
    crowd.unmount(mounted);
    progress("done");
    print_states(&states);
    lists.print("Lists and start, XFS: ms, median / p95");
    println!("\nresident with all this: {resident}");
}

fn print_states(states: &[(String, [Pair; 3])]) {
    for (index, what) in WHAT.into_iter().enumerate() {
        let mut table = Table::new(["there already"].into_iter().chain(RPCS));
        for (state, pairs) in states {
            let Pair { crowd, control } = &pairs[index];
            let cells = crowd.iter().zip(control).map(|(times, base)| {
                format!("{} ({})", times.shown(), ratio(times.median() / base.median()))
            });
            table.row([state.clone()].into_iter().chain(cells));
        }
        let title = "With much there already, XFS, one caller: ms, median / p95 (times that of a driver with 10 volumes)";
        table.print(&format!("{title}: {what}"));
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
