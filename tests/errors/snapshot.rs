//! CreateSnapshot, DeleteSnapshot, GetSnapshot.

use crate::{
    Case,
    calls::ask,
    support::{
        MIB,
        co::{Spec, csi},
        data,
        host::run,
        unique,
    },
    world::{Answer, Damage, World, absent_snapshot, absent_volume, only_node, overwrite},
};
use std::fs::{self, OpenOptions};
use tonic::Code;
use wharf::os::lock::Mode as LockMode;

pub const CASES: &[Case] = &[
    ("create-snapshot.name-missing", |w| {
        let id = w.volume();
        w.last(|co| co.snapshot("", &id)).map(drop)
    }),
    ("create-snapshot.source-id-missing", |w| w.last(|co| co.snapshot(&unique("s"), "")).map(drop)),
    ("create-snapshot.parameter-unknown", |w| {
        // Keys of the orchestrator, and those of csi-driver-nfs, are fine.
        cut(w, |request| {
            request.parameters.insert("csi.storage.k8s.io/volumesnapshot/name".into(), "x".into());
            request.parameters.insert("mountOptions".into(), "nolock".into());
        })?;
        cut(w, |request| drop(request.parameters.insert("colour".into(), "red".into())))
    }),
    ("create-snapshot.source-missing", |w| {
        let answer = w.last(|co| co.snapshot(&unique("s"), "../../x"));
        assert_eq!(answer.unwrap_err().code(), Code::NotFound);
        w.last(|co| co.snapshot(&unique("s"), &absent_volume())).map(drop)
    }),
    ("create-snapshot.again", |w| {
        let (id, name) = (w.volume(), unique("s"));
        let first = w.co.snapshot(&name, &id)?;
        assert!(first.ready_to_use && first.source_volume_id == id);
        assert!(w.co.snapshot(&name, &id)? == first);
        Ok(())
    }),
    ("create-snapshot.again-source-differs", |w| {
        let (one, other, name) = (w.volume(), w.volume(), unique("s"));
        w.co.snapshot(&name, &one)?;
        let answer = w.last(|co| co.snapshot(&name, &absent_volume()));
        assert_eq!(answer.unwrap_err().code(), Code::AlreadyExists);
        w.last(|co| co.snapshot(&name, &other)).map(drop)
    }),
    ("create-snapshot.topology-elsewhere", |w| {
        cut(w, |request| request.accessibility_requirements = only_node("node-1"))?;
        cut(w, |request| request.accessibility_requirements = only_node("node-2"))
    }),
    ("create-snapshot.no-space", |w| {
        let id = w.volume_of(&Spec::block().pool("small").size(64 * MIB));
        w.last(|co| co.snapshot(&unique("s"), &id)).map(drop)
    }),
    ("create-snapshot.source-in-use", |w| {
        let placed = w.staged(&World::spec().pool("ext4"));
        w.last(|co| co.snapshot(&unique("s"), &placed.id)).map(drop)
    }),
    ("create-snapshot.nested-subvolumes", |w| {
        let placed = w.staged(&Spec::directory("enforced").pool("quota").size(16 * MIB));
        let nested = placed.staging.join("nested");
        run("btrfs", ["subvolume".as_ref(), "create".as_ref(), nested.as_os_str()]);
        let answer = w.last(|co| co.snapshot(&unique("s"), &placed.id));
        assert!(
            answer.as_ref().is_err_and(|status| status.message().contains("nested")),
            "{:?}",
            answer.err()
        );
        // Without it the volume's other tests find a healthy one.
        run("btrfs", ["subvolume".as_ref(), "delete".as_ref(), nested.as_os_str()]);
        w.co.snapshot(&unique("s"), &placed.id)?;
        answer.map(drop)
    }),
    ("create-snapshot.pending", |w| {
        let id = w.volume();
        let busy = World::lock(&w.default, &id, LockMode::Exclusive);
        let answer = w.last(|co| co.snapshot(&unique("s"), &id));
        assert_eq!(answer.unwrap_err().code(), Code::Aborted);
        drop(busy);
        let name = unique("s");
        let snapshot = w.co.snapshot(&name, &id)?.snapshot_id;
        let _busy = World::lock(&w.default, &snapshot, LockMode::Shared);
        w.last(|co| co.snapshot(&name, &id)).map(drop)
    }),
    ("create-snapshot.source-damaged", source_damaged),
    ("delete-snapshot.id-missing", |w| w.last(|co| co.delete_snapshot(""))),
    ("delete-snapshot.absent", |w| {
        let id = w.snapshot();
        w.co.delete_snapshot(&id)?;
        w.co.delete_snapshot(&id)?;
        w.co.delete_snapshot(&absent_snapshot())
    }),
    ("delete-snapshot.id-foreign", |w| {
        let volume = w.volume();
        for id in ["x", "../x", "local-snap-", volume.as_str()] {
            w.co.delete_snapshot(id)?;
        }
        assert!(w.co.volumes()?.contains(&volume), "a volume was deleted as a snapshot");
        Ok(())
    }),
    ("delete-snapshot.with-restores", |w| {
        let id = w.snapshot();
        let restored = w.co.restore(&unique("v"), &World::spec(), &id)?.volume_id;
        w.co.delete_snapshot(&id)?;
        let staging = w.places.staging(&unique("stage"));
        w.co.stage(&restored, &staging, &World::spec())?;
        w.co.unstage(&restored, &staging)
    }),
    ("delete-snapshot.pending", |w| {
        let id = w.snapshot();
        let _busy = World::lock(&w.default, &id, LockMode::Shared);
        w.last(|co| co.delete_snapshot(&id))
    }),
    ("get-snapshot.id-missing", |w| w.ask(csi::GetSnapshotRequest::default())),
    ("get-snapshot.snapshot-missing", |w| {
        let id = w.snapshot();
        let found =
            ask(&mut w.co, csi::GetSnapshotRequest { snapshot_id: id.clone(), ..Default::default() })?;
        assert_eq!(found.snapshot.unwrap().snapshot_id, id);
        let foreign = w.ask(csi::GetSnapshotRequest { snapshot_id: "../x".into(), ..Default::default() });
        assert_eq!(foreign.unwrap_err().code(), Code::NotFound);
        w.ask(csi::GetSnapshotRequest { snapshot_id: absent_snapshot(), ..Default::default() })
    }),
];

/// CreateSnapshot of a new volume, with something changed.
fn cut(w: &mut World, edit: impl FnOnce(&mut csi::CreateSnapshotRequest)) -> Answer {
    let source_volume_id = w.volume();
    let mut request =
        csi::CreateSnapshotRequest { source_volume_id, name: unique("s"), ..Default::default() };
    edit(&mut request);
    w.ask(request)
}

fn source_damaged(w: &mut World) -> Answer {
    let id = w.volume();
    let image = World::image(&w.default, &id);
    let mut attempt = |what: &str| {
        let status = w.last(|co| co.snapshot(&unique("s"), &id)).map(drop).unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{what}: {status:?}");
        status
    };
    let size = image.metadata().unwrap().len();
    {
        let _damage = Damage::new(&image, |content| content.truncate(5 << 20));
        attempt("truncated");
    }
    assert_eq!(image.metadata().unwrap().len(), size);
    {
        let _damage = Damage::new(&image, |content| content[..65536].fill(0));
        attempt("wiped");
    }
    {
        let _damage = Damage::new(&image, |content| content[..65536].copy_from_slice(&data::bytes(5, 65536)));
        attempt("something else");
    }
    let aside = image.with_file_name("aside");
    fs::rename(&image, &aside).unwrap();
    let status = attempt("missing");
    fs::rename(&aside, &image).unwrap();
    w.co.snapshot(&unique("s"), &id)?;
    // A raw block volume has no superblock, but a length.
    let block = w.volume_of(&Spec::block().thin().size(16 * MIB));
    let image = World::image(&w.default, &block);
    overwrite(&image, b"anything");
    w.co.snapshot(&unique("s"), &block)?;
    OpenOptions::new().write(true).open(&image).unwrap().set_len(4096).unwrap();
    let short = w.last(|co| co.snapshot(&unique("s"), &block)).map(drop);
    assert_eq!(short.unwrap_err().code(), Code::Internal);
    w.co.delete(&block)?;
    Err(status)
}
