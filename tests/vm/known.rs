//! By what a mount is known to be a volume's, when the kernel, the server or a person calls it otherwise.

use crate::{
    guest::{A, A6, B, Corner},
    node::{Pv, World, code, patiently},
    support::co::csi,
};
use std::{collections::BTreeMap, fs, os::unix::fs::symlink};
use tonic::Code;

/// The kernel finds out that it is one server, and calls it as it was called first.
#[test]
fn a_server_may_have_two_addresses() {
    let mut world = World::new();
    let _corners = [A, B].map(|server| Corner::new(server, "xfs", "two"));
    let second = world.places.staging("second");
    for version in ["4.2", "4.0"] {
        let [first, other] = [A, A6].map(|server| Pv::of(server, "xfs", "two", version));
        patiently(|| world.stage_at(&first, &second));
        patiently(|| world.stage(&other));
        let [one, two] = [second.clone(), world.staging()].map(|path| world.mount_at(&path));
        println!("node: {one:?} {two:?}");
        patiently(|| world.stage(&other));
        let target = patiently(|| world.publish(&other, "pod", false));
        patiently(|| world.publish(&other, "pod", false));
        world.figures(&other, &target);
        assert_eq!(world.health(&other, &target), [] as [&str; 0]);
        // Another server's directory of that name is none of it.
        let mut elsewhere = Pv::of(B, "xfs", "two", version);
        elsewhere.handle.clone_from(&other.handle);
        // Other tests take B's link away.
        let refused = patiently(|| match world.stage(&elsewhere) {
            Err(status) if status.code() == Code::Unavailable => Err(status),
            outcome => Ok(outcome),
        });
        assert_eq!(code(refused), Code::AlreadyExists);
        assert_eq!(world.mount_at(&world.staging()), two);
        for id in [other.handle.as_str(), "nfs-b5YZ_4uG0BG0LQDAT8lk_w#::1#/export/xfs"] {
            world.co.unpublish(id, &target).unwrap();
            world.co.unstage(id, &world.staging()).unwrap();
            if id == other.handle {
                patiently(|| world.stage(&other));
            }
        }
        world.co.unstage(&first.handle, &second).unwrap();
        assert_eq!(world.mounts(), []);
    }
}

/// Which is seen where a mount has a superblock of its own. Where it shares one, the kernel tells that it is the same.
#[test]
fn a_symlink_on_the_server_is_no_name() {
    let mut world = World::new();
    let corner = Corner::new(A, "xfs", "linked");
    fs::create_dir_all(corner.0.join("real/d")).unwrap();
    symlink("real", corner.0.join("link")).unwrap();
    let pv = Pv::of(A, "xfs", "linked/link/d", "4.2");
    let refused = world.stage(&pv.clone().with("exclusive", "true")).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("give /export/xfs/linked/real/d as the share"), "{refused:?}");
    assert_eq!(world.mounts(), []);
    for _ in 0..2 {
        patiently(|| world.stage(&pv));
    }
    let target = patiently(|| world.publish(&pv, "pod", false));
    fs::write(target.join("f"), "").unwrap();
    assert!(corner.0.join("real/d/f").exists());
    world.co.unpublish(&pv.handle, &target).unwrap();
    world.unstage(&pv).unwrap();
    assert_eq!(world.mounts(), []);

    let class = crate::support::co::Spec::nfs(A.address, "/export/xfs/linked/link").parameter("subDir", "v");
    let refused = world.co.create("linked", &class).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("/export/xfs/linked/real"), "{refused:?}");
    assert_eq!(fs::read_dir(corner.0.join("real")).unwrap().count(), 1);
}

/// On a node the attributes of a PV count, as they do for csi-driver-nfs.
#[test]
fn handles_may_be_older_than_what_they_name() {
    let mut world = World::new();
    let _corner = Corner::new(A, "xfs", "moved");
    let mut pv = Pv::of(A, "xfs", "moved", "4.2").with("exclusive", "true");
    pv.handle = "old-nas#old/data#pvc-1##".into();
    patiently(|| world.stage(&pv));
    let target = patiently(|| world.publish(&pv, "pod", false));
    world.figures(&pv, &target);
    world.co.unpublish(&pv.handle, &target).unwrap();
    world.unstage(&pv).unwrap();
    assert_eq!(world.mounts(), []);
    // This driver's own ids are not written by people.
    for handle in
        ["nfs-b5YZ_4uG0BG0LQDAT8lk_w#10.77.0.2#/export/xfs", "nfs-b5YZ_4uG0BG0LQDAT8lk_w#127.0.0.1#/other"]
    {
        pv.handle = handle.into();
        assert_eq!(code(world.stage(&pv)), Code::FailedPrecondition, "{handle}");
        assert_eq!(world.mounts(), []);
    }
}

/// Kubernetes gives Publish other secrets than Stage.
#[test]
fn what_stage_was_asked_for_holds_for_pods() {
    let mut world = World::new();
    let _corner = Corner::new(A, "xfs", "strict");
    let pv = Pv::of(A, "xfs", "strict", "4.2");
    let message = csi::NodeStageVolumeRequest {
        volume_id: pv.handle.clone(),
        staging_target_path: world.staging().to_str().unwrap().to_owned(),
        volume_capability: Some(pv.spec.capability()),
        volume_context: pv.context.iter().cloned().collect(),
        secrets: BTreeMap::from([("mountOptions".to_owned(), "noexec,noatime".to_owned())]),
        ..Default::default()
    };
    patiently(|| {
        let message = message.clone();
        world.co.call(|mut client| async move { client.node.node_stage_volume(message).await })
    });
    for _ in 0..2 {
        let target = patiently(|| world.publish(&pv, "pod", false));
        let mount = world.mount_at(&target);
        assert!(mount.has("noexec") && mount.has("noatime"), "{mount:?}");
    }
    world.co.unpublish(&pv.handle, &world.places.target("pod")).unwrap();
    world.unstage(&pv).unwrap();
}
