//! An ext4 that the kernel has noted errors in, or whose growth a power cut has stopped halfway: mounting it
//! as it is makes it worse.

use crate::{
    scene::{Scene, Volume, refused, require_failpoints},
    support::{
        MIB,
        co::Spec,
        data::{bytes, write_durably},
        host::{attempt, run},
        pool::Kind,
    },
};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};
use tonic::Code;

/// A detached ext4 volume that holds a file.
fn used(scene: &mut Scene, name: &str) -> Volume {
    let volume = scene.running(name, &Spec::image("ext4").size(64 * MIB));
    write_durably(&volume.target.join("f"), &bytes(1, 1 << 20));
    scene.stop(&volume);
    volume
}

fn state(image: &Path) -> String {
    let header = run("dumpe2fs", ["-h".as_ref(), image.as_os_str()]);
    header.lines().find_map(|line| line.strip_prefix("Filesystem state:")).unwrap().trim().to_owned()
}

fn note_errors(image: &Path) {
    run("debugfs", ["-w", "-R", "set_super_value state 3", image.to_str().unwrap()]);
    assert_eq!(state(image), "clean with errors");
}

#[test]
fn a_growth_that_was_stopped_halfway_is_finished_before_anything_mounts_it() {
    require_failpoints();
    let mut scene = Scene::new(Kind::Xfs, 2 << 30);
    let volume = used(&mut scene, "halfway");
    scene.co.expand(&volume.id, 1 << 30).unwrap();
    let image = scene.image_of(&volume);
    // What the driver does at the next stage, until the power fails.
    run("e2fsck", ["-fp".as_ref(), image.as_os_str()]);
    let file = image.to_str().unwrap();
    let kill = "inject=pwrite64:signal=KILL:when=4";
    attempt("strace", ["-o", "/dev/null", "-e", "trace=pwrite64", "-e", kill, "resize2fs", file])
        .unwrap_err();
    assert_ne!(state(&image), "clean");
    // It is sound before its first mount.
    scene.killed_at("image.mounted-detached", |scene| {
        scene.stage(&volume).unwrap_err();
    });
    assert_eq!(state(&image), "clean");
    scene.start(&volume);
    assert_eq!(state(&image), "clean");
    assert!(fs::read(volume.target.join("f")).unwrap() == bytes(1, 1 << 20));
    let space = rustix::fs::statvfs(&volume.target).unwrap();
    assert!(space.f_blocks * space.f_frsize > 900 * MIB);
    scene.stop(&volume);
    run("e2fsck", ["-fn".as_ref(), image.as_os_str()]);
}

#[test]
fn noted_errors_are_repaired_at_stage_and_in_a_clone() {
    let mut scene = Scene::new(Kind::Xfs, 2 << 30);
    let volume = used(&mut scene, "noted");
    note_errors(&scene.image_of(&volume));
    let clone = scene.create("clone", &volume.spec.clone().from_volume(&volume.id));
    assert_eq!(state(&scene.image_of(&clone)), "clean");
    scene.start(&volume);
    assert_eq!(state(&scene.image_of(&volume)), "clean");
    scene.stop(&volume);
}

#[test]
fn what_needs_a_decision_is_told_and_left_alone() {
    let mut scene = Scene::new(Kind::Xfs, 2 << 30);
    let (volume, other) = (used(&mut scene, "broken"), used(&mut scene, "other"));
    let image = scene.image_of(&volume);
    // Group descriptors that are beyond what is repaired without asking.
    let file = OpenOptions::new().write(true).open(&image).unwrap();
    note_errors(&image);
    file.write_all_at(&[0xff; 4096], 4096).unwrap();
    drop(file);
    let message = refused(scene.stage(&volume), Code::Internal);
    assert!(message.contains(&format!("run `e2fsck -f {}` by hand", image.display())), "{message}");
    assert!(scene.loops_of(&volume).is_empty());
    scene.start(&other);
    scene.stop(&other);
}
