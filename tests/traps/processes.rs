//! More than one process on a pool, and a process that is asked to end in the middle of its work.

use crate::{
    scene::{Scene, key_of, require_failpoints},
    support::{
        MIB,
        co::Spec,
        data::{bytes, sha256, write_durably},
        driver::Driver,
        eventually,
        inventory::{Inventory, assert_same},
        pool::Kind,
    },
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};
use tonic::Code;

fn entries(pool: &Path, below: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(pool.join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// `wharf gc --apply` on the pool: its exit code and what it says.
fn gc(pool: &Path) -> (Option<i32>, String) {
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_wharf"), "gc", "--apply", "--output", "json", "--pool"])
        .arg(format!("default={}", pool.display()))
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A driver stands still in the middle of a call; another starts on the pool and `wharf gc` runs: what is
/// being made is nobody's leftover. Then the first one goes on.
#[test]
fn what_a_living_process_makes_is_no_leftover() {
    require_failpoints();
    for kind in [Kind::Xfs, Kind::BtrfsQuota] {
        let mut scene = Scene::new(kind, 1024 * MIB);
        let spec = Spec::image("ext4").size(64 * MIB);
        let source = scene.running("source", &spec);
        write_durably(&source.target.join("f"), b"kept");
        scene.stop(&source);
        for point in
            ["draft.directory-made", "image.allocated", "draft.record-written", "content.transferred"]
        {
            let restores = point.starts_with("content");
            scene.restart_with(&[("WHARF_FAILPOINT", &format!("{point}=stop"))]);
            let name = format!("made-{point}");
            let home = scene.pool.path().to_owned();
            let made = thread::scope(|scope| {
                let (co, driver) = (&mut scene.co, &mut scene.driver);
                let wish = if restores { spec.clone().from_volume(&source.id) } else { spec.clone() };
                let call = scope.spawn(move || co.create(&name, &wish));
                eventually(point, 20, || driver.is_stopped());
                let living = entries(&home, "tmp");
                assert_eq!(living.len(), 1, "{living:?}");
                let second = Driver::start(&[("default", &home)], &[]);
                let (code, report) = gc(&home);
                assert_eq!(entries(&home, "tmp"), living, "{point}: taken for a leftover: {report}");
                assert_eq!(entries(&home, "trash"), Vec::<String>::new());
                println!(
                    "gc: {kind:?} {point}: tmp/{} kept by a start and by gc (exit code {code:?})",
                    living[0]
                );
                kill_process(Pid::from_raw(driver.pid().cast_signed()).unwrap(), Signal::CONT).unwrap();
                let made = call.join().unwrap().unwrap();
                let volumes = second.co().volumes().unwrap();
                assert!(volumes.contains(&made.volume_id), "{volumes:?}");
                made
            });
            let volume = scene.volume(&made.volume_id, key_of(&made.volume_id), &spec);
            scene.start(&volume);
            assert_eq!(volume.target.join("f").exists(), restores);
            scene.stop(&volume);
            scene.co.delete(&volume.id).unwrap();
        }
        // The same, killed: now it is a leftover, and gc beside a running driver takes it away.
        for by_gc in [true, false] {
            let second = by_gc.then(|| Driver::start(&[("default", scene.pool.path())], &[]));
            scene.driver.kill();
            scene.driver = Driver::start(
                &[("default", scene.pool.path())],
                &[("WHARF_FAILPOINT", "image.allocated=kill")],
            );
            scene.co = scene.driver.co();
            assert!(scene.co.create("killed", &spec).is_err());
            assert_eq!(entries(scene.pool.path(), "tmp").len(), 1);
            if second.is_some() {
                let (_, report) = gc(scene.pool.path());
                assert!(report.contains("\"removed\": 1"), "{report}");
            } else {
                scene.restart();
            }
            eventually("it is gone", 20, || {
                ["tmp", "trash"].iter().all(|name| entries(scene.pool.path(), name).is_empty())
            });
        }
    }
}

/// SIGTERM ends a copy at its next piece. Nothing of it stays, and the same call again brings it to its end.
#[test]
fn sigterm_in_the_middle_of_a_copy() {
    // Without reflinks a clone is a copy.
    let mut scene = Scene::new(Kind::Ext4, 4096 * MIB);
    let spec = Spec::image("ext4").size(1024 * MIB);
    let source = scene.running("source", &spec);
    let content = bytes(1, 64 << 20);
    for number in 0..9 {
        fs::write(source.target.join(number.to_string()), &content).unwrap();
    }
    let digest = sha256(&source.target.join("8"));
    scene.stop(&source);
    let before = Inventory::take(&scene.pool, &[scene.places.path()]);
    let home = scene.pool.path().to_owned();
    let copied = |home: &Path| -> u64 {
        use std::os::unix::fs::MetadataExt;
        let names = entries(home, "tmp");
        let image = names.first().map(|name| home.join("tmp").join(name).join("data/disk.img"));
        image.and_then(|image| fs::metadata(image).ok()).map_or(0, |found| found.blocks() * 512)
    };
    let clone = spec.clone().from_volume(&source.id);
    let start = Instant::now();
    let (answer, at, took) = thread::scope(|scope| {
        let (co, driver) = (&mut scene.co, &mut scene.driver);
        let call = scope.spawn(|| co.create("clone", &clone));
        eventually("the copy is under way", 30, || copied(&home) > 0 || call.is_finished());
        thread::sleep(Duration::from_millis(50));
        assert!(!call.is_finished(), "the copy was too fast to be interrupted");
        let at = copied(&home);
        let asked = Instant::now();
        let status = driver.terminate();
        assert!(status.success(), "{status}");
        (call.join().unwrap(), at, asked.elapsed())
    });
    let status = answer.expect_err("the copy was not interrupted");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(entries(&home, "volumes").len(), 1);
    println!(
        "SIGTERM after {:?} and {at} bytes: ended in {took:?} with {:?}: {}",
        start.elapsed(),
        status.code(),
        status.message()
    );
    scene.restart();
    assert_same(&before, &Inventory::take(&scene.pool, &[scene.places.path()]));
    let again = Instant::now();
    let made = scene.co.create("clone", &clone).unwrap();
    println!("SIGTERM: the same call again took {:?}", again.elapsed());
    let volume = scene.volume(&made.volume_id, "clone", &spec);
    scene.start(&volume);
    assert_eq!(sha256(&volume.target.join("8")), digest);
}
