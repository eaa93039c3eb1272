//! What the Controller service does with volumes that exist, and its lists.

use crate::{
    Case,
    calls::ask,
    support::{
        MIB,
        co::{Mode, Spec, csi},
        data, unique,
    },
    world::{Answer, Filler, NODE, Over, SIZE, World, absent_snapshot, absent_volume, bytes, range, text},
};
use std::fs;
use tonic::Code;
use wharf::os::lock::Mode as LockMode;

pub const CASES: &[Case] = &[
    ("delete-volume.id-missing", |w| w.last(|co| co.delete(""))),
    ("delete-volume.absent", |w| {
        let id = w.volume();
        w.co.delete(&id)?;
        w.co.delete(&id)?;
        w.last(|co| co.delete(&absent_volume()))
    }),
    ("delete-volume.id-foreign", |w| {
        for id in
            ["x", "../../etc", "local-", "pvc-1", "nfs-server#share#x", "local-snap-x.node-1", "\u{202e}"]
        {
            w.co.delete(id)?;
        }
        Ok(())
    }),
    ("delete-volume.with-snapshots", |w| {
        let id = w.volume();
        let snapshot = w.snapshot_of(&id);
        let clone = w.co.clone_volume(&unique("v"), &World::spec(), &id)?.volume_id;
        w.co.delete(&id)?;
        assert!(w.co.snapshots()?.contains(&snapshot) && w.co.volumes()?.contains(&clone));
        w.co.restore(&unique("v"), &World::spec(), &snapshot).map(drop)
    }),
    ("delete-volume.pool-full", |w| {
        let id = w.volume_of(&World::spec().pool("away"));
        let _full = Filler::new(w.away.path());
        w.co.delete(&id)?;
        assert!(!World::directory(&w.away, &id).exists());
        Ok(())
    }),
    ("delete-volume.in-use", |w| {
        let placed = w.staged(&World::spec());
        fs::write(placed.staging.join("file"), "content").unwrap();
        let answer = w.last(|co| co.delete(&placed.id));
        assert_eq!(fs::read_to_string(placed.staging.join("file")).unwrap(), "content");
        answer
    }),
    ("delete-volume.pending", |w| {
        let id = w.volume();
        let _busy = World::lock(&w.default, &id, LockMode::Shared);
        w.last(|co| co.delete(&id))
    }),
    ("delete-volume.pool-away", |w| {
        let id = w.volume_of(&World::spec().pool("away"));
        let _away = Over::new(w.away.path());
        w.last(|co| co.delete(&id))
    }),
    ("delete-volume.record-damaged", |w| {
        let id = w.volume();
        let _damage = World::damage(&w.default, &id);
        w.last(|co| co.delete(&id))
    }),
    ("controller-publish-volume.unimplemented", |w| {
        let volume_id = w.volume();
        w.ask(csi::ControllerPublishVolumeRequest {
            volume_id,
            node_id: "node-1".into(),
            ..Default::default()
        })
    }),
    ("controller-unpublish-volume.unimplemented", |w| {
        w.ask(csi::ControllerUnpublishVolumeRequest::default())
    }),
    ("controller-modify-volume.unimplemented", |w| {
        let volume_id = w.volume();
        w.ask(csi::ControllerModifyVolumeRequest { volume_id, ..Default::default() })
    }),
    ("validate-volume-capabilities.id-missing", |w| {
        validate(w, |request| request.volume_id.clear()).map(drop)
    }),
    ("validate-volume-capabilities.capabilities-missing", |w| {
        validate(w, |request| request.volume_capabilities.clear()).map(drop)
    }),
    ("validate-volume-capabilities.volume-missing", |w| {
        validate(w, |request| request.volume_id = absent_volume()).map(drop)
    }),
    ("validate-volume-capabilities.confirmed", |w| {
        let answer = validate(w, |request| {
            request.parameters.insert("provisioning".into(), "thin".into());
            request.volume_context.insert("storage.kubernetes.io/csiProvisionerIdentity".into(), "42".into());
            request.volume_capabilities.push(World::spec().mode(Mode::SingleNodeMultiWriter).capability());
        })?;
        let confirmed = answer.confirmed.expect("confirmed");
        assert_eq!((confirmed.volume_capabilities.len(), confirmed.parameters.len()), (2, 1));
        assert_eq!((confirmed.volume_context.len(), answer.message.as_str()), (1, ""));
        Ok(())
    }),
    ("validate-volume-capabilities.capability-unsupported", |w| {
        let many = [
            Spec::block().capability(),
            World::spec().fs("xfs").capability(),
            World::spec().mode(Mode::MultiNodeMultiWriter).capability(),
            World::spec().flag("dev").capability(),
        ];
        for capability in many {
            objected(&validate(w, |request| request.volume_capabilities.push(capability))?);
        }
        Ok(())
    }),
    ("validate-volume-capabilities.parameters-differ", |w| {
        objected(&validate(w, |request| drop(request.volume_context.insert("a".into(), "b".into())))?);
        objected(&validate(w, |request| drop(request.mutable_parameters.insert("a".into(), "b".into())))?);
        for (key, value) in
            [("layout", "directory"), ("provisioning", "thick"), ("pool", "ext4"), ("uid", "1"), ("a", "b")]
        {
            objected(&validate(w, |request| drop(request.parameters.insert(key.into(), value.into())))?);
        }
        Ok(())
    }),
    ("list-volumes.max-entries-negative", |w| {
        w.ask(csi::ListVolumesRequest { max_entries: -1, ..Default::default() })
    }),
    ("list-volumes.token-invalid", |w| {
        w.ask(csi::ListVolumesRequest { starting_token: "5".into(), ..Default::default() })
    }),
    ("list-volumes.token-of-a-deleted-one", |w| {
        for _ in 0..3 {
            w.volume();
        }
        let first = ask(&mut w.co, csi::ListVolumesRequest { max_entries: 1, ..Default::default() })?;
        let id = first.entries[0].volume.as_ref().unwrap().volume_id.clone();
        let expected: Vec<_> = w.co.volumes()?.into_iter().filter(|other| *other != id).collect();
        // Where the first in the list is one that a case left in use, it is gone in another way.
        let gone = [&w.default, &w.quota, &w.ext4, &w.small, &w.away].map(|pool| World::directory(pool, &id));
        let place = gone.into_iter().find(|place| place.exists()).unwrap();
        let aside = place.parent().unwrap().parent().unwrap().join("aside");
        fs::rename(&place, &aside).unwrap();
        let rest = ask(
            &mut w.co,
            csi::ListVolumesRequest { starting_token: first.next_token, ..Default::default() },
        );
        fs::rename(&aside, &place).unwrap();
        let rest = rest?.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id);
        assert_eq!(rest.collect::<Vec<_>>(), expected);
        Ok(())
    }),
    ("list-snapshots.max-entries-negative", |w| {
        w.ask(csi::ListSnapshotsRequest { max_entries: i32::MIN, ..Default::default() })
    }),
    ("list-snapshots.token-invalid", |w| {
        let starting_token = format!("after-{}x", uuid::Uuid::new_v4());
        w.ask(csi::ListSnapshotsRequest { starting_token, ..Default::default() })
    }),
    ("list-snapshots.token-of-a-deleted-one", |w| {
        let volume = w.volume();
        for _ in 0..3 {
            w.snapshot_of(&volume);
        }
        let request = csi::ListSnapshotsRequest { source_volume_id: volume.clone(), ..Default::default() };
        let first = ask(&mut w.co, csi::ListSnapshotsRequest { max_entries: 2, ..request.clone() })?;
        let named = first.entries[1].snapshot.as_ref().unwrap();
        w.co.delete_snapshot(&named.snapshot_id)?;
        let rest = ask(&mut w.co, csi::ListSnapshotsRequest { starting_token: first.next_token, ..request })?;
        assert_eq!((rest.entries.len(), rest.next_token.as_str()), (1, ""));
        Ok(())
    }),
    ("list-snapshots.source-unknown", |w| {
        w.snapshot();
        for id in [absent_volume(), "../x".into(), absent_snapshot()] {
            let answer =
                ask(&mut w.co, csi::ListSnapshotsRequest { source_volume_id: id, ..Default::default() })?;
            assert!(answer.entries.is_empty() && answer.next_token.is_empty());
        }
        Ok(())
    }),
    ("list-snapshots.snapshot-unknown", |w| {
        let known = w.snapshot();
        for (id, count) in [(absent_snapshot(), 0), ("../x".into(), 0), (known, 1)] {
            let answer = ask(&mut w.co, csi::ListSnapshotsRequest { snapshot_id: id, ..Default::default() })?;
            assert_eq!((answer.entries.len(), answer.next_token.as_str()), (count, ""));
        }
        Ok(())
    }),
    ("controller-list-volume-health.max-entries-negative", |w| {
        w.ask(csi::ControllerListVolumeHealthRequest { max_entries: -1, ..Default::default() })
    }),
    ("controller-list-volume-health.token-invalid", |w| {
        w.ask(csi::ControllerListVolumeHealthRequest { starting_token: "\0".into(), ..Default::default() })
    }),
    ("controller-list-volume-health.healthy-left-out", |w| {
        let (well, ill) = (w.volume(), w.volume());
        fs::remove_file(World::image(&w.default, &ill)).unwrap();
        let answer = ask(&mut w.co, csi::ControllerListVolumeHealthRequest::default())?;
        w.co.delete(&ill)?;
        let found: Vec<_> = answer.entries.iter().map(|entry| entry.volume_id.clone()).collect();
        assert!(found.contains(&ill) && !found.contains(&well), "{found:?}");
        assert!(answer.entries.iter().all(|entry| !entry.health_statuses.is_empty()));
        Ok(())
    }),
    ("get-capacity.capability-incomplete", |w| {
        let mut capability = World::spec().capability();
        capability.access_type = None;
        let request = csi::GetCapacityRequest { volume_capabilities: vec![capability], ..Default::default() };
        assert_eq!(w.ask(request.clone()).unwrap_err().code(), Code::InvalidArgument);
        let mut request = request;
        request.volume_capabilities =
            vec![csi::VolumeCapability { access_mode: None, ..World::spec().capability() }];
        w.ask(request)
    }),
    ("get-capacity.capability-unsupported", |w| {
        let usable = w.co.capacity(&World::spec())?;
        assert!(usable.available_capacity > 1 << 30 && usable.maximum_volume_size.unwrap() > 1 << 30);
        assert_eq!(usable.minimum_volume_size, Some(8 << 20));
        for spec in [
            World::spec().mode(Mode::MultiNodeMultiWriter),
            World::spec().fs("ntfs"),
            World::spec().flag("dev"),
        ] {
            empty(w, &spec)?;
        }
        empty(w, &Spec { block: true, ..Spec::directory("advisory") })
    }),
    ("get-capacity.class-impossible", |w| {
        for spec in [
            World::spec().pool("nowhere"),
            World::spec().parameter("colour", "red"),
            Spec::directory("enforced"),
        ] {
            let answer = w.co.capacity(&spec)?;
            assert_eq!((answer.available_capacity, answer.maximum_volume_size), (1 << 60, Some(1 << 60)));
        }
        Ok(())
    }),
    ("get-capacity.topology-elsewhere", |w| {
        let of = |node: &str| csi::GetCapacityRequest {
            accessible_topology: Some(csi::Topology {
                segments: [(NODE.to_owned(), node.to_owned())].into(),
            }),
            ..Default::default()
        };
        assert!(ask(&mut w.co, of("node-1"))?.available_capacity > 0);
        assert_eq!(ask(&mut w.co, of("node-2"))?.available_capacity, 0);
        Ok(())
    }),
    ("get-capacity.pool-away", |w| {
        assert!(w.co.capacity(&World::spec().pool("away"))?.available_capacity > 0);
        let _away = Over::new(w.away.path());
        empty(w, &World::spec().pool("away"))?;
        empty(w, &Spec::directory("enforced").pool("away"))
    }),
    ("controller-get-capabilities.ok", |w| {
        use csi::controller_service_capability::{Type, rpc};
        let answer = ask(&mut w.co, csi::ControllerGetCapabilitiesRequest {})?;
        let types = answer.capabilities.into_iter().map(|capability| match capability.r#type.unwrap() {
            Type::Rpc(rpc) => rpc.r#type(),
        });
        let types: Vec<_> = types.collect();
        for wanted in [
            rpc::Type::CreateDeleteVolume,
            rpc::Type::CloneVolume,
            rpc::Type::ExpandVolume,
            rpc::Type::GetSnapshot,
        ] {
            assert!(types.contains(&wanted));
        }
        assert_eq!(types.len(), 12);
        Ok(())
    }),
    ("controller-get-volume.id-missing", |w| w.ask(csi::ControllerGetVolumeRequest::default())),
    ("controller-get-volume.volume-missing", |w| {
        w.ask(csi::ControllerGetVolumeRequest { volume_id: absent_volume() })
    }),
    ("controller-get-volume-health.id-missing", |w| w.ask(csi::ControllerGetVolumeHealthRequest::default())),
    ("controller-get-volume-health.volume-missing", |w| health(w, &absent_volume()).map(drop)),
    ("controller-get-volume-health.healthy", |w| {
        let id = w.volume();
        assert_eq!(health(w, &id)?, []);
        Ok(())
    }),
    ("controller-get-volume-health.record-damaged", |w| {
        let id = w.volume();
        let _damage = World::damage(&w.default, &id);
        let expected = (csi::VolumeHealthErrorType::Inaccessible, "RecordDamaged".to_owned());
        assert_eq!(health(w, &id)?, [expected]);
        Ok(())
    }),
    ("controller-get-volume-health.image-missing", |w| {
        let id = w.volume();
        fs::remove_file(World::image(&w.default, &id)).unwrap();
        let expected = (csi::VolumeHealthErrorType::DataLoss, "ImageMissing".to_owned());
        let found = health(w, &id)?;
        w.co.delete(&id)?;
        assert_eq!(found, [expected]);
        Ok(())
    }),
    ("controller-expand-volume.id-missing", |w| w.last(|co| co.expand("", 2 * SIZE)).map(drop)),
    ("controller-expand-volume.range-missing", |w| {
        let volume_id = w.volume();
        w.ask(csi::ControllerExpandVolumeRequest { volume_id, ..Default::default() })
    }),
    ("controller-expand-volume.range-invalid", |w| {
        let id = w.volume();
        let answer = expand(w, &id, |request| request.capacity_range = range(-5, 0));
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
        expand(w, &id, |request| request.capacity_range = range(bytes(3 * SIZE), bytes(2 * SIZE)))
    }),
    ("controller-expand-volume.capability-unsupported", |w| {
        let id = w.volume();
        for other in [World::spec().fs("xfs"), World::spec().mode(Mode::MultiNodeSingleWriter)] {
            let answer = expand(w, &id, |request| request.volume_capability = Some(other.capability()));
            assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
        }
        expand(w, &id, |request| request.volume_capability = Some(Spec::block().capability()))
    }),
    ("controller-expand-volume.volume-missing", |w| {
        assert_eq!(expand(w, "../x", |_| ()).unwrap_err().code(), Code::NotFound);
        expand(w, &absent_volume(), |_| ())
    }),
    ("controller-expand-volume.not-larger", |w| {
        let id = w.volume();
        for size in [0, 1, SIZE] {
            assert_eq!(w.co.expand(&id, size)?.capacity_bytes, bytes(SIZE));
        }
        Ok(())
    }),
    ("controller-expand-volume.in-use", |w| {
        let mount = w.published(&World::spec());
        let answer = w.co.expand(&mount.id, 2 * SIZE)?;
        assert!(answer.node_expansion_required);
        let block = w.published(&Spec::block().thin().size(SIZE));
        let answer = w.co.expand(&block.id, 2 * SIZE)?;
        assert!(!answer.node_expansion_required);
        assert_eq!(data::size(&block.target), 2 * SIZE);
        let directory = w.published(&Spec::directory("enforced").pool("quota").size(SIZE));
        let answer = w.co.expand(&directory.id, 2 * SIZE)?;
        assert_eq!((answer.node_expansion_required, answer.capacity_bytes), (false, bytes(2 * SIZE)));
        Ok(())
    }),
    ("controller-expand-volume.limit-too-small", |w| {
        let id = w.volume();
        let answer = expand(w, &id, |request| request.capacity_range = range(0, bytes(SIZE) - 1));
        assert_eq!(answer.unwrap_err().code(), Code::OutOfRange);
        expand(w, &id, |request| request.capacity_range = range(bytes(SIZE) + 1, bytes(SIZE) + 4095))
    }),
    ("controller-expand-volume.no-space", |w| {
        let id = w.volume_of(&World::spec().pool("small"));
        let record = || fs::read(World::directory(&w.small, &id).join("record.json")).unwrap();
        let before = record();
        let answer = expand(w, &id, |request| request.capacity_range = range(1 << 40, 0));
        let record = fs::read(World::directory(&w.small, &id).join("record.json")).unwrap();
        assert!(before == record, "the record has changed");
        assert_eq!(World::image(&w.small, &id).metadata().unwrap().len(), SIZE);
        answer
    }),
    ("controller-expand-volume.pending", |w| {
        let id = w.volume();
        let _busy = World::lock(&w.default, &id, LockMode::Exclusive);
        expand(w, &id, |_| ())
    }),
    ("node-get-storage-health.healthy", |w| {
        let answer = ask(&mut w.co, csi::NodeGetStorageHealthRequest::default())?;
        let found: Vec<_> = answer.backend_health.iter().map(|health| &health.message).collect();
        assert!(found.is_empty(), "{found:?}");
        Ok(())
    }),
    ("node-get-storage-health.pool-away", |w| {
        let _away = Over::new(w.away.path());
        let answer = ask(&mut w.co, csi::NodeGetStorageHealthRequest::default())?;
        let [found] = answer.backend_health.as_slice() else { panic!("{}", answer.backend_health.len()) };
        assert_eq!(found.status(), csi::StorageHealthErrorType::StorageUnreachable);
        assert_eq!(found.reason, "PoolUnavailable");
        assert!(found.message.contains(&text(w.away.path())), "{}", found.message);
        Ok(())
    }),
];

fn validate(
    w: &mut World,
    edit: impl FnOnce(&mut csi::ValidateVolumeCapabilitiesRequest),
) -> Result<csi::ValidateVolumeCapabilitiesResponse, tonic::Status> {
    let mut request = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: w.volume(),
        volume_capabilities: vec![World::spec().capability()],
        ..Default::default()
    };
    edit(&mut request);
    w.last(|co| ask(co, request))
}

fn objected(answer: &csi::ValidateVolumeCapabilitiesResponse) {
    assert!(answer.confirmed.is_none() && answer.message.len() > 15, "{:?}", answer.message);
}

fn empty(w: &mut World, spec: &Spec) -> Answer {
    let answer = w.co.capacity(spec)?;
    assert_eq!((answer.available_capacity, answer.maximum_volume_size), (0, Some(0)));
    Ok(())
}

fn expand(w: &mut World, id: &str, edit: impl FnOnce(&mut csi::ControllerExpandVolumeRequest)) -> Answer {
    let mut request = csi::ControllerExpandVolumeRequest {
        volume_id: id.to_owned(),
        capacity_range: range(bytes(16 * MIB), 0),
        ..Default::default()
    };
    edit(&mut request);
    w.ask(request)
}

type Ailments = Vec<(csi::VolumeHealthErrorType, String)>;

fn health(w: &mut World, id: &str) -> Result<Ailments, tonic::Status> {
    let request = csi::ControllerGetVolumeHealthRequest { volume_id: id.to_owned(), ..Default::default() };
    let health = w.last(|co| ask(co, request))?.volume_health.unwrap();
    assert_eq!(health.volume_id, id);
    Ok(health.health_statuses.into_iter().map(|entry| (entry.status(), entry.reason)).collect())
}
