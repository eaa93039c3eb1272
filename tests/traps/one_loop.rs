//! One image on two loop devices mounts twice without complaint and is corrupted: at most one loop on an
//! image, whoever made it, and a stranger who has it open costs no 45 s.

use crate::{
    scene::{Scene, Volume, block, is_mounted, refused},
    support::{
        MIB,
        co::{Mode, Spec},
        data::{bytes, write_direct},
        driver::Driver,
        host::{self, run},
        pool::Kind,
    },
};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tonic::Code;

/// A loop that somebody made by hand.
struct Stray {
    device: String,
    image: PathBuf,
}

impl Stray {
    fn on(image: &Path, options: &[&str]) -> Self {
        let arguments =
            ["--find", "--show"].iter().chain(options).map(AsRef::as_ref).chain([image.as_os_str()]);
        Self { device: run("losetup", arguments), image: image.to_owned() }
    }

    fn number(&self) -> u32 {
        self.device.trim_start_matches("/dev/loop").parse().unwrap()
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        // The driver may have cleared it.
        host::detach(self.number(), &self.image);
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (work(), start.elapsed())
}

/// Mounts of the volume's filesystem.
fn mounts_of(scene: &Scene, volume: &Volume) -> Vec<PathBuf> {
    let devices: Vec<u64> =
        scene.loops_of(volume).iter().map(|each| fs::metadata(each.node()).unwrap().rdev()).collect();
    let all = host::mounts().into_iter().filter(|mount| devices.contains(&mount.device));
    all.map(|mount| mount.point).collect()
}

#[test]
fn a_stray_loop_is_used_and_not_doubled() {
    let mut scene = Scene::new(Kind::Xfs, 1024 * MIB);
    for (name, spec) in [("ext4", Spec::image("ext4")), ("xfs", Spec::image("xfs")), ("block", block(16))] {
        let volume = scene.create(name, &spec.size(300 * MIB));
        let stray = Stray::on(&scene.image_of(&volume), &[]);
        let (staged, took) = timed(|| scene.stage(&volume));
        staged.unwrap();
        assert_eq!(scene.loop_of(&volume).number, stray.number());
        assert!(took < Duration::from_secs(5), "{took:?}");
        scene.publish(&volume).unwrap();
        scene.stop(&volume);
        assert!(scene.loops_of(&volume).is_empty(), "{:?}", scene.loops_of(&volume));
        println!("L3: {name}: staged on the stray loop in {took:?}, and gone with Unstage");
        scene.co.delete(&volume.id).unwrap();
    }
}

#[test]
fn a_volume_that_has_to_grow_waits_for_a_loop_that_is_about_to_go() {
    let mut scene = Scene::new(Kind::Xfs, 2 << 30);
    let volume = scene.create("pod", &Spec::image("ext4").size(64 * MIB));
    scene.co.expand(&volume.id, 1 << 30).unwrap();
    let stray = Stray::on(&scene.image_of(&volume), &[]);
    let why = refused(scene.stage(&volume), Code::Aborted);
    assert!(why.contains("has to grow") && why.contains(&stray.device), "{why}");
    assert!(!is_mounted(&volume.staging));
    thread::scope(|scope| {
        // As the loop of a driver that was killed: it ends by itself.
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(300));
            drop(stray);
        });
        scene.start(&volume);
    });
    let space = rustix::fs::statvfs(&volume.target).unwrap();
    assert!(space.f_blocks * space.f_frsize > 900 * MIB, "{} blocks", space.f_blocks);
    scene.stop(&volume);
}

#[test]
fn a_stray_loop_beside_ours_is_not_mounted() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let volume = scene.running("pod", &Spec::image("ext4").size(64 * MIB));
    // flock(2) cannot keep a program out that does not ask.
    // Several, so that a search is likely to meet one of them first.
    let strays: Vec<_> = (0..4).map(|_| Stray::on(&scene.image_of(&volume), &[])).collect();
    let second = Volume { staging: scene.places.staging("second"), ..volume.clone() };
    let (answer, took) = timed(|| scene.stage(&second));
    refused(answer, Code::FailedPrecondition);
    scene.start(&volume);
    assert_eq!(mounts_of(&scene, &volume).len(), 2, "staging path and target");
    scene.unpublish(&volume).unwrap();
    refused(scene.unstage(&volume), Code::Aborted);
    // Which of them wharf made cannot be told any more.
    refused(scene.stage(&volume), Code::FailedPrecondition);
    refused(scene.co.delete(&volume.id), Code::FailedPrecondition);
    drop(strays);
    scene.unstage(&volume).unwrap();
    assert!(scene.loops().is_empty());
    println!("L3: a second staging path was refused in {took:?}");
}

#[test]
fn an_image_mounted_by_hand_is_not_mounted_again() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let volume = scene.create("pod", &Spec::image("ext4").size(64 * MIB));
    let stray = Stray::on(&scene.image_of(&volume), &[]);
    let by_hand = scene.places.staging("by-hand");
    run("mount", ["-t".as_ref(), "ext4".as_ref(), stray.device.as_ref(), by_hand.as_os_str()]);
    refused(scene.stage(&volume), Code::FailedPrecondition);
    refused(scene.co.delete(&volume.id), Code::FailedPrecondition);
    refused(scene.unstage(&volume), Code::Aborted);
    assert_eq!(mounts_of(&scene, &volume), std::slice::from_ref(&by_hand));
    run("umount", [by_hand.as_os_str()]);
    drop(stray);
    scene.start(&volume);
}

#[test]
fn a_loop_on_a_part_of_the_image_is_refused() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let volume = scene.create("pod", &Spec::image("ext4").size(64 * MIB));
    for options in [&["--read-only"][..], &["--offset", "4096"], &["--sizelimit", "4194304"]] {
        let stray = Stray::on(&scene.image_of(&volume), options);
        let why = refused(scene.stage(&volume), Code::Internal);
        assert!(why.contains("detach that loop"), "{why}");
        assert!(!is_mounted(&volume.staging));
        assert_eq!(scene.loop_of(&volume).number, stray.number());
        drop(stray);
    }
    scene.start(&volume);
}

/// A process that has the image open, or holds a lease on it as file servers do.
struct Opener(Child);

impl Opener {
    fn of(image: &Path, lease: bool) -> Self {
        let program = "import fcntl, os, signal, sys, time\n\
            signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
            image = os.open(sys.argv[1], os.O_RDWR)\n\
            if sys.argv[2] == 'lease': fcntl.fcntl(image, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
            print('open', flush=True)\n\
            time.sleep(120)\n";
        let mut child = Command::new("python3")
            .args(["-c", program])
            .arg(image)
            .arg(if lease { "lease" } else { "open" })
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        Self(child)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stranger_with_the_image_open_costs_no_45_seconds() {
    for lease in [false, true] {
        let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
        let volume = scene.create("pod", &Spec::image("ext4").size(64 * MIB));
        let opener = Opener::of(&scene.image_of(&volume), lease);
        let (answer, took) = timed(|| scene.stage(&volume));
        refused(answer, Code::Aborted);
        let (answer, deleting) = timed(|| scene.co.delete(&volume.id));
        refused(answer, Code::Aborted);
        assert!(took + deleting < Duration::from_secs(15), "Stage {took:?}, Delete {deleting:?}");
        assert!(scene.loops().is_empty() && !is_mounted(&volume.staging));
        drop(opener);
        let (answer, again) = timed(|| scene.stage(&volume));
        answer.unwrap();
        scene.unstage(&volume).unwrap();
        println!(
            "L3: lease {lease}: ABORTED after {took:?}, Delete after {deleting:?}, then staged in {again:?}"
        );
    }
}

#[test]
fn two_drivers_stage_one_volume_once() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let volume = scene.create("pod", &Spec::image("ext4").size(64 * MIB));
    let elsewhere = Volume { staging: scene.places.staging("second"), ..volume.clone() };
    let other = Driver::start(&[("default", scene.pool.path())], &[]);
    let rounds = 12;
    let mut both = 0;
    for round in 0..rounds {
        // In turns at the same path and at two paths.
        let second = if round % 2 == 0 { &volume } else { &elsewhere };
        let mut other_co = other.co();
        let (first, second_answer) = thread::scope(|scope| {
            let call = scope.spawn(|| other_co.stage(&second.id, &second.staging, &second.spec));
            (scene.co.stage(&volume.id, &volume.staging, &volume.spec), call.join().unwrap())
        });
        let answers = [&first, &second_answer];
        let staged = answers.iter().filter(|answer| answer.is_ok()).count();
        for answer in answers.into_iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(matches!(answer.code(), Code::Aborted | Code::FailedPrecondition), "{answer}");
        }
        assert!(staged == 1 || (staged == 2 && round % 2 == 0), "{first:?} {second_answer:?}");
        both += usize::from(staged == 2);
        assert_eq!(mounts_of(&scene, &volume).len(), 1);
        assert_eq!(scene.loops_of(&volume).len(), 1);
        for place in [&volume, &elsewhere] {
            if is_mounted(&place.staging) {
                scene.unstage(place).unwrap();
            }
        }
        assert!(scene.loops_of(&volume).is_empty());
    }
    println!(
        "L3: two drivers, {rounds} rounds: one mount and one loop each time, {both} times both answered OK"
    );
}

#[test]
fn a_device_staged_elsewhere_is_left_as_it_is() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let writer = scene.running("pod", &block(16));
    let reader = Volume {
        spec: writer.spec.clone().mode(Mode::SingleNodeReaderOnly),
        staging: scene.places.staging("second"),
        ..writer.clone()
    };
    refused(scene.stage(&reader), Code::FailedPrecondition);
    assert!(!reader.staging.join("device").exists());
    write_direct(&writer.target, 0, &bytes(1, 4096));
    scene.stop(&writer);
    assert!(scene.loops().is_empty());
}
