//! A server that turns root into nobody answers EPERM to chown and EACCES to what belongs to others. The same
//! comes of a thread whose filesystem user is nobody.

use super::*;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    thread,
};

const NOBODY: u32 = 65534;

fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setfsgid(Gid::from_raw(NOBODY));
            setfsuid(Uid::from_raw(NOBODY));
            work()
        });
        worker.join().unwrap()
    })
}

#[test]
fn what_a_squashed_root_can_and_cannot() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o777)).unwrap();
    as_nobody(|| {
        let share = open(home.path());
        let mut owned = volume("owned", "owned", OnDelete::Delete);
        owned.owner.uid = Some(1000);
        let error = create(&share, &owned).unwrap_err();
        assert!(matches!(error, Error::Forbidden(_)), "{error:?}");
        assert!(error.chain().contains("root_squash"), "{}", error.chain());
        assert!(!home.path().join("owned").exists());
        sound(&share);

        for name in ["v", "w"] {
            let mut wanted = volume(name, name, OnDelete::Delete);
            wanted.owner.mode = Some(0o777);
            create(&share, &wanted).unwrap();
        }
    });
    // A pod's own.
    let root = home.path().join("v");
    assert_eq!(fs::metadata(&root).unwrap().uid(), NOBODY);
    fs::create_dir(root.join("private")).unwrap();
    fs::write(root.join("private/f"), b"x").unwrap();
    chown(root.join("private"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(root.join("private"), PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(home.path().join("w/f"), b"x").unwrap();
    chown(home.path().join("w/f"), Some(1000), Some(1000)).unwrap();

    let share = as_nobody(|| {
        let share = open(home.path());
        for of in ["v", "w"] {
            let error = cut(&share, &snapshot("s", of)).unwrap_err();
            assert!(matches!(error, Error::Refused(_)), "{error:?}");
            assert_eq!(share.snapshot(key("s")).unwrap(), None);
        }
        share.delete_volume(key("v")).unwrap();
        let purge = share.sweep(&mut |_| {}).unwrap();
        assert!(matches!(&purge.left[..], [(_, why)] if why.contains("root_squash")), "{purge:?}");
        let found = share.leftovers(&mut |_| {}).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        share
    });
    // Nothing is lost: whoever may, purges it.
    sound(&share);
}

#[test]
fn an_export_that_makes_everybody_nobody_can_be_copied() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o777)).unwrap();
    as_nobody(|| {
        let share = open(home.path());
        create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
        fs::write(home.path().join("v/f"), b"x").unwrap();
        cut(&share, &snapshot("s", "v")).unwrap();
        sound(&share);
    });
}

#[test]
fn a_directory_that_may_not_be_written() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let error = as_nobody(|| Share::open_or_make(home.path(), &identity("c")).unwrap_err());
    assert!(matches!(error, Error::Forbidden(_)), "{error:?}");
    assert_eq!(names(home.path()), [""; 0]);
}
