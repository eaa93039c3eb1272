//! CreateVolume.

use crate::{
    Case,
    calls::ask,
    support::{
        MIB,
        co::{Mode, Source, Spec, csi},
        host::run,
        unique,
    },
    world::{
        Answer, Over, SIZE, World, absent_snapshot, absent_volume, bytes, id_of, mount_of, only_node, range,
    },
};
use csi::volume_capability::AccessMode;
use wharf::os::lock::Mode as LockMode;

pub const CASES: &[Case] = &[
    ("create-volume.name-missing", |w| w.create(|request| request.name.clear())),
    ("create-volume.name-too-long", |w| {
        let longest = "n".repeat(128);
        let id = w.co.create(&longest, &World::spec())?.volume_id;
        w.co.delete(&id)?;
        w.create(|request| request.name = "n".repeat(129))
    }),
    ("create-volume.name-control-character", |w| {
        for bad in ['\0', '\u{8}', '\u{b}', '\u{c}', '\u{e}', '\u{1f}', '\u{7f}'] {
            let answer = w.create(|request| request.name = format!("a{bad}b"));
            assert_eq!(answer.unwrap_err().code(), tonic::Code::InvalidArgument, "{bad:?}");
        }
        w.create(|request| request.name = "\u{9f}".into())
    }),
    ("create-volume.name-like-a-path", |w| {
        for name in ["../../x", "a\nb", "/etc/passwd", ".", "..", "tab\tand \u{202e}", "-rf"] {
            let found = w.co.create(name, &World::spec())?;
            assert_eq!(found.volume_id, id_of(name));
            assert!(World::image(&w.default, &found.volume_id).exists());
            w.co.delete(&found.volume_id)?;
        }
        Ok(())
    }),
    ("create-volume.capabilities-missing", |w| w.create(|request| request.volume_capabilities.clear())),
    ("create-volume.access-type-missing", |w| {
        w.create(|request| request.volume_capabilities[0].access_type = None)
    }),
    ("create-volume.access-mode-missing", |w| {
        let answer = w.create(|request| request.volume_capabilities[0].access_mode = None);
        assert_eq!(answer.unwrap_err().code(), tonic::Code::InvalidArgument);
        w.create(|request| request.volume_capabilities[0].access_mode = mode(0))
    }),
    ("create-volume.multi-node-writer", |w| {
        let answer = w.create(|request| request.volume_capabilities[0].access_mode = mode(4));
        assert_eq!(answer.unwrap_err().code(), tonic::Code::InvalidArgument);
        w.create(|request| request.volume_capabilities[0].access_mode = mode(5))
    }),
    ("create-volume.block-and-mount", |w| {
        w.create(|request| request.volume_capabilities.push(Spec::block().capability()))
    }),
    ("create-volume.mount-group", |w| {
        w.create(|request| mount_of(&mut request.volume_capabilities[0]).volume_mount_group = "1000".into())
    }),
    ("create-volume.filesystem-unknown", |w| {
        let message = refused(w.create(|request| parameter(request, "csi.storage.k8s.io/fstype", "zfs")));
        assert!(message.contains("ext4"), "{message}");
        w.create(|request| mount_of(&mut request.volume_capabilities[0]).fs_type = "ntfs".into())
    }),
    ("create-volume.filesystems-differ", |w| {
        w.create(|request| {
            mount_of(&mut request.volume_capabilities[0]).fs_type = "ext4".into();
            parameter(request, "csi.storage.k8s.io/fstype", "xfs");
        })
    }),
    ("create-volume.mount-flag-refused", |w| {
        w.create(|request| {
            mount_of(&mut request.volume_capabilities[0]).mount_flags = vec!["noatime".into(), "dev".into()];
        })
    }),
    ("create-volume.parameter-unknown", |w| w.create(|request| parameter(request, "colour", "red"))),
    ("create-volume.parameter-value-unknown", |w| {
        for (key, value) in [("provisioning", "thin "), ("uid", "-1"), ("mode", "0o777"), ("limit", "hard")] {
            refused(w.create(|request| parameter(request, key, value)));
        }
        w.create(|request| parameter(request, "layout", "IMAGE"))
    }),
    ("create-volume.parameter-misplaced", |w| {
        refused(w.create(|request| parameter(request, "limit", "advisory")));
        w.create(|request| parameter(request, "layout", "directory")) // It is thin.
    }),
    ("create-volume.mutable-parameters", |w| {
        w.create(|request| drop(request.mutable_parameters.insert("iops".into(), "1".into())))
    }),
    ("create-volume.pool-unknown", |w| w.create(|request| parameter(request, "pool", "../default"))),
    ("create-volume.directory-as-block", |w| {
        w.create(|request| {
            *request = Spec { block: true, ..Spec::directory("advisory") }.request(&unique("v"))
        })
    }),
    ("create-volume.limit-not-enforceable", |w| {
        let message =
            refused(w.create(|request| *request = Spec::directory("enforced").request(&unique("v"))));
        assert!(message.contains("layout image") && message.contains("advisory"), "{message}");
        // Enforced is the default, and never given up quietly.
        w.create(|request| *request = Spec::new().parameter("layout", "directory").request(&unique("v")))
    }),
    ("create-volume.size-negative", |w| {
        refused(w.create(|request| request.capacity_range = range(0, -1)));
        w.create(|request| request.capacity_range = range(-1, 0))
    }),
    ("create-volume.limit-below-required", |w| {
        w.create(|request| request.capacity_range = range(bytes(2 * SIZE), bytes(SIZE)))
    }),
    ("create-volume.size-absurd", |w| w.create(|request| request.capacity_range = range(i64::MAX, 0))),
    ("create-volume.limit-too-small", |w| {
        for (required, limit) in [(1, 5 << 20), (4097, 8191), (0, 4095)] {
            let answer = w.create(|request| request.capacity_range = range(required, limit));
            assert_eq!(answer.unwrap_err().code(), tonic::Code::OutOfRange, "{required} {limit}");
        }
        w.create(|request| *request = Spec::image("xfs").limit(300 * MIB - 1).request(&unique("v")))
    }),
    ("create-volume.size-default", |w| {
        let free = Spec::new().thin();
        assert_eq!(w.co.create(&unique("v"), &free)?.capacity_bytes, 1 << 30);
        let bounded = w.co.create(&unique("v"), &free.limit(100 * MIB + 5000))?;
        assert_eq!(bounded.capacity_bytes, bytes(100 * MIB + 4096));
        Ok(())
    }),
    ("create-volume.source-empty", |w| {
        for source in [Source::Snapshot(String::new()), Source::Volume(String::new())] {
            refused(
                w.create(|request| *request = Spec { source: Some(source), ..World::spec() }.request("n")),
            );
        }
        w.create(|request| request.volume_content_source = Some(csi::VolumeContentSource { r#type: None }))
    }),
    ("create-volume.source-snapshot-missing", |w| {
        let answer =
            w.create(|request| *request = World::spec().from_snapshot("../../x").request(&unique("v")));
        assert_eq!(answer.unwrap_err().code(), tonic::Code::NotFound);
        w.create(|request| *request = World::spec().from_snapshot(&absent_snapshot()).request(&unique("v")))
    }),
    ("create-volume.source-volume-missing", |w| {
        let answer = w.create(|request| *request = World::spec().from_volume("local-").request(&unique("v")));
        assert_eq!(answer.unwrap_err().code(), tonic::Code::NotFound);
        w.create(|request| *request = World::spec().from_volume(&absent_volume()).request(&unique("v")))
    }),
    ("create-volume.source-incompatible", |w| {
        let snapshot = w.snapshot();
        for other in [
            Spec::directory("advisory").size(SIZE),
            Spec::block().thin().size(SIZE),
            Spec::image("xfs").thin().size(300 * MIB),
        ] {
            let message = refused(w.create(|r| *r = other.from_snapshot(&snapshot).request(&unique("v"))));
            assert!(message.contains("ext4"), "{message}");
        }
        let block = w.volume_of(&Spec::block().thin().size(SIZE));
        w.create(|request| *request = World::spec().from_volume(&block).request(&unique("v")))
    }),
    ("create-volume.smaller-than-source", |w| {
        let source = w.volume_of(&Spec::new().thin().size(16 * MIB));
        w.create(|request| *request = World::spec().limit(SIZE).from_volume(&source).request(&unique("v")))
    }),
    ("create-volume.larger-than-source", |w| {
        let source = w.volume();
        let spec = Spec::new().thin().size(40 * MIB);
        let found = w.co.clone_volume(&unique("v"), &spec, &source)?;
        assert_eq!(found.capacity_bytes, bytes(40 * MIB));
        let superblock =
            run("dumpe2fs", ["-h".as_ref(), World::image(&w.default, &found.volume_id).as_os_str()]);
        let blocks = superblock.lines().find_map(|line| line.strip_prefix("Block count:")).unwrap();
        assert!(blocks.trim().parse::<u64>().unwrap() * 4096 >= 38 * MIB, "{superblock}");
        Ok(())
    }),
    ("create-volume.source-in-use", |w| {
        let spec = World::spec().pool("ext4");
        let source = w.staged(&spec);
        let answer = w.create(|request| *request = spec.from_volume(&source.id).request(&unique("v")));
        assert!(answer.as_ref().is_err_and(|status| status.message().contains("reflink")), "{answer:?}");
        answer
    }),
    ("create-volume.source-pending", |w| {
        let snapshot = w.snapshot();
        let _busy = World::lock(&w.default, &snapshot, LockMode::Exclusive);
        let answer =
            w.create(|request| *request = World::spec().from_snapshot(&snapshot).request(&unique("v")));
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Aborted);
        let volume = w.volume();
        let _busy = World::lock(&w.default, &volume, LockMode::Exclusive);
        w.create(|request| *request = World::spec().from_volume(&volume).request(&unique("v")))
    }),
    ("create-volume.topology-elsewhere", |w| {
        w.create(|request| request.accessibility_requirements = only_node("node-2"))
    }),
    ("create-volume.no-space", |w| {
        w.create(|request| *request = Spec::new().thin().pool("small").size(1 << 30).request(&unique("v")))
    }),
    ("create-volume.pool-away", |w| {
        let _away = Over::new(w.away.path());
        w.create(|request| *request = World::spec().pool("away").request(&unique("v")))
    }),
    ("create-volume.pending", |w| {
        let name = unique("v");
        let _busy = World::lock(&w.default, &id_of(&name), LockMode::Shared);
        w.create(|request| request.name = name)
    }),
    ("create-volume.again", |w| w.create_again(&World::spec(), |_| ())),
    ("create-volume.again-with-noise", again_with_noise),
    ("create-volume.again-size-differs", |w| {
        let answer = w.create_again(&World::spec(), |r| r.capacity_range = range(bytes(SIZE) + 1, 0));
        assert_eq!(answer.unwrap_err().code(), tonic::Code::AlreadyExists);
        w.create_again(&World::spec(), |request| request.capacity_range = range(0, bytes(SIZE) - 1))
    }),
    ("create-volume.again-capability-differs", |w| {
        let block = vec![Spec::block().capability()];
        let answer = w.create_again(&World::spec(), |request| request.volume_capabilities = block);
        assert_eq!(answer.unwrap_err().code(), tonic::Code::AlreadyExists);
        w.create_again(&World::spec(), |r| mount_of(&mut r.volume_capabilities[0]).fs_type = "xfs".into())
    }),
    ("create-volume.again-parameters-differ", |w| {
        for (key, value) in [("uid", "1"), ("mode", "0700"), ("provisioning", "thick")] {
            let answer = w.create_again(&World::spec(), |request| parameter(request, key, value));
            assert_eq!(answer.unwrap_err().code(), tonic::Code::AlreadyExists, "{key}");
        }
        w.create_again(&World::spec(), |request| {
            request.parameters =
                [("layout".into(), "directory".into()), ("limit".into(), "advisory".into())].into();
        })
    }),
    ("create-volume.again-pool-differs", |w| {
        w.create_again(&World::spec(), |request| parameter(request, "pool", "ext4"))
    }),
    ("create-volume.again-source-differs", |w| {
        let (one, other) = (w.volume(), w.volume());
        let with = |source: &str| World::spec().from_volume(source).request("n").volume_content_source;
        let answer = w.create_again(&World::spec(), |request| request.volume_content_source = with(&one));
        assert_eq!(answer.unwrap_err().code(), tonic::Code::AlreadyExists);
        let restored = World::spec().from_volume(&one);
        let answer = w.create_again(&restored, |request| request.volume_content_source = None);
        assert_eq!(answer.unwrap_err().code(), tonic::Code::AlreadyExists);
        w.create_again(&restored, |request| request.volume_content_source = with(&other))
    }),
    ("create-volume.again-topology-differs", |w| {
        w.create_again(&World::spec(), |request| request.accessibility_requirements = only_node("node-2"))
    }),
    ("create-volume.again-record-damaged", |w| {
        let name = unique("v");
        let id = w.co.create(&name, &World::spec())?.volume_id;
        let _damage = World::damage(&w.default, &id);
        w.create(|request| request.name = name)
    }),
];

fn mode(number: i32) -> Option<AccessMode> {
    Some(AccessMode { mode: number })
}

fn parameter(request: &mut csi::CreateVolumeRequest, key: &str, value: &str) {
    request.parameters.insert(key.into(), value.into());
}

/// The message of an INVALID_ARGUMENT.
fn refused(answer: Answer) -> String {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    status.message().to_owned()
}

fn again_with_noise(w: &mut World) -> Answer {
    let flags = vec!["noatime".to_owned()];
    let mut nodes = only_node("node-1").unwrap();
    nodes.requisite.insert(0, only_node("node-7").unwrap().requisite.remove(0));
    nodes.preferred.clear();
    w.create_again(&World::spec(), |request| {
        mount_of(&mut request.volume_capabilities[0]).mount_flags = flags;
        request.secrets.insert("token".into(), "x".into());
        request.accessibility_requirements = Some(nodes);
        parameter(request, "csi.storage.k8s.io/pvc/name", "claim");
        parameter(request, "storage.kubernetes.io/csiProvisionerIdentity", "42");
        // What is the default anyway.
        parameter(request, "csi.storage.k8s.io/fstype", "ext4");
        parameter(request, "LAYOUT", "image");
        request.capacity_range = range(1, bytes(SIZE));
    })?;
    // Another mode and several capabilities are no other volume either.
    let many =
        [Mode::SingleNodeMultiWriter, Mode::SingleNodeReaderOnly].map(|m| World::spec().mode(m).capability());
    let mut request = World::spec().request(&unique("v"));
    let first = ask(&mut w.co, request.clone())?;
    request.volume_capabilities.extend(many);
    assert!(ask(&mut w.co, request)? == first);
    Ok(())
}
