//! Nothing is unmounted lazily: a mounted filesystem that nobody sees would be mounted a second time.

use crate::{
    scene::{Scene, Volume, apart, is_mounted, mount_at, refused},
    support::{MIB, co::Spec, data::write_durably, eventually, host, pool::Kind},
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command},
};
use tonic::Code;

/// A process whose working directory is in the volume.
struct Inside(Child);

impl Inside {
    fn at(place: &Path) -> Self {
        Self(Command::new("sleep").arg("120").current_dir(place).spawn().unwrap())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_in_use_stays_mounted() {
    for (kind, spec) in [
        (Kind::Xfs, Spec::image("ext4").size(64 * MIB)),
        (Kind::Xfs, Spec::image("xfs").size(300 * MIB)),
        (Kind::Btrfs, Spec::directory("advisory").size(64 * MIB)),
    ] {
        let mut scene = Scene::new(kind, 1024 * MIB);
        let volume = scene.running("pod", &spec);
        write_durably(&volume.target.join("f"), b"kept");
        for place in [volume.target.clone(), volume.staging.clone()] {
            stays(&mut scene, &volume, &place);
        }
        scene.stop(&volume);
        assert!(scene.loops().is_empty());
        println!("L4: {} {kind:?}: ABORTED twice and still mounted", spec.fs);
    }
}

fn stays(scene: &mut Scene, volume: &Volume, place: &Path) {
    let at_target = place == volume.target;
    if !at_target {
        scene.unpublish(volume).unwrap();
    }
    let inside = Inside::at(place);
    let before = mount_at(place);
    for _ in 0..2 {
        let answer = if at_target { scene.unpublish(volume) } else { scene.unstage(volume) };
        let why = refused(answer, Code::Aborted);
        assert!(why.contains("in use by a process"), "{why}");
    }
    assert_eq!(mount_at(place), before);
    assert_eq!(fs::read(place.join("f")).unwrap(), b"kept");
    drop(inside);
    if !at_target {
        scene.unstage(volume).unwrap();
        assert!(!is_mounted(place));
        scene.start(volume);
        assert_eq!(fs::read(volume.target.join("f")).unwrap(), b"kept");
    }
}

/// The bind at the target keeps the filesystem mounted: Unstage says so until it is gone too.
#[test]
fn unstage_before_unpublish_is_not_success() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let volume = scene.running("pod", &Spec::image("ext4").size(64 * MIB));
    let device = fs::metadata(&volume.target).unwrap().dev();
    refused(scene.unstage(&volume), Code::Aborted);
    refused(scene.co.delete(&volume.id), Code::FailedPrecondition);
    assert!(host::mounts().iter().any(|mount| mount.device == device));
    scene.unpublish(&volume).unwrap();
    scene.unstage(&volume).unwrap();
    assert!(!host::mounts().iter().any(|mount| mount.device == device));
    assert!(scene.loops().is_empty());
}

/// A copy of the mount in another mount namespace keeps the image attached, and nobody here sees it.
#[test]
fn a_mount_in_another_namespace_counts() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let volume = scene.create("pod", &Spec::image("ext4").size(64 * MIB));
    scene.stage(&volume).unwrap();
    let mut elsewhere = Inside(apart(&volume.staging, "exec sleep 120").spawn().unwrap());
    eventually("a namespace with this mount alone", 10, || {
        let process = format!("/proc/{}", elsewhere.0.id());
        fs::read_to_string(format!("{process}/comm")).is_ok_and(|name| name == "sleep\n")
    });
    let why = refused(scene.unstage(&volume), Code::Aborted);
    assert!(why.contains("mount namespace"), "{why}");
    assert!(!is_mounted(&volume.staging));
    refused(scene.co.delete(&volume.id), Code::FailedPrecondition);
    assert_eq!(scene.loops_of(&volume).len(), 1);
    elsewhere.0.kill().unwrap();
    elsewhere.0.wait().unwrap();
    scene.unstage(&volume).unwrap();
    assert!(scene.loops().is_empty());
    scene.co.delete(&volume.id).unwrap();
}
