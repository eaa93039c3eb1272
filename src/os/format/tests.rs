#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{super::*, *};
use crate::os::testing::{Kind, MIB, Mounted, Pool, attempt, run};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};
use tempfile::TempDir;

const BOTH: [Filesystem; 2] = [Filesystem::Ext4, Filesystem::Xfs];

fn fstype(filesystem: Filesystem) -> &'static str {
    match filesystem {
        Filesystem::Ext4 => "ext4",
        Filesystem::Xfs => "xfs",
    }
}

/// A sparse image in a directory of its own.
fn image(size: u64) -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("disk.img");
    file::create_new(&path).unwrap().set_len(size).unwrap();
    (home, path)
}

fn made(filesystem: Filesystem, size: u64) -> (TempDir, PathBuf) {
    let (home, path) = image(size);
    make(filesystem, &path).unwrap();
    (home, path)
}

fn look(path: &Path) -> Content {
    content(&File::open(path).unwrap()).unwrap()
}

fn grow_file(path: &Path, size: u64) {
    file::open_image(path).unwrap().set_len(size).unwrap();
}

fn check(filesystem: Filesystem, path: &Path) {
    match filesystem {
        Filesystem::Ext4 => run("e2fsck", ["-fn".as_ref(), path.as_os_str()]),
        Filesystem::Xfs => run("xfs_repair", ["-n".as_ref(), "-f".as_ref(), path.as_os_str()]),
    };
}

/// Mounts, writes a file, unmounts.
fn use_once(filesystem: Filesystem, path: &Path) {
    let mounted = Mounted::new(path, fstype(filesystem));
    fs::write(mounted.path().join("file"), b"kept").unwrap();
}

#[test]
fn what_is_made_is_recognised_clean_and_mounts() {
    for filesystem in BOTH {
        let size = filesystem.minimum();
        let (_home, path) = image(size);
        assert_eq!(look(&path), Content::Blank);
        make(filesystem, &path).unwrap();
        let Content::Known { filesystem: found, size: inside, uuid } = look(&path) else { panic!() };
        assert_eq!((found, inside), (filesystem, size));
        assert!(!uuid.is_nil());
        check(filesystem, &path);
        use_once(filesystem, &path);
        check(filesystem, &path);
        let again = make(filesystem, &path).unwrap_err();
        assert!(again.to_string().contains("not blank"), "{again}");
        assert!(fs::read(Mounted::new(&path, fstype(filesystem)).path().join("file")).unwrap() == b"kept");
    }
}

#[test]
fn what_is_not_blank_is_never_formatted_over() {
    let size = Filesystem::Ext4.minimum();
    for offset in [0, 511, 4086, 0x1_0040, size - 0x1_0000, size - 1] {
        let (_home, path) = image(size);
        file::open_image(&path).unwrap().write_all_at(&[1], offset).unwrap();
        let before = fs::read(&path).unwrap();
        assert_eq!(look(&path), Content::Foreign, "{offset}");
        assert!(make(Filesystem::Ext4, &path).is_err(), "{offset}");
        assert!(fs::read(&path).unwrap() == before);
    }
    let (_home, path) = image(256 * MIB);
    run("mkfs.btrfs", ["-q".as_ref(), path.as_os_str()]);
    assert_eq!(look(&path), Content::Foreign);
    let (_home, path) = image(MIB);
    run("mkswap", [path.as_os_str()]);
    assert_eq!(look(&path), Content::Foreign);
}

#[test]
fn a_short_or_unreadable_image_is_not_blank() {
    let (_home, path) = image(4096);
    assert!(content(&File::open(&path).unwrap()).is_err());
    let (_home, path) = image(MIB);
    let write_only = fs::OpenOptions::new().write(true).open(&path).unwrap();
    assert_eq!(content(&write_only).unwrap_err().errno(), Some(libc::EBADF));
}

#[test]
fn too_small_is_refused_before_anything_is_written() {
    for filesystem in BOTH {
        for size in [filesystem.minimum() - 4096, filesystem.minimum() + 512] {
            let (_home, path) = image(size);
            assert!(make(filesystem, &path).is_err());
            assert_eq!(look(&path), Content::Blank);
        }
    }
}

#[test]
fn damaged_superblocks_are_foreign() {
    let (_home, path) = made(Filesystem::Ext4, 8 * MIB);
    let file = file::open_image(&path).unwrap();
    for (offset, bytes) in [
        (1024 + 0x18, vec![60]),       // block size 2^70
        (1024 + 0x4, vec![0; 4]),      // no blocks
        (1024 + 0x60, vec![0; 4]),     // no extents: ext2
        (1024 + 0x150, vec![0xff; 4]), // more bytes than 2^64
        (0, b"LUKS\xba\xbe".to_vec()),
        (0, b"XFSB".to_vec()),
    ] {
        let mut old = vec![0; bytes.len()];
        file.read_exact_at(&mut old, offset).unwrap();
        file.write_all_at(&bytes, offset).unwrap();
        assert_eq!(content(&file).unwrap(), Content::Foreign, "{offset}");
        file.write_all_at(&old, offset).unwrap();
        assert!(matches!(content(&file).unwrap(), Content::Known { .. }));
    }
}

#[test]
fn two_signatures_are_foreign() {
    let (_home, path) = made(Filesystem::Xfs, 300 * MIB);
    let file = file::open_image(&path).unwrap();
    file.write_all_at(&[0x53, 0xef], 1024 + 0x38).unwrap();
    assert_eq!(content(&file).unwrap(), Content::Foreign);
}

#[test]
fn thick_stays_thick() {
    for (kind, size) in [(Kind::Ext4, 700), (Kind::Xfs, 700), (Kind::Btrfs, 1000)] {
        for filesystem in BOTH {
            let pool = Pool::new(kind, size * MIB);
            let path = pool.path().join("disk.img");
            let file = file::create_new(&path).unwrap();
            if kind == Kind::Btrfs {
                btrfs::set_nocow(&path).unwrap();
            }
            file::allocate(&file, 300 * MIB).unwrap();
            let started = Instant::now();
            make(filesystem, &path).unwrap();
            println!("{kind:?} {filesystem:?}: {:?}", started.elapsed());
            file::sync(&path).unwrap();
            let stat = file::stat_file(&file).unwrap();
            assert!(stat.allocated >= 300 * MIB, "{kind:?} {filesystem:?}: {stat:?}");
            assert!(reflink::exclusive_bytes(&file).unwrap() >= 300 * MIB, "{kind:?} {filesystem:?}");
        }
    }
}

#[test]
fn ext4_grows_detached_from_the_smallest_to_100_gib() {
    let (_home, path) = made(Filesystem::Ext4, 8 * MIB);
    use_once(Filesystem::Ext4, &path);
    for size in [8 * MIB, 9 * MIB, 8192 * MIB, 102_400 * MIB] {
        grow_file(&path, size);
        grow_detached(&path).unwrap();
        assert!(matches!(look(&path), Content::Known { size: inside, .. } if inside == size));
        check(Filesystem::Ext4, &path);
        let mounted = Mounted::new(&path, "ext4");
        assert_eq!(fs::read(mounted.path().join("file")).unwrap(), b"kept");
        let space = rustix::fs::statvfs(mounted.path()).unwrap();
        assert!(space.f_blocks * space.f_frsize > size / 10 * 9 - 6 * MIB);
    }
    let (_home, path) = made(Filesystem::Xfs, 300 * MIB);
    assert!(grow_detached(&path).is_err());
}

#[test]
fn a_growth_that_was_stopped_halfway_is_finished() {
    // resize2fs is killed at each of its writes in turn, until it gets through.
    for write in 1..200 {
        let (_home, path) = made(Filesystem::Ext4, 8 * MIB);
        use_once(Filesystem::Ext4, &path);
        run("e2fsck", ["-fp".as_ref(), path.as_os_str()]);
        grow_file(&path, 1024 * MIB);
        let kill = format!("inject=pwrite64:signal=KILL:when={write}");
        let whole = attempt(
            "strace",
            ["-o", "/dev/null", "-e", "trace=pwrite64", "-e", &kill, "resize2fs", path.to_str().unwrap()],
        );
        grow_detached(&path).unwrap();
        assert!(matches!(look(&path), Content::Known { size, .. } if size == 1024 * MIB));
        check(Filesystem::Ext4, &path);
        assert_eq!(fs::read(Mounted::new(&path, "ext4").path().join("file")).unwrap(), b"kept");
        if whole.is_ok() {
            assert!(write > 3, "nothing was killed");
            return;
        }
    }
    panic!("resize2fs never finished");
}

#[test]
fn noted_errors_are_repaired_even_at_full_size() {
    let (_home, path) = made(Filesystem::Ext4, 8 * MIB);
    let state = || run("dumpe2fs", ["-h".as_ref(), path.as_os_str()]);
    run("debugfs", ["-w".as_ref(), "-R".as_ref(), "set_super_value state 3".as_ref(), path.as_os_str()]);
    assert!(state().contains("clean with errors"));
    grow_detached(&path).unwrap();
    assert!(!state().contains("with errors"));
}

#[test]
fn xfs_grows_mounted() {
    let (_home, path) = made(Filesystem::Xfs, 300 * MIB);
    let mounted = Mounted::new(&path, "xfs");
    let root = File::open(mounted.path()).unwrap();
    grow_mounted(Filesystem::Xfs, &root, 300 * MIB).unwrap();
    // Groups have 75 MiB here: the last step is too small for one of its own.
    for size in [301 * MIB, 1050 * MIB, 1050 * MIB + 4096] {
        grow_file(&path, size);
        run("losetup", ["-c", mounted.device()]);
        grow_mounted(Filesystem::Xfs, &root, size).unwrap();
        let space = rustix::fs::fstatvfs(&root).unwrap();
        assert!(space.f_blocks * space.f_frsize > size - 70 * MIB);
    }
    // The device did not grow: the kernel refuses, and that is an error.
    assert!(grow_mounted(Filesystem::Xfs, &root, 2048 * MIB).is_err());
    drop(root);
    drop(mounted);
    check(Filesystem::Xfs, &path);
}

#[test]
fn ext4_grows_mounted_or_says_that_it_may_not() {
    let (_home, path) = made(Filesystem::Ext4, 8 * MIB);
    let mounted = Mounted::new(&path, "ext4");
    let root = File::open(mounted.path()).unwrap();
    grow_mounted(Filesystem::Ext4, &root, 8 * MIB).unwrap();
    // Where it may, across the 8 GiB of a meta block group, too.
    for size in [64 * MIB, 20 * 1024 * MIB] {
        grow_file(&path, size);
        run("losetup", ["-c", mounted.device()]);
        match grow_mounted(Filesystem::Ext4, &root, size) {
            Ok(()) => {
                let space = rustix::fs::fstatvfs(&root).unwrap();
                assert!(space.f_blocks * space.f_frsize > size / 10 * 9 - 6 * MIB);
            }
            Err(error) => assert_eq!(error.errno(), Some(libc::EPERM), "{error:?}"),
        }
    }
    drop(root);
    drop(mounted);
    check(Filesystem::Ext4, &path);
}

#[test]
fn a_new_identity_is_quick_and_harmless() {
    let uuid = Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888);
    for filesystem in BOTH {
        let (_home, path) = made(filesystem, 1024 * MIB);
        use_once(filesystem, &path);
        let started = Instant::now();
        set_identity(filesystem, &path, uuid).unwrap();
        println!("{filesystem:?}: {:?}", started.elapsed());
        assert!(matches!(look(&path), Content::Known { uuid: now, .. } if now == uuid));
        set_identity(filesystem, &path, uuid).unwrap();
        check(filesystem, &path);
        let mounted = Mounted::new(&path, fstype(filesystem));
        assert_eq!(fs::read(mounted.path().join("file")).unwrap(), b"kept");
        drop(mounted);
        let other = if filesystem == Filesystem::Ext4 { Filesystem::Xfs } else { Filesystem::Ext4 };
        assert!(set_identity(other, &path, uuid).is_err());
    }
}

#[test]
fn a_log_that_is_not_replayed_keeps_its_identity() {
    for filesystem in BOTH {
        let (home, path) = made(filesystem, 300 * MIB);
        let cut = home.path().join("cut.img");
        let mounted = Mounted::new(&path, fstype(filesystem));
        fs::write(mounted.path().join("file"), b"kept").unwrap();
        run("sync", ["-f".as_ref(), mounted.path().as_os_str()]);
        run("cp", ["--sparse=always".as_ref(), path.as_os_str(), cut.as_os_str()]);
        drop(mounted);
        let before = look(&cut);
        let error = set_identity(filesystem, &cut, Uuid::from_u128(7)).unwrap_err();
        assert!(matches!(error, Error::Unexpected(_)), "{error:?}");
        assert_eq!(look(&cut), before, "{filesystem:?}");
        // A mount replays it.
        drop(Mounted::new(&cut, fstype(filesystem)));
        set_identity(filesystem, &cut, Uuid::from_u128(7)).unwrap();
    }
}

#[test]
fn a_failing_tool_is_an_error() {
    let (_home, path) = made(Filesystem::Ext4, 64 * MIB);
    // A damaged group descriptor is beyond what a check repairs without asking.
    file::open_image(&path).unwrap().write_all_at(&[0xff; 4096], 4096).unwrap();
    grow_file(&path, 128 * MIB);
    assert!(attempt("e2fsck", ["-fn".as_ref(), path.as_os_str()]).is_err());
    let outcome = grow_detached(&path);
    assert!(matches!(outcome, Err(Error::Command { program: "e2fsck", .. })), "{outcome:?}");
}
