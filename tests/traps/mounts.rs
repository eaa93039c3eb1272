//! How volumes are mounted: attributes, and which access mode allows a second target.

use crate::{
    scene::{Scene, Volume, block, mount_at, refused, try_write},
    support::{
        MIB,
        co::{Mode, Spec},
        host::run,
        pool::Kind,
    },
};
use std::{fs, path::Path};
use tonic::Code;

fn layouts() -> [(Kind, Spec); 4] {
    [
        (Kind::Xfs, Spec::image("ext4").size(64 * MIB)),
        (Kind::Ext4, Spec::image("xfs").size(300 * MIB)),
        (Kind::BtrfsQuota, Spec::directory("enforced").size(64 * MIB)),
        (Kind::Xfs, block(16)),
    ]
}

#[track_caller]
fn has(place: &Path, wanted: &[&str], unwanted: &[&str]) -> String {
    let mount = mount_at(place);
    for option in wanted {
        assert!(mount.has(option), "{option} is missing: {mount:?}");
    }
    for option in unwanted {
        assert!(!mount.has(option), "{option} is set: {mount:?}");
    }
    mount.options
}

#[test]
fn every_mount_carries_its_attributes() {
    for (kind, spec) in layouts() {
        let mut scene = Scene::new(kind, 2048 * MIB);
        let volume = scene.running("pod", &spec);
        if spec.block {
            for place in [volume.staging.join("device"), volume.target.clone()] {
                has(&place, &["nosuid", "noexec"], &["nodev", "ro"]);
            }
            scene.unpublish(&volume).unwrap();
            scene.publish_at(&volume, &volume.target, true).unwrap();
            has(&volume.target, &["nosuid", "noexec"], &["nodev"]);
        } else {
            for place in [&volume.staging, &volume.target] {
                has(place, &["nosuid", "nodev"], &["ro"]);
            }
            if spec.fs == "ext4" {
                // mountinfo leaves out what is the superblock's own default.
                let name = scene.loop_of(&volume).node();
                let options = Path::new("/proc/fs/ext4").join(name.file_name().unwrap()).join("options");
                let options = fs::read_to_string(options).unwrap();
                assert!(options.lines().any(|option| option == "errors=remount-ro"), "{options}");
            }
            scene.unpublish(&volume).unwrap();
            scene.publish_at(&volume, &volume.target, true).unwrap();
            has(&volume.target, &["nosuid", "nodev", "ro"], &[]);
            // The staged one stays writable for other targets.
            has(&volume.staging, &[], &["ro"]);
        }
        println!("attributes: {kind:?} {:?}: {}", spec.fs, mount_at(&volume.target).options);
    }
}

#[test]
fn what_flags_may_ask_for() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let spec = Spec::image("ext4").size(64 * MIB);
    let volume = scene.create("pod", &spec);
    for flag in ["dev", "bind", "loop", "errors=continue", "x=\0"] {
        let asked = Volume { spec: spec.clone().flag(flag), ..volume.clone() };
        refused(scene.stage(&asked), Code::InvalidArgument);
    }
    let asked = Volume { spec: spec.clone().flag("suid").flag("noexec").flag("noatime"), ..volume.clone() };
    scene.start(&asked);
    for place in [&asked.staging, &asked.target] {
        has(place, &["nodev", "noexec", "noatime"], &["nosuid"]);
    }
    // Asked for otherwise, it is not the same mount.
    refused(scene.stage(&volume), Code::AlreadyExists);
    scene.stop(&asked);
}

#[test]
fn reader_modes_are_mounted_read_only() {
    for (kind, spec) in layouts() {
        let mut scene = Scene::new(kind, 2048 * MIB);
        let writer = scene.running("pod", &spec);
        scene.stop(&writer);
        for mode in [Mode::MultiNodeReaderOnly, Mode::SingleNodeReaderOnly] {
            let reader = Volume { spec: spec.clone().mode(mode), ..writer.clone() };
            scene.start(&reader);
            if spec.block {
                try_write(&reader.target, &[1; 4096]).unwrap_err();
            } else {
                has(&reader.staging, &["ro"], &[]);
                has(&reader.target, &["ro"], &[]);
                fs::write(reader.target.join("f"), "x").unwrap_err();
            }
            let second = scene.places.target("second");
            let answer = scene.publish_at(&reader, &second, false);
            if mode == Mode::MultiNodeReaderOnly {
                answer.unwrap();
                scene.co.unpublish(&reader.id, &second).unwrap();
            } else {
                refused(answer, Code::FailedPrecondition);
            }
            scene.stop(&reader);
        }
    }
}

/// CSI 1.13, NodePublishVolume: the second call with another target path.
#[test]
fn a_second_target_as_the_access_mode_allows() {
    for (kind, spec) in layouts() {
        let mut scene = Scene::new(kind, 2048 * MIB);
        for mode in [Mode::SingleNodeWriter, Mode::SingleNodeSingleWriter, Mode::SingleNodeMultiWriter] {
            let spec = spec.clone().mode(mode);
            let volume = scene.running(&format!("pod-{}", mode.as_str_name()), &spec);
            let second = scene.places.target("second");
            // The same target again is the same publication, another `readonly` is not.
            scene.publish(&volume).unwrap();
            refused(scene.publish_at(&volume, &volume.target, true), Code::AlreadyExists);
            for read_only in [false, true] {
                let answer = scene.publish_at(&volume, &second, read_only);
                if mode == Mode::SingleNodeMultiWriter {
                    answer.unwrap();
                    scene.co.unpublish(&volume.id, &second).unwrap();
                } else {
                    refused(answer, Code::FailedPrecondition);
                    assert!(!second.exists());
                }
            }
            scene.stop(&volume);
            println!("second target: {kind:?} {:?} {}", spec.fs, mode.as_str_name());
        }
    }
}

/// What the kubelet binds for `subPath` outlives the target for a moment, and is no publication.
#[test]
fn subpath_binds_do_not_count() {
    for (kind, spec) in &layouts()[..3] {
        let mut scene = Scene::new(*kind, 2048 * MIB);
        let volume = scene.running("pod", &spec.clone().mode(Mode::SingleNodeSingleWriter));
        let subpath = scene.places.target("volume-subpaths").join("pv/container/0");
        fs::create_dir_all(&subpath).unwrap();
        run("mount", ["--bind".as_ref(), volume.target.as_os_str(), subpath.as_os_str()]);
        scene.publish(&volume).unwrap();
        scene.unpublish(&volume).unwrap();
        let next = scene.places.target("next");
        scene.publish_at(&volume, &next, false).unwrap();
        // A bind elsewhere does count.
        scene.co.unpublish(&volume.id, &next).unwrap();
        let elsewhere = scene.places.staging("elsewhere");
        run("mount", ["--bind".as_ref(), subpath.as_os_str(), elsewhere.as_os_str()]);
        refused(scene.publish_at(&volume, &next, false), Code::FailedPrecondition);
        for place in [&elsewhere, &subpath] {
            run("umount", [place.as_os_str()]);
        }
        scene.unstage(&volume).unwrap();
    }
}
