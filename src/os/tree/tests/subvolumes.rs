use super::super::{remove, usage};
use crate::os::{
    btrfs::{create_subvolume, free_deleted, set_limit, set_read_only, snapshot, subvolume_id},
    testing::{Bind, Kind, MIB, Pool, run},
};
use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

fn subvolume(parent: &Path, name: &str) -> PathBuf {
    create_subvolume(parent, name.as_ref()).unwrap();
    parent.join(name)
}

fn gone(parent: &Path, name: &str) -> u64 {
    let mut last = 0;
    remove(parent, name.as_ref(), &mut |n| last = n).unwrap();
    assert!(!parent.join(name).exists());
    last
}

#[test]
fn nested_subvolumes_go_with_their_qgroups() {
    let pool = Pool::new(Kind::BtrfsQuota, 256 * MIB);
    fs::create_dir(pool.path().join("volume")).unwrap();
    let data = subvolume(&pool.path().join("volume"), "data");
    set_limit(&data, Some(64 * MIB)).unwrap();
    fs::create_dir_all(data.join("a/b")).unwrap();
    let inner = subvolume(&data.join("a/b"), "inner");
    fs::write(inner.join("file"), b"x").unwrap();
    let innermost = subvolume(&inner, "innermost");
    fs::create_dir(innermost.join("plain")).unwrap();
    let empty = subvolume(&data, "empty");
    let ids: Vec<u64> =
        [&data, &inner, &innermost, &empty].iter().map(|path| subvolume_id(path).unwrap()).collect();
    for path in [&innermost, &inner, &empty, &data] {
        set_read_only(path, true).unwrap();
    }
    gone(pool.path(), "volume");
    assert_eq!(run("btrfs", ["subvolume".as_ref(), "list".as_ref(), pool.path().as_os_str()]), "");
    let left = || {
        let groups = run("btrfs", ["qgroup".as_ref(), "show".as_ref(), pool.path().as_os_str()]);
        ids.iter().any(|id| groups.contains(&format!("0/{id} ")))
    };
    for _ in 0..100 {
        free_deleted(pool.path()).unwrap();
        if !left() {
            return;
        }
        sleep(Duration::from_millis(50));
    }
    panic!("qgroups are still there");
}

#[test]
fn a_subvolume_without_others_goes_as_a_whole() {
    let pool = Pool::new(Kind::Btrfs, 256 * MIB);
    let data = subvolume(pool.path(), "data");
    for n in 0..100 {
        fs::write(data.join(format!("{n}")), b"x").unwrap();
    }
    run("chattr", ["+i".as_ref(), data.join("7").as_os_str()]);
    set_read_only(&data, true).unwrap();
    assert_eq!(gone(pool.path(), "data"), 1);
    let data = subvolume(pool.path(), "data");
    run("chattr", ["+i".as_ref(), data.as_os_str()]);
    assert_eq!(gone(pool.path(), "data"), 1);
}

#[test]
fn what_stands_for_a_subvolume_in_a_snapshot_goes_too() {
    let pool = Pool::new(Kind::Btrfs, 256 * MIB);
    let data = subvolume(pool.path(), "data");
    subvolume(&data, "inner");
    snapshot(&data, pool.path(), "cut".as_ref(), false).unwrap();
    let cut = pool.path().join("cut");
    assert!(cut.join("inner").is_dir());
    // Another one beside it, so that the snapshot is walked instead of dropped.
    subvolume(&cut, "own");
    assert_eq!(usage(&cut, 100).unwrap().unwrap().subvolumes, 1);
    gone(pool.path(), "cut");
    assert!(data.join("inner").exists());
}

#[test]
fn a_mount_inside_a_subvolume_stops_it() {
    let pool = Pool::new(Kind::Btrfs, 256 * MIB);
    let data = subvolume(pool.path(), "data");
    fs::create_dir_all(data.join("a/mounted")).unwrap();
    fs::create_dir(pool.path().join("behind")).unwrap();
    fs::write(pool.path().join("behind/file"), b"precious").unwrap();
    let bind = Bind::new(&pool.path().join("behind"), &data.join("a/mounted"));
    let error = remove(pool.path(), "data".as_ref(), &mut |_| ()).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EXDEV), "{error:?}");
    // Still mounted: nobody pulled it away from under a pod.
    assert!(data.join("a/mounted/file").exists());
    drop(bind);
    gone(pool.path(), "data");
    assert_eq!(fs::read(pool.path().join("behind/file")).unwrap(), b"precious");
}

#[test]
fn a_subvolume_too_deep_for_a_path_goes() {
    let pool = Pool::new(Kind::Btrfs, 256 * MIB);
    let data = subvolume(pool.path(), "data");
    let deepest = super::chain(&data.join("top"), 5000);
    crate::os::btrfs::create_at(&deepest, "inner".as_ref()).unwrap();
    drop(deepest);
    gone(pool.path(), "data");
}

#[test]
fn usage_counts_what_lies_in_subvolumes() {
    let pool = Pool::new(Kind::Btrfs, 256 * MIB);
    let data = subvolume(pool.path(), "data");
    let inner = subvolume(&data, "inner");
    subvolume(&inner, "innermost");
    fs::write(inner.join("file"), vec![1; 1 << 20]).unwrap();
    // btrfs gives each subvolume inode numbers of its own: the same number is not the same file.
    fs::write(data.join("file"), vec![1; 1 << 20]).unwrap();
    fs::hard_link(data.join("file"), data.join("again")).unwrap();
    fs::hard_link(inner.join("file"), inner.join("again")).unwrap();
    run("sync", ["-f".as_ref(), data.as_os_str()]);
    let found = usage(&data, 100).unwrap().unwrap();
    assert_eq!((found.inodes, found.subvolumes), (5, 2));
    assert!(found.bytes >= 2 * MIB && found.bytes < 3 * MIB, "{found:?}");
}
