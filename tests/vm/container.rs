//! The controller's and the node's container with exactly what the chart gives them, by plain runc.
//!
//! There is no cluster. The roles are the chart's own, `wharf controller` and `wharf node`: for volumes on shares the
//! controller asks the API server for nothing but the cluster's uid and whether a local volume has the same name, which
//! [`ApiServer`] answers; the node's RPCs need nobody, and its API server is away. What would have the node's agent make
//! local volumes are objects, so `wharf standalone` in a second container of the node's makes them in its place.

use crate::{
    dead,
    foreign::{OWNER, described, furnish, give_capability},
    guest::{A, Corner, required},
    manifest::{NODE, Pod},
    node::patiently,
    runc::{ApiServer, Container},
    support::{
        MIB,
        co::{Co, Spec},
        data::write_durably,
        eventually,
        host::{attempt, mounts, run},
        pool::{Kind, Pool},
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tonic::{Code, Status};
use wharf::volume::{Key, Name};

const KUBELET: &str = "/var/lib/kubelet";
const POOL: &str = "/var/lib/wharf";
const UID: &str = "6f2c1c5e-4b0c-4f7c-9d5e-contained0001";

/// What the host of a node has before the first pod; empty again when dropped.
struct Host {
    _pool: Pool,
}

impl Host {
    fn new() -> Self {
        for name in ["pods", "plugins", "plugins_registry"] {
            fs::create_dir_all(Path::new(KUBELET).join(name)).unwrap();
        }
        let pool = Pool::new(Kind::Xfs, 512 * MIB);
        fs::create_dir_all(POOL).unwrap();
        run("mount", ["--bind".as_ref(), pool.path().as_os_str(), POOL.as_ref()]);
        Self { _pool: pool }
    }

    /// Where the kubelet stages a volume.
    fn staging(name: &str) -> PathBuf {
        let path =
            Path::new(KUBELET).join("plugins/kubernetes.io/csi/wharf.csi.dev").join(name).join("globalmount");
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Where a pod finds it.
    fn target(name: &str) -> PathBuf {
        let parent = Path::new(KUBELET).join("pods").join(name).join("volumes/kubernetes.io~csi").join(name);
        fs::create_dir_all(&parent).unwrap();
        parent.join("mount")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for mount in mounts().iter().rev().filter(|mount| mount.point.starts_with(KUBELET)) {
            let _ = attempt("umount", ["--lazy".as_ref(), mount.point.as_os_str()]);
        }
        let _ = attempt("umount", [POOL]);
        // Pods of other tests are there, too, and their sockets.
        let pods = fs::read_dir(Path::new(KUBELET).join("pods")).into_iter().flatten().flatten();
        let own = pods.map(|pod| pod.path()).filter(|pod| pod.join("volumes/kubernetes.io~csi").exists());
        let plugins = ["plugins", "plugins_registry"].map(|name| Path::new(KUBELET).join(name));
        for directory in own.chain(plugins).chain([POOL.into()]) {
            let _ = attempt("rm", ["-rf".as_ref(), "--one-file-system".as_ref(), directory.as_os_str()]);
        }
    }
}

fn pod(kind: &str, name: &str) -> Pod {
    // The guest is slow, and no time is judged.
    Pod::of(kind, name).with("WHARF_MOUNT_TIMEOUT", "30")
}

/// kill -9 and a new container of the same pod.
fn again(container: Container, api_server: Option<&ApiServer>) -> Container {
    let pod = container.pod().clone();
    container.kill();
    Container::start(&pod, api_server)
}

/// What the kernel says of its first process is what the manifest says.
fn assert_confined(container: &Container) {
    let status = fs::read_to_string(container.process("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap().trim().to_owned()
    };
    let mask = format!("{:016x}", container.pod().capability_mask());
    for (name, wanted) in
        [("CapPrm", &*mask), ("CapEff", &mask), ("CapBnd", &mask), ("Seccomp", "0"), ("NoNewPrivs", "0")]
    {
        assert_eq!(field(name), wanted, "{name}: {status}");
    }
    let refused = fs::write(container.process("root/f"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}

fn class(corner: &str, export: &str, version: &str, claim: &str) -> Spec {
    let (uid, gid, mode) = OWNER;
    Spec::nfs(A.address, &format!("/export/{export}"))
        .parameter("subDir", &format!("{corner}/{claim}"))
        .flag(&format!("nfsvers={version}"))
        .owner(uid, gid, mode)
        .size(64 * MIB)
}

/// What was deleted on an export is gone, too.
fn assert_purged(export: &str, names: &[&str]) {
    let trash = A.inside(export).join(".wharf/trash");
    let keys: Vec<_> =
        names.iter().map(|name| Key::of(&Name::new((*name).to_owned()).unwrap()).to_string()).collect();
    eventually("trash is purged", 60, || {
        let mut left =
            fs::read_dir(&trash).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        left.all(|left| keys.iter().all(|key| !left.contains(key)))
    });
}

#[test]
fn a_volumes_life_in_the_charts_containers() {
    required();
    let host = Host::new();
    let corner = Corner::new(A, "xfs", "contained");
    let api_server = ApiServer::start(UID);
    let mut controller = Container::start(&pod("Deployment", "controller"), Some(&api_server));
    let mut node = Container::start(&pod("DaemonSet", "node"), None);
    assert_confined(&controller);
    assert_confined(&node);

    let class = |claim: &str| class("contained", "xfs", "4.2", claim);
    let made = patiently(|| controller.co().create("contained", &class("claim")));
    controller = again(controller, Some(&api_server));
    let used = class("claim").context(made.volume_context.clone());
    let (staging, target) = (Host::staging("contained"), Host::target("contained"));
    patiently(|| node.co().stage(&made.volume_id, &staging, &used));
    patiently(|| node.co().publish(&made.volume_id, &staging, &target, &used, false));
    for point in [&staging, &target] {
        let seen = mounts().into_iter().find(|mount| mount.point == *point);
        assert!(seen.is_some_and(|mount| mount.fstype == "nfs4"), "the host does not see {point:?}");
    }
    furnish(&target, true);
    let content = described(&corner.0.join("claim"));
    let snapshot = patiently(|| controller.co().snapshot("contained-snap", &made.volume_id)).snapshot_id;

    node = again(node, None);
    write_durably(&target.join("later"), b"more");
    assert_eq!(fs::read(corner.0.join("claim/later")).unwrap(), b"more");
    // Until its tree has been walked once, the figures are the share's.
    eventually("the volume has figures of its own", 120, || {
        let figures = patiently(|| node.co().stats(&made.volume_id, &target));
        figures.usage[0].total == (64 * MIB).cast_signed()
    });
    patiently(|| node.co().publish(&made.volume_id, &staging, &target, &used, false));
    controller = again(controller, Some(&api_server));
    let restored = patiently(|| controller.co().restore("contained-restored", &class("restored"), &snapshot));
    assert_eq!(described(&corner.0.join("restored")), content);
    let of_restored = class("restored").context(restored.volume_context.clone());
    let (other_staging, other_target) = (Host::staging("restored"), Host::target("restored"));
    patiently(|| node.co().stage(&restored.volume_id, &other_staging, &of_restored));
    patiently(|| node.co().publish(&restored.volume_id, &other_staging, &other_target, &of_restored, false));
    assert_eq!(described(&other_target).len(), content.len());

    for (id, staging, target) in
        [(&made.volume_id, &staging, &target), (&restored.volume_id, &other_staging, &other_target)]
    {
        patiently(|| node.co().unpublish(id, target));
        patiently(|| node.co().unstage(id, staging));
        patiently(|| controller.co().delete(id));
    }
    patiently(|| controller.co().delete_snapshot(&snapshot));
    assert_purged("xfs", &["contained", "contained-snap", "contained-restored"]);
    assert!(fs::read_dir(&corner.0).unwrap().next().is_none(), "nothing is left of them");

    node = local_lives(node);
    controller.stop();
    node.stop();
    let left: Vec<_> = mounts().into_iter().filter(|mount| mount.point.starts_with(KUBELET)).collect();
    assert!(left.is_empty(), "{left:?}");
    // Other tests have their own.
    let listed = run("runc", ["list", "--quiet"]);
    assert!(!listed.lines().any(|name| ["controller", "node", "agent"].contains(&name)), "{listed}");
    drop(host);
}

/// An image and a directory: made where the agent would make them, used by the node's container, which is killed
/// meanwhile.
fn local_lives(mut node: Container) -> Container {
    let endpoint = format!("unix://{KUBELET}/plugins/wharf.csi.dev/agent.sock");
    let agent = pod("DaemonSet", "agent");
    let agent = agent.in_the_role(&["standalone", "--node-id", NODE]).with("CSI_ENDPOINT", &endpoint);
    let agent = Container::start(&agent, None);
    let (uid, gid, mode) = OWNER;
    for (name, spec) in [("image", Spec::image("ext4")), ("directory", Spec::directory("advisory"))] {
        let spec = spec.owner(uid, gid, mode).size(64 * MIB);
        let start = |co: &mut Co, id: &str, name: &str| {
            let (staging, target) = (Host::staging(name), Host::target(name));
            patiently(|| co.stage(id, &staging, &spec));
            patiently(|| co.publish(id, &staging, &target, &spec, false));
            target
        };
        let stop = |co: &mut Co, id: &str, name: &str| {
            patiently(|| co.unpublish(id, &Host::target(name)));
            patiently(|| co.unstage(id, &Host::staging(name)));
        };
        let volume = patiently(|| agent.co().create(name, &spec)).volume_id;
        let target = start(&mut node.co(), &volume, name);
        furnish(&target, true);
        give_capability(&target.join("private/f"));
        let content = described(&target);
        let snapshot = patiently(|| agent.co().snapshot(&format!("{name}-snap"), &volume)).snapshot_id;
        node = again(node, None);
        write_durably(&target.join("later"), b"more");
        assert!(!patiently(|| node.co().stats(&volume, &target)).usage.is_empty());
        let restored = format!("{name}-restored");
        let copy = patiently(|| agent.co().restore(&restored, &spec, &snapshot)).volume_id;
        let copied = start(&mut node.co(), &copy, &restored);
        assert_eq!(without_the_filesystems_own(described(&copied)), without_the_filesystems_own(content));
        stop(&mut node.co(), &volume, name);
        stop(&mut node.co(), &copy, &restored);
        for id in [&volume, &copy] {
            patiently(|| agent.co().delete(id));
        }
        patiently(|| agent.co().delete_snapshot(&snapshot));
    }
    for kind in ["volumes", "snapshots", "trash", "tmp"] {
        let place = Path::new(POOL).join(kind);
        eventually("the pool is empty", 60, || fs::read_dir(&place).unwrap().next().is_none());
    }
    agent.stop();
    node
}

type Described = std::collections::BTreeMap<PathBuf, String>;

fn without_the_filesystems_own(mut described: Described) -> Described {
    described.retain(|path, _| path != Path::new("lost+found"));
    described
}

/// What is on a share is copied and deleted whoever it belongs to.
fn copies(controller: &Container, export: &str, version: &str, name: &str) -> Result<(), Status> {
    let corner = Corner::new(A, export, name);
    let class = |claim: &str| class(name, export, version, claim);
    let names = ["", "-snap", "-restored", "-clone"].map(|end| format!("{name}{end}"));
    let mut co = controller.co();
    let id = co.create(&names[0], &class("claim"))?.volume_id;
    furnish(&corner.0.join("claim"), version == "4.2");
    let content = described(&corner.0.join("claim"));
    let snapshot = co.snapshot(&names[1], &id)?.snapshot_id;
    let restored = co.restore(&names[2], &class("restored"), &snapshot)?.volume_id;
    assert_eq!(described(&corner.0.join("restored")), content, "{version}");
    let clone = co.clone_volume(&names[3], &class("clone"), &id)?.volume_id;
    assert_eq!(described(&corner.0.join("clone")), content, "{version}");
    for id in [&id, &restored, &clone] {
        co.delete(id)?;
    }
    co.delete_snapshot(&snapshot)?;
    assert_purged(export, &names.each_ref().map(|name| &**name));
    Ok(())
}

#[test]
fn copies_on_version_3_are_complete() {
    required();
    let api_server = ApiServer::start(UID);
    let container = Container::start(&pod("Deployment", "version-3"), Some(&api_server));
    copies(&container, "ext4", "3", "version-3").unwrap();
    container.stop();
}

/// What [`a_volumes_life_in_the_charts_containers`] does fails without any one of them: SYS_CHROOT is left to
/// [`a_share_that_hangs_is_forced_off`].
#[test]
fn no_capability_is_there_for_nothing() {
    required();
    let api_server = ApiServer::start(UID);
    let whole = pod("Deployment", "lacking");
    for missing in whole.added().iter().filter(|name| *name != "SYS_CHROOT") {
        let container = Container::start(&whole.clone().without(missing), Some(&api_server));
        let name = format!("lacking-{}", missing.to_lowercase());
        let refused = copies(&container, "xfs", "4.2", &name).unwrap_err();
        println!("without {missing}: {refused:?}");
        container.stop();
        let container = Container::start(&whole, Some(&api_server));
        // The same request gives what there is of it.
        let _corner = Corner::new(A, "xfs", &name);
        let made = patiently(|| container.co().create(&name, &class(&name, "xfs", "4.2", "claim")));
        patiently(|| container.co().delete(&made.volume_id));
        container.stop();
    }
}

/// A server that stops to answer holds up its own helper, and that is forced off.
#[test]
fn a_share_that_hangs_is_forced_off() {
    required();
    let _alone = dead::alone();
    let api_server = ApiServer::start(UID);
    let container = Container::start(&pod("Deployment", "hanging"), Some(&api_server));
    let class = |claim: &str| Spec::nfs(dead::D.address, "/export/xfs").parameter("subDir", claim);
    let made = patiently(|| container.co().create("hanging", &class("claim")));
    assert!(container.processes().len() > 1, "it has a helper");
    let dead = dead::Dead::new(dead::Kind::Frozen);
    let lost = container.co().create("hanging-other", &class("other")).unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable, "{lost:?}");
    eventually("its helper is gone", 60, || container.processes().len() == 1);
    drop(dead);
    let other = patiently(|| container.co().create("hanging-other", &class("other")));
    for volume in [&made, &other] {
        patiently(|| container.co().delete(&volume.volume_id));
    }
    container.stop();
}
