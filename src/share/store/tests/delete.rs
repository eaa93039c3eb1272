use super::*;
use crate::share::store::{Fate, What};

#[test]
fn each_end_of_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    let archived = format!("archived-{}", "x".repeat(200));
    for (name, root, on_delete) in [
        ("delete", "d/delete".to_owned(), OnDelete::Delete),
        ("retain", "d/retain".to_owned(), OnDelete::Retain),
        ("archive", format!("d/{}", "x".repeat(255)), OnDelete::Archive),
    ] {
        create(&share, &volume(name, &root, on_delete)).unwrap();
        fs::write(home.path().join(&root).join("f"), b"data").unwrap();
        share.delete_volume(key(name)).unwrap();
        share.delete_volume(key(name)).unwrap();
        assert_eq!(share.volume(key(name)).unwrap(), None);
    }
    let left = names(&home.path().join("d"));
    assert!(left.len() == 2 && left[0].starts_with(&archived) && left[1] == "retain", "{left:?}");
    assert!(left[0].len() <= 255 && home.path().join("d").join(&left[0]).join("f").exists());
    sound(&share);
    // The same claim gets its data back.
    let record = create(&share, &volume("retain", "d/retain", OnDelete::Retain)).unwrap();
    assert!(record.adopted && home.path().join("d/retain/f").exists());
    // Archived twice: two names.
    for _ in 0..2 {
        create(&share, &volume("twice", "twice", OnDelete::Archive)).unwrap();
        share.delete_volume(key("twice")).unwrap();
    }
    assert_eq!(names(home.path()).iter().filter(|name| name.starts_with("archived-twice.")).count(), 2);
    sound(&share);
}

#[test]
fn a_directory_that_is_another_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    for on_delete in [OnDelete::Delete, OnDelete::Archive] {
        let root = home.path().join("v");
        create(&share, &volume("v", "v", on_delete)).unwrap();
        fs::rename(&root, home.path().join("own")).unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(root.join("foreign"), b"").unwrap();
        assert!(matches!(share.delete_volume(key("v")), Err(Error::Refused(_))));
        assert_eq!(names(&root), ["foreign"]);
        let found = share.leftovers(&mut |_| {}).unwrap();
        assert!(matches!(&found[..], [one] if one.what == What::Lost(key("v"))), "{found:?}");
        let origin = cut(&share, &snapshot("s", "v"));
        assert!(matches!(origin, Err(Error::Refused(_))), "{origin:?}");
        fs::remove_file(root.join("foreign")).unwrap();
        fs::remove_dir(&root).unwrap();
        // Gone is fine.
        share.delete_volume(key("v")).unwrap();
        fs::remove_dir(home.path().join("own")).unwrap();
        sound(&share);
    }
}

/// A server may carry out a rename after its caller has given up, and after a newer volume was made.
#[test]
fn a_late_rename_into_trash_destroys_nothing() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    let old = create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
    let late = share.trashed_root(&old);
    // So that the next one gets another inode.
    fs::create_dir(home.path().join("holder")).unwrap();
    let kept = home.path().join("holder/old");
    fs::rename(home.path().join("v"), &kept).unwrap();
    share.delete_volume(key("v")).unwrap();
    let new = create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
    assert!(new.fileid != old.fileid && new.incarnation != old.incarnation);
    fs::write(home.path().join("v/f"), b"new data").unwrap();
    let trash = home.path().join(".wharf/trash");
    fs::rename(home.path().join("v"), trash.join(late.name())).unwrap();

    let purge = share.purge(&mut |_| {}).unwrap();
    assert!(purge.gone == 0 && purge.left.len() == 1, "{purge:?}");
    let found = share.leftovers(&mut |_| {}).unwrap();
    let one = found.iter().find(|one| matches!(one.what, What::Trash(_))).unwrap();
    assert!(matches!(one.fate, Fate::Leave(_)));
    assert!(share.purge_leftover(one, &mut |_| {}).unwrap().is_some());
    assert_eq!(fs::read(share.root().join(&one.place).join("f")).unwrap(), b"new data");
    fs::rename(share.root().join(&one.place), home.path().join("v")).unwrap();
    sound(&share);

    // The same between a look and the rename: what arrives in trash is put back at once.
    let outcome = share.bin(&share.root, "v".as_ref(), late);
    assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
    assert_eq!(fs::read(home.path().join("v/f")).unwrap(), b"new data");
    let outcome = super::super::delete::archive(&share.root, "v".as_ref(), late.fileid, old.incarnation);
    assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
    assert_eq!(fs::read(home.path().join("v/f")).unwrap(), b"new data");
    sound(&share);
}

#[test]
fn trash_is_purged_by_one_and_taken_over_from_the_dead() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    let record = create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
    share.delete_volume(key("v")).unwrap();
    let alive = open(home.path());
    alive.beat().unwrap();
    let trash = home.path().join(".wharf/trash");
    let trashed = share.trashed_root(&record);
    let theirs = super::super::names::Trashed { purger: Some(alive.worker.instance), ..trashed };
    fs::rename(trash.join(trashed.name()), trash.join(theirs.name())).unwrap();
    assert_eq!(share.purge(&mut |_| {}).unwrap().gone, 0);
    let foreign = Share::open_or_make(home.path(), &identity("other")).unwrap();
    assert_eq!(foreign.purge(&mut |_| {}).unwrap().gone, 0);
    assert_eq!(foreign.leftovers(&mut |_| {}).unwrap(), []);
    assert_eq!(successor(home.path(), &alive).purge(&mut |_| {}).unwrap().gone, 1);
    sound(&share);
}

#[test]
fn directories_without_a_record() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    create(&share, &volume("v", "a/b", OnDelete::Delete)).unwrap();
    for root in ["a", "a/b", "a/b/c"] {
        let outcome = share.delete_unrecorded(key("legacy"), &place(root), OnDelete::Delete);
        assert!(matches!(outcome, Err(Error::Refused(_))), "{root}: {outcome:?}");
    }
    for on_delete in [OnDelete::Retain, OnDelete::Archive, OnDelete::Delete] {
        fs::create_dir_all(home.path().join("pvc/x")).unwrap();
        share.delete_unrecorded(key("legacy"), &place("pvc"), on_delete).unwrap();
    }
    share.delete_unrecorded(key("legacy"), &place("pvc"), OnDelete::Delete).unwrap();
    let left = names(home.path());
    assert_eq!(left.len(), 3, "{left:?}");
    sound(&share);
}

/// The purge of one finding empties the trash: others that were in it are gone, and nobody is blamed.
#[test]
fn findings_that_go_with_another_are_gone() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    create(&share, &volume("v", "v", OnDelete::Delete)).unwrap();
    share.delete_volume(key("v")).unwrap();
    let found = share.leftovers(&mut |_| {}).unwrap();
    let trashed = found.iter().filter(|one| matches!(one.what, What::Trash(_)) && one.fate == Fate::Purge);
    let trashed: Vec<_> = trashed.collect();
    assert!(!trashed.is_empty(), "{found:?}");
    share.purge(&mut |_| {}).unwrap();
    for one in trashed {
        assert_eq!(share.purge_leftover(one, &mut |_| {}).unwrap(), None);
    }
    sound(&share);
}

/// What a controller that comes anew needs to delete takes no room.
#[test]
fn a_full_share_can_be_emptied() {
    let home = tempfile::tempdir().unwrap();
    let _mount = crate::os::testing::Bind::tmpfs("size=4m,nr_inodes=300", home.path());
    let first = open(home.path());
    for name in ["v", "w"] {
        create(&first, &volume(name, name, OnDelete::Delete)).unwrap();
    }
    fs::write(home.path().join("w/f"), b"x").unwrap();
    let clone = copy_of("c", "c", Source::Volume(key("w")));
    first.create_volume(&clone, Abilities::default(), &mut |_| false).unwrap_err();
    let full = (0..).find_map(|n| fs::write(home.path().join("v").join(n.to_string()), b"x").err());
    assert_eq!(full.unwrap().raw_os_error(), Some(libc::ENOSPC));
    let share = successor(home.path(), &first);
    let outcome = create(&share, &volume("x", "x", OnDelete::Delete));
    assert!(outcome.as_ref().is_err_and(Error::is_no_space), "{outcome:?}");
    assert!(!home.path().join(".wharf/tmp").join(share.worker.heartbeat()).exists());
    // Whether others work is asked, too.
    let elsewhere = open_elsewhere(home.path());
    assert!(!elsewhere.is_alive(share.worker).unwrap());
    elsewhere.sweep(&mut |_| {}).unwrap();
    share.delete_volume(key("v")).unwrap();
    share.sweep(&mut |_| {}).unwrap();
    assert_eq!(names(home.path()), [".wharf", "w"]);
    create(&share, &volume("x", "x", OnDelete::Delete)).unwrap();
    sound(&share);
}
