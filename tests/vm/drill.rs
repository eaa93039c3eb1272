//! The drill: fifty requests stuck on a server that died, and everybody else works on.
//!
//! By default one of three kinds of death, dealt by the commit, for a minute, in which every request is repeated as an
//! orchestrator repeats it; `WHARF_TEST_FULL=1` makes it ten minutes, and the other two kinds a minute each. What grows in ten minutes grows in the second half of one, too: requests last
//! fifteen seconds here, not the two minutes that orchestrators give them.

use crate::{
    dead::{D, Dead, Kind, alone},
    guest::{A, Corner, Server, required},
    points::Deal,
    support::{
        MIB,
        co::{Mode, Spec, csi},
        driver::Driver,
        eventually,
        host::{attempt, run},
        is_full,
        places::Places,
    },
};
use std::{
    collections::BTreeMap,
    env, fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle, time::sleep};
use tonic::{Code, Request, Status};
use wharf::rpc::client::Client;

/// What the caller of a stuck request gives it.
const LIMIT: Duration = Duration::from_secs(15);
/// What it is answered within, over that.
const GRACE: Duration = Duration::from_secs(1);
/// How long an orchestrator waits before it asks again; after each failure twice as long, up to the second.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Between the beginnings of the fifty: an emulated machine takes a second to begin them all at once, which is the
/// time by which the driver is ahead of its callers' deadlines.
const STAGGER: Duration = Duration::from_millis(100);
/// Of callers that are not stuck.
const LONG: Duration = Duration::from_secs(60);
/// Until a healthy server has done what it is asked on a machine that is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// A volume, and the paths that it is given.
#[derive(Clone)]
pub struct Volume {
    pub id: String,
    pub spec: Spec,
    pub staging: PathBuf,
    pub pods: PathBuf,
}

impl Volume {
    pub fn target(&self, pod: &str) -> String {
        format!("{}-{pod}", self.pods.display())
    }
}

/// A request.
#[derive(Clone)]
pub enum Work {
    Create(String, Spec),
    Delete(Volume),
    Snapshot(String, Volume),
    DeleteSnapshot(String),
    Stage(Volume),
    Unstage(Volume),
    Publish(Volume, &'static str),
    Unpublish(Volume, &'static str),
    Stats(Volume, &'static str),
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Self::Create(..) => "CreateVolume",
            Self::Delete(_) => "DeleteVolume",
            Self::Snapshot(..) => "CreateSnapshot",
            Self::DeleteSnapshot(_) => "DeleteSnapshot",
            Self::Stage(_) => "Stage",
            Self::Unstage(_) => "Unstage",
            Self::Publish(..) => "Publish",
            Self::Unpublish(..) => "Unpublish",
            Self::Stats(..) => "Stats",
        }
    }

    /// What was made has an id.
    pub async fn perform(self, client: Client, limit: Duration) -> Result<Option<csi::Volume>, Status> {
        let Client { mut controller, mut node, .. } = client;
        fn of<T>(message: T, limit: Duration) -> Request<T> {
            let mut request = Request::new(message);
            request.set_timeout(limit);
            request
        }
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        match self {
            Self::Create(name, spec) => {
                let answer = controller.create_volume(of(spec.request(&name), limit)).await?;
                return Ok(answer.into_inner().volume);
            }
            Self::Delete(volume) => {
                let message = csi::DeleteVolumeRequest { volume_id: volume.id, ..Default::default() };
                controller.delete_volume(of(message, limit)).await?;
            }
            Self::Snapshot(name, volume) => {
                let message =
                    csi::CreateSnapshotRequest { name, source_volume_id: volume.id, ..Default::default() };
                let made = controller.create_snapshot(of(message, limit)).await?.into_inner().snapshot;
                let volume_id = made.unwrap().snapshot_id;
                return Ok(Some(csi::Volume { volume_id, ..Default::default() }));
            }
            Self::DeleteSnapshot(snapshot_id) => {
                let message = csi::DeleteSnapshotRequest { snapshot_id, ..Default::default() };
                controller.delete_snapshot(of(message, limit)).await?;
            }
            Self::Stage(volume) => {
                let message = csi::NodeStageVolumeRequest {
                    staging_target_path: text(&volume.staging),
                    volume_id: volume.id,
                    volume_capability: Some(volume.spec.capability()),
                    volume_context: volume.spec.context,
                    ..Default::default()
                };
                node.node_stage_volume(of(message, limit)).await?;
            }
            Self::Unstage(volume) => {
                let message = csi::NodeUnstageVolumeRequest {
                    staging_target_path: text(&volume.staging),
                    volume_id: volume.id,
                };
                node.node_unstage_volume(of(message, limit)).await?;
            }
            Self::Publish(volume, pod) => {
                let message = csi::NodePublishVolumeRequest {
                    staging_target_path: text(&volume.staging),
                    target_path: volume.target(pod),
                    volume_id: volume.id,
                    volume_capability: Some(volume.spec.capability()),
                    volume_context: volume.spec.context,
                    ..Default::default()
                };
                node.node_publish_volume(of(message, limit)).await?;
            }
            Self::Unpublish(volume, pod) => {
                let message =
                    csi::NodeUnpublishVolumeRequest { target_path: volume.target(pod), volume_id: volume.id };
                node.node_unpublish_volume(of(message, limit)).await?;
            }
            Self::Stats(volume, pod) => {
                let message = csi::NodeGetVolumeStatsRequest {
                    volume_path: volume.target(pod),
                    volume_id: volume.id,
                    ..Default::default()
                };
                node.node_get_volume_stats(of(message, limit)).await?;
            }
        }
        Ok(None)
    }
}

/// A driver with local volumes and two servers.
pub struct World {
    pub client: Client,
    pub runtime: Runtime,
    pub driver: Driver,
    pub places: Places,
    _pool: TempDir,
    name: String,
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(name, &[], &[])
    }

    /// `around` are the words before the driver's own command.
    pub fn with(name: &str, around: &[&str], environment: &[(&str, &str)]) -> Self {
        required();
        let pool = tempfile::Builder::new().prefix("wharf-pool-").tempdir().unwrap();
        let words: Vec<_> = around.iter().chain(&[env!("CARGO_BIN_EXE_wharf")]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        // An emulated machine takes long to mount what is healthy. Requests end at their own deadlines all the same.
        command.args([
            "standalone",
            "--node-id",
            "node-1",
            "--owner",
            name,
            "--mount-timeout",
            "30",
            "--pool",
        ]);
        command.arg(format!("default={}", pool.path().display()));
        let mut driver = Driver::spawn_as(command, environment);
        assert!(driver.wait_until_ready(), "{}", driver.log());
        let runtime = Runtime::new().unwrap();
        // The client's own limit is further away than any that a request has.
        let client = runtime.block_on(Client::connect(&driver.socket(), 3 * LONG)).unwrap();
        Self { client, runtime, driver, places: Places::new(), _pool: pool, name: name.to_owned() }
    }

    pub fn perform(&self, work: Work) -> Result<Option<csi::Volume>, Status> {
        self.runtime.block_on(work.perform(self.client.clone(), LONG))
    }

    /// Several at a time, each until it went well.
    pub fn all(&self, works: &[Work]) -> Vec<Option<csi::Volume>> {
        let mut done = Vec::new();
        for chunk in works.chunks(6) {
            let running: Vec<_> = chunk
                .iter()
                .map(|work| self.runtime.spawn(patiently(work.clone(), self.client.clone())))
                .collect();
            done.extend(running.into_iter().map(|task| self.runtime.block_on(task).unwrap()));
        }
        done
    }

    pub fn class(&self, server: Option<Server>, name: &str) -> Spec {
        let Some(server) = server else {
            return Spec::directory("advisory").mode(Mode::SingleNodeMultiWriter).size(MIB);
        };
        Spec::nfs(server.address, "/export/xfs")
            .parameter("subDir", &format!("{}/{name}", self.name))
            .flag("nfsvers=4.2")
            .size(MIB)
    }

    pub fn create(&self, server: Option<Server>, names: &[String]) -> Vec<Volume> {
        let works: Vec<_> = names.iter().map(|name| self.creation(server, name)).collect();
        let made = self.all(&works).into_iter().zip(names);
        made.map(|(made, name)| self.volume(made.unwrap(), self.class(server, name), name)).collect()
    }

    pub fn creation(&self, server: Option<Server>, name: &str) -> Work {
        Work::Create(format!("{}-{name}", self.name), self.class(server, name))
    }

    pub fn volume(&self, made: csi::Volume, spec: Spec, name: &str) -> Volume {
        Volume {
            id: made.volume_id,
            spec: spec.context(made.volume_context),
            staging: self.places.staging(name),
            pods: self.places.target(name),
        }
    }
}

/// The same again until it is done.
async fn patiently(work: Work, client: Client) -> Option<csi::Volume> {
    let begin = Instant::now();
    loop {
        match work.clone().perform(client.clone(), LONG).await {
            Ok(done) => return done,
            Err(status) if begin.elapsed() < PATIENCE => {
                println!("drill: {} once more: {status:?}", work.name());
                sleep(PAUSE).await;
            }
            Err(status) => panic!("{}: {status:?}", work.name()),
        }
    }
}

/// How long each thing took, by place and request.
#[derive(Default)]
struct Latencies(BTreeMap<(&'static str, &'static str), Vec<Duration>>);

/// What no server has a part in: a process of the driver's program.
const REFERENCE: (&str, &str) = ("no server", "a process");

impl Latencies {
    /// How slow the machine is.
    fn refer(&mut self) {
        let begin = Instant::now();
        run(env!("CARGO_BIN_EXE_wharf"), ["--version"]);
        self.0.entry(REFERENCE).or_default().push(begin.elapsed());
    }

    fn measure(&mut self, world: &World, place: &'static str, volume: &Volume) {
        for work in [
            Work::Stats(volume.clone(), "stays"),
            Work::Publish(volume.clone(), "comes"),
            Work::Unpublish(volume.clone(), "comes"),
        ] {
            let (name, begin) = (work.name(), Instant::now());
            // Where a loaded machine misses the driver's limits, that counts as one that took longer.
            world.all(&[work]);
            self.0.entry((place, name)).or_default().push(begin.elapsed());
        }
    }

    fn medians(&self) -> BTreeMap<(&'static str, &'static str), Duration> {
        let median = |all: &Vec<Duration>| {
            let mut all = all.clone();
            all.sort();
            all[all.len() / 2]
        };
        self.0.iter().map(|(what, all)| (*what, median(all))).collect()
    }
}

/// What the driver's process has in use.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub threads: usize,
    pub children: usize,
}

impl Sample {
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap_or("0");
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let children = tasks.map(|task| of(task).split_whitespace().count()).sum();
        Self { threads: threads.trim().parse().unwrap(), children }
    }
}

/// Looks now and then, until told to end.
struct Watch {
    end: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<Sample>>,
}

impl Watch {
    fn new(pid: u32) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut samples = Vec::new();
            while !theirs.load(Ordering::Acquire) {
                samples.push(Sample::of(pid));
                thread::sleep(Duration::from_millis(250));
            }
            samples
        });
        Self { end, thread }
    }

    fn end(self) -> Vec<Sample> {
        self.end.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

/// An answer, and when it came.
type Answer = (&'static str, Duration, Result<(), Status>);

/// Requests that are asked again and again until they are done, or it is over.
struct Stuck {
    end: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Answer>>>,
    tasks: Vec<JoinHandle<bool>>,
}

impl Stuck {
    fn new(world: &World, works: &[Work]) -> Self {
        let (end, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let task = |(i, work): (usize, &Work)| {
            let (end, answers, work) = (Arc::clone(&end), Arc::clone(&answers), work.clone());
            let client = world.client.clone();
            world.runtime.spawn(async move {
                sleep(STAGGER * u32::try_from(i).unwrap()).await;
                let mut pause = PAUSE;
                while !end.load(Ordering::Acquire) {
                    let begin = Instant::now();
                    let answer = work.clone().perform(client.clone(), LIMIT).await;
                    let done = answer.is_ok() && !matches!(work, Work::Stats(..));
                    answers.lock().unwrap().push((work.name(), begin.elapsed(), answer.map(drop)));
                    if done {
                        return true;
                    }
                    let woken = Instant::now() + pause;
                    while Instant::now() < woken && !end.load(Ordering::Acquire) {
                        sleep(PAUSE).await;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                false
            })
        };
        let tasks = works.iter().enumerate().map(task).collect();
        Self { end, answers, tasks }
    }

    /// Which of them are done, and what was answered.
    fn end(self, world: &World) -> (Vec<bool>, Vec<Answer>) {
        self.end.store(true, Ordering::Release);
        let done = self.tasks.into_iter().map(|task| world.runtime.block_on(task).unwrap()).collect();
        (done, std::mem::take(&mut *self.answers.lock().unwrap()))
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i}")).collect()
}

fn drill(kind: Kind, lasts: Duration) {
    required();
    let _alone = alone();
    let name = format!("drill-{kind:?}").to_lowercase();
    let (_corner_a, _corner_d) = (Corner::new(A, "xfs", &name), Corner::new(D, "xfs", &name));
    let world = World::new(&name);

    let local = world.create(None, &names("local", 1)).remove(0);
    let a = world.create(Some(A), &names("a", 1)).remove(0);
    let used = world.create(Some(D), &names("used", 6));
    let dying = world.create(Some(D), &names("dying", 6));
    let coming = world.create(Some(D), &names("coming", 6));
    let going = world.create(Some(D), &names("going", 5));
    let staged: Vec<_> = [&local, &a].into_iter().chain(&used).chain(&going).cloned().collect();
    world.all(&staged.iter().cloned().map(Work::Stage).collect::<Vec<_>>());
    let published = [&local, &a].into_iter().chain(&used);
    world.all(&published.map(|volume| Work::Publish(volume.clone(), "stays")).collect::<Vec<_>>());
    world.all(&used[..5].iter().map(|volume| Work::Publish(volume.clone(), "goes")).collect::<Vec<_>>());
    world.all(&used.iter().map(|volume| Work::Stats(volume.clone(), "stays")).collect::<Vec<_>>());
    println!("drill: {name}: prepared, {:?}", Sample::of(world.driver.pid()));

    let mut before = Latencies::default();
    for _ in 0..9 {
        before.refer();
        before.measure(&world, "local", &local);
        before.measure(&world, "a", &a);
    }

    println!("drill: {:?}", before.medians());

    let new = names("new", 10);
    let mut works: Vec<_> = new.iter().map(|name| world.creation(Some(D), name)).collect();
    for (i, volume) in used.iter().enumerate() {
        works.push(Work::Snapshot(format!("{name}-{i}"), volume.clone()));
        works.push(Work::Publish(volume.clone(), "comes"));
        works.push(Work::Stats(volume.clone(), "stays"));
    }
    works.extend(used[..5].iter().map(|volume| Work::Unpublish(volume.clone(), "goes")));
    works.extend(dying.iter().cloned().map(Work::Delete));
    works.extend(coming.iter().cloned().map(Work::Stage));
    works.extend(going.iter().cloned().map(Work::Unstage));
    assert_eq!(works.len(), 50);

    let healthy = Sample::of(world.driver.pid());
    let said = world.driver.log().len();
    let dead = Dead::new(kind);
    let begin = Instant::now();
    let (watch, stuck) = (Watch::new(world.driver.pid()), Stuck::new(&world, &works));
    let mut meanwhile = Latencies::default();
    while begin.elapsed() < lasts {
        meanwhile.refer();
        meanwhile.measure(&world, "local", &local);
        meanwhile.measure(&world, "a", &a);
    }
    let (done, answers) = stuck.end(&world);
    let samples = watch.end();
    println!("drill: {name}: dead for {:?}, {} answers", begin.elapsed(), answers.len());
    let faults = [
        others(&before, &meanwhile),
        in_time(&answers),
        answered(&world.driver.log()[said..]),
        bounded(&samples),
        comes_back(&world, dead, &works, &done, &used[5]),
        settles(&world, healthy),
    ]
    .concat();
    take_away(&world, &works, &[vec![local, a], used, dying, coming, going].concat());
    assert!(faults.is_empty(), "{name}:\n{}", faults.join("\n"));
}

/// Local volumes and the other server are as quick as ever: as far as the machine is, which is emulated and has two
/// processors for the driver, its children, the servers and fifty callers.
fn others(before: &Latencies, meanwhile: &Latencies) -> Vec<String> {
    let (before, meanwhile) = (before.medians(), meanwhile.medians());
    let mut faults = Vec::new();
    let load = meanwhile[&REFERENCE].as_secs_f32() / before[&REFERENCE].as_secs_f32();
    for (what, then) in &before {
        let now = meanwhile[what];
        println!("drill: {what:?}: {} ms, then {} ms", then.as_millis(), now.as_millis());
        // A machine that takes twice as long for anything says nothing about servers.
        if *what != REFERENCE
            && load < 2.0
            && now > then.mul_f32(2.0 * load.max(1.0)) + Duration::from_millis(200)
        {
            faults.push(format!("{what:?} took {now:?} beside a dead server, not {then:?}"));
        }
    }
    faults
}

/// Each is answered by its deadline. Where the machine was too busy to give the driver a request in time, its caller's
/// own clock ends it: then the driver's log tells, see [`answered`].
fn in_time(answers: &[Answer]) -> Vec<String> {
    let (mut faults, mut counts) = (Vec::new(), BTreeMap::<_, (usize, Duration)>::new());
    for (name, elapsed, answer) in answers {
        let code = answer.as_ref().map_or_else(Status::code, |()| Code::Ok);
        let entry = counts.entry((*name, format!("{code:?}"))).or_default();
        *entry = (entry.0 + 1, entry.1.max(*elapsed));
        if code == Code::Cancelled {
            continue;
        }
        if *elapsed > LIMIT + GRACE {
            faults.push(format!("{name} was answered after {elapsed:?}: {answer:?}"));
        } else if !matches!(code, Code::Ok | Code::Unavailable | Code::Aborted) {
            faults.push(format!("{name} was answered with {answer:?} after {elapsed:?}"));
        }
    }
    for ((name, code), (count, longest)) in counts {
        println!("drill: {name}: {code} {count} times, {:.1} s at most", longest.as_secs_f32());
    }
    faults
}

/// The driver's own word: nobody went away who had not been answered for as long as a request may take.
fn answered(log: &str) -> Vec<String> {
    let milliseconds = |line: &str| {
        let (_, rest) = line.split_once(" ms=")?;
        rest.split(' ').next()?.parse::<f64>().ok()
    };
    let late = |line: &&str| {
        let cancelled = line.contains("code=\"CANCELLED\"");
        let most = if cancelled { LIMIT } else { LIMIT + GRACE };
        line.contains("rpc id=") && milliseconds(line).is_some_and(|ms| ms > most.as_secs_f64() * 1000.0)
    };
    log.lines().filter(late).map(str::to_owned).collect()
}

/// What is in use does not grow with the time.
fn bounded(samples: &[Sample]) -> Vec<String> {
    let most = |samples: &[Sample]| {
        let threads = samples.iter().map(|sample| sample.threads).max().unwrap();
        Sample { threads, children: samples.iter().map(|sample| sample.children).max().unwrap() }
    };
    let (first, second) = samples.split_at(samples.len() / 2);
    let (first, second) = (most(first), most(second));
    println!("drill: at most {first:?}, then {second:?}, in {} samples", samples.len());
    let grown = second.threads > first.threads + 8 || second.children > first.children + 8;
    let many = first.threads.max(second.threads) > 150 || first.children.max(second.children) > 60;
    if grown || many { vec![format!("at first {first:?}, then {second:?}")] } else { Vec::new() }
}

/// Once the server answers, what was not done is done at the first attempt.
fn comes_back(world: &World, dead: Dead, works: &[Work], done: &[bool], used: &Volume) -> Vec<String> {
    drop(dead);
    // A connection that has been silent is tried again less and less often; that is the kernel's matter.
    let begin = Instant::now();
    eventually("the server answers the mounts that were there", 180, || {
        attempt("timeout", ["-s", "KILL", "5", "stat", &used.target("stays")]).is_ok()
    });
    println!("drill: the kernel has found the server again after {:?}", begin.elapsed());
    let mut faults = Vec::new();
    for (work, _) in works.iter().zip(done).filter(|(_, done)| !**done) {
        let begin = Instant::now();
        if let Err(status) = world.perform(work.clone()) {
            faults.push(format!("{} after the server came back: {status:?}", work.name()));
            world.all(std::slice::from_ref(work));
        }
        println!("drill: {} took {:?} then", work.name(), begin.elapsed());
    }
    faults
}

/// What was started for the stuck requests goes.
fn settles(world: &World, healthy: Sample) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let now = Sample::of(world.driver.pid());
        if now.threads <= healthy.threads + 8 && now.children <= healthy.children + 2 {
            println!("drill: {healthy:?} before, {now:?} again after {:?}", begin.elapsed());
            return Vec::new();
        }
        if begin.elapsed() > Duration::from_secs(60) {
            return vec![format!("{healthy:?} before, {now:?} a minute after the server came back")];
        }
        thread::sleep(PAUSE);
    }
}

fn take_away(world: &World, works: &[Work], volumes: &[Volume]) {
    let mut volumes = volumes.to_vec();
    for work in works {
        // The same request again says what it was that was made.
        match work {
            Work::Create(name, spec) => {
                let made = world.all(std::slice::from_ref(work)).remove(0).unwrap();
                volumes.push(world.volume(made, spec.clone(), name));
            }
            Work::Snapshot(..) => {
                let made = world.all(std::slice::from_ref(work)).remove(0).unwrap();
                world.all(&[Work::DeleteSnapshot(made.volume_id)]);
            }
            _ => {}
        }
    }
    for pod in ["stays", "goes", "comes"] {
        world.all(&volumes.iter().map(|volume| Work::Unpublish(volume.clone(), pod)).collect::<Vec<_>>());
    }
    world.all(&volumes.iter().cloned().map(Work::Unstage).collect::<Vec<_>>());
    world.all(&volumes.into_iter().map(Work::Delete).collect::<Vec<_>>());
}

/// `WHARF_DRILL=Frozen` (or another one) is that alone.
#[test]
fn a_server_dies() {
    let kinds = [Kind::Dropped, Kind::Frozen, Kind::Busy];
    let dealt = Deal::new().choose("drill", kinds.len());
    let wanted = |kind: &Kind| match env::var("WHARF_DRILL") {
        Ok(name) => name == format!("{kind:?}"),
        Err(_) => is_full() || *kind == kinds[dealt],
    };
    for kind in kinds.into_iter().filter(wanted) {
        let is_long = is_full() && kind == kinds[dealt];
        drill(kind, Duration::from_secs(if is_long { 600 } else { 60 }));
    }
}
