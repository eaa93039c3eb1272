use super::{super::usage, chain};
use crate::os::testing::{Bind, Kind, MIB, Pool, run};
use std::{fs, os::unix::fs::symlink};

#[test]
fn it_agrees_with_du() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let pool = Pool::new(kind, 320 * MIB);
        let tree = pool.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        for n in 0..2000_usize {
            fs::write(tree.join(format!("a/b/some-rather-long-name-{n}")), vec![1; n * 10]).unwrap();
        }
        fs::hard_link(tree.join("a/b/some-rather-long-name-1999"), tree.join("again")).unwrap();
        symlink("/etc", tree.join("link")).unwrap();
        fs::File::create(tree.join("sparse")).unwrap().set_len(1 << 30).unwrap();
        run("sync", ["-f".as_ref(), tree.as_os_str()]);
        let du = |option: &str| -> u64 {
            let line = run("du", ["-s".as_ref(), option.as_ref(), tree.as_os_str()]);
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let found = usage(&tree, 10_000).unwrap().unwrap();
        assert_eq!((found.bytes, found.inodes), (du("-B1"), du("--inodes")), "{kind:?}");
        assert_eq!(found.subvolumes, 0);
        // As many names as inodes: one has two, the root has none in the tree.
        assert_eq!(usage(&tree, found.inodes).unwrap(), Some(found));
        assert_eq!(usage(&tree, found.inodes - 1).unwrap(), None);
    }
}

#[test]
fn mounts_are_left_out() {
    let pool = Pool::new(Kind::Ext4, 64 * MIB);
    let tree = pool.path().join("tree");
    fs::create_dir_all(tree.join("mounted")).unwrap();
    fs::write(tree.join("file"), b"").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("large"), vec![1; 1 << 20]).unwrap();
    let before = usage(&tree, 100).unwrap().unwrap();
    assert_eq!(before.inodes, 3);
    let _one = Bind::new(elsewhere.path(), &tree.join("mounted"));
    let _two = Bind::new(&elsewhere.path().join("large"), &tree.join("file"));
    let found = usage(&tree, 100).unwrap().unwrap();
    assert_eq!(found.inodes, 1, "the names that something is mounted on are not seen");
    assert!(found.bytes < MIB);
}

#[test]
fn depth_has_no_limit() {
    let pool = Pool::new(Kind::Xfs, 320 * MIB);
    drop(chain(&pool.path().join("deep"), 20_000));
    assert_eq!(usage(&pool.path().join("deep"), 100_000).unwrap().unwrap().inodes, 20_001);
    assert!(usage(&pool.path().join("absent"), 1).unwrap_err().is_not_found());
}
