//! What holds for every RPC; Identity; services that are not served.

use crate::{
    Case,
    calls::{abandon, ask, ask_within},
    support::{
        MIB,
        co::{Spec, csi},
        data,
        driver::Driver,
        eventually,
        pool::{Kind, Pool},
        unique,
    },
    world::{Answer, Over, World, absent_volume, id_of},
};
use std::{fs::OpenOptions, os::unix::fs::FileExt, path::Path, time::Duration};
use tonic::{Code, Request, Response, Status, client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

pub const CASES: &[Case] = &[
    ("any.unknown-method", |w| raw(w, "/csi.v1.Controller/Nonsense").and(raw(w, "/no.such.Service/Method"))),
    ("any.secrets-ignored", secrets_ignored),
    ("any.deadline", deadline),
    ("any.cancelled", cancelled),
    ("any.panic", panic),
    ("any.status-details", |w| w.create(|request| request.name.clear())),
    ("any.path-impossible", path_impossible),
    ("get-plugin-info.ok", |w| {
        let info = ask(&mut w.co, csi::GetPluginInfoRequest {})?;
        assert_eq!(info.name, "wharf.csi.dev");
        assert!(!info.vendor_version.is_empty() && info.manifest.is_empty());
        Ok(())
    }),
    ("get-plugin-capabilities.ok", |w| {
        use csi::plugin_capability::{Type, service, volume_expansion};
        let answer = ask(&mut w.co, csi::GetPluginCapabilitiesRequest {})?;
        let (mut services, mut expansions) = (Vec::new(), Vec::new());
        for capability in answer.capabilities {
            match capability.r#type.unwrap() {
                Type::Service(service) => services.push(service.r#type()),
                Type::VolumeExpansion(expansion) => expansions.push(expansion.r#type()),
            }
        }
        for wanted in [
            service::Type::ControllerService,
            service::Type::VolumeAccessibilityConstraints,
            service::Type::SnapshotAccessibilityConstraints,
        ] {
            assert!(services.contains(&wanted), "{services:?}");
        }
        assert_eq!(services.len(), 3);
        assert_eq!(expansions, [volume_expansion::Type::Online]);
        Ok(())
    }),
    ("probe.one-pool-usable", |w| {
        let _away = Over::new(w.away.path());
        let answer = ask(&mut w.co, csi::ProbeRequest {})?;
        assert_eq!(answer.ready, Some(true));
        Ok(())
    }),
    ("probe.no-pool-usable", |_| {
        let pool = Pool::new(Kind::Ext4, 64 * MIB);
        let driver = Driver::start(&[("default", pool.path())], &[]);
        let _away = Over::new(pool.path());
        ask(&mut driver.co(), csi::ProbeRequest {}).map(drop)
    }),
    ("group-controller-get-capabilities.unimplemented", |w| {
        raw(w, "/csi.v1.GroupController/GroupControllerGetCapabilities")
    }),
    ("create-volume-group-snapshot.unimplemented", |w| {
        raw(w, "/csi.v1.GroupController/CreateVolumeGroupSnapshot")
    }),
    ("delete-volume-group-snapshot.unimplemented", |w| {
        raw(w, "/csi.v1.GroupController/DeleteVolumeGroupSnapshot")
    }),
    ("get-volume-group-snapshot.unimplemented", |w| raw(w, "/csi.v1.GroupController/GetVolumeGroupSnapshot")),
    ("get-metadata-allocated.unimplemented", |w| raw(w, "/csi.v1.SnapshotMetadata/GetMetadataAllocated")),
    ("get-metadata-delta.unimplemented", |w| raw(w, "/csi.v1.SnapshotMetadata/GetMetadataDelta")),
];

/// Calls a method by its path, as a client of another version would.
fn raw(w: &mut World, path: &'static str) -> Answer {
    let socket = format!("unix://{}", w.driver.socket().display());
    w.co.call(|_| async move {
        let channel = Endpoint::try_from(socket).unwrap().connect().await.unwrap();
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<csi::ProbeRequest, csi::ProbeResponse>::default();
        let answer: Result<Response<csi::ProbeResponse>, Status> =
            grpc.unary(Request::new(csi::ProbeRequest {}), path.parse().unwrap(), codec).await;
        answer
    })
    .map(drop)
}

/// Secrets in every request that can carry some; the volume's life goes on as without.
fn secrets_ignored(w: &mut World) -> Answer {
    let secrets = |n: &str| [("token".to_owned(), n.to_owned())].into();
    let spec = World::spec();
    let request = csi::CreateVolumeRequest { secrets: secrets("1"), ..spec.request(&unique("v")) };
    let id = ask(&mut w.co, request)?.volume.unwrap().volume_id;
    let request = csi::CreateSnapshotRequest {
        source_volume_id: id.clone(),
        name: unique("s"),
        secrets: secrets("2"),
        ..Default::default()
    };
    let snapshot = ask(&mut w.co, request)?.snapshot.unwrap().snapshot_id;
    let (staging, target) = (w.places.staging(&unique("secret")), w.places.target(&unique("secret")));
    let request = csi::NodeStageVolumeRequest {
        volume_id: id.clone(),
        staging_target_path: staging.to_str().unwrap().into(),
        volume_capability: Some(spec.capability()),
        secrets: secrets("3"),
        ..Default::default()
    };
    ask(&mut w.co, request)?;
    let request = csi::NodePublishVolumeRequest {
        volume_id: id.clone(),
        staging_target_path: staging.to_str().unwrap().into(),
        target_path: target.to_str().unwrap().into(),
        volume_capability: Some(spec.capability()),
        secrets: secrets("4"),
        ..Default::default()
    };
    ask(&mut w.co, request)?;
    w.co.unpublish(&id, &target)?;
    w.co.unstage(&id, &staging)?;
    ask(&mut w.co, csi::DeleteSnapshotRequest { snapshot_id: snapshot, secrets: secrets("5") })?;
    ask(&mut w.co, csi::DeleteVolumeRequest { volume_id: id, secrets: secrets("6") }).map(drop)
}

/// In each field that is a path; of a volume that is in use, so that nothing else is wrong.
fn path_impossible(w: &mut World) -> Answer {
    let spec = World::spec();
    let placed = w.published(&spec);
    let (id, staging, target) = (&placed.id, &placed.staging, &placed.target);
    let mut last = Ok(());
    for bad in [format!("/{}", "p".repeat(256)), format!("/{}", "p/".repeat(2048)), "/a\0b".to_owned()] {
        let path = Path::new(&bad);
        for number in 0..7 {
            last = w.last(|co| match number {
                0 => co.stage(id, path, &spec),
                1 => co.unstage(id, path),
                2 => co.publish(id, path, target, &spec, false),
                3 => co.publish(id, staging, path, &spec, false),
                4 => co.unpublish(id, path),
                5 => co.stats(id, path).map(drop),
                _ => co.expand_node(id, path, 0).map(drop),
            });
            let code = last.as_ref().err().map(Status::code);
            assert_eq!(code, Some(Code::InvalidArgument), "{number}: {bad:.40}");
        }
    }
    last
}

/// A raw block volume on the pool that has to copy, with so much in it that a copy takes a while.
fn large(w: &mut World) -> String {
    if let Some(id) = &w.large {
        return id.clone();
    }
    let id = w.volume_of(&Spec::block().thin().pool("ext4").size(256 * MIB));
    let image = OpenOptions::new().write(true).open(World::image(&w.ext4, &id)).unwrap();
    let piece = data::bytes(1, 8 << 20);
    for at in 0..32 {
        image.write_all_at(&piece, at * (8 << 20)).unwrap();
    }
    w.large = Some(id.clone());
    id
}

fn cut(name: &str, volume: &str) -> csi::CreateSnapshotRequest {
    csi::CreateSnapshotRequest {
        source_volume_id: volume.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    }
}

fn deadline(w: &mut World) -> Answer {
    let (volume, name) = (large(w), unique("s"));
    let mut answers = Vec::new();
    while answers.len() < 2 {
        match ask_within(&mut w.co, cut(&name, &volume), Duration::from_millis(100)) {
            Ok(_) => panic!("the copy was faster than the deadline"),
            Err(status) if status.code() == Code::Aborted => answers.push(status),
            // On a machine that is busy the client's own clock may come first.
            Err(status) => assert_eq!(status.message(), "Timeout expired"),
        }
    }
    assert_eq!(answers[0].message(), answers[1].message(), "one text, or each is an event for the user");
    let found = ask(&mut w.co, cut(&name, &volume))?.snapshot.unwrap();
    assert!(found.ready_to_use);
    w.co.delete_snapshot(&found.snapshot_id)?;
    Err(answers.remove(0))
}

fn cancelled(w: &mut World) -> Answer {
    let (volume, name) = (large(w), unique("s"));
    assert!(!abandon(&mut w.co, cut(&name, &volume), Duration::from_millis(20)), "it was too fast");
    // The work goes on and holds its locks.
    let busy = w.co.delete(&volume).unwrap_err();
    assert_eq!(busy.code(), Code::Aborted, "{busy:?}");
    let id = id_of(&name).replacen("local-", "local-snap-", 1);
    let path = World::directory(&w.ext4, &id);
    eventually("the work without its caller ends", 30, || path.exists());
    let found = ask(&mut w.co, cut(&name, &volume))?.snapshot.unwrap();
    assert_eq!(found.snapshot_id, id);
    w.co.delete_snapshot(&id)
}

fn panic(_: &mut World) -> Answer {
    if !cfg!(feature = "failpoints") {
        panic!("run the tests with --features failpoints, as scripts/test does");
    }
    let pool = Pool::new(Kind::Ext4, 192 * MIB);
    let driver = Driver::start(&[("default", pool.path())], &[("WHARF_FAILPOINT", "create.filled=panic")]);
    let (mut co, name, spec) = (driver.co(), unique("v"), World::spec());
    let other = unique("v");
    let answer = co.create(&name, &spec);
    let left = |directory: &str| Path::new(pool.path()).join(directory).read_dir().unwrap().count();
    assert_eq!((left("tmp"), left("volumes")), (0, 0), "something is left of it");
    // The process lives, others work, the lock is free.
    assert_eq!(co.delete(&absent_volume()).map_err(|status| status.code()), Ok(()));
    co.create(&other, &spec)?;
    assert_eq!(co.create(&name, &spec)?.volume_id, id_of(&name));
    assert_eq!(driver.log().matches("a request panicked").count(), 1, "{}", driver.log());
    answer.map(drop)
}
