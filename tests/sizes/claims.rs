//! Claims as users write them, sizes that nobody wrote, growth, owner and mode.

use crate::{
    stand::{GIB, Stand, assert_fills, code, head, signed},
    support::{MIB, co::Spec, data, host::attempt, pool::Kind, unique},
};
use std::{fs, os::unix::fs::MetadataExt};
use tonic::Code;

/// CSI hands out the claim's own number again at each restore and clone.
#[test]
fn claims_as_users_write_them() {
    let mut stand =
        Stand::new(&[("default", Kind::Xfs), ("btrfs", Kind::Btrfs), ("ext4", Kind::Ext4)], 24 * GIB);
    let ext4_least = 8 * MIB;
    let claims = [("1G", 1_000_000_000), ("5Mi", 5 * MIB), ("300Mi-1", 300 * MIB - 1), ("1Gi", GIB)];
    let mut cases = 0;
    for pool in ["default", "btrfs", "ext4"] {
        for (fs, least) in [("ext4", ext4_least), ("xfs", 300 * MIB), ("", 4096)] {
            for (name, claim) in claims {
                let spec = if fs.is_empty() { Spec::block() } else { Spec::image(fs) };
                let spec = spec.thin().pool(pool).size(claim);
                let expected = signed(claim.max(least).next_multiple_of(4096));
                let what = format!("{name} {fs} {pool}");
                claim_case(&mut stand, &spec, expected, &what);
                cases += 1;
            }
        }
    }
    // A limit that leaves no room for rounding up is no size at all.
    for spec in
        [Spec::new().size(1_000_000_000).limit(1_000_000_000), Spec::image("xfs").size(GIB).limit(GIB)]
    {
        let expected = if spec.fs.is_empty() { Code::OutOfRange } else { Code::Ok };
        assert_eq!(code(stand.co.create(&unique("v"), &spec.thin())), expected);
        cases += 1;
    }
    println!("{cases} cases");
}

fn claim_case(stand: &mut Stand, spec: &Spec, expected: i64, what: &str) {
    let source = stand.create(spec);
    assert_eq!(source.capacity_bytes, expected, "{what}");
    let marker = what.as_bytes().to_vec();
    stand.inside(&source.volume_id, spec, |_, place| {
        if spec.block {
            let mut block = vec![0; 4096];
            block[..marker.len()].copy_from_slice(&marker);
            data::write_direct(place, 0, &block);
        } else {
            data::write_durably(&place.join("marker"), &marker);
        }
    });
    let snapshot = stand.snapshot(&source.volume_id);
    assert_eq!(
        snapshot.size_bytes, spec.required,
        "{what}: what the restore's claim will be checked against"
    );
    let restored = stand.co.restore(&unique("r"), spec, &snapshot.snapshot_id).unwrap();
    let clone = stand.co.clone_volume(&unique("c"), spec, &source.volume_id).unwrap();
    for copy in [restored, clone] {
        assert_eq!(copy.capacity_bytes, expected, "{what}");
        stand.inside(&copy.volume_id, spec, |_, place| {
            let found =
                if spec.block { head(place, marker.len()) } else { fs::read(place.join("marker")).unwrap() };
            assert_eq!(found, marker, "{what}");
        });
        // A copy of the copy goes by the same claim.
        assert_eq!(stand.snapshot(&copy.volume_id).size_bytes, spec.required, "{what}");
        stand.co.delete(&copy.volume_id).unwrap();
    }
    stand.co.delete(&source.volume_id).unwrap();
}

/// resize2fs with reserved descriptors destroys such filesystems.
#[test]
fn ext4_from_the_smallest_to_a_hundred_gibibytes_offline() {
    let mut stand = Stand::new(&[("default", Kind::Xfs)], 480 * GIB);
    let small = Spec::new().thin().size(8 * MIB);
    let content = data::bytes(11, 1 << 20);
    let source = stand.create(&small).volume_id;
    stand.inside(&source, &small, |_, place| data::write_durably(&place.join("file"), &content));
    let snapshot = stand.snapshot(&source).snapshot_id;
    let mut cases = 0;
    for size in [9 * MIB, 100 * MIB, 17 * GIB, 100 * GIB] {
        let large = small.clone().size(size);
        let restored = stand.co.restore(&unique("r"), &large, &snapshot).unwrap().volume_id;
        check_grown(&mut stand, &restored, &large, size, &content);
        cases += 1;
    }
    for size in [16 * MIB, 9 * GIB, 100 * GIB] {
        stand.co.expand(&source, size).unwrap();
        check_grown(&mut stand, &source, &small, size, &content);
        cases += 1;
    }
    println!("{cases} cases");
}

fn check_grown(stand: &mut Stand, id: &str, spec: &Spec, size: u64, content: &[u8]) {
    assert_fills(stand.size("default", id, spec), size, "grown offline");
    stand.inside(id, spec, |_, place| {
        assert_eq!(fs::read(place.join("file")).unwrap(), content);
        data::write_durably(&place.join("more"), content);
    });
    let image = stand.image("default", id);
    let checked = attempt("e2fsck", ["-fn".as_ref(), image.as_os_str()]);
    assert!(checked.is_ok(), "{size}: {checked:?}");
}

#[test]
fn a_size_of_nobody_is_one_gibibyte_within_the_limit() {
    let mut stand = Stand::new(&[("default", Kind::BtrfsQuota)], 4 * GIB);
    let kinds = [
        Spec::image("ext4").thin(),
        Spec::image("xfs").thin(),
        Spec::block().thin(),
        Spec::directory("enforced"),
    ];
    let mut cases = 0;
    for spec in kinds {
        for (limit, expected) in [(0, GIB), (2 * GIB, GIB), (GIB, GIB), (400 * MIB + 5, 400 * MIB)] {
            let volume = stand.create(&spec.clone().limit(limit));
            assert_eq!(volume.capacity_bytes, signed(expected), "{limit}");
            assert_eq!(stand.snapshot(&volume.volume_id).size_bytes, signed(expected));
            stand.co.delete(&volume.volume_id).unwrap();
            cases += 1;
        }
        // A copy that asks for nothing is as large as its source.
        let source = stand.create(&spec.clone().size(310 * MIB)).volume_id;
        let copy = stand.co.clone_volume(&unique("c"), &spec, &source).unwrap();
        assert_eq!(copy.capacity_bytes, signed(310 * MIB));
        let tight = stand.co.clone_volume(&unique("c"), &spec.clone().limit(309 * MIB), &source);
        assert_eq!(code(tight), Code::OutOfRange);
        cases += 2;
    }
    println!("{cases} cases");
}

#[test]
fn owner_and_mode_are_set_once() {
    let mut stand = Stand::new(&[("default", Kind::BtrfsQuota), ("xfs", Kind::Xfs)], 16 * GIB);
    let mut cases = 0;
    for spec in [
        Spec::image("ext4").thin().size(300 * MIB),
        Spec::image("xfs").thin().size(300 * MIB),
        Spec::image("ext4").thin().size(300 * MIB).pool("xfs"),
        Spec::directory("enforced").size(300 * MIB),
        Spec::directory("advisory").size(300 * MIB).pool("xfs"),
    ] {
        let plain = stand.create(&spec).volume_id;
        assert_eq!(root_of(&mut stand, &plain, &spec), (0, 0, 0o755));
        let owned = spec.clone().owner(1000, 2000, "2770");
        let source = stand.create(&owned).volume_id;
        assert_eq!(root_of(&mut stand, &source, &spec), (1000, 2000, 0o2770));
        // What a pod sets later stays, also over a growth.
        stand.inside(&source, &spec, |_, place| {
            std::os::unix::fs::chown(place, Some(7), Some(8)).unwrap();
            fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        });
        stand.co.expand(&source, 400 * MIB).unwrap();
        assert_eq!(root_of(&mut stand, &source, &spec), (7, 8, 0o711));
        let snapshot = stand.snapshot(&source).snapshot_id;
        let larger = |spec: &Spec| spec.clone().size(400 * MIB);
        let kept = stand.co.restore(&unique("r"), &larger(&spec), &snapshot).unwrap().volume_id;
        assert_eq!(root_of(&mut stand, &kept, &spec), (7, 8, 0o711), "a restore keeps what it does not name");
        let other = larger(&spec).parameter("gid", "5").parameter("mode", "0700");
        let changed = stand.co.restore(&unique("r"), &other, &snapshot).unwrap().volume_id;
        assert_eq!(root_of(&mut stand, &changed, &spec), (7, 5, 0o700));
        cases += 5;
    }
    println!("{cases} cases");
}

fn root_of(stand: &mut Stand, id: &str, spec: &Spec) -> (u32, u32, u32) {
    stand.inside(id, spec, |_, place| {
        let root = place.metadata().unwrap();
        (root.uid(), root.gid(), root.mode() & 0o7777)
    })
}

#[test]
fn growth() {
    let mut stand = Stand::new(&[("default", Kind::BtrfsQuota)], 2 * GIB);
    let mut cases = 0;
    for (spec, grows) in [
        (Spec::image("ext4").thin().size(300 * MIB), true),
        (Spec::image("xfs").thin().size(300 * MIB), true),
        (Spec::block().thin().size(300 * MIB), false),
        (Spec::directory("enforced").size(300 * MIB), false),
        (Spec::directory("advisory").size(300 * MIB), false),
    ] {
        let id = stand.create(&spec).volume_id;
        // (wish, size afterwards, what a snapshot says)
        for (wish, size, asked) in [
            (0, 300 * MIB, 300 * MIB),
            (100, 300 * MIB, 300 * MIB),
            (300 * MIB, 300 * MIB, 300 * MIB),
            (310 * MIB + 1, 310 * MIB + 4096, 310 * MIB + 1),
            (310 * MIB + 2, 310 * MIB + 4096, 310 * MIB + 2),
            (305 * MIB, 310 * MIB + 4096, 310 * MIB + 2),
        ] {
            let answer = stand.co.expand(&id, wish).unwrap();
            assert_eq!(answer.capacity_bytes, signed(size), "{wish}");
            assert_eq!(answer.node_expansion_required, grows, "{wish}");
            assert_eq!(stand.snapshot(&id).size_bytes, signed(asked), "{wish}");
            cases += 1;
        }
        // No room is final, and the wish can be lowered: RESOURCE_EXHAUSTED would be retried for ever.
        assert_eq!(code(stand.co.expand(&id, 64 * GIB)), Code::OutOfRange);
        assert_eq!(stand.co.expand(&id, 320 * MIB).unwrap().capacity_bytes, signed(320 * MIB));
        assert_fills(stand.size("default", &id, &spec), 320 * MIB, "after all");
        stand.co.delete(&id).unwrap();
        cases += 2;
    }
    println!("{cases} cases");
}
