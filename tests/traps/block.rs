//! Raw block: what a bind of a device node does not do. It keeps no device alive (a number can be given to
//! another tenant), and read-only it still writes.

use crate::{
    scene::{Scene, Volume, block, head, is_mounted, mount_at, refused, require_failpoints, try_write},
    support::{
        MIB,
        co::Mode,
        data::{bytes, sha256, write_direct},
        pool::Kind,
    },
};
use std::{fs::File, io};
use tonic::Code;

/// As many as would take over every freed number.
const OTHERS: usize = 20;

fn fill(volume: &Volume, seed: u64) -> String {
    write_direct(&volume.target, 0, &bytes(seed, 4 << 20));
    sha256(&volume.target)
}

fn others(scene: &mut Scene) -> Vec<Volume> {
    let spec = block(8);
    (0..OTHERS)
        .map(|number| {
            let other = scene.running(&format!("other-{number}"), &spec);
            write_direct(&other.target, 0, &vec![0xee; 1 << 20]);
            other
        })
        .collect()
}

#[test]
fn a_device_shows_its_own_data_after_a_restart_among_others() {
    let mut scene = Scene::new(Kind::Ext4, 1024 * MIB);
    let pod = scene.running("pod", &block(16));
    let data = fill(&pod, 1);
    let before = scene.loop_of(&pod);
    assert!(!before.autoclear, "a bind keeps no device: {before:?}");
    scene.restart();
    let others = others(&mut scene);
    assert_eq!(scene.loop_of(&pod).number, before.number);
    assert_eq!(sha256(&pod.target), data, "the pod reads another volume's data");
    // Repeated calls of the new process find it as it is.
    scene.start(&pod);
    scene.stop(&pod);
    assert!(scene.loops_of(&pod).is_empty(), "{:?}", scene.loops_of(&pod));
    scene.start(&pod);
    assert_eq!(sha256(&pod.target), data);
    println!("L1: loop{} kept through kill -9 and {} attachments", before.number, others.len());
}

#[test]
fn an_unstage_that_meets_an_opener_loses_nothing() {
    let mut scene = Scene::new(Kind::Ext4, 1024 * MIB);
    let pod = scene.running("pod", &block(16));
    let data = fill(&pod, 2);
    let attached = scene.loop_of(&pod);
    let opener = File::open(attached.node()).unwrap();
    scene.unpublish(&pod).unwrap();
    for _ in 0..2 {
        let why = refused(scene.unstage(&pod), Code::Aborted);
        assert!(why.contains("open in another process"), "{why}");
    }
    // Neither gone nor about to go with the opener.
    assert!(!scene.loop_of(&pod).autoclear);
    others(&mut scene);
    assert_eq!(sha256(&attached.node()), data);
    // The pod comes back, and the opener goes.
    scene.start(&pod);
    assert_eq!(scene.loop_of(&pod).number, attached.number);
    drop(opener);
    assert_eq!(sha256(&pod.target), data);
    assert!(!scene.loop_of(&pod).autoclear);
    scene.stop(&pod);
    assert!(scene.loops_of(&pod).is_empty());
    println!("L1: loop{} outlived its opener", attached.number);
}

#[test]
fn unstage_while_published_is_refused() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let pod = scene.running("pod", &block(16));
    let data = fill(&pod, 3);
    refused(scene.unstage(&pod), Code::Aborted);
    assert_eq!(sha256(&pod.target), data);
    scene.stop(&pod);
    assert!(scene.loops().is_empty());
}

/// Which call refused, and with what.
fn refusal(volume: &Volume) -> io::Error {
    let before = head(&volume.target, 4096);
    let error = try_write(&volume.target, &[0x55; 4096]).expect_err("a read-only device took a write");
    assert_eq!(head(&volume.target, 4096), before, "a read-only device was changed");
    error
}

#[test]
fn reader_modes_refuse_writes() {
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let writer = scene.running("pod", &block(16));
    let data = fill(&writer, 4);
    scene.stop(&writer);
    for mode in [Mode::SingleNodeReaderOnly, Mode::MultiNodeReaderOnly] {
        for read_only in [false, true] {
            let reader = Volume { spec: writer.spec.clone().mode(mode), ..writer.clone() };
            scene.stage(&reader).unwrap();
            scene.publish_at(&reader, &reader.target, read_only).unwrap();
            assert!(scene.loop_of(&reader).read_only);
            let error = refusal(&reader);
            assert_eq!(sha256(&reader.target), data);
            // Staged for reading, it cannot be had for writing.
            refused(scene.stage(&writer), Code::AlreadyExists);
            scene.stop(&reader);
            println!("L2: {}: {error}", mode.as_str_name());
        }
    }
    // BLKROSET stays with a number; the next user is not affected.
    scene.start(&writer);
    try_write(&writer.target, &bytes(5, 4096)).unwrap();
}

#[test]
fn readonly_of_a_writers_volume_refuses_writes() {
    let mut scene = Scene::new(Kind::Xfs, 512 * MIB);
    let writer = scene.running("pod", &block(16).mode(Mode::SingleNodeMultiWriter));
    let data = fill(&writer, 6);
    let reader = Volume { target: scene.places.target("reader"), ..writer.clone() };
    for _ in 0..2 {
        scene.publish_at(&reader, &reader.target, true).unwrap();
    }
    assert_eq!(sha256(&reader.target), data);
    let error = refusal(&reader);
    // What the writer writes, the reader sees.
    write_direct(&writer.target, 8 << 20, &[0x77; 4096]);
    assert_eq!(sha256(&reader.target), sha256(&writer.target));
    refused(scene.publish_at(&reader, &reader.target, false), Code::AlreadyExists);
    let stacked: Vec<_> = scene.loops().into_iter().filter(|each| each.base().is_some()).collect();
    assert_eq!(stacked.len(), 1, "{stacked:?}");
    assert!(stacked[0].read_only && !stacked[0].autoclear, "{stacked:?}");
    assert_eq!(scene.loops_of(&writer).len(), 1, "never a second loop on the image");
    // The number must not be taken over while the pod has it.
    scene.restart();
    others(&mut scene);
    assert_eq!(sha256(&reader.target), sha256(&writer.target));
    refused(scene.unstage(&writer), Code::Aborted);
    scene.unpublish(&reader).unwrap();
    assert!(scene.loops().iter().all(|each| each.base().is_none()), "{:?}", scene.loops());
    try_write(&writer.target, &bytes(7, 4096)).unwrap();
    scene.stop(&writer);
    assert!(scene.loops_of(&writer).is_empty());
    println!("L2: readonly: true: {error}");
}

/// kill -9 between any two steps: Publish again works, or Unpublish alone, and no stacked loop stays.
#[test]
fn no_stacked_loop_leaks_through_a_kill() {
    require_failpoints();
    let mut scene = Scene::new(Kind::Ext4, 512 * MIB);
    let pod = scene.create("pod", &block(16));
    scene.stage(&pod).unwrap();
    let publishing = [
        "publish.device-place-made",
        "publish.stacked-attached",
        "publish.stacked-bound",
        "publish.stacked-kept",
    ];
    let clearing = ["unpublish.unmounted", "unpublish.removed", "unpublish.stacked-cleared"];
    for point in publishing.into_iter().chain(clearing) {
        for again in [true, false] {
            scene.killed_at(point, |scene| {
                let published = scene.publish_at(&pod, &pod.target, true);
                if published.is_ok() {
                    assert!(scene.unpublish(&pod).is_err());
                }
            });
            if again {
                scene.publish_at(&pod, &pod.target, true).unwrap();
                refusal(&pod);
                assert!(!mount_at(&pod.target).has("nodev"));
            }
            scene.unpublish(&pod).unwrap();
            assert!(!is_mounted(&pod.target) && !pod.target.exists());
            let stacked = scene.loops().into_iter().filter(|each| each.base().is_some()).count();
            assert_eq!(stacked, 0, "{point}, publish again: {again}: {:?}", scene.loops());
        }
    }
    scene.unstage(&pod).unwrap();
    assert!(scene.loops().is_empty());
    println!("L2: killed at {} points, nothing stacked left", publishing.len() + clearing.len());
}
