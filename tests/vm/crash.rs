//! Controllers of shares that are ended between any two side effects, over real NFS.
//!
//! Each case prepares a volume, ends something at a failpoint of the protocol on a share (only the helper, or
//! the driver and its helper as when their container ends, or the power of the server) and repeats the call as
//! an orchestrator would. The answer, and everything on the export, must be as if nothing had happened; after
//! everything was deleted nothing may be left.
//!
//! By default a fifth of the failpoints is struck on one version each; all of them are struck without NFS in each run
//! of the tests beside the protocol. `WHARF_TEST_FULL=1` strikes every point on every version in both ways. The
//! commit (`WHARF_COMMIT`, else git's HEAD) deals which operation and hit it is, and else the points and ways, too.
//! `WHARF_CRASH_SHARE="Restore 3 at"` (the beginning of a description) runs only those.

use crate::{
    export::{ADDRESS, Export, Inventory, helpers, kill_all},
    guest::required,
    points::Deal,
    support::{
        MIB,
        co::{Co, Spec},
        data::bytes,
        driver::Driver,
        eventually, is_full,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tonic::{Code, Status};

/// One of so many failpoints is struck by default.
const SHARE: usize = 5;
/// How long an answer that is not final is followed by the same call. Less than a heartbeat's age: a process of
/// this host that was ended is known to be gone.
const PATIENCE: Duration = Duration::from_secs(40);

/// One call of an orchestrator. They are about volume `a`, its snapshot `s`, and `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// The first volume of a share.
    First,
    Create,
    /// In a directory that is there.
    Adopt,
    Clone,
    Snapshot,
    Restore,
    Delete,
    Archive,
    Retain,
    DeleteSnapshot,
    Expand,
}
use Operation::*;

/// Dealt out to the versions in turn.
const ALL: [Operation; 11] =
    [Clone, Snapshot, Restore, Delete, Archive, First, Adopt, Retain, DeleteSnapshot, Create, Expand];

/// Points that no operation of these reaches by itself: what they do is done for processes that have ended. The
/// retry of each case goes through them, but whether that or the driver's own sweep is open. The tests beside the protocol strike them (src/share/store/tests/crash.rs).
const ELSEWHERE: [&str; 6] = [
    "share.worker-forgotten",
    "share.dead-claim-removed",
    "share.taken-over",
    "share.discarded-draft",
    "share.discarded-root",
    "share.discarded-record",
];

/// A version of the protocol, on an export of its own.
#[derive(Clone, Copy, Debug)]
struct Way {
    version: &'static str,
    export: Export,
}

impl Way {
    fn all() -> [Self; 3] {
        let exports = [("4.2", Export::xfs()), ("4.1", Export::ext4()), ("3", Export::third())];
        exports.map(|(version, export)| Self { version, export })
    }

    fn options(self) -> String {
        format!("vers={}{}", self.version, if self.version == "3" { ",nolock" } else { "" })
    }

    fn spec(self, directory: &str, on_delete: &str) -> Spec {
        Spec::new()
            .parameter("server", ADDRESS)
            .parameter("share", &self.export.share())
            .parameter("mountOptions", &self.options())
            .parameter("subDir", directory)
            .parameter("onDelete", on_delete)
            .size(MIB)
    }
}

/// A driver on an export, and the file by which its failpoints are armed.
struct Rig {
    way: Way,
    driver: Driver,
    directory: TempDir,
}

/// What an orchestrator knows.
#[derive(Clone, Default)]
struct Known {
    volumes: Vec<String>,
    snapshots: Vec<String>,
}

impl Rig {
    fn new(way: Way) -> Self {
        let directory = tempfile::tempdir().unwrap();
        way.export.clear();
        Self { driver: start(way, directory.path()), way, directory }
    }

    fn armed(&self) -> PathBuf {
        self.directory.path().join("armed")
    }

    fn arm(&self, point: &str, hit: u64, action: &str) {
        fs::write(self.armed(), format!("{point}@{hit}={action}")).unwrap();
    }

    fn is_armed(&self) -> bool {
        fs::metadata(self.armed()).unwrap().len() > 0
    }

    /// Points that have been reached so far.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("points")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The driver and its helpers are ended and a new one is started.
    fn restart(&mut self) {
        kill_all(&mut self.driver);
        self.driver = start(self.way, self.directory.path());
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.way.export.inside().join(path)
    }

    /// What has to be there before an operation.
    fn prepare(&mut self, operation: Operation) -> Known {
        let (mut co, mut known) = (self.driver.co(), Known::default());
        match operation {
            First => {
                kill_all(&mut self.driver);
                self.way.export.clear();
                self.driver = start(self.way, self.directory.path());
                return known;
            }
            Create => return known,
            Adopt => {
                fs::create_dir_all(self.inside("p/b")).unwrap();
                return known;
            }
            _ => {}
        }
        let on_delete = match operation {
            Archive => "archive",
            Retain => "retain",
            _ => "delete",
        };
        known
            .volumes
            .push(until_final(|| co.create("a", &self.way.spec("p/a", on_delete))).unwrap().volume_id);
        fill(&self.inside("p/a"));
        match operation {
            Restore | DeleteSnapshot => {
                let made = until_final(|| co.snapshot("s", &known.volumes[0])).unwrap();
                known.snapshots.push(made.snapshot_id);
            }
            _ => {}
        }
        known
    }

    /// Deletes everything. What stays on purpose goes with it.
    fn delete_all(&self, known: &Known) {
        let mut co = self.driver.co();
        for id in &known.snapshots {
            until_final(|| co.delete_snapshot(id)).unwrap();
        }
        for id in &known.volumes {
            until_final(|| co.delete(id)).unwrap();
        }
    }

    /// What users would clear away: parents of their directories, and what was archived or retained.
    fn clear_away(&self) {
        let _ = crate::support::host::attempt("rm", ["-r".as_ref(), self.inside("p").as_os_str()]);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        kill_all(&mut self.driver);
    }
}

fn start(way: Way, directory: &Path) -> Driver {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    let share = format!("{ADDRESS}:{},{}", way.export.share(), way.options());
    command.args([
        "standalone",
        "--node-id",
        "node-1",
        "--owner",
        "crash",
        "--mount-timeout",
        "30",
        "--share",
        &share,
    ]);
    let paths = ["armed", "points"].map(|name| directory.join(name).to_str().unwrap().to_owned());
    fs::write(&paths[0], "").unwrap();
    let environment = [("WHARF_FAILPOINT_FILE", &*paths[0]), ("WHARF_FAILPOINT_LOG", &*paths[1])];
    let mut driver = Driver::spawn_as(command, &environment);
    assert!(driver.wait_until_ready(), "the driver did not start:\n{}", driver.log());
    driver
}

/// A tree with everything that any version can carry.
fn fill(root: &Path) {
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), bytes(1, 300_000)).unwrap();
    fs::hard_link(root.join("d/f"), root.join("linked")).unwrap();
    std::os::unix::fs::symlink("d/f", root.join("symlink")).unwrap();
    // It has to be on the server's disk before a power cut.
    crate::support::host::run("sync", ["-f".as_ref(), root.as_os_str()]);
}

/// Does it, and notes what is known then; the text is what the answer says, without what differs from run to run.
fn perform(co: &mut Co, way: Way, operation: Operation, known: &mut Known) -> Result<String, Status> {
    let b = way.spec("p/b", "delete");
    let a = known.volumes.first().cloned().unwrap_or_default();
    let made = match operation {
        First | Create | Adopt => co.create("b", &b)?,
        Clone => co.clone_volume("b", &b, &a)?,
        Restore => co.restore("b", &b, &known.snapshots[0])?,
        Snapshot => {
            let made = co.snapshot("s", &a)?;
            known.snapshots = vec![made.snapshot_id.clone()];
            return Ok(format!("{} {}", made.snapshot_id, made.ready_to_use));
        }
        Delete | Archive | Retain => return co.delete(&a).map(|()| "deleted".into()),
        DeleteSnapshot => return co.delete_snapshot(&known.snapshots[0]).map(|()| "deleted".into()),
        Expand => return co.expand(&a, 3 * MIB).map(|answer| format!("{answer:?}")),
    };
    known.volumes.retain(|id| *id != made.volume_id);
    known.volumes.push(made.volume_id.clone());
    Ok(format!("{} {}", made.volume_id, made.capacity_bytes))
}

/// Whether an orchestrator takes it for the end of the matter.
fn is_final(status: &Status) -> bool {
    !matches!(status.code(), Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// As an orchestrator does: again, as long as the answer is not final.
fn until_final<T>(mut call: impl FnMut() -> Result<T, Status>) -> Result<T, Status> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call() {
            Err(status) if !is_final(&status) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(100));
            }
            answer => return answer,
        }
    }
}

/// A point, and the how manyeth time that it is reached.
type Hit = (String, u64);

/// How it goes when nothing disturbs.
struct Reference {
    hits: Vec<Hit>,
    answer: String,
    inventory: Inventory,
    left: Inventory,
}

fn reference(rig: &mut Rig, operation: Operation) -> Reference {
    let mut known = rig.prepare(operation);
    // What the preparation leaves to be purged reaches points, too.
    rig.way.export.wait_for_purge();
    let before = rig.log().len();
    let answer = until_final(|| perform(&mut rig.driver.co(), rig.way, operation, &mut known))
        .unwrap_or_else(|e| panic!("{operation:?} {}: {e:?}\n{}", rig.way.version, rig.driver.log()));
    let inventory = rig.way.export.inventory();
    let mut seen = BTreeMap::new();
    let count = |point: String| {
        let number: &mut u64 = seen.entry(point.clone()).or_default();
        *number += 1;
        (point, *number)
    };
    let hits = rig.log().split_off(before).into_iter().filter(|point| point.starts_with("share.")).map(count);
    let hits = hits.collect();
    rig.delete_all(&known);
    let left = rig.way.export.inventory();
    rig.clear_away();
    Reference { hits, answer, inventory, left }
}

/// What ends at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The helper; the driver goes on.
    Helper,
    /// Both.
    Container,
    /// Both, and the server's power fails in the same moment.
    Power,
}

/// One case; `Err` says what is wrong.
fn strike(rig: &mut Rig, operation: Operation, to: &Reference, end: End, hit: &Hit) -> Result<(), String> {
    let mut known = rig.prepare(operation);
    rig.way.export.wait_for_purge();
    rig.arm(&hit.0, hit.1, if end == End::Helper { "kill" } else { "stop" });
    let refused = if end == End::Helper {
        let mut theirs = known.clone();
        let answer = perform(&mut rig.driver.co(), rig.way, operation, &mut theirs);
        eventually("the helper is struck", 20, || !rig.is_armed());
        answer.err().filter(is_final)
    } else {
        stand_still(rig, operation, &known);
        if end == End::Power {
            rig.way.export.cut();
            kill_all(&mut rig.driver);
            rig.way.export.reboot();
        }
        rig.restart();
        None
    };
    if let Some(status) = refused {
        return Err(format!("the answer of what was ended is final: {status:?}\n{}", rig.driver.log()));
    }
    let answer = until_final(|| perform(&mut rig.driver.co(), rig.way, operation, &mut known));
    let answer = answer.map_err(|e| format!("the retry failed: {e:?}\n{}", rig.driver.log()))?;
    if answer != to.answer {
        return Err(format!("the retry's answer is {answer}, not {}", to.answer));
    }
    same("after the retry", &to.inventory, rig)?;
    rig.delete_all(&known);
    same("after everything was deleted", &to.left, rig)?;
    rig.clear_away();
    Ok(())
}

/// Claims of volumes that are gone hinder nobody, and go when the driver sweeps, which it does by itself and soon.
fn same(when: &str, expected: &Inventory, rig: &Rig) -> Result<(), String> {
    let difference = expected.difference(&rig.way.export.inventory_when(|found| found == expected));
    if difference.is_empty() {
        return Ok(());
    }
    Err(format!("{when} (- expected, + found):\n{}\n{}", difference.join("\n"), rig.driver.log()))
}

/// Calls, and returns when the helper has been stopped at the point.
fn stand_still(rig: &Rig, operation: Operation, known: &Known) {
    let (socket, way, mut known) = (rig.driver.socket(), rig.way, known.clone());
    // It ends when the driver does.
    thread::spawn(move || {
        if let Ok(mut co) = Co::try_connect(&socket) {
            let _ = perform(&mut co, way, operation, &mut known);
        }
    });
    eventually("the helper stands still", 30, || {
        !rig.is_armed() && helpers(&rig.driver).into_iter().any(is_stopped)
    });
}

fn is_stopped(pid: i32) -> bool {
    crate::support::host::state_of(pid) == Some('T')
}

/// Of the server: whoever cuts it is alone with it.
static POWER: RwLock<()> = RwLock::new(());

/// Every point below a directory of the source whose name begins so.
pub fn in_source(below: &str, beginning: &str) -> BTreeSet<String> {
    let (mut found, mut rest) = (BTreeSet::new(), vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)]);
    let call = format!("failpoint!(\"{beginning}");
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let points = text.split(&call).skip(1);
        found.extend(points.map(|rest| format!("{beginning}{}", rest.split('"').next().unwrap())));
    }
    found
}

/// A point where something ends: of which operation, which hit, and what ends.
type Case = (usize, Hit, End);

/// The cases of one version, one after the other, beside those of the others: most of a case is waiting.
struct Lane {
    rig: Rig,
    references: Vec<(Operation, Reference)>,
    struck: BTreeSet<String>,
    failures: Vec<String>,
    count: usize,
}

impl Lane {
    fn new(way: Way) -> Self {
        Self {
            rig: Rig::new(way),
            references: Vec::new(),
            struck: BTreeSet::new(),
            failures: Vec::new(),
            count: 0,
        }
    }

    fn describe(&self, operation: Operation, hit: Option<&Hit>) -> String {
        let hit = hit.map(|(point, number)| format!("{point}@{number}")).unwrap_or_default();
        format!("{operation:?} {} at {hit}", self.rig.way.version)
    }

    fn record(&mut self, operations: &[Operation]) {
        let references =
            operations.iter().map(|operation| (*operation, reference(&mut self.rig, *operation)));
        self.references = references.collect();
    }

    /// Which cases are due here, in the order of the operations. Of the points that are not for every version, those
    /// that are reached here go out of `due`.
    fn dealt(&self, deal: &Deal, due: &mut BTreeSet<String>) -> Vec<Case> {
        let mut reached: BTreeMap<&String, Vec<(usize, &Hit)>> = BTreeMap::new();
        for (at, (_, reference)) in self.references.iter().enumerate() {
            for hit in &reference.hits {
                reached.entry(&hit.0).or_default().push((at, hit));
            }
        }
        let both = [End::Helper, End::Container];
        let mut cases = Vec::new();
        for (point, hits) in reached {
            let of =
                |what: &str, count| deal.choose(&format!("{what} {point} {}", self.rig.way.version), count);
            if wanted().is_some() {
                cases.extend(hits.into_iter().flat_map(|(at, hit)| both.map(|end| (at, hit.clone(), end))));
            } else if is_full() {
                for end in both {
                    let (at, hit) = hits[of(&format!("{end:?}"), hits.len())];
                    cases.push((at, hit.clone(), end));
                }
            } else if due.remove(point) {
                let (at, hit) = hits[of("hit", hits.len())];
                cases.push((at, hit.clone(), both[of("end", both.len())]));
            }
        }
        cases.sort_by_key(|(at, ..)| *at);
        cases
    }

    fn strike(&mut self, (at, hit, end): Case) {
        let (operation, reference) = &self.references[at];
        let description = self.describe(*operation, Some(&hit));
        if wanted().is_some_and(|wanted| !description.starts_with(&wanted)) {
            return;
        }
        let begun = Instant::now();
        self.count += 1;
        if let Err(why) = strike(&mut self.rig, *operation, reference, end, &hit) {
            println!("vm: FAILED: {description}, {end:?}: {why}");
            self.failures.push(format!("{description}, {end:?} ended: {why}"));
            self.rig = Rig::new(self.rig.way);
        }
        println!("vm: {description}, {end:?}: {:.1} s", begun.elapsed().as_secs_f32());
        self.struck.insert(hit.0);
    }
}

/// The beginning of a description, when only some cases are asked for.
fn wanted() -> Option<String> {
    env::var("WHARF_CRASH_SHARE").ok()
}

/// Does the work on each lane, with what is its own of `given`, all at the same time.
fn side_by_side<T: Send>(lanes: &mut [Lane], given: Vec<T>, work: impl Fn(&mut Lane, T) + Sync) {
    let work = &work;
    thread::scope(|scope| {
        for (lane, own) in lanes.iter_mut().zip(given) {
            scope.spawn(move || work(lane, own));
        }
    });
}

#[test]
fn an_end_at_every_point_leaves_no_trace() {
    required();
    let _beside = POWER.read().unwrap_or_else(PoisonError::into_inner);
    let (deal, points) = (Deal::new(), in_source("src/share", "share."));
    let mut lanes = Way::all().map(Lane::new);
    let operations = lanes.iter().enumerate().map(|(turn, lane)| {
        let is_due = |(at, operation): &(usize, Operation)| match wanted() {
            // As far as the description is known before the points are.
            Some(wanted) => {
                let beginning = lane.describe(*operation, None);
                wanted.starts_with(&beginning) || beginning.starts_with(&wanted)
            }
            None => is_full() || at % 3 == turn,
        };
        ALL.into_iter().enumerate().filter(is_due).map(|(_, operation)| operation).collect()
    });
    let operations: Vec<Vec<_>> = operations.collect();
    side_by_side(&mut lanes, operations, |lane, operations| lane.record(&operations));
    let mut due: BTreeSet<_> =
        points.iter().skip(deal.choose("share", SHARE)).step_by(SHARE).cloned().collect();
    let cases: Vec<_> = lanes.iter().map(|lane| lane.dealt(&deal, &mut due)).collect();
    side_by_side(&mut lanes, cases, |lane, cases| cases.into_iter().for_each(|case| lane.strike(case)));

    let count: usize = lanes.iter().map(|lane| lane.count).sum();
    let failures: Vec<_> = lanes.iter().flat_map(|lane| lane.failures.clone()).collect();
    assert!(failures.is_empty(), "{} of {count} cases failed:\n{}", failures.len(), failures.join("\n---\n"));
    let struck: BTreeSet<_> = lanes.iter().flat_map(|lane| &lane.struck).collect();
    let missed = |point: &&String| !struck.contains(*point) && !ELSEWHERE.contains(&&***point);
    let missing: Vec<_> = points.iter().filter(missed).collect();
    assert!(!is_full() || wanted().is_some() || missing.is_empty(), "no operation reaches {missing:?}");
    println!("vm: {count} cases at {} points", struck.len());
}

/// What was answered is on the server's disk, and a power cut in the middle is like any other end.
#[test]
fn a_power_cut_of_the_server_loses_nothing_that_was_answered() {
    required();
    let _alone = POWER.write().unwrap_or_else(PoisonError::into_inner);
    let way = Way::all()[0];
    let mut rig = Rig::new(way);
    // Each takes the server's grace period.
    let (answered, ended) = if is_full() { (5, 3) } else { (3, 1) };
    for operation in [Snapshot, Delete, Expand, Restore, Create].into_iter().take(answered) {
        let begun = Instant::now();
        let reference = reference(&mut rig, operation);
        let mut known = rig.prepare(operation);
        rig.way.export.wait_for_purge();
        until_final(|| perform(&mut rig.driver.co(), way, operation, &mut known)).unwrap();
        way.export.cut();
        kill_all(&mut rig.driver);
        way.export.reboot();
        rig.restart();
        same("after the power cut", &reference.inventory, &rig)
            .unwrap_or_else(|e| panic!("{operation:?}: {e}"));
        if operation == Expand {
            // What was asked for is in the record, and a volume does not shrink.
            let answer = until_final(|| rig.driver.co().expand(&known.volumes[0], MIB)).unwrap();
            assert_eq!(answer.capacity_bytes, (3 * MIB).cast_signed());
        }
        rig.delete_all(&known);
        rig.clear_away();
        println!("vm: power cut after {operation:?}: {:.1} s", begun.elapsed().as_secs_f32());
    }
    let points =
        [(Restore, "share.placed"), (Delete, "share.root-gone"), (Snapshot, "share.snapshot-renamed")];
    for (operation, point) in points.into_iter().take(ended) {
        let reference = reference(&mut rig, operation);
        let hit = (point.to_owned(), 1);
        strike(&mut rig, operation, &reference, End::Power, &hit)
            .unwrap_or_else(|e| panic!("{operation:?} {point}: {e}"));
    }
}
