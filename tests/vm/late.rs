//! What a server that stops in the middle of something does later, or never, and what that does to others.

use crate::{
    dead::{D, Dead, Kind, alone, threads_that_wait},
    drill::{Sample, Volume, Work, World},
    guest::{A, Corner, required},
    support::{
        co::{Mode, Spec, csi},
        eventually,
        host::run,
        is_full,
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tonic::Status;
use wharf::volume::{Key, Name};

/// What an operation on a share may take, and the end of the helper that hangs in it.
const BOUND: Duration = Duration::from_secs(35);

type Answer = Result<Option<csi::Volume>, Status>;

/// In the background, with the time that it took.
fn begun(world: &World, work: Work) -> JoinHandle<(Answer, Duration)> {
    let (client, begin) = (world.client.clone(), Instant::now());
    world.runtime.spawn(async move {
        let answer = work.perform(client, Duration::from_secs(60)).await;
        (answer, begin.elapsed())
    })
}

/// A PV that somebody wrote by hand, of a directory of the server.
fn by_hand(world: &World, directory: &str, name: &str, exclusive: bool) -> Volume {
    let context = [("server", D.address), ("share", "/export/xfs"), ("subDir", directory)]
        .into_iter()
        .chain(exclusive.then_some(("exclusive", "true")));
    let context = context.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let spec = Spec::new().mode(Mode::MultiNodeMultiWriter).flag("nfsvers=4.2").context(context);
    Volume {
        id: format!("by-hand-{name}"),
        spec,
        staging: world.places.staging(name),
        pods: world.places.target(name),
    }
}

/// What is left of a volume in a part of the store. Other tests' drivers leave theirs there.
fn left(world: &World, volume: &str, part: &str) -> Vec<PathBuf> {
    let Work::Create(name, _) = world.creation(Some(D), volume) else { unreachable!() };
    let key = Key::of(&Name::new(name).unwrap()).to_string();
    let is_its = |left: &PathBuf| left.file_name().unwrap().to_str().unwrap().starts_with(&key);
    entries(&D.inside("xfs").join(".wharf").join(part)).into_iter().filter(is_its).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Not done, and the same request again finds out.
fn assert_unknown((answer, elapsed): (Answer, Duration), what: &str) {
    println!("late: {what} was answered after {elapsed:?}: {answer:?}");
    assert!(answer.is_err() && elapsed < BOUND, "{what}: {answer:?} after {elapsed:?}");
}

/// A failpoint that a test arms while the driver runs.
struct Arming(tempfile::TempDir);

impl Arming {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("armed"), "").unwrap();
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("armed")
    }

    /// Has this creation stand still when a record is written but not on the server's disk, stops the server, and lets it
    /// go on: into fsync(2). Gives the helper that waits there.
    fn stop_in_fsync(
        &self,
        world: &World,
        creation: &Work,
    ) -> (JoinHandle<(Answer, Duration)>, Dead, String) {
        fs::write(self.path(), "share.file-written=stop").unwrap();
        let running = begun(world, creation.clone());
        let mut stopped = Vec::new();
        eventually("a helper stands still", 60, || {
            stopped = helpers_in("T");
            !stopped.is_empty()
        });
        let (dead, helper) = (Dead::new(Kind::Frozen), stopped.remove(0));
        run("kill", ["-CONT", &*helper]);
        eventually("it waits in fsync", 20, || is_in_fsync(&helper));
        (running, dead, helper)
    }
}

#[test]
fn a_server_stops_in_a_records_fsync() {
    required();
    let _alone = alone();
    let name = "late-fsync";
    let corner = Corner::new(D, "xfs", name);
    let arming = Arming::new();
    let world = World::with(name, &[], &[("WHARF_FAILPOINT_FILE", arming.path().to_str().unwrap())]);
    let first = world.create(Some(D), &["first".into()]);
    let creation = world.creation(Some(D), "second");
    let (running, dead, helper) = arming.stop_in_fsync(&world, &creation);
    assert_unknown(world.runtime.block_on(running).unwrap(), "CreateVolume");
    eventually("it was released and is gone", 20, || is_gone(&helper));
    drop(dead);
    let made = world.all(&[creation]).remove(0).unwrap();
    assert!(corner.0.join("second").is_dir());
    let second = world.volume(made, world.class(Some(D), "second"), "second");
    world.all(&[Work::Delete(second), Work::Delete(first[0].clone())]);
    eventually("nothing is left in tmp", 90, || left(&world, "second", "tmp").is_empty());
}

/// One of its threads is in that system call: proc_pid_syscall(5).
fn is_in_fsync(pid: &str) -> bool {
    let threads = entries(&Path::new("/proc").join(pid).join("task"));
    let number = format!("{} ", libc::SYS_fsync);
    threads
        .iter()
        .any(|thread| fs::read_to_string(thread.join("syscall")).is_ok_and(|call| call.starts_with(&number)))
}

#[test]
fn a_server_stops_in_a_mount() {
    required();
    let _alone = alone();
    let name = "late-mount";
    let (_corner, _other) = (Corner::new(D, "xfs", name), Corner::new(A, "xfs", name));
    let world = World::with(name, &[], &[]);
    let a = world.create(Some(A), &["a".into()]).remove(0);
    let volume = by_hand(&world, name, "mount", false);
    let begin = Instant::now();
    world.all(&[Work::Stage(a.clone())]);
    let healthy = begin.elapsed();
    world.all(&[Work::Unstage(a.clone())]);
    let dead = Dead::new(Kind::Unexported);
    let running = begun(&world, Work::Stage(volume.clone()));
    eventually("a child mounts", 10, || running.is_finished() || Sample::of(world.driver.pid()).children > 1);
    // The kernel makes one client of version 4 after the other.
    let begin = Instant::now();
    world.all(&[Work::Stage(a.clone())]);
    let beside = begin.elapsed();
    println!("late: a mount of another server: {healthy:?}, {beside:?} beside one that hangs");
    let answer = world.runtime.block_on(running).unwrap();
    // Its child has 30 s here, and 5 s without the option.
    assert_unknown(answer, "Stage");
    assert!(beside < healthy * 2 + Duration::from_secs(35), "{beside:?}, {healthy:?} before");
    drop(dead);
    world.all(&[Work::Stage(volume.clone())]);
    world.all(&[Work::Unstage(volume), Work::Unstage(a.clone())]);
    world.all(&[Work::Delete(a)]);
}

/// A process that writes lines and waits for the server now and then, until told to end. Not one of the tests' own
/// threads: each child that they start would close the file, and wait for the server with that.
struct Pod {
    process: Child,
    /// As the server sees it.
    file: PathBuf,
}

impl Pod {
    fn new(target: &Path, file: PathBuf) -> Self {
        let script = "trap 'end=1' TERM; exec 3>f; i=0
            while [ -z \"$end\" ]; do
                echo $i >&3 || exit 1
                i=$((i + 1))
                [ $((i % 10)) != 0 ] || sync f || exit 2
            done
            sync f || exit 3
            echo $i";
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(target).stdout(Stdio::piped());
        Self { process: command.spawn().unwrap(), file }
    }

    /// What has reached the server.
    fn written(&self) -> u64 {
        fs::metadata(&self.file).map_or(0, |found| found.len())
    }

    /// How many lines it has written, all without an error.
    fn end(self) -> usize {
        run("kill", [self.process.id().to_string()]);
        let output = self.process.wait_with_output().unwrap();
        assert!(output.status.success(), "the pod's writes fail: {}", output.status);
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}

#[test]
fn another_volume_of_the_share_loses_no_write() {
    required();
    let _alone = alone();
    for (exclusive, kind) in
        [(false, Kind::Frozen), (true, Kind::Dropped), (true, Kind::Frozen), (false, Kind::Dropped)]
            .into_iter()
            .take(if is_full() { 4 } else { 2 })
    {
        let name = format!("late-write-{exclusive}-{kind:?}").to_lowercase();
        let corner = Corner::new(D, "xfs", &name);
        let world = World::with(&name, &[], &[]);
        let volume = |each: &str| {
            fs::create_dir(corner.0.join(each)).unwrap();
            by_hand(&world, &format!("{name}/{each}"), each, exclusive)
        };
        let (stays, goes) = (volume("stays"), volume("goes"));
        for volume in [&stays, &goes] {
            world.all(&[Work::Stage(volume.clone())]);
            world.all(&[Work::Publish(volume.clone(), "pod")]);
        }
        fs::write(Path::new(&goes.target("pod")).join("f"), "x").unwrap();
        let mut pod = Pod::new(Path::new(&stays.target("pod")), corner.0.join("stays/f"));
        eventually("the pod writes", 60, || pod.written() > 100);
        let dead = Dead::new(kind);
        let (mut last, mut since) = (pod.written(), Instant::now());
        eventually("the pod waits", 60, || {
            if pod.written() != last {
                (last, since) = (pod.written(), Instant::now());
            }
            since.elapsed() > Duration::from_secs(1)
        });
        for work in [Work::Unpublish(goes.clone(), "pod"), Work::Unstage(goes.clone())] {
            let (what, begin) = (work_name(&work), Instant::now());
            world.perform(work).unwrap();
            println!("late: {name}: {what} took {:?}", begin.elapsed());
        }
        println!("late: {name}: the pod had written {last} bytes");
        drop(dead);
        let thawed = Instant::now();
        let mut ended = || pod.process.try_wait().unwrap().is_some();
        eventually("the pod writes again", 180, || {
            ended() || fs::metadata(&pod.file).unwrap().len() > last + 100
        });
        println!("late: {name}: the pod writes again after {:?}", thawed.elapsed());
        let count = pod.end();
        let expected: String = (0..count).map(|line| format!("{line}\n")).collect();
        assert!(fs::read_to_string(corner.0.join("stays/f")).unwrap() == expected, "{name}: writes are lost");
        world.all(&[Work::Unpublish(stays.clone(), "pod")]);
        world.all(&[Work::Unstage(stays)]);
    }
}

fn work_name(work: &Work) -> &'static str {
    if matches!(work, Work::Unstage(_)) { "Unstage" } else { "Unpublish" }
}

/// The process of a pid namespace's own that `unshare` has started.
fn init_of(world: &World) -> String {
    let pid = world.driver.pid();
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().trim().to_owned()
}

/// Its first thread is a zombie while another one waits for the processes of its namespace.
fn is_gone(pid: &str) -> bool {
    let states = entries(&Path::new("/proc").join(pid).join("task"));
    states.iter().filter_map(|task| fs::read_to_string(task.join("stat")).ok()).all(|it| it.contains(") Z "))
}

/// Children of a driver of which a thread is in this state: proc_pid_stat(5).
fn helpers_in(state: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let wanted = format!(") {state} ");
    let is_one = |process: &PathBuf| {
        let threads = entries(&process.join("task"));
        fs::read(process.join("cmdline")).is_ok_and(|line| line.ends_with(b"share-helper\0"))
            && threads.iter().any(|thread| {
                fs::read_to_string(thread.join("stat")).is_ok_and(|stat| stat.contains(&wanted))
            })
    };
    let pid = |process: PathBuf| process.file_name().unwrap().to_str().unwrap().to_owned();
    processes.filter(is_one).map(pid).collect()
}

fn helpers_that_wait() -> usize {
    helpers_in("D").len()
}

/// A driver's container ends while the server is silent, and another one is started.
#[test]
fn a_container_is_killed_beside_a_dead_server() {
    required();
    let _alone = alone();
    let name = "late-container";
    let (corner, _other) = (Corner::new(D, "xfs", name), Corner::new(A, "xfs", name));
    let container = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let arming = Arming::new();
    let mut first =
        World::with(name, &container, &[("WHARF_FAILPOINT_FILE", arming.path().to_str().unwrap())]);
    let before = first.create(Some(D), &["before".into()]).remove(0);
    let creation = first.creation(Some(D), "stuck");
    let (_running, dead, helper) = arming.stop_in_fsync(&first, &creation);
    let old = init_of(&first);
    assert!(!old.is_empty() && !is_gone(&old), "the container's init {old:?}");
    first.driver.kill();
    let killed = Instant::now();
    while !is_gone(&old) && killed.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let gone = [&helper, &old].map(|pid| is_gone(pid));
    println!("late: {:?} after the kill its helper and its init are gone: {gone:?}", killed.elapsed());

    let second = World::with(name, &container, &[]);
    let a = second.create(Some(A), &["a".into()]).remove(0);
    assert_unknown(second.runtime.block_on(begun(&second, creation.clone())).unwrap(), "CreateVolume");
    second.all(&[Work::Delete(a)]);
    assert!(helpers_that_wait() <= 2, "{} helpers wait", helpers_that_wait());
    println!("late: its init is gone before another driver looks: {}", is_gone(&old));
    // One that sees all processes of the host releases what the first one left, while the server is still dead.
    let third = World::with("late-container-3", &[], &[]);
    eventually("the first container has ended", 60, || is_gone(&old));
    println!("late: it is gone; {}", third.driver.log());
    drop(third);
    drop(dead);
    let made = second.all(&[creation]).remove(0).unwrap();
    assert!(corner.0.join("stuck").is_dir());
    let made = second.volume(made, second.class(Some(D), "stuck"), "stuck");
    second.all(&[Work::Delete(made), Work::Delete(before)]);
    eventually("nothing waits any more", 60, || helpers_that_wait() == 0);
}

/// What was given up takes effect after the thaw, when somebody else may have made the same anew.
#[test]
fn a_late_rename_destroys_nothing() {
    required();
    let _alone = alone();
    let name = "late-rename";
    let corner = Corner::new(D, "xfs", name);
    let world = World::with(name, &[], &[]);
    let creation = world.creation(Some(D), "v");
    let root = corner.0.join("v");
    let mut volume = world.create(Some(D), &["v".into()]).remove(0);
    for turn in 0..if is_full() { 5 } else { 1 } {
        fs::write(root.join("old"), "").unwrap();
        let dead = Dead::new(Kind::Frozen);
        let deletion = Work::Delete(volume.clone());
        assert_unknown(world.runtime.block_on(begun(&world, deletion.clone())).unwrap(), "DeleteVolume");
        drop(dead);
        world.all(&[deletion]);
        world.all(std::slice::from_ref(&creation));
        fs::write(root.join("new"), turn.to_string()).unwrap();
        settled(&world);
        assert!(root.join("new").exists() && !root.join("old").exists(), "the new volume's content");
        world.all(&[Work::Delete(volume.clone())]);

        let dead = Dead::new(Kind::Frozen);
        assert_unknown(world.runtime.block_on(begun(&world, creation.clone())).unwrap(), "CreateVolume");
        drop(dead);
        let made = world.all(std::slice::from_ref(&creation)).remove(0).unwrap();
        fs::write(root.join("new"), turn.to_string()).unwrap();
        volume = world.volume(made, world.class(Some(D), "v"), "v");
        settled(&world);
        assert!(root.join("new").exists(), "the new volume's content");
        fs::remove_file(root.join("new")).unwrap();
    }
    world.all(&[Work::Delete(volume)]);
    eventually("trash is empty", 90, || left(&world, "v", "trash").is_empty());
}

/// All that was asked of the server has been done, and nobody is left who would ask more.
fn settled(world: &World) {
    // Other servers' threads look the same.
    eventually("the server has done all that it was asked", 180, || threads_that_wait() == 0);
    eventually("what hung is gone", 60, || Sample::of(world.driver.pid()).children <= 1);
}
