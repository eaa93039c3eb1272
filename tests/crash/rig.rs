//! Where cases run: a pool on a disk whose power can be cut, and the orchestrator's directories.

use crate::{
    model::{Model, Step},
    scenario::Scenario,
    support::{
        co::Co,
        driver::Driver,
        host,
        inventory::Inventory,
        places::Places,
        pool::{Cut, Kind, Pool},
    },
};
use std::{
    fs,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::NamedTempFile;
use tonic::{Code, Status};

/// Of a pool. Sparse.
const SIZE: u64 = 4 << 30;
/// How long a driver may take until it answers, or strikes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Loop devices with low numbers: when they are free again, these are given out before a number that was
/// lost on purpose.
struct Spares {
    _file: NamedTempFile,
    devices: Vec<String>,
}

impl Spares {
    fn new() -> Self {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let attach = || host::run("losetup", ["--find".as_ref(), "--show".as_ref(), file.path().as_os_str()]);
        let devices = (0..6).map(|_| attach()).collect();
        Self { _file: file, devices }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        for device in &self.devices {
            let _ = host::attempt("losetup", ["--detach", device]);
        }
    }
}

/// A pool with its store, empty between cases.
pub struct Rig {
    pub pool: Pool,
    pub places: Places,
    pub empty: Inventory,
}

/// When the power fails by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Only at a failpoint whose action is `stop`.
    Stays,
    /// As soon as the answer is there.
    FailsAfterAnswer,
}

/// How a call ended whose driver may have been ended by a failpoint.
pub struct End {
    /// Running, unless something struck.
    pub driver: Driver,
    /// A failpoint has ended the process.
    pub struck: bool,
    /// The pool at the moment when the power failed.
    pub cut: Option<Cut>,
    /// What the orchestrator got, and what it knows then.
    pub answer: Option<(Result<String, Status>, Model)>,
}

impl Rig {
    pub fn new(disk: &Path, kind: Kind) -> Self {
        let pool = Pool::below(disk, kind, SIZE);
        let places = Places::new();
        drop(Driver::start(&[("default", pool.path())], &[]));
        let empty = Inventory::take(&pool, &[places.path()]);
        Self { pool, places, empty }
    }

    pub fn inventory(&self) -> Inventory {
        Inventory::take(&self.pool, &[self.places.path()])
    }

    /// A driver that nothing disturbs.
    pub fn driver(&self, environment: &[(&str, &str)]) -> Driver {
        Driver::start(&[("default", self.pool.path())], environment)
    }

    /// Does what comes before the operation. The driver is gone afterwards, as hard as can be: nothing
    /// of the preparation may depend on it.
    pub fn prepare(&self, scenario: &Scenario) -> Result<Model, String> {
        let mut model = Model::new(scenario.spec.clone());
        if scenario.operation == Step::Start {
            self.empty_store();
            return Ok(model);
        }
        let mut spares = scenario.before.contains(&Step::LoseLoop).then(Spares::new);
        let mut driver = self.driver(&[]);
        let mut co = driver.co();
        for step in &scenario.before {
            if let Step::Interrupted(point, inner) = step {
                driver.kill();
                let armed = format!("{point}=kill");
                let end = self.run(&model, **inner, &[("WHARF_FAILPOINT", &armed)], Power::Stays);
                if !end.struck {
                    return Err(format!("{point} was not reached while preparing"));
                }
                driver = self.driver(&[]);
                co = driver.co();
                // What the orchestrator has to assume.
                model.assume(**inner);
            } else if *step == Step::LoseLoop {
                spares.take();
                self.lose_loop();
            } else {
                model
                    .perform(*step, &mut co, &self.places)
                    .map_err(|e| format!("preparing ({step}): {e}"))?;
            }
        }
        driver.kill();
        Ok(model)
    }

    /// Somebody detaches what looks unused: a raw block volume's loop, the upper one of two.
    fn lose_loop(&self) {
        let loops = host::loops_below(self.pool.path());
        let last = loops.last().expect("a loop of the volume");
        host::run("losetup", ["--detach".as_ref(), last.node().as_os_str()]);
    }

    /// Back to the empty directory that the store was made in.
    fn empty_store(&self) {
        let home = self.pool.path();
        for name in ["format.json", "lock"] {
            fs::remove_file(home.join(name)).unwrap();
        }
        for name in ["volumes", "snapshots", "tmp", "trash"] {
            fs::remove_dir(home.join(name)).unwrap();
        }
        // Else a power cut brings the old store back.
        host::run("sync", ["-f".as_ref(), home.as_os_str()]);
    }

    /// Starts a driver and calls; returns when a failpoint has struck, or when there is an answer and
    /// the driver is at rest.
    pub fn run(&self, model: &Model, step: Step, environment: &[(&str, &str)], power: Power) -> End {
        let mut driver = Driver::spawn(&[("default", self.pool.path())], environment);
        let (socket, gone) = (driver.socket(), AtomicBool::new(false));
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            scope.spawn(|| {
                let (sender, mut model) = (sender, model.clone());
                if let Some(mut co) = connect(&socket, &gone) {
                    let answer = model.perform(step, &mut co, &self.places);
                    let _ = sender.send((answer, model));
                }
            });
            let deadline = Instant::now() + PATIENCE;
            let mut answer = None;
            while answer.is_none() && !has_struck(&mut driver) && Instant::now() < deadline {
                answer = receiver.recv_timeout(Duration::from_micros(300)).ok();
            }
            match (&answer, power) {
                (Some(_), Power::FailsAfterAnswer) => driver.stop(),
                (Some((answer, _)), Power::Stays) => self.rest(answer, &mut driver),
                (None, _) => {}
            }
            let struck = has_struck(&mut driver);
            let cut = driver.is_stopped().then(|| self.pool.cut());
            if struck || answer.is_none() {
                gone.store(true, Ordering::Relaxed);
                driver.kill();
            }
            End { driver, struck, cut, answer }
        })
    }

    /// After a power cut: nothing is mounted or attached any more, and on disk is what had got there.
    pub fn reboot(&mut self, cut: Cut) {
        assert!(self.places.unmount_all(), "something stays mounted in {}", self.places.path().display());
        self.pool.reboot(cut);
    }

    /// After an answer: waits until trash is empty, or a failpoint has struck.
    fn rest(&self, answer: &Result<String, Status>, driver: &mut Driver) {
        if has_ended(answer, driver) {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        // The last point is behind the last removal, and a thread may wait for a processor on its way there.
        let mut idle = 0;
        while idle < 2 && Instant::now() < deadline && !has_struck(driver) {
            idle = if self.trash_is_empty() && waits(driver) { idle + 1 } else { 0 };
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn trash_is_empty(&self) -> bool {
        fs::read_dir(self.pool.path().join("trash")).is_ok_and(|mut trash| trash.next().is_none())
    }
}

/// Whether a call was not answered because the process has ended. That may take a moment longer: it has
/// to close what it has open, such as a mount that no path leads to.
pub fn has_ended(answer: &Result<String, Status>, driver: &mut Driver) -> bool {
    match answer {
        Err(status) if matches!(status.code(), Code::Unknown | Code::Unavailable) => {
            driver.wait_exit(PATIENCE / 4).is_some()
        }
        _ => driver.ended().is_some(),
    }
}

/// All of its threads wait for something to happen: none computes, or would if it had a processor, or is in a filesystem.
fn waits(driver: &Driver) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", driver.pid())) else { return false };
    threads.flatten().all(|thread| host::state(&thread.path()) == Some('S'))
}

fn has_struck(driver: &mut Driver) -> bool {
    driver.is_stopped() || driver.ended().is_some()
}

fn connect(socket: &Path, gone: &AtomicBool) -> Option<Co> {
    while !gone.load(Ordering::Relaxed) {
        if socket.exists()
            && let Ok(mut co) = Co::try_connect(socket)
            && co.probe().is_ok()
        {
            return Some(co);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}
