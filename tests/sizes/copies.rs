//! Restores and clones: larger ones, of live volumes, beside their source, with another class.

use crate::{
    stand::{GIB, Stand, assert_fills, code, head, signed},
    support::{
        MIB,
        co::Spec,
        data,
        host::{attempt, run},
        pool::Kind,
        unique,
    },
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};
use tonic::Code;

/// A restore or clone that asks for more has a filesystem of that size from the start.
#[test]
fn copies_that_are_larger() {
    let mut stand =
        Stand::new(&[("default", Kind::Xfs), ("btrfs", Kind::Btrfs), ("ext4", Kind::Ext4)], 16 * GIB);
    let mut cases = 0;
    for pool in ["default", "btrfs", "ext4"] {
        for (fs, size) in [("ext4", 300 * MIB), ("xfs", 300 * MIB), ("", 20 * MIB)] {
            let spec = if fs.is_empty() { Spec::block() } else { Spec::image(fs) };
            let spec = spec.pool(pool).size(size);
            let source = stand.create(&spec).volume_id;
            let content = data::bytes(cases, 1 << 20);
            stand.inside(&source, &spec, |_, place| put(place, &spec, &content));
            let snapshot = stand.snapshot(&source).snapshot_id;
            let large = spec.clone().size(5 * size + 1);
            let restored = stand.co.restore(&unique("r"), &large, &snapshot).unwrap();
            let clone = stand.co.clone_volume(&unique("c"), &large, &source).unwrap();
            for copy in [restored, clone] {
                assert_eq!(copy.capacity_bytes, signed(5 * size + 4096));
                let found = stand.size(pool, &copy.volume_id, &spec);
                assert_fills(found, 5 * size + 4096, &format!("{pool} {fs}"));
                let found = stand.inside(&copy.volume_id, &spec, |_, place| get(place, &spec));
                assert_eq!(found, content, "{pool} {fs}");
                stand.co.delete(&copy.volume_id).unwrap();
                cases += 1;
            }
            // The source is as it was.
            assert_fills(stand.size(pool, &source, &spec), size, "the source");
        }
    }
    println!("{cases} cases");
}

fn put(place: &Path, spec: &Spec, content: &[u8]) {
    if spec.block {
        data::write_direct(place, 0, content);
    } else {
        data::write_durably(&place.join("file"), content);
    }
}

fn get(place: &Path, spec: &Spec) -> Vec<u8> {
    if spec.block { head(place, 1 << 20) } else { fs::read(place.join("file")).unwrap() }
}

/// A clone is what a power cut in that moment would have left: nothing that was synced before is missing.
#[test]
fn a_live_volume_is_cloned() {
    let mut stand = Stand::new(&[("default", Kind::Xfs), ("btrfs", Kind::Btrfs)], 8 * GIB);
    let mut cases = 0;
    for (pool, fs) in [("default", "ext4"), ("default", "xfs"), ("btrfs", "ext4"), ("btrfs", "xfs")] {
        let spec = Spec::image(fs).thin().pool(pool).size(300 * MIB);
        let source = stand.create(&spec).volume_id;
        let staging = stand.places.staging(&unique("live"));
        stand.co.stage(&source, &staging, &spec).unwrap();
        let (stop, synced) = (AtomicBool::new(false), AtomicU64::new(0));
        let clones = thread::scope(|scope| {
            scope.spawn(|| {
                let mut log = File::create(staging.join("log")).unwrap();
                for line in 1_u64.. {
                    log.write_all(&line.to_le_bytes()).unwrap();
                    log.sync_all().unwrap();
                    synced.store(line, Ordering::SeqCst);
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
            let mut clones = Vec::new();
            for _ in 0..3 {
                let before = synced.load(Ordering::SeqCst);
                let clone = stand.co.clone_volume(&unique("c"), &spec, &source).unwrap().volume_id;
                clones.push((clone, before));
            }
            stop.store(true, Ordering::SeqCst);
            clones
        });
        for (clone, before) in clones {
            let log = stand.inside(&clone, &spec, |_, place| fs::read(place.join("log")).unwrap_or_default());
            let lines: Vec<_> =
                log.chunks_exact(8).map(|line| u64::from_le_bytes(line.try_into().unwrap())).collect();
            assert!(lines.len() as u64 >= before, "{} of {before} acknowledged records", lines.len());
            assert!(lines.iter().zip(1..).all(|(line, expected)| *line == expected), "a record is torn");
            check_filesystem(fs, &stand.image(pool, &clone));
            cases += 1;
        }
        stand.co.unstage(&source, &staging).unwrap();
    }
    println!("{cases} cases");
}

fn check_filesystem(fs: &str, image: &Path) {
    let checked = match fs {
        "ext4" => attempt("e2fsck", ["-fn".as_ref(), image.as_os_str()]),
        _ => attempt("xfs_repair", ["-n".as_ref(), "-f".as_ref(), image.as_os_str()]),
    };
    assert!(checked.is_ok(), "{fs}: {checked:?}");
}

/// Two filesystems with one identity cannot be mounted together (XFS refuses, mount by uuid guesses).
#[test]
fn source_and_copies_are_mounted_together() {
    let mut stand =
        Stand::new(&[("default", Kind::Xfs), ("btrfs", Kind::Btrfs), ("ext4", Kind::Ext4)], 4 * GIB);
    let mut cases = 0;
    for pool in ["default", "btrfs", "ext4"] {
        for fs in ["xfs", "ext4"] {
            let spec = Spec::image(fs).thin().pool(pool).size(300 * MIB);
            let source = stand.create(&spec).volume_id;
            stand.inside(&source, &spec, |_, place| data::write_durably(&place.join("whose"), b"source"));
            let snapshot = stand.snapshot(&source).snapshot_id;
            let clone = stand.co.clone_volume(&unique("c"), &spec, &source).unwrap().volume_id;
            let restored = stand.co.restore(&unique("r"), &spec, &snapshot).unwrap().volume_id;
            let all: Vec<_> = [source, clone, restored]
                .into_iter()
                .map(|id| (id, stand.places.staging(&unique("stage"))))
                .collect();
            for (id, staging) in &all {
                stand.co.stage(id, staging, &spec).unwrap();
                assert_eq!(fs::read(staging.join("whose")).unwrap(), b"source");
                data::write_durably(&staging.join("whose"), id.as_bytes());
            }
            let uuids: BTreeSet<_> = all.iter().map(|(id, _)| uuid_of(fs, &stand.image(pool, id))).collect();
            assert_eq!(uuids.len(), 3, "{pool} {fs}: two have one identity");
            for (id, staging) in &all {
                assert_eq!(
                    fs::read(staging.join("whose")).unwrap(),
                    id.as_bytes(),
                    "written through to another"
                );
                stand.co.unstage(id, staging).unwrap();
                cases += 1;
            }
        }
    }
    println!("{cases} cases");
}

/// From the superblock itself.
fn uuid_of(fs: &str, image: &Path) -> Vec<u8> {
    let at = if fs == "ext4" { 1024 + 104 } else { 32 };
    head(image, at + 16).split_off(at)
}

#[test]
fn a_copy_keeps_layout_filesystem_and_access_type() {
    let mut stand = Stand::new(&[("default", Kind::BtrfsQuota)], 4 * GIB);
    let specs = [
        ("image with ext4", Spec::image("ext4").thin().size(300 * MIB)),
        ("image with xfs", Spec::image("xfs").thin().size(300 * MIB)),
        ("raw block image", Spec::block().thin().size(300 * MIB)),
        ("directory", Spec::directory("enforced").size(300 * MIB)),
    ];
    let mut cases = 0;
    for (has, spec) in &specs {
        let source = stand.create(spec).volume_id;
        let snapshot = stand.snapshot(&source).snapshot_id;
        for (wants, other) in &specs {
            for copy in [other.clone().from_snapshot(&snapshot), other.clone().from_volume(&source)] {
                let answer = stand.co.create(&unique("r"), &copy);
                cases += 1;
                if has == wants {
                    stand.co.delete(&answer.unwrap().volume_id).unwrap();
                    continue;
                }
                let status = answer.unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument, "{has} to {wants}: {status:?}");
                assert!(status.message().contains(has) && status.message().contains(wants), "{status:?}");
            }
        }
        // Advisory is another limit, not another layout.
        if *has == "directory" {
            let advisory = Spec::directory("advisory").size(300 * MIB).from_snapshot(&snapshot);
            stand.create(&advisory);
        }
    }
    println!("{cases} cases");
}

/// On btrfs blocks cannot be shared between files with and without NOCOW: it is a copy, of what nobody writes.
#[test]
fn a_copy_with_another_provisioning() {
    let mut stand = Stand::new(&[("default", Kind::Btrfs), ("xfs", Kind::Xfs)], 4 * GIB);
    let mut cases = 0;
    for (pool, shares) in [("default", false), ("xfs", true)] {
        for (from, to) in [("thin", "thick"), ("thick", "thin")] {
            let of = |provisioning: &str| {
                Spec::new().parameter("provisioning", provisioning).pool(pool).size(64 * MIB)
            };
            let (spec, other) = (of(from), of(to));
            let source = stand.create(&spec).volume_id;
            let content = data::bytes(4, 1 << 20);
            stand.inside(&source, &spec, |_, place| put(place, &spec, &content));
            let snapshot = stand.snapshot(&source).snapshot_id;
            let restored = stand.co.restore(&unique("r"), &other, &snapshot).unwrap().volume_id;
            let clone = stand.co.clone_volume(&unique("c"), &other, &source).unwrap().volume_id;
            for copy in [&restored, &clone] {
                assert_eq!(stand.inside(copy, &spec, |_, place| get(place, &spec)), content);
                let image = stand.image(pool, copy);
                let whole = image.metadata().unwrap().blocks() * 512 >= 64 * MIB;
                assert_eq!(whole, to == "thick", "{pool} {from} to {to}");
                if pool == "default" {
                    assert_eq!(is_nocow(&image), to == "thick", "{pool} {from} to {to}");
                }
                cases += 1;
            }
            let staging = stand.places.staging(&unique("stage"));
            stand.co.stage(&source, &staging, &spec).unwrap();
            let live = stand.co.clone_volume(&unique("c"), &other, &source);
            assert_eq!(code(live), if shares { Code::Ok } else { Code::FailedPrecondition }, "{pool}");
            // The snapshot is never in use.
            stand.co.restore(&unique("r"), &other, &snapshot).unwrap();
            stand.co.unstage(&source, &staging).unwrap();
            cases += 2;
        }
    }
    println!("{cases} cases");
}

fn is_nocow(image: &Path) -> bool {
    run("lsattr", [image]).split_whitespace().next().unwrap().contains('C')
}
