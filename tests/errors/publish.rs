//! NodePublishVolume and NodeUnpublishVolume.

use crate::{
    Case,
    support::{
        MIB,
        co::{Mode, Spec, csi},
        data, unique,
    },
    world::{Answer, Over, Placed, World, absent_volume, text},
};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};
use tonic::Code;
use wharf::os::lock::Mode as LockMode;

pub const CASES: &[Case] = &[
    ("node-publish-volume.id-missing", |w| publish(w, |request| request.volume_id.clear())),
    ("node-publish-volume.target-path-missing", |w| publish(w, |request| request.target_path.clear())),
    ("node-publish-volume.target-path-relative", |w| {
        let answer = publish(w, |request| request.target_path = "pods/x".into());
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
        publish(w, |request| request.target_path.push_str("/../../x"))
    }),
    ("node-publish-volume.capability-missing", |w| publish(w, |request| request.volume_capability = None)),
    ("node-publish-volume.volume-missing", |w| {
        let answer = publish(w, |request| request.volume_id = "local-x.node-1".into());
        assert_eq!(answer.unwrap_err().code(), Code::NotFound);
        publish(w, |request| request.volume_id = absent_volume())
    }),
    ("node-publish-volume.staging-path-missing", |w| {
        publish(w, |request| request.staging_target_path.clear())
    }),
    ("node-publish-volume.not-staged", |w| {
        let empty = w.places.staging(&unique("stage"));
        publish(w, |request| request.staging_target_path = text(&empty))
    }),
    ("node-publish-volume.staged-other-volume", |w| {
        let other = w.staged(&World::spec());
        publish(w, |request| request.staging_target_path = text(&other.staging))
    }),
    ("node-publish-volume.capability-unsupported", |w| {
        let other = World::spec().fs("xfs").capability();
        let answer = publish(w, |request| request.volume_capability = Some(other));
        assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
        publish(w, |request| request.volume_capability = Some(Spec::block().capability()))
    }),
    ("node-publish-volume.staged-read-only", |w| {
        let mut last = Ok(());
        for spec in kinds() {
            let reader = w.staged(&spec.clone().mode(Mode::SingleNodeReaderOnly));
            last = w.last(|co| co.publish(&reader.id, &reader.staging, &reader.target, &spec, false));
            assert_eq!(last.clone().unwrap_err().code(), Code::FailedPrecondition);
            w.co.publish(&reader.id, &reader.staging, &reader.target, &spec, true)?;
        }
        last
    }),
    ("node-publish-volume.parent-absent", |w| {
        let block = w.staged(&Spec::block().thin().size(16 * MIB));
        let deep = w.places.target("absent/x");
        let answer = w.last(|co| co.publish(&block.id, &block.staging, &deep, &block.spec, false));
        assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
        publish(w, |request| request.target_path = text(&deep))
    }),
    ("node-publish-volume.target-wrong-kind", |w| {
        let block = w.staged(&Spec::block().thin().size(16 * MIB));
        fs::create_dir(&block.target).unwrap();
        let answer = w.last(|co| co.publish(&block.id, &block.staging, &block.target, &block.spec, false));
        assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
        let link = w.places.target(&unique("link"));
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        let answer = publish(w, |request| request.target_path = text(&link));
        assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
        let file = w.places.target(&unique("file"));
        fs::write(&file, "theirs").unwrap();
        publish(w, |request| request.target_path = text(&file))
    }),
    ("node-publish-volume.again", |w| {
        for spec in kinds() {
            let placed = w.published(&spec);
            for _ in 0..2 {
                again(w, &placed, &spec, false)?;
            }
        }
        Ok(())
    }),
    ("node-publish-volume.again-differs", |w| {
        let mut last = Ok(());
        for spec in kinds() {
            let placed = w.published(&spec);
            last = again(w, &placed, &spec, true);
            assert_eq!(last.clone().unwrap_err().code(), Code::AlreadyExists);
        }
        for flag in ["suid", "noexec"] {
            let placed = w.published(&World::spec());
            last = again(w, &placed, &World::spec().flag(flag), false);
            assert_eq!(last.clone().unwrap_err().code(), Code::AlreadyExists, "{flag}");
        }
        let reader = w.staged(&World::spec());
        w.co.publish(&reader.id, &reader.staging, &reader.target, &World::spec(), true)?;
        assert_eq!(again(w, &reader, &World::spec(), false).unwrap_err().code(), Code::AlreadyExists);
        last
    }),
    ("node-publish-volume.target-occupied", |w| {
        let placed = w.staged(&World::spec());
        fs::create_dir(&placed.target).unwrap();
        let _other = Over::new(&placed.target);
        fs::write(placed.target.join("theirs"), "x").unwrap();
        let answer = again(w, &placed, &World::spec(), false);
        assert!(placed.target.join("theirs").exists());
        answer
    }),
    ("node-publish-volume.second-target-writer", |w| second(w, Mode::SingleNodeWriter)),
    ("node-publish-volume.second-target-single-writer", |w| second(w, Mode::SingleNodeSingleWriter)),
    ("node-publish-volume.second-target-reader", |w| second(w, Mode::SingleNodeReaderOnly)),
    ("node-publish-volume.second-target-multi-writer", |w| second(w, Mode::SingleNodeMultiWriter)),
    ("node-publish-volume.second-target-multi-node-reader", |w| second(w, Mode::MultiNodeReaderOnly)),
    ("node-publish-volume.target-disk-full", |w| {
        let mut last = Ok(());
        for spec in kinds() {
            let placed = w.staged(&spec);
            fs::create_dir(&placed.target).unwrap();
            // Room for its root, and nothing else.
            let _full = Over::with(&placed.target, "nr_inodes=1");
            last =
                w.last(|co| co.publish(&placed.id, &placed.staging, &placed.target.join("x"), &spec, false));
            assert_eq!(last.clone().unwrap_err().code(), Code::ResourceExhausted);
        }
        last
    }),
    ("node-publish-volume.pending", |w| {
        let placed = w.staged(&World::spec());
        let _busy = World::lock(&w.default, &placed.id, LockMode::Exclusive);
        again(w, &placed, &World::spec(), false)
    }),
    ("node-unpublish-volume.id-missing", |w| {
        let placed = w.published(&World::spec());
        w.last(|co| co.unpublish("", &placed.target))
    }),
    ("node-unpublish-volume.target-path-missing", |w| {
        let placed = w.published(&World::spec());
        w.last(|co| co.unpublish(&placed.id, Path::new("")))
    }),
    ("node-unpublish-volume.target-removed", |w| {
        for spec in kinds() {
            let placed = w.published(&spec);
            w.co.unpublish(&placed.id, &placed.target)?;
            assert!(placed.target.symlink_metadata().is_err());
            w.co.unpublish(&placed.id, &placed.target)?;
        }
        Ok(())
    }),
    ("node-unpublish-volume.not-published", |w| {
        let absent = w.places.target(&unique("absent"));
        for id in [w.volume(), absent_volume(), "foreign".into()] {
            w.co.unpublish(&id, &absent)?;
            w.co.unpublish(&id, &absent.join("deeper"))?;
        }
        Ok(())
    }),
    ("node-unpublish-volume.no-mount", |w| {
        let (directory, file) = (w.places.target(&unique("dir")), w.places.target(&unique("file")));
        let id = w.volume();
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "").unwrap();
        w.co.unpublish(&id, &directory)?;
        w.co.unpublish(&id, &file)?;
        assert!(!directory.exists() && !file.exists());
        Ok(())
    }),
    ("node-unpublish-volume.not-ours", |w| {
        let id = w.volume();
        let other = w.published(&World::spec());
        assert_eq!(w.last(|co| co.unpublish(&id, &other.target)).unwrap_err().code(), Code::NotFound);
        let elsewhere = w.places.staging(&unique("theirs"));
        let _other = Over::new(&elsewhere);
        assert_eq!(w.last(|co| co.unpublish(&id, &elsewhere)).unwrap_err().code(), Code::NotFound);
        let file = w.places.target(&unique("file"));
        fs::write(&file, "theirs").unwrap();
        assert_eq!(w.last(|co| co.unpublish(&id, &file)).unwrap_err().code(), Code::NotFound);
        w.last(|co| co.unpublish(&id, Path::new("some/path")))
    }),
    ("node-unpublish-volume.not-empty", |w| {
        let (id, directory) = (w.volume(), w.places.target(&unique("dir")));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("theirs"), "x").unwrap();
        w.last(|co| co.unpublish(&id, &directory))
    }),
    ("node-unpublish-volume.busy", |w| {
        let placed = w.published(&World::spec());
        let open = File::create(placed.target.join("open")).unwrap();
        let answer = w.last(|co| co.unpublish(&placed.id, &placed.target));
        drop(open);
        w.co.unpublish(&placed.id, &placed.target)?;
        answer
    }),
];

/// One of each that is published in a way of its own.
fn kinds() -> [Spec; 3] {
    [
        World::spec(),
        Spec::block().thin().size(16 * MIB),
        Spec::directory("enforced").pool("quota").size(16 * MIB),
    ]
}

/// NodePublishVolume of a volume that is staged, with something changed.
fn publish(w: &mut World, edit: impl FnOnce(&mut csi::NodePublishVolumeRequest)) -> Answer {
    let placed = w.staged(&World::spec());
    let mut request = csi::NodePublishVolumeRequest {
        volume_id: placed.id,
        staging_target_path: text(&placed.staging),
        target_path: text(&placed.target),
        volume_capability: Some(World::spec().capability()),
        ..Default::default()
    };
    edit(&mut request);
    w.ask(request)
}

fn again(w: &mut World, placed: &Placed, spec: &Spec, readonly: bool) -> Answer {
    w.last(|co| co.publish(&placed.id, &placed.staging, &placed.target, spec, readonly))
}

/// A second target of a published volume, the same for each kind.
fn second(w: &mut World, mode: Mode) -> Answer {
    let mut answers = Vec::new();
    for spec in kinds() {
        let spec = spec.mode(mode);
        let placed = w.published(&spec);
        let second = w.places.target(&unique("pod"));
        let answer = w.last(|co| co.publish(&placed.id, &placed.staging, &second, &spec, false));
        if answer.is_ok() {
            check_second(&placed, &second, matches!(mode, Mode::SingleNodeMultiWriter));
        }
        answers.push(answer);
    }
    let codes: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().map_err(tonic::Status::code).err()).collect();
    assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
    answers.remove(0)
}

fn check_second(placed: &Placed, second: &Path, writable: bool) {
    if placed.spec.block {
        let device = OpenOptions::new().write(true).open(second);
        let written =
            device.and_then(|device| device.write_all_at(&[1; 4096], 0).and_then(|()| device.sync_all()));
        assert_eq!(written.is_ok(), writable, "{written:?}");
        if writable {
            data::write_direct(&placed.target, 4096, &[9; 4096]);
            assert_eq!(data::sha256(second), data::sha256(&placed.target));
        }
    } else {
        let written = fs::write(second.join("file"), "x");
        assert_eq!(written.is_ok(), writable, "{:?}: {written:?}", placed.spec.parameters);
        assert_eq!(placed.target.join("file").exists(), writable);
    }
}
