//! NodeStageVolume and NodeUnstageVolume.

use crate::{
    Case,
    calls::ask,
    support::{
        MIB,
        co::{Mode, Spec, csi},
        data, host, unique,
    },
    world::{Answer, Damage, Over, World, absent_volume, mount_of, overwrite, text},
};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};
use tonic::{Code, Status};
use wharf::os::lock::Mode as LockMode;

pub const CASES: &[Case] = &[
    ("node-stage-volume.id-missing", |w| stage(w, |request| request.volume_id.clear())),
    ("node-stage-volume.staging-path-missing", |w| stage(w, |request| request.staging_target_path.clear())),
    ("node-stage-volume.staging-path-relative", |w| {
        let answer = stage(w, |request| request.staging_target_path = "some/path".into());
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
        stage(w, |request| request.staging_target_path.push_str("/../x"))
    }),
    ("node-stage-volume.capability-missing", |w| {
        for edit in [
            |capability: &mut csi::VolumeCapability| capability.access_type = None,
            |capability: &mut csi::VolumeCapability| capability.access_mode = None,
            |capability: &mut csi::VolumeCapability| mount_of(capability).volume_mount_group = "7".into(),
        ] {
            let answer = stage(w, |request| edit(request.volume_capability.as_mut().unwrap()));
            assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
        }
        stage(w, |request| request.volume_capability = None)
    }),
    ("node-stage-volume.mount-flag-refused", |w| {
        stage(w, |request| {
            mount_of(request.volume_capability.as_mut().unwrap()).mount_flags = vec!["noatime,dev".into()];
        })
    }),
    ("node-stage-volume.volume-missing", |w| {
        let answer = stage(w, |request| request.volume_id = "../../x".into());
        assert_eq!(answer.unwrap_err().code(), Code::NotFound);
        stage(w, |request| request.volume_id = absent_volume())
    }),
    ("node-stage-volume.again", |w| {
        for spec in kinds() {
            let placed = w.staged(&spec);
            for _ in 0..2 {
                w.co.stage(&placed.id, &placed.staging, &spec)?;
            }
            w.co.unstage(&placed.id, &placed.staging)?;
        }
        Ok(())
    }),
    ("node-stage-volume.again-differs", |w| {
        let of = |w: &mut World, first: &Spec, second: &Spec| {
            let placed = w.staged(first);
            w.last(|co| co.stage(&placed.id, &placed.staging, second))
        };
        for spec in kinds() {
            let reader = spec.clone().mode(Mode::SingleNodeReaderOnly);
            assert_eq!(of(w, &spec, &reader).unwrap_err().code(), Code::AlreadyExists);
            assert_eq!(of(w, &reader, &spec).unwrap_err().code(), Code::AlreadyExists);
        }
        for flag in ["suid", "noexec"] {
            let answer = of(w, &World::spec(), &World::spec().flag(flag));
            assert_eq!(answer.unwrap_err().code(), Code::AlreadyExists);
        }
        of(w, &World::spec().flag("suid"), &World::spec())
    }),
    ("node-stage-volume.path-occupied", |w| {
        let mut last = Ok(());
        for spec in kinds() {
            let (id, staging) = (w.volume_of(&spec), w.places.staging(&unique("stage")));
            let _other = Over::new(&staging);
            fs::write(staging.join("theirs"), "x").unwrap();
            last = w.last(|co| co.stage(&id, &staging, &spec));
            assert_eq!(last.clone().unwrap_err().code(), Code::AlreadyExists);
            assert_eq!(fs::read_to_string(staging.join("theirs")).unwrap(), "x");
        }
        // Another volume's mount is something else, too.
        let (mine, other) = (w.volume(), w.staged(&World::spec()));
        assert_eq!(
            w.last(|co| co.stage(&mine, &other.staging, &World::spec())).unwrap_err().code(),
            Code::AlreadyExists
        );
        last
    }),
    ("node-stage-volume.capability-unsupported", |w| {
        for other in [
            Spec::block(),
            World::spec().fs("xfs"),
            World::spec().mode(Mode::MultiNodeSingleWriter),
            World::spec().mode(Mode::MultiNodeMultiWriter),
        ] {
            let answer = stage(w, |request| request.volume_capability = Some(other.capability()));
            assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
        }
        let (id, staging) =
            (w.volume_of(&Spec::block().thin().size(16 * MIB)), w.places.staging(&unique("stage")));
        w.last(|co| co.stage(&id, &staging, &World::spec()))
    }),
    ("node-stage-volume.staging-path-absent", |w| {
        let file = w.places.target(&unique("file"));
        fs::write(&file, "").unwrap();
        let answer = stage(w, |request| request.staging_target_path = text(&file));
        assert_eq!(answer.unwrap_err().code(), Code::FailedPrecondition);
        stage(w, |request| request.staging_target_path.push_str("/absent"))
    }),
    ("node-stage-volume.second-path", |w| {
        let placed = w.staged(&World::spec());
        let second = w.places.staging(&unique("stage"));
        w.last(|co| co.stage(&placed.id, &second, &World::spec()))
    }),
    ("node-stage-volume.image-open-elsewhere", |w| {
        let (id, staging) = (w.volume(), w.places.staging(&unique("stage")));
        let open = File::open(World::image(&w.default, &id)).unwrap();
        let answer = w.last(|co| co.stage(&id, &staging, &World::spec()));
        drop(open);
        w.co.stage(&id, &staging, &World::spec())?;
        answer
    }),
    ("node-stage-volume.pending", |w| {
        let (id, staging) = (w.volume(), w.places.staging(&unique("stage")));
        let _busy = World::lock(&w.default, &id, LockMode::Shared);
        w.last(|co| co.stage(&id, &staging, &World::spec()))
    }),
    ("node-stage-volume.pool-away", |w| {
        let spec = World::spec().pool("away");
        let (id, staging) = (w.volume_of(&spec), w.places.staging(&unique("stage")));
        let _away = Over::new(w.away.path());
        w.last(|co| co.stage(&id, &staging, &spec))
    }),
    ("node-stage-volume.content-lost", content_lost),
    ("node-stage-volume.content-foreign", content_foreign),
    ("node-stage-volume.filesystem-damaged", filesystem_damaged),
    ("node-unstage-volume.id-missing", |w| {
        let placed = w.staged(&World::spec());
        w.last(|co| co.unstage("", &placed.staging))
    }),
    ("node-unstage-volume.staging-path-missing", |w| {
        let id = w.volume();
        w.last(|co| co.unstage(&id, Path::new("")))
    }),
    ("node-unstage-volume.not-staged", |w| {
        let (empty, absent) = (w.places.staging(&unique("stage")), w.places.target("absent"));
        for id in [w.volume(), absent_volume(), "foreign".into()] {
            w.co.unstage(&id, &empty)?;
            w.co.unstage(&id, &absent)?;
        }
        assert!(empty.is_dir(), "the staging directory is the orchestrator's");
        Ok(())
    }),
    ("node-unstage-volume.not-ours", |w| {
        let id = w.volume();
        let other = w.staged(&World::spec());
        assert_eq!(w.last(|co| co.unstage(&id, &other.staging)).unwrap_err().code(), Code::NotFound);
        let elsewhere = w.places.staging(&unique("stage"));
        let _other = Over::new(&elsewhere);
        assert_eq!(w.last(|co| co.unstage(&id, &elsewhere)).unwrap_err().code(), Code::NotFound);
        assert_eq!(w.last(|co| co.unstage("foreign", &elsewhere)).unwrap_err().code(), Code::NotFound);
        w.last(|co| co.unstage(&id, Path::new("some/path")))
    }),
    ("node-unstage-volume.busy", |w| {
        let placed = w.staged(&World::spec());
        let open = File::create(placed.staging.join("open")).unwrap();
        let answer = w.last(|co| co.unstage(&placed.id, &placed.staging));
        drop(open);
        w.co.unstage(&placed.id, &placed.staging)?;
        answer
    }),
    ("node-unstage-volume.still-published", |w| {
        let placed = w.published(&World::spec());
        let answer = w.last(|co| co.unstage(&placed.id, &placed.staging));
        assert_eq!(w.co.delete(&placed.id).unwrap_err().code(), Code::FailedPrecondition);
        w.co.unpublish(&placed.id, &placed.target)?;
        w.co.unstage(&placed.id, &placed.staging)?;
        answer
    }),
    ("node-unstage-volume.block-still-published", |w| {
        let spec = Spec::block().thin().size(16 * MIB);
        let placed = w.published(&spec);
        data::write_direct(&placed.target, 0, &[7; 4096]);
        let answer = w.last(|co| co.unstage(&placed.id, &placed.staging));
        assert_eq!(
            data::sha256_head(&placed.target, 4096),
            data::sha256_head(&World::image(&w.default, &placed.id), 4096)
        );
        w.co.unpublish(&placed.id, &placed.target)?;
        w.co.unstage(&placed.id, &placed.staging)?;
        answer
    }),
];

/// One of each that is staged in a way of its own.
fn kinds() -> [Spec; 3] {
    [
        World::spec(),
        Spec::block().thin().size(16 * MIB),
        Spec::directory("enforced").pool("quota").size(16 * MIB),
    ]
}

/// NodeStageVolume of a new volume, with something changed.
fn stage(w: &mut World, edit: impl FnOnce(&mut csi::NodeStageVolumeRequest)) -> Answer {
    let mut request = csi::NodeStageVolumeRequest {
        volume_id: w.volume(),
        staging_target_path: text(&w.places.staging(&unique("stage"))),
        volume_capability: Some(World::spec().capability()),
        ..Default::default()
    };
    edit(&mut request);
    w.ask(request)
}

fn attempt(w: &mut World, id: &str, spec: &Spec) -> Status {
    let staging = w.places.staging(&unique("stage"));
    let status = w.last(|co| co.stage(id, &staging, spec)).unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    status
}

fn content_lost(w: &mut World) -> Answer {
    let spec = World::spec();
    let id = w.volume_of(&spec);
    let image = World::image(&w.default, &id);
    {
        let _damage = Damage::new(&image, |content| content.truncate(1 << 20));
        attempt(w, &id, &spec);
        assert_eq!(image.metadata().unwrap().len(), 1 << 20, "it was made longer");
    }
    let aside = image.with_file_name("aside");
    fs::rename(&image, &aside).unwrap();
    attempt(w, &id, &spec);
    assert!(!image.exists(), "it was made anew");
    fs::rename(&aside, &image).unwrap();
    let spec = Spec::directory("advisory").size(16 * MIB);
    let id = w.volume_of(&spec);
    let data = World::directory(&w.default, &id).join("data");
    fs::remove_dir(&data).unwrap();
    let status = attempt(w, &id, &spec);
    assert!(!data.exists(), "it was made anew");
    w.co.delete(&id)?;
    Err(status)
}

fn filesystem_damaged(w: &mut World) -> Answer {
    let spec = World::spec();
    let id = w.volume_of(&spec);
    let image = World::image(&w.default, &id);
    host::run("debugfs", ["-w", "-R", "set_super_value state 3", image.to_str().unwrap()]);
    // Group descriptors: what they should be is a matter of opinion.
    File::options().write(true).open(&image).unwrap().write_all_at(&[0xff; 4096], 4096).unwrap();
    let last = attempt(w, &id, &spec);
    assert!(last.message().contains("run `e2fsck -f "), "{}", last.message());
    w.co.delete(&id)?;
    Err(last)
}

fn content_foreign(w: &mut World) -> Answer {
    let spec = World::spec();
    let id = w.volume_of(&spec);
    let image = World::image(&w.default, &id);
    let mut last = None;
    let mut other = data::bytes(3, 1 << 20);
    other[65600..65608].copy_from_slice(b"_BHRfS_M");
    for content in [vec![0; 1 << 20], data::bytes(3, 1 << 20), other] {
        overwrite(&image, &content);
        let before = data::sha256(&image);
        last = Some(attempt(w, &id, &spec));
        assert_eq!(data::sha256(&image), before, "it was written to");
    }
    w.co.delete(&id)?;
    let request = csi::ControllerGetVolumeRequest { volume_id: id };
    assert_eq!(ask(&mut w.co, request).map(drop).unwrap_err().code(), Code::NotFound);
    Err(last.unwrap())
}
