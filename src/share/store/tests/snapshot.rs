use super::*;
use crate::os::testing::{self, MIB, Pool};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink},
};

/// Hard links, holes, odd names, odd modes.
fn furnish(at: &Path) {
    fs::create_dir_all(at.join("sub/ü\n")).unwrap();
    fs::write(at.join("sub/ü\n/a b"), b"small").unwrap();
    fs::hard_link(at.join("sub/ü\n/a b"), at.join("linked")).unwrap();
    symlink("/nowhere", at.join("link")).unwrap();
    let sparse = File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(&vec![7; 1 << 20], 8 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    fs::write(at.join("zeroes"), vec![0; 4 << 20]).unwrap();
    fs::write(at.join("private"), b"x").unwrap();
    fs::set_permissions(at.join("private"), PermissionsExt::from_mode(0o4600)).unwrap();
    chown(at.join("sub"), Some(12), Some(34)).unwrap();
    setxattr(at.join("private"), "user.note", b"text", XattrFlags::empty()).unwrap();
    fs::write(at.join(".nfs0000000000000a1b00000003"), b"removed while open").unwrap();
    fs::write(at.join(".nfsrc"), b"a user's own").unwrap();
}

/// Names, kinds, modes, owners, times, sizes and contents.
fn described(at: &Path) -> Vec<String> {
    let list = testing::run(
        "find",
        [at.to_str().unwrap(), "-mindepth", "1", "-printf", "%P|%y|%m|%U|%G|%T@|%l|%n|"]
            .into_iter()
            .chain(["(", "-type", "f", "-printf", "%s", "-o", "-true", ")", "-printf", "\\0"]),
    );
    let mut lines: Vec<String> = list.split('\0').map(str::to_owned).collect();
    lines.retain(|line| !line.starts_with(".nfs0") && !line.is_empty());
    // Directories have the time of the last change in them, which the skipped name was.
    lines.sort();
    let sums = testing::run(
        "sh",
        ["-c", &format!("cd '{}' && cat linked sparse zeroes private | sha1sum", at.display())],
    );
    lines.push(sums);
    lines
}

#[test]
fn copies_are_equal_on_every_filesystem() {
    for (kind, reflink) in [(testing::Kind::Xfs, true), (testing::Kind::Ext4, false)] {
        for server_copy in [false, true] {
            let pool = Pool::new(kind, 320 * MIB);
            let share = open(pool.path());
            let abilities = Abilities { reflink, server_copy };
            create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
            let root = pool.path().join("v");
            furnish(&root);
            let mut last = 0;
            let record = share
                .create_snapshot(&snapshot("s", "v"), abilities, &mut |bytes| {
                    last = bytes;
                    true
                })
                .unwrap();
            assert!(last > 0 && record.asked_bytes == 1 << 20, "{last} {record:?}");
            assert_eq!(cut(&open(pool.path()), &snapshot("s", "v")).unwrap(), record);
            let data = pool.path().join(".wharf/snapshots").join(key("s").to_string()).join("data");
            assert_eq!(described(&data), described(&root), "{kind:?}");
            let mut note = [0; 8];
            assert_eq!(getxattr(data.join("private"), "user.note", &mut note[..]).unwrap(), 4);
            assert!(data.join(".nfsrc").exists() && !data.join(".nfs0000000000000a1b00000003").exists());
            let sizes = |at: &Path| {
                let blocks = |name| fs::metadata(at.join(name)).unwrap().blocks() * 512;
                (blocks("sparse"), blocks("zeroes"))
            };
            assert!(sizes(&data).0 <= 2 * MIB, "{kind:?}: {:?}", sizes(&data));
            if !reflink && !server_copy {
                assert_eq!(sizes(&data).1, 0, "{kind:?}: runs of zeroes take room");
            }
            // Restore, clone; the source goes its own way.
            fs::write(root.join("later"), b"").unwrap();
            for (name, source) in [("r", Source::Snapshot(key("s"))), ("c", Source::Volume(key("v")))] {
                let wanted = copy_of(name, name, source);
                share.create_volume(&wanted, abilities, &mut |_| true).unwrap();
            }
            fs::remove_file(pool.path().join("c/later")).unwrap();
            assert_eq!(described(&pool.path().join("r")), described(&data));
            assert_eq!(described(&pool.path().join("c")).len(), described(&data).len());
            share.delete_volume(key("v")).unwrap();
            share.delete_snapshot(key("s")).unwrap();
            share.delete_snapshot(key("s")).unwrap();
            assert_eq!(described(&pool.path().join("r")).len(), 10);
            sound(&share);
        }
    }
}

#[test]
fn a_snapshot_belongs_to_one_volume_and_cluster() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    for name in ["a", "b"] {
        create(&share, &volume(name, name, OnDelete::Delete)).unwrap();
    }
    assert!(matches!(cut(&share, &snapshot("s", "none")), Err(Error::NotFound(_))));
    cut(&share, &snapshot("s", "a")).unwrap();
    assert!(matches!(cut(&share, &snapshot("s", "b")), Err(Error::Incompatible(_))));
    let other = Share::open_or_make(home.path(), &identity("other")).unwrap();
    assert!(matches!(cut(&other, &snapshot("s", "a")), Err(Error::Incompatible(_))));
    assert!(matches!(other.delete_snapshot(key("s")), Err(Error::Refused(_))));
    assert!(matches!(cut(&other, &snapshot("t", "a")), Err(Error::NotFound(_))));
    let restore = copy_of("r", "r", Source::Snapshot(key("s")));
    assert!(matches!(create(&other, &restore), Err(Error::NotFound(_))));
    // The volume may go before its snapshot.
    share.delete_volume(key("a")).unwrap();
    create(&share, &restore).unwrap();
    assert_eq!(share.snapshots(None, 9).unwrap().entries.len(), 1);
    sound(&share);
}

#[test]
fn a_source_that_goes_meanwhile_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (share, other) = (open(home.path()), open(home.path()));
    let fill = || {
        create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
        fs::write(home.path().join("v/f"), b"data").unwrap();
    };
    fill();
    let outcome = share.create_snapshot(&snapshot("s", "v"), Abilities::default(), &mut |_| {
        other.delete_volume(key("v")).unwrap();
        true
    });
    assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
    fill();
    let clone = copy_of("c", "c", Source::Volume(key("v")));
    let outcome = share.create_volume(&clone, Abilities::default(), &mut |_| {
        // Another of the same name is another.
        other.delete_volume(key("v")).unwrap();
        create(&other, &volume("v", "v", OnDelete::Delete)).unwrap();
        true
    });
    assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
    cut(&share, &snapshot("s", "v")).unwrap();
    fs::write(home.path().join(".wharf/snapshots").join(key("s").to_string()).join("data/f"), b"1").unwrap();
    let restore = copy_of("r", "r", Source::Snapshot(key("s")));
    let outcome = share.create_volume(&restore, Abilities::default(), &mut |_| {
        other.delete_snapshot(key("s")).unwrap();
        other.purge(&mut |_| {}).unwrap();
        true
    });
    assert!(matches!(outcome, Err(Error::NotFound(_))), "{outcome:?}");
    assert_eq!(names(home.path()), [".wharf", "v"]);
    sound(&share);
}

#[test]
fn a_copy_that_is_told_to_stop_can_be_repeated() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
    fs::write(home.path().join("v/f"), b"data").unwrap();
    let clone = copy_of("c", "c", Source::Volume(key("v")));
    for _ in 0..2 {
        let outcome = share.create_volume(&clone, Abilities::default(), &mut |_| false);
        assert!(matches!(&outcome, Err(Error::Os { source, .. }) if source.is_cancelled()), "{outcome:?}");
        let outcome = share.create_snapshot(&snapshot("s", "v"), Abilities::default(), &mut |_| false);
        assert!(matches!(&outcome, Err(Error::Os { source, .. }) if source.is_cancelled()), "{outcome:?}");
    }
    // Another controller finds this one alive, and then dead.
    let other = open(home.path());
    assert!(matches!(create(&other, &clone), Err(Error::Busy(_))));
    assert!(matches!(cut(&other, &snapshot("s", "v")), Err(Error::Busy(_))));
    let other = successor(home.path(), &share);
    create(&other, &clone).unwrap();
    cut(&other, &snapshot("s", "v")).unwrap();
    assert_eq!(names(&home.path().join("c")), ["f"]);
    sound(&other);
}

/// One that was taken for dead and is not cannot finish what another has taken over.
#[test]
fn a_late_worker_gives_up() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
    fs::write(home.path().join("v/f"), b"data").unwrap();
    let clone = copy_of("c", "c", Source::Volume(key("v")));
    let mut taken = false;
    let outcome = share.create_volume(&clone, Abilities::default(), &mut |_| {
        if !std::mem::replace(&mut taken, true) {
            create(&successor(home.path(), &share), &clone).unwrap();
        }
        true
    });
    assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
    taken = false;
    let outcome = share.create_snapshot(&snapshot("s", "v"), Abilities::default(), &mut |_| {
        if !std::mem::replace(&mut taken, true) {
            cut(&successor(home.path(), &share), &snapshot("s", "v")).unwrap();
        }
        true
    });
    assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
    let record = create(&share, &clone).unwrap();
    assert!(record.creator != share.worker.instance);
    assert_eq!(names(&home.path().join("c")), ["f"]);
    cut(&share, &snapshot("s", "v")).unwrap();
    sound(&share);
}
