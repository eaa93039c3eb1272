//! What the Node service says about volumes that are in use.

use crate::{
    Case,
    calls::ask,
    support::{
        MIB,
        co::{Mode, Spec, csi},
        unique,
    },
    world::{Answer, NODE, Over, Placed, SIZE, World, absent_volume, bytes, range, text},
};
use std::path::Path;
use tonic::{Code, Status};
use wharf::os::lock::Mode as LockMode;

pub const CASES: &[Case] = &[
    ("node-get-volume-stats.id-missing", |w| {
        let placed = w.published(&World::spec());
        w.last(|co| co.stats("", &placed.target)).map(drop)
    }),
    ("node-get-volume-stats.path-missing", |w| {
        let id = w.volume();
        w.last(|co| co.stats(&id, Path::new(""))).map(drop)
    }),
    ("node-get-volume-stats.volume-missing", |w| {
        let placed = w.published(&World::spec());
        w.last(|co| co.stats(&absent_volume(), &placed.target)).map(drop)
    }),
    ("node-get-volume-stats.not-there", |w| {
        not_there(w, |w, id, path| w.last(|co| co.stats(id, path)).map(drop))
    }),
    ("node-expand-volume.id-missing", |w| {
        let placed = w.published(&World::spec());
        w.last(|co| co.expand_node("", &placed.target, SIZE)).map(drop)
    }),
    ("node-expand-volume.path-missing", |w| {
        let id = w.volume();
        w.last(|co| co.expand_node(&id, Path::new(""), SIZE)).map(drop)
    }),
    ("node-expand-volume.range-invalid", |w| {
        let placed = w.published(&World::spec());
        let answer = expand(w, &placed, |request| request.capacity_range = range(-1, 0));
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
        expand(w, &placed, |request| request.capacity_range = range(2, 1))
    }),
    ("node-expand-volume.capability-unsupported", |w| {
        let placed = w.published(&World::spec());
        for other in [Spec::block(), World::spec().mode(Mode::MultiNodeMultiWriter)] {
            let answer = expand(w, &placed, |request| request.volume_capability = Some(other.capability()));
            assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
        }
        expand(w, &placed, |request| request.volume_capability = Some(World::spec().fs("xfs").capability()))
    }),
    ("node-expand-volume.volume-missing", |w| {
        let placed = w.published(&World::spec());
        w.last(|co| co.expand_node(&absent_volume(), &placed.target, SIZE)).map(drop)
    }),
    ("node-expand-volume.not-there", |w| {
        not_there(w, |w, id, path| w.last(|co| co.expand_node(id, path, SIZE)).map(drop))
    }),
    ("node-expand-volume.not-larger", |w| {
        let image = w.published(&World::spec());
        assert_eq!(w.co.expand_node(&image.id, &image.target, SIZE)?.capacity_bytes, bytes(SIZE));
        // Absent: as far as the volume reaches. The staging path will do, too.
        expand(w, &image, |request| request.capacity_range = None)?;
        assert_eq!(w.co.expand_node(&image.id, &image.staging, 0)?.capacity_bytes, bytes(SIZE));
        for spec in [Spec::block().thin().size(SIZE), Spec::directory("enforced").pool("quota").size(SIZE)] {
            let placed = w.published(&spec);
            w.co.expand(&placed.id, 2 * SIZE)?;
            let answer = w.co.expand_node(&placed.id, &placed.target, 2 * SIZE)?;
            assert_eq!(answer.capacity_bytes, bytes(2 * SIZE));
        }
        Ok(())
    }),
    ("node-expand-volume.controller-first", |w| {
        let placed = w.published(&World::spec());
        w.last(|co| co.expand_node(&placed.id, &placed.target, SIZE + 1)).map(drop)
    }),
    ("node-expand-volume.not-online", not_online),
    ("node-expand-volume.pending", |w| {
        let placed = w.published(&World::spec());
        let _busy = World::lock(&w.default, &placed.id, LockMode::Shared);
        w.last(|co| co.expand_node(&placed.id, &placed.target, SIZE)).map(drop)
    }),
    ("node-get-volume-health.id-missing", |w| w.ask(csi::NodeGetVolumeHealthRequest::default())),
    ("node-get-volume-health.volume-missing", |w| health(w, &absent_volume(), "", "").map(drop)),
    ("node-get-volume-health.healthy", |w| {
        for spec in [
            World::spec(),
            Spec::block().thin().size(SIZE),
            Spec::directory("enforced").pool("quota").size(SIZE),
        ] {
            let placed = w.published(&spec);
            assert_eq!(health(w, &placed.id, &text(&placed.target), &text(&placed.staging))?, []);
            // Paths that do not exist, or none at all, are nothing wrong either.
            assert_eq!(health(w, &placed.id, "", "")?, []);
        }
        Ok(())
    }),
    ("node-get-volume-health.not-mounted", |w| {
        let (id, path) = (w.volume(), w.places.staging(&unique("stage")));
        let expected = (csi::VolumeHealthErrorType::Inaccessible, "NotMounted".to_owned());
        assert_eq!(health(w, &id, "", &text(&path))?, [expected]);
        Ok(())
    }),
    ("node-get-capabilities.ok", |w| {
        use csi::node_service_capability::{Type, rpc};
        let answer = ask(&mut w.co, csi::NodeGetCapabilitiesRequest {})?;
        let types = answer.capabilities.into_iter().map(|capability| match capability.r#type.unwrap() {
            Type::Rpc(rpc) => rpc.r#type(),
        });
        let types: Vec<_> = types.collect();
        assert!(types.contains(&rpc::Type::StageUnstageVolume) && types.contains(&rpc::Type::ExpandVolume));
        assert_eq!(types.len(), 6);
        Ok(())
    }),
    ("node-get-info.ok", |w| {
        let info = ask(&mut w.co, csi::NodeGetInfoRequest {})?;
        assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-1", 0));
        assert_eq!(
            info.accessible_topology.unwrap().segments,
            [(NODE.to_owned(), "node-1".to_owned())].into()
        );
        Ok(())
    }),
];

/// Paths at which the volume is not.
fn not_there(w: &mut World, mut ask: impl FnMut(&mut World, &str, &Path) -> Answer) -> Answer {
    let placed = w.published(&World::spec());
    let (plain, other) = (w.places.staging(&unique("plain")), w.published(&World::spec()));
    let foreign = w.places.staging(&unique("foreign"));
    let _over = Over::new(&foreign);
    let inside = placed.target.join("lost+found");
    for path in [plain, other.target, foreign, inside, w.places.target("absent"), "some/path".into()] {
        let status = ask(w, &placed.id, &path).expect_err(&text(&path));
        assert_eq!(status.code(), Code::NotFound, "{}: {status:?}", path.display());
    }
    ask(w, "foreign", &placed.target)
}

fn expand(w: &mut World, placed: &Placed, edit: impl FnOnce(&mut csi::NodeExpandVolumeRequest)) -> Answer {
    let mut request = csi::NodeExpandVolumeRequest {
        volume_id: placed.id.clone(),
        volume_path: text(&placed.target),
        capacity_range: range(bytes(SIZE), 0),
        ..Default::default()
    };
    edit(&mut request);
    w.ask(request)
}

/// The pod runs on with the old size, and the next Stage grows the filesystem.
fn not_online(w: &mut World) -> Answer {
    let total =
        |w: &mut World, placed: &Placed| w.co.stats(&placed.id, &placed.staging).unwrap().usage[0].total;
    let placed = w.staged(&World::spec());
    w.co.expand(&placed.id, 64 * MIB)?;
    let small = total(w, &placed);
    let answer = w.co.expand_node(&placed.id, &placed.staging, 64 * MIB).map(drop);
    assert_eq!(total(w, &placed), small);
    w.co.unstage(&placed.id, &placed.staging)?;
    w.co.stage(&placed.id, &placed.staging, &World::spec())?;
    assert!(total(w, &placed) > bytes(48 * MIB), "it was not grown at Stage");
    w.co.expand_node(&placed.id, &placed.staging, 64 * MIB)?;
    answer
}

type Ailments = Vec<(csi::VolumeHealthErrorType, String)>;

fn health(w: &mut World, id: &str, published: &str, staged: &str) -> Result<Ailments, Status> {
    let request = csi::NodeGetVolumeHealthRequest {
        volume_id: id.to_owned(),
        volume_publish_path: published.to_owned(),
        staging_target_path: staged.to_owned(),
    };
    let health = w.last(|co| ask(co, request))?.volume_health.unwrap();
    assert_eq!(health.volume_id, id);
    Ok(health.health_statuses.into_iter().map(|entry| (entry.status(), entry.reason)).collect())
}
