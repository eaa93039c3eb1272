//! Volumes on shares through their whole life, as an orchestrator drives it: every RPC, every version.

use crate::{
    export::helpers,
    guest::{A, A6, Corner, Server, required},
    support::{
        MIB,
        co::{Co, Spec, csi},
        data::write_durably,
        driver::Driver,
        eventually,
        host::mounts,
        places::Places,
    },
};
use csi::volume_usage::Unit;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};
use tonic::{Code, Status};
use wharf::volume::{Key, Name};

/// A driver for shares alone, and the paths that an orchestrator gives it.
struct World {
    co: Co,
    driver: Driver,
    places: Places,
}

impl World {
    /// Of an owner: two with the same are one cluster.
    fn new(owner: &str, shares: &[&str]) -> Self {
        let driver = start(owner, shares);
        Self { co: driver.co(), driver, places: Places::new() }
    }

    /// kill -9 and a new process.
    fn restart(&mut self, owner: &str, shares: &[&str]) {
        self.driver.kill();
        self.driver = start(owner, shares);
        self.co = self.driver.co();
    }

    /// Stage and Publish; gives the target.
    fn start(&mut self, id: &str, name: &str, spec: &Spec) -> PathBuf {
        let (staging, target) = (self.places.staging(name), self.places.target(name));
        self.co.stage(id, &staging, spec).unwrap();
        self.co.publish(id, &staging, &target, spec, false).unwrap();
        target
    }

    fn stop(&mut self, id: &str, name: &str) {
        self.co.unpublish(id, &self.places.target(name)).unwrap();
        self.co.unstage(id, &self.places.staging(name)).unwrap();
    }
}

fn start(owner: &str, shares: &[&str]) -> Driver {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(["standalone", "--node-id", "node-1", "--owner", owner, "--mount-timeout", "30"]);
    // Any share will do, for a driver needs a pool or a share.
    let shares = if shares.is_empty() { &["127.0.0.1:/export/xfs"] } else { shares };
    shares.iter().for_each(|share| {
        command.arg("--share").arg(share);
    });
    let mut driver = Driver::spawn_as(command, &[]);
    assert!(driver.wait_until_ready(), "{}", driver.log());
    driver
}

fn spec(server: Server, export: &str, version: &str, corner: &str) -> Spec {
    Spec::nfs(server.address, &format!("/export/{export}"))
        .parameter("subDir", &format!("{corner}/${{pvc.metadata.name}}"))
        .parameter("csi.storage.k8s.io/pvc/name", "claim")
        .flag(&format!("nfsvers={version}"))
}

fn with_name(spec: &Spec, name: &str) -> Spec {
    let mut spec = spec.clone();
    spec.parameters.retain(|(key, _)| key != "csi.storage.k8s.io/pvc/name");
    spec.parameter("csi.storage.k8s.io/pvc/name", name)
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Status>, wanted: Code) -> String {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), wanted, "{status:?}");
    status.message().to_owned()
}

fn bytes_of(stats: &csi::NodeGetVolumeStatsResponse) -> &csi::VolumeUsage {
    stats.usage.iter().find(|usage| usage.unit == i32::from(Unit::Bytes)).unwrap()
}

#[test]
fn every_rpc_in_every_version() {
    required();
    for (server, export, version) in [
        (A, "xfs", "4.2"),
        (A, "xfs", "4.1"),
        (A, "ext4", "3"),
        (A6, "ext4", "4.2"),
        (A6, "xfs", "3"),
        // Other tests take B's link away.
        (A, "xfs", "4.0"),
    ] {
        let name = format!("life-{}-{export}-{version}", server.address.replace([':', '.'], "-"));
        println!("vm: {name}");
        a_whole_life(server, export, version, &name);
    }
}

fn a_whole_life(server: Server, export: &str, version: &str, name: &str) {
    let corner = Corner::new(server, export, name);
    let mut world = World::new(name, &[]);
    let class = spec(server, export, version, name).size(64 * MIB);
    let made = world.co.create(name, &class).unwrap();
    assert_eq!(world.co.create(name, &class).unwrap(), made, "the same request again");
    assert_eq!(made.capacity_bytes, i64::try_from(64 * MIB).unwrap());
    assert!(made.accessible_topology.is_empty());
    let id = &made.volume_id;
    let used = class.clone().context(made.volume_context.clone());
    let target = world.start(id, name, &used);
    write_durably(&target.join("f"), b"content");
    assert_eq!(fs::read(corner.0.join("claim/f")).unwrap(), b"content");
    let figures = world.co.stats(id, &target).unwrap();
    assert_eq!(bytes_of(&figures).total, i64::try_from(64 * MIB).unwrap(), "{figures:?}");
    assert!(bytes_of(&figures).used < i64::try_from(MIB).unwrap(), "the volume's own: {figures:?}");

    let snapshot = world.co.snapshot(&format!("{name}-snap"), id).unwrap();
    assert!(snapshot.ready_to_use && snapshot.snapshot_id.starts_with("nfs-snap-"));
    write_durably(&target.join("f"), b"later");
    let restored = world
        .co
        .restore(&format!("{name}-restored"), &with_name(&class, "restored"), &snapshot.snapshot_id)
        .unwrap();
    assert_eq!(fs::read(corner.0.join("restored/f")).unwrap(), b"content");
    let cloned = world.co.clone_volume(&format!("{name}-clone"), &with_name(&class, "clone"), id).unwrap();
    assert_eq!(fs::read(corner.0.join("clone/f")).unwrap(), b"later");

    // The same requests again find what they made, whatever has become of its source since.
    world.co.delete_snapshot(&snapshot.snapshot_id).unwrap();
    let restored_again =
        world.co.restore(&format!("{name}-restored"), &with_name(&class, "restored"), &snapshot.snapshot_id);
    assert_eq!(restored_again.unwrap(), restored);
    let snapshot = world.co.snapshot(&format!("{name}-snap"), id).unwrap();

    let grown = world.co.expand(id, 128 * MIB).unwrap();
    assert_eq!(
        (grown.capacity_bytes, grown.node_expansion_required),
        (i64::try_from(128 * MIB).unwrap(), false)
    );
    let cloned_again =
        world.co.clone_volume(&format!("{name}-clone"), &with_name(&class, "clone"), id).unwrap();
    assert_eq!(cloned_again, cloned);
    // A controller that knows nothing yet finds all of it by the ids.
    world.restart(name, &[&format!("{}:/export/{export},nfsvers={version}", bracketed(server))]);
    let ids: BTreeSet<_> = [id, &restored.volume_id, &cloned.volume_id].into_iter().cloned().collect();
    let listed: BTreeSet<_> = world.co.volumes().unwrap().into_iter().collect();
    assert_eq!(listed, ids);
    assert_eq!(world.co.snapshots().unwrap(), std::slice::from_ref(&snapshot.snapshot_id));
    // Still mounted, by another process: publishing again finds it.
    world.co.publish(id, &world.places.staging(name), &target, &used, false).unwrap();
    world.stop(id, name);
    world.stop(id, name);
    world.co.delete_snapshot(&snapshot.snapshot_id).unwrap();
    for id in &ids {
        world.co.delete(id).unwrap();
        world.co.delete(id).unwrap();
    }
    assert_eq!(world.co.volumes().unwrap(), [""; 0]);
    assert!(fs::read_dir(&corner.0).unwrap().next().is_none(), "nothing is left of them");
    // Trash of other tests' drivers is theirs.
    let keys: Vec<_> = ["", "-snap", "-restored", "-clone"].map(|end| key_of(&format!("{name}{end}"))).into();
    let trash = server.inside(export).join(".wharf/trash");
    eventually("trash is purged", 60, || {
        let left =
            fs::read_dir(&trash).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        left.filter(|left| keys.iter().any(|key| left.contains(key))).count() == 0
    });
}

fn key_of(name: &str) -> String {
    Key::of(&Name::new(name.to_owned()).unwrap()).to_string()
}

fn bracketed(server: Server) -> String {
    if server.address.contains(':') { format!("[{}]", server.address) } else { server.address.to_owned() }
}

/// Hard links, symlinks, odd names, holes, modes, owners, times: as far as the protocol shows them.
#[test]
fn copies_are_faithful() {
    required();
    for (export, version) in [("xfs", "4.2"), ("ext4", "4.2"), ("ext4", "3")] {
        let name = format!("faithful-{export}-{version}");
        let corner = Corner::new(A, export, &name);
        let mut world = World::new(&name, &[]);
        let class = spec(A, export, version, &name);
        let made = world.co.create(&name, &class).unwrap();
        let root = corner.0.join("claim");
        let tree = |root: &Path| {
            let out = Command::new("bash")
                .arg("-c")
                .arg("cd \"$0\" && find . -printf '%P %y %m %U %G %n %s %T@ %l\\0' | sort -z; find . -type f -print0 | sort -z | xargs -0 sha256sum; getfattr -R -d -m user . 2>/dev/null; true")
                .arg(root)
                .output()
                .unwrap();
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), vec![7; 300_000]).unwrap();
        fs::hard_link(root.join("a/file"), root.join("a/b/link")).unwrap();
        symlink("../nowhere", root.join("a/b/symlink")).unwrap();
        fs::write(root.join("new\nline \u{fc} \\ \"quoted\""), "x").unwrap();
        fs::write(root.join("-rf"), "y").unwrap();
        fs::set_permissions(root.join("-rf"), fs::Permissions::from_mode(0o4710)).unwrap();
        std::os::unix::fs::chown(root.join("a/file"), Some(1234), Some(4321)).unwrap();
        let holey = fs::File::create(root.join("holey")).unwrap();
        holey.set_len(64 * MIB).unwrap();
        std::os::unix::fs::FileExt::write_at(&holey, b"end", 64 * MIB - 3).unwrap();
        drop(holey);
        let snapshot = world.co.snapshot(&format!("{name}-snap"), &made.volume_id).unwrap();
        let restored = world
            .co
            .restore(&format!("{name}-copy"), &with_name(&class, "copy"), &snapshot.snapshot_id)
            .unwrap();
        assert_eq!(tree(&corner.0.join("copy")), tree(&root), "{name}");
        let (from, to) = (root.join("holey"), corner.0.join("copy/holey"));
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
        assert!(blocks(&to) < 2048, "holes stay holes: {} of {} blocks", blocks(&to), blocks(&from));
        for id in [&made.volume_id, &restored.volume_id] {
            world.co.delete(id).unwrap();
        }
        world.co.delete_snapshot(&snapshot.snapshot_id).unwrap();
    }
}

#[test]
fn each_end_of_a_volume() {
    required();
    let name = "ends";
    let corner = Corner::new(A, "xfs", name);
    let mut world = World::new(name, &[]);
    for (end, kept) in
        [("delete", None), ("retain", Some("retain/f")), ("archive", Some("archived-archive."))]
    {
        let class = with_name(&spec(A, "xfs", "4.2", name).parameter("onDelete", end), end);
        let made = world.co.create(&format!("{name}-{end}"), &class).unwrap();
        fs::write(corner.0.join(end).join("f"), end).unwrap();
        world.co.delete(&made.volume_id).unwrap();
        let left: Vec<_> = fs::read_dir(&corner.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|left| left.contains(end))
            .collect();
        match kept {
            None => assert_eq!(left, [""; 0]),
            Some(kept) if end == "retain" => {
                assert_eq!(fs::read_to_string(corner.0.join(kept)).unwrap(), end)
            }
            Some(kept) => {
                assert!(left.len() == 1 && left[0].starts_with(kept), "{left:?}");
                assert_eq!(fs::read_to_string(corner.0.join(&left[0]).join("f")).unwrap(), end);
            }
        }
    }
    // The same claim again gets its data back, where that was asked for.
    let class = with_name(&spec(A, "xfs", "4.2", name).parameter("onDelete", "retain"), "retain");
    let again = world.co.create(&format!("{name}-again"), &class).unwrap();
    assert_eq!(fs::read_to_string(corner.0.join("retain/f")).unwrap(), "retain");
    world.co.delete(&again.volume_id).unwrap();
    let refused = with_name(&spec(A, "xfs", "4.2", name), "retain");
    let why = code(world.co.create(&format!("{name}-other"), &refused), Code::AlreadyExists);
    assert!(why.contains("not empty"), "{why}");
}

/// Each has its code, a message that names what is meant, and leaves nothing.
#[test]
fn what_cannot_be_done_is_said() {
    required();
    let name = "refused";
    let corner = Corner::new(A, "xfs", name);
    let mut world = World::new(name, &[]);
    let good = spec(A, "xfs", "4.2", name);
    let class = |server: &str, share: &str| Spec::nfs(server, share);
    let mut create = |spec: &Spec| world.co.create(name, spec);
    for (spec, wanted, says) in [
        (class("no-such-host.invalid", "/export/xfs"), Code::Unavailable, "no-such-host.invalid"),
        (class("127.0.0.1", "/export/xfs").flag("port=9"), Code::Unavailable, "127.0.0.1"),
        (class("127.0.0.1", "/export/none"), Code::NotFound, "/export/none"),
        (class("127.0.0.1", "/export/ro"), Code::FailedPrecondition, "read-only"),
        (class("127.0.0.1", "/export/xfs").flag("nfsvers=3").flag("lock"), Code::InvalidArgument, "lock"),
        (good.clone().parameter("pool", "default"), Code::InvalidArgument, "local"),
        (class("127.0.0.1", "/export/xfs").parameter("subDir", "../x"), Code::InvalidArgument, ".."),
        (class("127.0.0.1", "/export/xfs").parameter("subDir", ".wharf/x"), Code::InvalidArgument, ".wharf"),
        (class("127.0.0.1", "/export/squash").owner(1000, 1000, "0770"), Code::PermissionDenied, "squash"),
    ] {
        let why = code(create(&spec), wanted);
        assert!(why.contains(says), "{says}: {why}");
    }
    assert!(fs::read_dir(&corner.0).unwrap().next().is_none());
    code(world.co.snapshot("x", "nfs-AAAAAAAAAAAAAAAAAAAAAA#127.0.0.1#/export/xfs"), Code::NotFound);
    world.co.delete("nfs-AAAAAAAAAAAAAAAAAAAAAA#127.0.0.1#/export/xfs").unwrap();
    code(world.co.expand("nfs-AAAAAAAAAAAAAAAAAAAAAA#127.0.0.1#/export/xfs", MIB), Code::NotFound);
}

/// What a volume's id says is enough for a controller that knows nothing.
#[test]
fn a_server_on_another_port() {
    required();
    A.listen_elsewhere();
    for version in ["3", "4.2"] {
        let name = format!("port-{version}");
        let corner = Corner::new(A, "xfs", &name);
        let mut world = World::new(&name, &[]);
        let class = spec(A, "xfs", version, &name).flag("port=2050").flag("mountproto=tcp");
        let id = world.co.create(&name, &class).unwrap().volume_id;
        assert!(id.contains("port=2050"), "{id}");
        world.restart(&name, &[]);
        let snapshot = world.co.snapshot(&format!("{name}-snap"), &id).unwrap().snapshot_id;
        assert!(snapshot.contains("port=2050"), "{snapshot}");
        world.restart(&name, &[]);
        world.co.delete_snapshot(&snapshot).unwrap();
        world.restart(&name, &[]);
        world.co.delete(&id).unwrap();
        assert!(fs::read_dir(&corner.0).unwrap().next().is_none());
    }
}

/// What it alone has written (proc_pid_smaps(5)). The pages of the program, which it shares with the driver, are many
/// more in an unoptimised one: their part is printed.
#[test]
fn a_helper_is_small() {
    required();
    let name = "small";
    let _corner = Corner::new(A, "xfs", name);
    let mut world = World::new(name, &[]);
    let id = world.co.create(name, &spec(A, "xfs", "4.2", name)).unwrap().volume_id;
    let helpers = helpers(&world.driver);
    assert!(!helpers.is_empty());
    for helper in helpers {
        let smaps = fs::read_to_string(format!("/proc/{helper}/smaps_rollup")).unwrap();
        let [own, part] = ["Private_Dirty:", "Pss:"].map(|name| -> u64 {
            let line = smaps.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        });
        println!("vm: a helper has {own} KiB to itself, PSS {part} KiB");
        assert!(own <= 3 << 10, "{smaps}");
    }
    world.co.delete(&id).unwrap();
}

/// Mount options in secrets are stronger than those of the class and of the id, and nobody reads them.
#[test]
fn options_in_secrets() {
    required();
    let name = "secrets";
    let _corner = Corner::new(A, "xfs", name);
    let mut world = World::new(name, &[]);
    let secrets = |options: &str| BTreeMap::from([("mountOptions".to_owned(), options.to_owned())]);
    let class = spec(A, "xfs", "4.2", name).flag("port=2049");
    let mut request = class.request(name);
    request.secrets = secrets("port=9");
    let refused = world.co.call(|mut client| {
        let request = request.clone();
        async move { client.controller.create_volume(request).await }
    });
    code(refused, Code::Unavailable);
    let made = world.co.create(name, &class).unwrap();
    let id = made.volume_id;
    let delete =
        |options: &str| csi::DeleteVolumeRequest { volume_id: id.clone(), secrets: secrets(options) };
    let refused = delete("port=9");
    code(
        world.co.call(|mut client| async move { client.controller.delete_volume(refused).await }),
        Code::Unavailable,
    );
    let odd = delete("mystery=1");
    let why = code(
        world.co.call(|mut client| async move { client.controller.delete_volume(odd).await }),
        Code::InvalidArgument,
    );
    assert!(!why.contains("=1"), "{why}");

    let staging = world.places.staging(name);
    let message = csi::NodeStageVolumeRequest {
        volume_id: id.clone(),
        staging_target_path: staging.to_str().unwrap().to_owned(),
        volume_capability: Some(class.capability()),
        volume_context: made.volume_context.clone(),
        secrets: secrets("soft,timeo=77"),
        ..Default::default()
    };
    world.co.call(|mut client| async move { client.node.node_stage_volume(message).await }).unwrap();
    let mounted = mounts().into_iter().rfind(|mount| mount.point.ends_with("staging/secrets")).unwrap();
    assert!(
        mounted.super_options.contains("soft") && mounted.super_options.contains("timeo=77"),
        "{mounted:?}"
    );
    world.co.unstage(&id, &staging).unwrap();
    let log = world.driver.log();
    assert!(!log.contains("port=9") && !log.contains("timeo=77"), "{log}");
    let gone = delete("port=2049");
    world.co.call(|mut client| async move { client.controller.delete_volume(gone).await }).unwrap();
    assert_eq!(world.co.volumes().unwrap(), [""; 0]);
}

/// Two clusters on one export, and two controllers of one.
#[test]
fn others_on_the_same_share() {
    required();
    let name = "others";
    let corner = Corner::new(A, "xfs", name);
    let share = ["127.0.0.1:/export/xfs"];
    let (mut one, mut two, mut stranger) =
        (World::new(name, &share), World::new(name, &share), World::new("strangers", &share));
    let class = spec(A, "xfs", "4.2", name);
    let made = one.co.create(name, &class).unwrap();
    assert_eq!(two.co.create(name, &class).unwrap(), made, "one cluster");
    assert!(two.co.volumes().unwrap().contains(&made.volume_id));
    assert!(!stranger.co.volumes().unwrap().contains(&made.volume_id));
    code(stranger.co.create(name, &class), Code::AlreadyExists);
    // Above, below and the same directory are taken.
    for (number, sub_dir) in
        [name.to_owned(), format!("{name}/claim"), format!("{name}/claim/below")].iter().enumerate()
    {
        let nested = Spec::nfs(A.address, "/export/xfs").parameter("subDir", sub_dir);
        code(two.co.create(&format!("{name}-{number}"), &nested), Code::AlreadyExists);
    }
    // Looked up by one, made and deleted by the other.
    two.co.delete(&made.volume_id).unwrap();
    one.co.delete(&made.volume_id).unwrap();
    let again = one.co.create(name, &class).unwrap();
    assert!(corner.0.join("claim").is_dir());
    two.co.delete(&again.volume_id).unwrap();
    assert!(!corner.0.join("claim").exists());
}

/// PVs of csi-driver-nfs: without a record, and never the root of the share.
#[test]
fn volumes_of_csi_driver_nfs() {
    required();
    let name = "legacy";
    let corner = Corner::new(A, "xfs", name);
    let mut world = World::new(name, &[]);
    let volume = "pvc-4bcbf944-b6f7-4bd0-b50f-3c3dd00efc64";
    let id = |end: &str| format!("127.0.0.1#export/xfs#{name}/{volume}#{volume}#{end}");
    for end in ["delete", "archive", "retain", ""] {
        let directory = corner.0.join(volume);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("f"), "content").unwrap();
        let context =
            [("server", "127.0.0.1"), ("share", "/export/xfs"), ("subdir", &format!("{name}/{volume}"))];
        let used = Spec::new().context(context.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let target = world.start(&id(end), name, &used);
        assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "content");
        assert_eq!(
            world.co.expand(&id(end), 64 * MIB).unwrap().capacity_bytes,
            i64::try_from(64 * MIB).unwrap()
        );
        world.stop(&id(end), name);
        world.co.delete(&id(end)).unwrap();
        assert_eq!(directory.exists(), end == "retain", "{end:?}");
        if directory.exists() {
            fs::remove_file(directory.join("f")).unwrap();
            fs::remove_dir(&directory).unwrap();
        }
    }
    let archived = fs::read_dir(&corner.0).unwrap().count();
    assert_eq!(archived, 1, "the archived one");
    let why = code(world.co.delete(&format!("127.0.0.1#export/xfs##{volume}#")), Code::FailedPrecondition);
    assert!(why.contains("root of its share"), "{why}");
}
