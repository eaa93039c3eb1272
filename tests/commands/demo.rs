//! `wharf demo`.

use super::{Outcome, command, finish, support, wharf};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};
use support::{
    MIB, eventually,
    host::{loops, mounts, release, run},
    pool::{Kind, Pool},
};

/// Neither files nor mounts nor loops.
fn assert_nothing_in(directory: &Path) {
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.iter().all(|name| name == "lost+found"), "{files:?}");
    eventually("the loops are gone", 10, || loops().iter().all(|each| !each.backing.starts_with(directory)));
    let inside =
        |mount: &wharf::os::mountinfo::Mount| mount.point != directory && mount.point.starts_with(directory);
    let mounts: Vec<_> = mounts().into_iter().filter(inside).collect();
    assert!(mounts.is_empty(), "{mounts:?}");
}

fn assert_whole_story(told: &Outcome) {
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
    for step in [
        "GetPluginInfo",
        "GetCapacity",
        "CreateVolume",
        "NodeStageVolume",
        "NodePublishVolume",
        "NodeGetVolumeStats",
        "CreateSnapshot",
        "ControllerExpandVolume",
        "NodeExpandVolume",
        "NodeUnpublishVolume",
        "NodeUnstageVolume",
        "DeleteSnapshot",
        "DeleteVolume",
    ] {
        assert!(told.out.contains(step), "{step} is not told: {}", told.out);
    }
    assert!(told.out.contains("as it was at the snapshot, byte for byte"), "{}", told.out);
    assert!(told.out.contains("left behind: nothing"), "{}", told.out);
    assert!(!told.out.contains(['\u{1b}', '✗']), "{}", told.out);
}

#[test]
fn the_whole_story_on_each_kind_of_filesystem() {
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let filesystem = Pool::new(kind, 4096 * MIB);
        let told = wharf(&["demo", "--directory", filesystem.path().to_str().unwrap()]);
        assert_whole_story(&told);
        assert_nothing_in(filesystem.path());
        let cut_in_use = told.out.contains("cut while the volume is in use");
        assert_eq!(cut_in_use, kind != Kind::Ext4, "{}", told.out);
    }
}

/// A temporary directory from which what a failed demo left goes, too.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        release(self.0.path(), false);
    }
}

#[test]
fn an_interrupted_story_leaves_nothing() {
    for (signal, last) in [(Signal::INT, "NodePublishVolume"), (Signal::TERM, "CreateVolume")] {
        let place = Place(tempfile::tempdir().unwrap());
        let mut demo = command(&["demo", "--directory", place.0.path().to_str().unwrap()]);
        let mut child = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut told = String::new();
        while !told.contains(last) {
            assert!(out.read_line(&mut told).unwrap() > 0, "{told}");
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        out.read_to_string(&mut told).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{told}");
        assert!(
            told.contains("interrupted; left behind: nothing") && !told.contains("DeleteVolume"),
            "{told}"
        );
        assert_nothing_in(place.0.path());
    }
}

#[test]
fn a_story_that_fails_in_its_middle_leaves_nothing() {
    // Mounts of ext4 fail here, and so does the first stage.
    let place = Place(tempfile::tempdir().unwrap());
    let mut demo = Command::new("setpriv");
    demo.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", env!("CARGO_BIN_EXE_wharf"), "demo"]);
    demo.arg("--directory").arg(place.0.path());
    let told = finish(demo);
    assert!(told.sentence().contains("`wharf check` shows"), "{told:?}");
    assert!(told.out.contains('✗') && told.out.contains("left behind: nothing"), "{told:?}");
    assert_nothing_in(place.0.path());
}

#[test]
fn a_disk_that_is_too_small_is_told() {
    let filesystem = Pool::new(Kind::Ext4, 300 * MIB);
    let told = wharf(&["demo", "--directory", filesystem.path().to_str().unwrap()]);
    assert!(told.sentence().contains("choose a directory on a larger disk"), "{told:?}");
    assert_nothing_in(filesystem.path());
}

#[test]
fn places_where_nothing_can_be_made() {
    let told = wharf(&["demo", "--directory", "/nonexistent"]);
    assert!(told.sentence().contains("--directory"), "{told:?}");
    let long = tempfile::tempdir().unwrap();
    let deep = long.path().join("d".repeat(90));
    fs::create_dir(&deep).unwrap();
    let told = wharf(&["demo", "--directory", deep.to_str().unwrap()]);
    assert!(told.sentence().contains("choose a shorter one"), "{told:?}");
    assert_nothing_in(&deep);

    fs::set_permissions(long.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = long.path().join("wharf");
    fs::copy(env!("CARGO_BIN_EXE_wharf"), &binary).unwrap();
    let mut demo = Command::new(binary);
    demo.arg("demo").uid(65534).gid(65534);
    assert!(finish(demo).sentence().contains("run it as root"));
}

#[test]
fn a_temporary_directory_in_memory_is_avoided() {
    let directory = tempfile::tempdir().unwrap();
    let memory = directory.path().join("memory");
    fs::create_dir(&memory).unwrap();
    let arguments = ["-t", "tmpfs", "-o", "size=64m", "tmpfs"].map(OsStr::new);
    run("mount", arguments.into_iter().chain([memory.as_os_str()]));
    let mut demo = command(&["demo"]);
    demo.env("TMPDIR", &memory);
    let told = finish(demo);
    run("umount", [memory.as_os_str()]);
    assert!(told.out.contains("on a scratch pool in /var/tmp/wharf-demo-"), "{told:?}");
}
