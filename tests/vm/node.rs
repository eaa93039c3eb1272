//! Volumes on shares on a node, from volume contexts that a person could have written: staged, published, looked at
//! and taken away, with servers of every version, and with servers that stop to answer.

use crate::{
    guest::{A, A6, B, Corner, Frozen, Server, link_b, required},
    share,
    support::{
        co::{Co, Mode, Spec, csi},
        driver::Driver,
        host::{attempt, mounts, run},
        places::Places,
    },
};
use csi::volume_usage::Unit;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::MutexGuard,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use wharf::{
    os::{mount::Attributes, mountinfo::Mount},
    share::{Children, Limits, Staging, Unmounted, Unmounting, client, node::Patience},
    volume::nfs::{self, Settings},
};

/// What an RPC about a dead server may take.
const BOUND: Duration = Duration::from_secs(20);

/// A driver and the paths that an orchestrator gives it.
pub struct World {
    pub co: Co,
    pub driver: Driver,
    pub places: Places,
    pool: TempDir,
}

/// A PV that somebody wrote by hand.
#[derive(Clone)]
pub struct Pv {
    pub handle: String,
    pub context: Vec<(String, String)>,
    pub spec: Spec,
}

impl Pv {
    pub fn new(handle: &str, server: &str, share: &str) -> Self {
        let context = vec![("server".to_owned(), server.to_owned()), ("share".to_owned(), share.to_owned())];
        Self { handle: handle.to_owned(), context, spec: Spec::new().mode(Mode::MultiNodeMultiWriter) }
    }

    /// Of an export of the guest's servers, a directory of it.
    pub fn of(server: Server, export: &str, directory: &str, version: &str) -> Self {
        let handle = format!("{}/{export}/{directory}/{version}", server.address);
        let pv = Self::new(&handle, server.address, &format!("/export/{export}"));
        pv.with("subDir", directory).flag(&format!("nfsvers={version}"))
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.context.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn flag(mut self, flag: &str) -> Self {
        self.spec = self.spec.flag(flag);
        self
    }

    fn mode(mut self, mode: Mode) -> Self {
        self.spec = self.spec.mode(mode);
        self
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(60));
    request
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn start(pool: &TempDir, environment: &[(&str, String)]) -> Driver {
    // The guest is slow, and no time is judged.
    let patient = [("WHARF_MOUNT_TIMEOUT", "30")];
    let others = environment.iter().map(|(name, value)| (*name, &**value));
    Driver::start(&[("default", pool.path())], &patient.into_iter().chain(others).collect::<Vec<_>>())
}

impl World {
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(environment: &[(&str, String)]) -> Self {
        required();
        let pool = tempfile::Builder::new().prefix("wharf-pool-").tempdir().unwrap();
        let driver = start(&pool, environment);
        let places = Places::new();
        places.staging("volume");
        Self { co: driver.co(), driver, places, pool }
    }

    /// Of a driver that has ended.
    pub fn restart(&mut self, environment: &[(&str, String)]) {
        self.driver = start(&self.pool, environment);
        self.co = self.driver.co();
    }

    pub fn stage_at(&mut self, pv: &Pv, staging: &Path) -> Result<(), Status> {
        let message = csi::NodeStageVolumeRequest {
            volume_id: pv.handle.clone(),
            staging_target_path: text(staging),
            volume_capability: Some(pv.spec.capability()),
            volume_context: pv.context.iter().cloned().collect(),
            ..Default::default()
        };
        self.co
            .call(|mut client| async move { client.node.node_stage_volume(request(message)).await })
            .map(drop)
    }

    fn publish_from(&mut self, pv: &Pv, staging: &Path, target: &Path, readonly: bool) -> Result<(), Status> {
        let message = csi::NodePublishVolumeRequest {
            volume_id: pv.handle.clone(),
            staging_target_path: text(staging),
            target_path: text(target),
            volume_capability: Some(pv.spec.capability()),
            volume_context: pv.context.iter().cloned().collect(),
            readonly,
            ..Default::default()
        };
        self.co
            .call(|mut client| async move { client.node.node_publish_volume(request(message)).await })
            .map(drop)
    }

    pub fn staging(&self) -> PathBuf {
        // Not through `Places::staging`, which looks whether it is there.
        self.places.path().join("staging/volume")
    }

    pub fn stage(&mut self, pv: &Pv) -> Result<(), Status> {
        self.stage_at(pv, &self.staging())
    }

    pub fn publish(&mut self, pv: &Pv, pod: &str, readonly: bool) -> Result<PathBuf, Status> {
        let (staging, target) = (self.staging(), self.places.target(pod));
        self.publish_from(pv, &staging, &target, readonly).map(|()| target)
    }

    pub fn unstage(&mut self, pv: &Pv) -> Result<(), Status> {
        self.co.unstage(&pv.handle, &self.staging())
    }

    /// The reasons that NodeGetVolumeHealth gives.
    pub fn health(&mut self, pv: &Pv, target: &Path) -> Vec<String> {
        let message = csi::NodeGetVolumeHealthRequest {
            volume_id: pv.handle.clone(),
            volume_publish_path: text(target),
            staging_target_path: text(&self.staging()),
        };
        let answer = self
            .co
            .call(|mut client| async move { client.node.node_get_volume_health(request(message)).await })
            .unwrap();
        let errors = answer.volume_health.into_iter().flat_map(|health| health.health_statuses);
        errors.map(|error| error.reason).collect()
    }

    /// (total, used, available) bytes.
    pub fn figures(&mut self, pv: &Pv, path: &Path) -> (i64, i64, i64) {
        let answer = patiently(|| self.co.stats(&pv.handle, path));
        let bytes = answer.usage.iter().find(|usage| usage.unit == Unit::Bytes as i32).unwrap();
        (bytes.total, bytes.used, bytes.available)
    }

    /// What is mounted at the paths that the driver was given.
    pub fn mounts(&self) -> Vec<Mount> {
        let below = self.places.path().canonicalize().unwrap();
        mounts().into_iter().filter(|mount| mount.point.starts_with(&below)).collect()
    }

    pub fn mount_at(&self, path: &Path) -> Mount {
        let point = path.parent().unwrap().canonicalize().unwrap().join(path.file_name().unwrap());
        self.mounts().into_iter().rfind(|mount| mount.point == point).unwrap()
    }
}

/// As an orchestrator does: UNAVAILABLE is answered by the same call again. On a machine that emulates another one a
/// healthy server may miss the driver's limits.
#[track_caller]
pub fn patiently<T>(mut call: impl FnMut() -> Result<T, Status>) -> T {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        match call() {
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::Aborted)
                    && Instant::now() < deadline =>
            {
                println!("node: once more: {}", status.message());
                std::thread::sleep(Duration::from_millis(500));
            }
            answer => return answer.unwrap(),
        }
    }
}

pub fn code(outcome: Result<impl Sized, Status>) -> Code {
    outcome.err().map_or(Code::Ok, |status| status.code())
}

#[test]
fn a_volume_lives_with_every_version() {
    let mut world = World::new();
    for (server, export, version) in [
        (A, "xfs", "4.2"),
        (A, "xfs", "4.1"),
        (A, "xfs", "4.0"),
        (A, "xfs", "3"),
        (A, "ext4", "4.2"),
        (A6, "xfs", "4.2"),
        (A6, "xfs", "3"),
        (B, "xfs", "4.2"),
        (B, "xfs", "3"),
    ] {
        let name = format!("life-{version}");
        let corner = Corner::new(server, export, &name);
        fs::create_dir(corner.0.join("deep er")).unwrap();
        let pv = Pv::of(server, export, &format!("{name}/deep er"), version);
        println!("node: {}", pv.handle);
        assert_eq!(code(world.publish(&pv, "pod", false)), Code::FailedPrecondition, "not staged");
        for _ in 0..2 {
            patiently(|| world.stage(&pv));
        }
        let staged = world.mount_at(&world.staging());
        println!("node: {staged:?}");
        let host = if server.address.contains(':') {
            format!("[{}]", server.address)
        } else {
            server.address.into()
        };
        // Another test may have called the server by its other address first.
        let of_host = staged.source.starts_with(&format!("{host}:"));
        assert!(of_host || (server.root == A.root && version.starts_with('4')), "{staged:?}");
        assert!(staged.source.ends_with(&format!(":/export/{export}/{name}/deep er")), "{staged:?}");
        assert!(staged.has("nosuid") && staged.has("nodev"), "{staged:?}");
        assert!(staged.super_options.contains(&format!("vers={version}")), "{staged:?}");

        let (mut targets, inside) = (Vec::new(), corner.0.join("deep er"));
        for (pod, readonly) in [("rw", false), ("ro", true)] {
            for _ in 0..2 {
                targets.push(patiently(|| world.publish(&pv, pod, readonly)));
            }
        }
        let (rw, ro) = (targets[0].clone(), targets[2].clone());
        assert_eq!(world.mounts().len(), 3);
        fs::write(rw.join("f"), "by the pod").unwrap();
        assert_eq!(fs::read_to_string(inside.join("f")).unwrap(), "by the pod");
        assert_eq!(fs::read_to_string(ro.join("f")).unwrap(), "by the pod");
        let refused = fs::write(ro.join("g"), "").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        assert_eq!(code(world.publish(&pv, "rw", true)), Code::AlreadyExists);

        let (total, used, available) = world.figures(&pv, &rw);
        assert!(used < total && available > 0 && available < total, "{total} {used} {available}");
        assert_eq!(world.health(&pv, &rw), [] as [&str; 0]);
        let grown = world.co.expand_node(&pv.handle, &rw, 5 << 30).unwrap();
        assert_eq!(grown.capacity_bytes, 5 << 30);
        for target in [&rw, &ro, &rw] {
            world.co.unpublish(&pv.handle, target).unwrap();
            assert!(!target.exists());
        }
        assert_eq!(code(world.co.stats(&pv.handle, &rw)), Code::NotFound);
        for _ in 0..2 {
            world.unstage(&pv).unwrap();
        }
        assert_eq!(world.mounts(), []);
        assert!(world.staging().is_dir());
    }
}

#[test]
fn an_exclusive_volume_has_a_superblock_and_one_place() {
    let mut world = World::new();
    let corner = Corner::new(A, "xfs", "exclusive");
    let fileid = fs::metadata(&corner.0).unwrap().ino();
    let pv =
        Pv::of(A, "xfs", "exclusive", "4.2").with("exclusive", "true").mode(Mode::SingleNodeSingleWriter);
    let foreign = pv.clone().with("fileid", "1");
    assert_eq!(code(world.stage(&foreign)), Code::FailedPrecondition, "another inode");
    assert_eq!(world.mounts(), []);
    let pv = pv.with("fileid", &fileid.to_string());
    patiently(|| world.stage(&pv));
    let staged = world.mount_at(&world.staging());
    assert!(staged.super_options.contains("nosharecache"), "{staged:?}");

    let second = world.places.staging("second");
    assert_eq!(code(world.stage_at(&pv, &second)), Code::FailedPrecondition);
    patiently(|| world.publish(&pv, "one", false));
    assert_eq!(code(world.publish(&pv, "two", false)), Code::FailedPrecondition);
    assert!(!world.places.target("two").exists());
    // Nothing in common with a mount that shares its superblock, but for the directory.
    let shared = Pv::of(A, "xfs", "exclusive", "4.2");
    let other = world.places.staging("other");
    patiently(|| world.stage_at(&shared, &other));
    assert_ne!(world.mount_at(&other).device, staged.device);
    world.co.unstage(&shared.handle, &other).unwrap();
    world.co.unpublish(&pv.handle, &world.places.target("one")).unwrap();
    world.unstage(&pv).unwrap();
    assert_eq!(world.mounts(), []);
}

/// A shell, a backup, a monitor on the node: what it and the server still have to say to each other is not cut off.
#[test]
fn a_mount_that_is_in_use_is_not_forced() {
    let mut world = World::new();
    let corner = Corner::new(A, "xfs", "used");
    let pv = Pv::of(A, "xfs", "used", "4.2").with("exclusive", "true");
    patiently(|| world.stage(&pv));
    let mut user = std::process::Command::new("bash")
        .args(["-c", "exec 3>f; echo begun >&3; read -r line; echo \"$line\" >&3 && sync f && exec 3>&-"])
        .current_dir(world.staging())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    crate::support::eventually("it is there", 20, || world.staging().join("f").exists());
    world.unstage(&pv).unwrap();
    assert_eq!(world.mounts(), []);
    let log = world.driver.log();
    assert!(log.contains("UnmountLazy") && !log.contains("UnmountForced"), "{log}");
    std::io::Write::write_all(&mut user.stdin.take().unwrap(), b"ended\n").unwrap();
    assert!(user.wait().unwrap().success());
    assert_eq!(fs::read_to_string(corner.0.join("f")).unwrap(), "begun\nended\n");
}

#[test]
fn what_is_mounted_otherwise_is_said() {
    let mut world = World::new();
    let corner = Corner::new(A, "xfs", "otherwise");
    fs::create_dir(corner.0.join("else")).unwrap();
    let pv = Pv::of(A, "xfs", "otherwise", "4.2");
    patiently(|| world.stage(&pv));
    for (flag, other) in [("soft", true), ("hard", false), ("noexec", true), ("nfsvers=4.1", true)] {
        let mut changed = pv.clone().flag(flag);
        if other && flag.starts_with("nfsvers") {
            changed.spec.flags.remove(0);
        }
        let expected = if other { Code::AlreadyExists } else { Code::Ok };
        let outcome = world.stage(&changed);
        println!("node: {flag}: {outcome:?}");
        assert_eq!(code(outcome), expected, "{flag}");
    }
    let elsewhere = Pv::of(A, "xfs", "otherwise/else", "4.2");
    assert_eq!(code(world.stage(&elsewhere)), Code::AlreadyExists);
    assert_eq!(code(world.publish(&elsewhere, "pod", false)), Code::FailedPrecondition);
    let mut block = pv.clone();
    block.spec.block = true;
    block.spec.flags.clear();
    assert_eq!(code(world.stage(&block)), Code::FailedPrecondition);
    // An id that says that it lies elsewhere is not what is mounted there.
    let (id, staging) = ("local-6f9619ff-8b86-d011-b42d-00c04fc964ff.n", world.staging());
    assert_eq!(code(world.co.unstage(id, &staging)), Code::NotFound);
    assert_eq!(code(world.co.stats(id, &staging)), Code::NotFound);
    let id = "nfs-b5YZ_4uG0BG0LQDAT8lk_w#127.0.0.1#/export/xfs";
    world.co.unstage(id, &world.staging()).unwrap();
    assert_eq!(world.mounts(), []);
}

#[test]
fn a_stale_mount_is_made_anew() {
    let mut world = World::new();
    for version in ["4.2", "3"] {
        for exclusive in [false, true] {
            let corner = Corner::new(A, "xfs", &format!("stale-{version}-{exclusive}"));
            let directory = corner.0.join("d");
            fs::create_dir(&directory).unwrap();
            let name = format!("stale-{version}-{exclusive}/d");
            let mut pv = Pv::of(A, "xfs", &name, version);
            if exclusive {
                pv = pv.with("exclusive", "true");
            }
            patiently(|| world.stage(&pv));
            let old = patiently(|| world.publish(&pv, "old", false));
            // While it is nowhere, what is staged stays for whoever repairs it.
            let hidden = corner.0.join("hidden");
            fs::rename(&directory, &hidden).unwrap();
            fs::remove_dir(&hidden).unwrap();
            let absent = code(world.publish(&pv, "new", false));
            assert!(
                matches!(absent, Code::NotFound | Code::Unavailable),
                "{version} {exclusive}: {absent:?}"
            );
            assert_eq!(world.mounts().len(), 2);
            fs::create_dir(&directory).unwrap();
            let replace = || {
                fs::remove_dir(&directory).unwrap();
                fs::create_dir(corner.0.join("between")).unwrap();
                fs::create_dir(&directory).unwrap();
                fs::remove_dir(corner.0.join("between")).unwrap();
                fs::write(directory.join("new"), "").unwrap();
            };
            replace();
            let reasons = world.health(&pv, &old);
            assert_eq!(reasons, ["HandleStale"], "{version} {exclusive}");
            // A new pod gets a new mount, and what the old one has is left alone.
            let new = patiently(|| world.publish(&pv, "new", false));
            assert!(new.join("new").exists(), "{version} {exclusive}");
            assert_eq!(fs::read_dir(&old).err().and_then(|error| error.raw_os_error()), Some(libc::ESTALE));
            assert!(world.staging().join("new").exists());
            world.co.unpublish(&pv.handle, &new).unwrap();
            world.co.unpublish(&pv.handle, &old).unwrap();
            // Once more, seen by Stage.
            fs::remove_file(directory.join("new")).unwrap();
            replace();
            patiently(|| world.stage(&pv));
            assert!(world.staging().join("new").exists());
            world.unstage(&pv).unwrap();
            assert_eq!(world.mounts(), []);
        }
    }
}

#[test]
fn bad_input_has_its_code_and_leaves_nothing() {
    let mut world = World::new();
    let corner = Corner::new(A, "xfs", "bad");
    fs::write(corner.0.join("file"), "").unwrap();
    let name = |server: &str, share: &str| Pv::new("bad", server, share).flag("nfsvers=4.2");
    let a = |directory: &str, version: &str| Pv::of(A, "xfs", directory, version);
    for (pv, expected, said) in [
        (name("no-such-host.invalid", "/data"), Code::Unavailable, "server no-such-host.invalid of share"),
        (
            a("bad", "4.2").flag("port=9"),
            Code::Unavailable,
            "server 127.0.0.1 of share 127.0.0.1:/export/xfs/bad",
        ),
        (name("127.0.0.1", "/not/exported"), Code::NotFound, "127.0.0.1:/not/exported"),
        (
            Pv::new("bad", "127.0.0.1", "/not/exported").flag("vers=3"),
            Code::PermissionDenied,
            "127.0.0.1:/not/exported",
        ),
        (a("bad/absent", "4.2"), Code::NotFound, "127.0.0.1:/export/xfs/bad/absent"),
        (a("bad/absent", "3"), Code::NotFound, "127.0.0.1:/export/xfs/bad/absent"),
        (a("bad/file", "4.2"), Code::FailedPrecondition, "127.0.0.1:/export/xfs/bad/file"),
        (a("bad", "4.2").flag("proto=tcp6"), Code::InvalidArgument, "IPv6"),
        (a("bad", "3").flag("lock"), Code::InvalidArgument, "rpc.statd"),
        (a("bad", "4.2").flag("soft").flag("hard"), Code::InvalidArgument, "soft and hard"),
        (a("bad", "4.2").flag("mystery"), Code::InvalidArgument, "unknown"),
        (a("../bad", "4.2"), Code::InvalidArgument, ".."),
        (Pv::new("bad", "127.0.0.1", ""), Code::InvalidArgument, "share"),
        (Pv::new("nfs-b5YZ_4uG0BG0LQDAT8lk_w#127.0.0.1#/d", "", "/d"), Code::InvalidArgument, "server"),
        (a("bad", "4.2").flag("xprtsec=tls"), Code::FailedPrecondition, "mount options"),
    ] {
        let mut error = world.stage(&pv).unwrap_err();
        while error.code() == Code::Unavailable && expected != Code::Unavailable {
            error = world.stage(&pv).unwrap_err();
        }
        println!("node: {:?} {}", error.code(), error.message());
        assert_eq!(error.code(), expected, "{}", error.message());
        assert!(error.message().contains(said), "{}", error.message());
        assert!(!error.message().contains("mystery"));
        assert_eq!(world.mounts(), []);
        assert_eq!(children(&world.driver), 0);
    }
}

/// Servers that export a share and nothing below it: the directory is found inside, and looks as if mounted itself.
#[test]
fn a_directory_of_a_share_is_found_inside() {
    required();
    let corner = Corner::new(A, "xfs", "inside");
    fs::create_dir_all(corner.0.join("a/b c")).unwrap();
    std::os::unix::fs::symlink("a", corner.0.join("link")).unwrap();
    let fileid = fs::metadata(corner.0.join("a/b c")).unwrap().ino();
    let places = Places::new();
    let target = places.staging("volume");
    let children = Children::new(share::launcher(), Patience { mounting: BOUND, ..Patience::default() });
    let connection = Settings::parse_list("vers=3").unwrap().resolve().unwrap().connection().clone();
    let source = nfs::Share::parse("127.0.0.1:/export/xfs/inside").unwrap();
    let limits = Limits { answering: BOUND, ..Limits::default() };
    let mount = |below: &str, fileid: Option<u64>| {
        let data = |version, address| connection.data(version, address);
        let what = client::find(&source, &connection, &limits, data).unwrap();
        let attributes = Attributes { nosuid: true, nodev: true, read_only: true, ..Attributes::default() };
        let staging = Staging {
            what,
            below: below.into(),
            target: target.clone(),
            attributes,
            fileid,
            instead_of: None,
        };
        children.mount("127.0.0.1", staging)
    };
    for (below, fileid, wrong) in
        [("link/b c", None, true), ("../inside", None, true), ("a/b c", Some(1), true)]
    {
        assert_eq!(mount(below, fileid).is_err(), wrong, "{below}");
        assert!(!mounts().iter().any(|mount| mount.point == target));
    }
    assert_eq!(mount("a/b c", Some(fileid)).unwrap().fileid, fileid);
    let mounted = mounts().into_iter().rfind(|mount| mount.point == target).unwrap();
    assert_eq!(mounted.source, "127.0.0.1:/export/xfs/inside/a/b c");
    assert!(mounted.has("ro") && mounted.has("nosuid") && mounted.has("nodev"), "{mounted:?}");
    assert_eq!(children.unmount("127.0.0.1", &Unmounting::of(&target, false)).unwrap(), Unmounted::Plainly);
}

/// Processes that the driver has started and that are not gone.
fn children(driver: &Driver) -> usize {
    let pid = driver.pid();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(|task| of(task).split_whitespace().count()).sum()
}

/// Ways in which server b stops to answer; all is well again when one is dropped.
enum Dead {
    /// The cable is out.
    Down(#[allow(dead_code)] MutexGuard<'static, ()>),
    /// Its disk does not answer, but its network does.
    Frozen(#[allow(dead_code)] Frozen),
}

impl Dead {
    fn new(kind: &str) -> Self {
        match kind {
            "down" => {
                let link = link_b();
                run("ip", ["link", "set", "wharf-b", "down"]);
                Self::Down(link)
            }
            _ => Self::Frozen(Frozen::new(B, "xfs")),
        }
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        if let Self::Down(_) = self {
            // IPv6 addresses go when a link goes down.
            let _ = attempt("ip", ["link", "set", "wharf-b", "up"]);
            let _ = attempt("ip", ["address", "add", "fd77::1/64", "dev", "wharf-b", "nodad"]);
        }
    }
}

#[test]
fn a_dead_server_lets_its_volumes_go() {
    let mut world = World::new();
    for (kind, volumes) in [
        ("down", &[("4.2", true), ("4.1", false), ("3", true)][..]),
        ("frozen", &[("4.2", false), ("3", true)]),
    ] {
        for (version, exclusive) in volumes.iter().copied() {
            let logged = world.driver.log().len();
            let name = format!("dead-{kind}-{version}-{exclusive}");
            let _corner = Corner::new(B, "xfs", &name);
            let mut pv = Pv::of(B, "xfs", &name, version);
            if exclusive {
                pv = pv.with("exclusive", "true");
            }
            patiently(|| world.stage(&pv));
            let target = patiently(|| world.publish(&pv, "pod", false));
            let before = world.figures(&pv, &target);
            // What the pod has not written yet when it is killed.
            let mut writer = std::process::Command::new("sh")
                .args(["-c", "exec 3>f; echo begun >&3; sync f; while :; do echo more >&3; sleep 0.05; done"])
                .current_dir(&target)
                .spawn()
                .unwrap();
            crate::support::eventually("the pod writes", 20, || target.join("f").exists());
            std::thread::sleep(Duration::from_millis(300));

            let dead = Dead::new(kind);
            std::thread::sleep(Duration::from_millis(500));
            writer.kill().unwrap();
            let timed = |what: &str, begin: Instant| {
                println!("node: {name}: {what} took {:?}", begin.elapsed());
                assert!(begin.elapsed() < BOUND, "{name}: {what} took {:?}", begin.elapsed());
            };
            // A frozen filesystem may answer who only asks.
            if kind == "down" {
                let begin = Instant::now();
                assert_eq!(world.figures(&pv, &target), before, "the last figures");
                timed("stats", begin);
                let begin = Instant::now();
                let reasons = world.health(&pv, &target);
                timed("health", begin);
                assert!(reasons.iter().any(|reason| reason == "ServerSilent"), "{name}: {reasons:?}");
                let begin = Instant::now();
                assert_eq!(code(world.publish(&pv, "late", false)), Code::Unavailable);
                timed("publish", begin);
                assert!(!world.places.target("late").exists());
            }
            let begin = Instant::now();
            world.co.unpublish(&pv.handle, &target).unwrap();
            timed("unpublish", begin);
            let begin = Instant::now();
            world.unstage(&pv).unwrap();
            timed("unstage", begin);
            assert_eq!(world.mounts(), []);
            let ways = ["UnmountLazy", "UnmountForced", "UnmountLingers"];
            let log = world.driver.log().split_off(logged);
            let ways: Vec<_> = ways.into_iter().filter(|way| log.contains(way)).collect();
            println!("node: {name}: {ways:?}, children left {}", children(&world.driver));
            let other = Pv::of(A, "xfs", "", "4.2");
            patiently(|| world.stage(&other));
            world.unstage(&other).unwrap();

            drop(dead);
            let _ = writer.wait();
            patiently(|| world.stage(&pv));
            patiently(|| world.publish(&pv, "pod", false));
            assert_eq!(world.health(&pv, &target), [] as [&str; 0]);
            assert!(fs::read_to_string(target.join("f")).unwrap().starts_with("begun"));
            world.co.unpublish(&pv.handle, &target).unwrap();
            world.unstage(&pv).unwrap();
            crate::support::eventually("no child is left", 60, || children(&world.driver) == 0);
        }
    }
}
