//! Directories that project quota limits, on XFS and ext4.

use crate::{
    guest::required,
    scene::{Scene, Volume},
    support::{
        MIB,
        co::{Spec, csi},
        data::{bytes, write_durably},
        host::attempt,
        pool::Kind,
    },
};
use csi::volume_usage::Unit;
use std::{fs, path::Path};
use wharf::os::quota::{self, Project};

const SIZE: u64 = 64 * MIB;

/// (total, used, available) bytes.
fn figures(scene: &mut Scene, volume: &Volume) -> (u64, u64, u64) {
    let answer = scene.co.stats(&volume.id, &volume.target).unwrap();
    let usage = answer.usage.into_iter().find(|usage| usage.unit == Unit::Bytes as i32).unwrap();
    (usage.total.cast_unsigned(), usage.used.cast_unsigned(), usage.available.cast_unsigned())
}

fn project_of(scene: &Scene, volume: &Volume) -> u32 {
    let text = fs::read_to_string(scene.home_of(volume).join("record.json")).unwrap();
    let (_, rest) = text.split_once("\"project_id\":").unwrap_or_else(|| panic!("no project id: {text}"));
    rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn project(pool: &Path, id: u32) -> Project {
    quota::project(pool, id).unwrap().unwrap()
}

/// Writes so many MiB as a pod does: ext4 holds no limit against CAP_SYS_RESOURCE.
fn write_as_pod(file: &Path, mib: u64) -> Result<String, String> {
    let (to, count) = (format!("of={}", file.display()), format!("count={mib}"));
    let dd = ["dd", "if=/dev/zero", &to, "bs=1M", &count, "conv=fsync", "status=none"];
    attempt("setpriv", ["--bounding-set", "-sys_resource", "--"].into_iter().chain(dd))
}

#[test]
fn a_limit_holds_grows_and_shows() {
    required();
    for kind in [Kind::XfsQuota, Kind::Ext4Quota] {
        let mut scene = Scene::new(kind, 512 * MIB);
        assert!(quota::enforced(scene.pool.path()).unwrap());
        // The class's default is a limit that is enforced.
        let spec = Spec::new().parameter("layout", "directory").size(SIZE);
        let volume = scene.running("pod", &spec);
        let (total, empty, available) = figures(&mut scene, &volume);
        assert_eq!((total, available), (SIZE, SIZE - empty), "{kind:?}");
        assert!(empty < MIB, "{kind:?}: {empty}");

        write_durably(&volume.target.join("f"), &bytes(1, usize::try_from(16 * MIB).unwrap()));
        let (_, used, available) = figures(&mut scene, &volume);
        assert!((16 * MIB..17 * MIB).contains(&used), "{kind:?}: {used}");
        assert_eq!(available, SIZE - used);
        let refused = write_as_pod(&volume.target.join("g"), 64).unwrap_err();
        assert!(refused.contains("quota") || refused.contains("space"), "{kind:?}: {refused}");
        let (_, used, _) = figures(&mut scene, &volume);
        assert!(used <= SIZE, "{kind:?}: {used}");

        let grown = scene.co.expand(&volume.id, 2 * SIZE).unwrap();
        assert!(!grown.node_expansion_required);
        write_as_pod(&volume.target.join("g"), 64).unwrap();
        let (total, used, _) = figures(&mut scene, &volume);
        assert_eq!(total, 2 * SIZE);
        // XFS keeps the names in the inodes: not a block more than the files' own.
        assert!((80 * MIB..81 * MIB).contains(&used), "{kind:?}: {used}");

        // Somebody lifts the limit: health says so, and the next Stage sets it again.
        let id = project_of(&scene, &volume);
        quota::set_limit(scene.pool.path(), id, None).unwrap();
        assert_eq!(scene.health(&volume).controller, ["DEGRADED LimitMissing"], "{kind:?}");
        scene.stop(&volume);
        scene.start(&volume);
        assert!(scene.health(&volume).is_good(), "{kind:?}");
        assert_eq!(project(scene.pool.path(), id).limit, Some(2 * SIZE));

        scene.stop(&volume);
        scene.co.delete(&volume.id).unwrap();
        let pool = scene.pool.path().to_owned();
        crate::support::eventually("the project is empty", 30, || project(&pool, id).inodes == 0);
    }
}

#[test]
fn a_restore_has_an_id_and_a_limit_of_its_own() {
    required();
    for kind in [Kind::XfsQuota, Kind::Ext4Quota] {
        let mut scene = Scene::new(kind, 512 * MIB);
        let spec = Spec::directory("enforced").size(SIZE);
        let volume = scene.running("pod", &spec);
        let content = bytes(1, usize::try_from(16 * MIB).unwrap());
        fs::create_dir(volume.target.join("d")).unwrap();
        write_durably(&volume.target.join("d/f"), &content);
        // An ext4 pool cannot share blocks, and cuts only what nobody uses.
        scene.stop(&volume);
        let snapshot = scene.co.snapshot("s", &volume.id).unwrap();
        let made = scene.co.restore("restored", &spec, &snapshot.snapshot_id).unwrap();
        let restored = scene.volume(&made.volume_id, "restored", &spec);
        scene.start(&restored);
        assert_eq!(fs::read(restored.target.join("d/f")).unwrap(), content);
        let (total, used, _) = figures(&mut scene, &restored);
        assert_eq!(total, SIZE);
        assert!((16 * MIB..17 * MIB).contains(&used), "{kind:?}: {used}");
        assert!(write_as_pod(&restored.target.join("g"), 64).is_err(), "{kind:?}");
        assert_ne!(project_of(&scene, &restored), project_of(&scene, &volume));
        // What the snapshot holds counts for nobody.
        let original = project(scene.pool.path(), project_of(&scene, &volume));
        assert!((16 * MIB..17 * MIB).contains(&original.used), "{kind:?}: {original:?}");
    }
}

#[test]
fn an_id_is_not_given_again_while_something_carries_it() {
    required();
    let mut scene = Scene::new(Kind::XfsQuota, 512 * MIB);
    let spec = Spec::directory("enforced").size(SIZE);
    let first = scene.create("v", &spec);
    let id = project_of(&scene, &first);
    scene.co.delete(&first.id).unwrap();
    let pool = scene.pool.path().to_owned();
    crate::support::eventually("the project is empty", 30, || project(&pool, id).inodes == 0);
    let stranger = pool.join("stranger");
    fs::create_dir(&stranger).unwrap();
    let carrier = fs::File::open(&stranger).unwrap();
    quota::set_number(&carrier, id, quota::Inherit::No).unwrap();
    // The same name looks for its id at the same place.
    let second = scene.create("v", &spec);
    assert_ne!(project_of(&scene, &second), id);
    scene.co.delete(&second.id).unwrap();
    drop(carrier);
    fs::remove_dir(&stranger).unwrap();
}

#[test]
fn without_project_quota_a_limit_is_refused() {
    required();
    for kind in [Kind::Xfs, Kind::Ext4] {
        let mut scene = Scene::new(kind, 512 * MIB);
        let spec = Spec::directory("enforced").size(SIZE);
        let refused = crate::scene::refused(scene.co.create("v", &spec), tonic::Code::InvalidArgument);
        assert!(refused.contains("prjquota"), "{refused}");
    }
}
