//! After a reboot nothing is mounted or attached, directories and files of the orchestrator are still
//! there, and loop numbers begin anew.

use crate::{
    scene::{Scene, Volume, block, read, refused, write},
    support::{
        MIB,
        co::Spec,
        driver::Driver,
        host::{detach, loops, run},
        inventory::{Inventory, assert_same},
        pool::Kind,
    },
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tonic::Code;

/// Images that are attached before anything else and take the low numbers.
struct Foreign {
    images: Vec<(u32, PathBuf)>,
    _directory: TempDir,
}

impl Foreign {
    fn attach(count: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let attach = |number: usize| {
            let image = directory.path().join(number.to_string());
            File::create(&image).unwrap().set_len(MIB).unwrap();
            let device = run("losetup", ["--find".as_ref(), "--show".as_ref(), image.as_os_str()]);
            (device.trim_start_matches("/dev/loop").parse().unwrap(), image)
        };
        Self { images: (0..count).map(attach).collect(), _directory: directory }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        for (number, image) in &self.images {
            detach(*number, image);
        }
    }
}

#[test]
fn publish_never_stages_and_stage_brings_everything_back() {
    for kind in [Kind::Xfs, Kind::BtrfsQuota] {
        let limit = if kind == Kind::BtrfsQuota { "enforced" } else { "advisory" };
        let mut scene = Scene::new(kind, 2048 * MIB);
        let specs = [
            ("ext4", Spec::image("ext4").size(64 * MIB)),
            ("xfs", Spec::image("xfs").size(300 * MIB)),
            ("block", block(16)),
            ("directory", Spec::directory(limit).size(64 * MIB)),
        ];
        let volumes: Vec<_> = specs.iter().map(|(name, spec)| scene.running(name, spec)).collect();
        let mut data = Vec::new();
        for (seed, volume) in (1..).zip(&volumes) {
            write(volume, seed);
            data.push(read(volume));
        }
        let numbers = |scene: &Scene| -> Vec<u32> {
            volumes.iter().flat_map(|volume| scene.loops_of(volume)).map(|each| each.number).collect()
        };
        let before = numbers(&scene);
        scene.driver.kill();
        assert!(scene.pool.detach());
        let _foreign = Foreign::attach(before.len() + 1);
        scene.pool.attach();
        scene.driver = Driver::start(&[("default", scene.pool.path())], &[]);
        scene.co = scene.driver.co();

        let empty = Inventory::take(&scene.pool, &[scene.places.path()]);
        for volume in &volumes {
            let why = refused(scene.publish(volume), Code::FailedPrecondition);
            assert!(why.contains("stage it first"), "{why}");
            unmounted_staging_stays_empty(volume);
        }
        assert_same(&empty, &Inventory::take(&scene.pool, &[scene.places.path()]));
        for (volume, data) in volumes.iter().zip(&data) {
            scene.start(volume);
            assert_eq!(read(volume), *data, "{} after a reboot", volume.id);
        }
        println!("reboot: {kind:?}: loops {before:?} became {:?}", numbers(&scene));
        for volume in &volumes {
            scene.stop(volume);
        }
        assert!(scene.loops().is_empty());
    }
}

fn unmounted_staging_stays_empty(volume: &Volume) {
    let names: Vec<_> =
        fs::read_dir(&volume.staging).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "device"), "{names:?}");
}

/// A crash in between leaves the target mounted and nothing below it: a bind of what is no longer staged.
#[test]
fn a_target_of_an_earlier_mount_is_not_taken_for_this_one() {
    let mut scene = Scene::new(Kind::Ext4, 1024 * MIB);
    let [first, second] =
        ["first", "second"].map(|name| scene.running(name, &Spec::image("ext4").size(64 * MIB)));
    write(&first, 1);
    write(&second, 2);
    let data = read(&first);
    // Somebody else's volume stands where this one should be.
    for place in [&first.target, &first.staging] {
        run("umount", [place.as_os_str()]);
    }
    run("mount", ["--bind".as_ref(), second.staging.as_os_str(), first.staging.as_os_str()]);
    refused(scene.publish(&first), Code::FailedPrecondition);
    refused(scene.stage(&first), Code::AlreadyExists);
    refused(scene.unstage(&first), Code::NotFound);
    run("umount", [first.staging.as_os_str()]);
    scene.stage(&first).unwrap();
    run("mount", ["--bind".as_ref(), second.staging.as_os_str(), first.target.as_os_str()]);
    refused(scene.publish(&first), Code::AlreadyExists);
    refused(scene.unpublish(&first), Code::NotFound);
    run("umount", [first.target.as_os_str()]);
    scene.publish(&first).unwrap();
    assert_eq!(read(&first), data);
    assert!(loops().iter().filter(|each| each.backing == scene.image_of(&first)).count() == 1);
    assert!(Path::new(&first.target).join("f").exists());
}
