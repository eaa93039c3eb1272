use super::super::names::{Draft, What};
use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

#[test]
fn a_volume_is_made_once() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    let mut wanted = volume("v", "a/b", OnDelete::Delete);
    wanted.owner = Owner { uid: Some(7), gid: Some(8), mode: Some(0o2770) };
    let record = create(&share, &wanted).unwrap();
    assert_eq!((record.id.as_str(), record.adopted, record.cluster.as_str()), ("nfs-v", false, "c"));
    let root = fs::metadata(home.path().join("a/b")).unwrap();
    assert_eq!((root.ino(), root.uid(), root.gid(), root.mode() & 0o7777), (record.fileid, 7, 8, 0o2770));
    fs::write(home.path().join("a/b/f"), b"kept").unwrap();
    // Another controller, the same request, another id in it: the first id stands.
    let again = NewVolume { id: "other".into(), ..wanted.clone() };
    assert_eq!(create(&open(home.path()), &again).unwrap(), record);
    assert_eq!(fs::read(home.path().join("a/b/f")).unwrap(), b"kept");
    for other in [
        NewVolume { root: place("c"), ..wanted.clone() },
        NewVolume { on_delete: OnDelete::Retain, ..wanted.clone() },
        NewVolume { owner: Owner::default(), ..wanted.clone() },
        NewVolume { source: Some(Source::Volume(key("x"))), ..wanted.clone() },
    ] {
        let error = create(&share, &other).unwrap_err();
        assert!(matches!(error, Error::Incompatible(_)), "{error:?}");
    }
    sound(&share);
    let mode = fs::metadata(home.path().join(".wharf")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn what_stands_there_decides() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    for name in ["empty", "full", "full2"] {
        fs::create_dir(home.path().join(name)).unwrap();
    }
    fs::write(home.path().join("full/f"), b"data").unwrap();
    fs::write(home.path().join("full2/f"), b"data").unwrap();
    fs::write(home.path().join("file"), b"").unwrap();
    symlink("full", home.path().join("link")).unwrap();
    let attempt = |name: &str, root: &str, on_delete| create(&share, &volume(name, root, on_delete));

    let inode = fs::metadata(home.path().join("empty")).unwrap().ino();
    let adopted = attempt("empty", "empty", OnDelete::Delete).unwrap();
    assert!(adopted.adopted && adopted.fileid == inode);
    for on_delete in [OnDelete::Delete, OnDelete::Archive] {
        assert!(matches!(attempt("full", "full", on_delete), Err(Error::Incompatible(_))));
    }
    fs::set_permissions(home.path().join("full"), PermissionsExt::from_mode(0o741)).unwrap();
    let mut retained = volume("full", "full", OnDelete::Retain);
    retained.owner.mode = Some(0o700);
    assert!(create(&share, &retained).unwrap().adopted);
    assert_eq!(fs::metadata(home.path().join("full")).unwrap().mode() & 0o7777, 0o741);
    assert!(matches!(attempt("file", "file", OnDelete::Retain), Err(Error::Incompatible(_))));
    assert!(matches!(attempt("file", "file/x", OnDelete::Retain), Err(Error::Invalid(_))));
    assert!(matches!(attempt("link", "link", OnDelete::Retain), Err(Error::Invalid(_))));
    assert!(matches!(attempt("link", "link/x", OnDelete::Delete), Err(Error::Invalid(_))));
    assert_eq!(names(&home.path().join("full")), ["f"]);
    // A restore needs a directory of its own.
    let source = copy_of("copy", "full2", Source::Volume(key("full")));
    assert!(matches!(create(&share, &source), Err(Error::Incompatible(_))));
    sound(&share);
}

#[test]
fn a_mount_on_the_way_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    let (inside, elsewhere) = (home.path().join("inside"), tempfile::tempdir().unwrap());
    fs::create_dir(&inside).unwrap();
    let _bind = crate::os::testing::Bind::new(elsewhere.path(), &inside);
    for root in ["inside", "inside/x"] {
        let error = create(&share, &volume("v", root, OnDelete::Retain)).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{root}: {error:?}");
    }
    assert_eq!(names(elsewhere.path()), [""; 0]);
    sound(&share);
}

#[test]
fn directories_are_exclusive_also_above_and_below() {
    let home = tempfile::tempdir().unwrap();
    let (share, other) = (open(home.path()), Share::open_or_make(home.path(), &identity("other")).unwrap());
    create(&share, &volume("b", "a/b", OnDelete::Delete)).unwrap();
    for (share, root) in [(&share, "a"), (&share, "a/b"), (&share, "a/b/c/d"), (&other, "a/b"), (&other, "a")]
    {
        for on_delete in [OnDelete::Delete, OnDelete::Retain] {
            let outcome = create(share, &volume("x", root, on_delete));
            assert!(matches!(outcome, Err(Error::Incompatible(_))), "{root}: {outcome:?}");
        }
    }
    create(&share, &volume("c", "a/c", OnDelete::Delete)).unwrap();
    // Shared by those that keep it; not with others, and not above or below.
    create(&share, &volume("r1", "r", OnDelete::Retain)).unwrap();
    create(&other, &volume("r2", "r", OnDelete::Retain)).unwrap();
    assert!(matches!(create(&share, &volume("x", "r", OnDelete::Archive)), Err(Error::Incompatible(_))));
    assert!(matches!(create(&share, &volume("x", "r/x", OnDelete::Retain)), Err(Error::Incompatible(_))));
    assert_eq!(claims(&share).len(), 4);
    assert_eq!(share.volumes(None, 10).unwrap().entries.len(), 3);
    assert_eq!(other.volumes(None, 10).unwrap().entries.len(), 1);
    // A name of another cluster's is not this one's to use or to delete.
    assert!(matches!(create(&other, &volume("c", "z", OnDelete::Delete)), Err(Error::Incompatible(_))));
    assert!(matches!(other.delete_volume(key("c")), Err(Error::Refused(_))));
    assert_eq!(names(home.path()), [".wharf", "a", "r"]);
}

#[test]
fn nothing_is_made_over_a_retained_directory() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    let source = create(&share, &volume("source", "source", OnDelete::Delete)).unwrap();
    let record = create(&share, &volume("r", "r", OnDelete::Retain)).unwrap();
    let clone = |name: &str| NewVolume {
        on_delete: OnDelete::Retain,
        ..copy_of(name, "r", Source::Volume(source.key))
    };
    // Its directory is empty, and would be replaced without a word.
    let outcome = create(&share, &clone("c"));
    assert!(matches!(outcome, Err(Error::Incompatible(_))), "{outcome:?}");
    share.open_root_of(&record).unwrap();
    assert_eq!(share.volume(key("c")).unwrap(), None);
    // Nor one beside it, when it is gone.
    fs::remove_dir(home.path().join("r")).unwrap();
    let outcome = create(&share, &volume("x", "r", OnDelete::Retain));
    assert!(matches!(outcome, Err(Error::Incompatible(_))), "{outcome:?}");
    share.delete_volume(key("r")).unwrap();
    create(&share, &volume("x", "r", OnDelete::Retain)).unwrap();
    sound(&share);
}

#[test]
fn a_retained_directory_is_shared_once_it_is_finished() {
    let home = tempfile::tempdir().unwrap();
    let (share, other) = (open(home.path()), open(home.path()));
    create(&share, &volume("source", "source", OnDelete::Delete)).unwrap();
    fs::create_dir(home.path().join("r")).unwrap();
    let clone = NewVolume { on_delete: OnDelete::Retain, ..copy_of("c", "r", Source::Volume(key("source"))) };
    let beside = volume("b", "r", OnDelete::Retain);
    let made = share.create_volume(&clone, Abilities::default(), &mut |_| {
        // The empty directory is about to be replaced.
        let outcome = create(&other, &beside);
        assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
        true
    });
    let made = made.unwrap();

    // In place but not finished; and then whoever makes it is killed.
    let directory = home.path().join(".wharf/volumes").join(made.key.to_string());
    fs::rename(directory.join("record.json"), directory.join(share.worker.creating())).unwrap();
    let outcome = create(&other, &beside);
    assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
    let other = successor(home.path(), &share);
    let record = again(|| create(&other, &beside)).unwrap();
    other.open_root_of(&record).unwrap();
    assert_eq!(other.volume(made.key).unwrap(), None);
    // Both use it.
    let second = create(&other, &volume("b2", "r", OnDelete::Retain)).unwrap();
    assert!(second.adopted && second.fileid == record.fileid);
    sound(&other);
}

#[test]
fn a_dead_claim_hinders_nobody() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    let record = create(&share, &volume("old", "a/b", OnDelete::Retain)).unwrap();
    share.delete_volume(key("old")).unwrap();
    share.make_dead_claim(&record);
    assert_eq!(claims(&share).len(), 1);
    create(&share, &volume("new", "a", OnDelete::Retain)).unwrap();
    share.make_dead_claim(&VolumeRecord { root: place("x/y/z"), ..record });
    sound(&share);
}

/// An inode number comes back after a purge.
#[test]
fn a_record_without_a_claim_means_no_directory() {
    let home = tempfile::tempdir().unwrap();
    let dead = open(home.path());
    let record = create(&dead, &volume("v", "d", OnDelete::Delete)).unwrap();
    let old = VolumeRecord { key: key("old"), incarnation: Uuid::new_v4(), ..record.clone() };
    let directory = home.path().join(".wharf/volumes").join(old.key.to_string());
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join(dead.worker.creating()), crate::store::sealed::seal(&old).unwrap()).unwrap();
    let share = successor(home.path(), &dead);
    share.sweep(&mut |_| {}).unwrap();
    share.open_root_of(&record).unwrap();
    assert!(!directory.exists());
    sound(&share);
}

#[test]
fn lists_have_pages() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    for n in 0..7 {
        create(&share, &volume(&format!("v{n}"), &format!("d/{n}"), OnDelete::Delete)).unwrap();
    }
    fs::create_dir(home.path().join(".wharf/volumes").join(key("bad").to_string())).unwrap();
    fs::write(home.path().join(".wharf/volumes").join(key("bad").to_string()).join("record.json"), "x")
        .unwrap();
    let (mut after, mut seen, mut damaged) = (None, Vec::new(), 0);
    loop {
        let page = share.volumes(after, 3).unwrap();
        seen.extend(page.entries.iter().map(|record| record.key));
        damaged += page.damaged.len();
        match page.after {
            Some(key) => after = Some(key),
            None => break,
        }
    }
    assert!(seen.is_sorted() && seen.len() == 7 && damaged == 1, "{seen:?} {damaged}");
    assert!(super::super::space(home.path()).unwrap().total > 0);
    let record = share.resize_volume(key("v1"), 5 << 20, 6 << 20).unwrap();
    assert_eq!(share.volume(key("v1")).unwrap(), Some(record.clone()));
    assert_eq!((record.asked_size(), record.size_bytes), (5 << 20, 6 << 20));
    let found = share.leftovers(&mut |_| {}).unwrap();
    assert!(found.len() == 1 && found[0].what == crate::share::store::What::Damaged(key("bad")), "{found:?}");
    assert!(matches!(create(&share, &volume("bad", "b", OnDelete::Delete)), Err(Error::Damaged(_))));
    assert!(matches!(share.resize_volume(key("none"), 1, 1), Err(Error::NotFound(_))));
}

#[test]
fn only_one_store_is_made_and_only_of_a_known_version() {
    let home = tempfile::tempdir().unwrap();
    assert!(Share::open(home.path(), &identity("c")).unwrap().is_none());
    assert_eq!(names(home.path()), [""; 0]);
    let stores: BTreeSet<Uuid> = std::thread::scope(|scope| {
        let made: Vec<_> = (0..8).map(|_| scope.spawn(|| open(home.path()).store())).collect();
        made.into_iter().map(|made| made.join().unwrap()).collect()
    });
    assert_eq!(stores.len(), 1);
    assert_eq!(names(&home.path().join(".wharf/tmp")), [""; 0]);
    assert_eq!(crate::share::store::migrate(home.path()).unwrap(), 1);
    let format = home.path().join(".wharf/format.json");
    for (version, newer) in [(0, false), (2, true)] {
        let other = crate::share::store::Format { version, uuid: Uuid::new_v4() };
        fs::write(&format, crate::store::sealed::seal(&other).unwrap()).unwrap();
        let error = Share::open(home.path(), &identity("c")).unwrap_err();
        assert_eq!(matches!(error, Error::Damaged(_)), newer, "{error:?}");
    }
    let share = home.path().join(".wharf");
    fs::create_dir(share.join("volumes/x")).unwrap();
    fs::remove_file(format).unwrap();
    assert!(matches!(Share::open_or_make(home.path(), &identity("c")), Err(Error::Damaged(_))));
    let other = tempfile::tempdir().unwrap();
    symlink(&share, other.path().join(".wharf")).unwrap();
    assert!(matches!(Share::open_or_make(other.path(), &identity("c")), Err(Error::Refused(_))));
}

impl Share {
    /// What a killed controller leaves between its record and its claim.
    pub(super) fn make_dead_claim(&self, record: &VolumeRecord) {
        let directory = self.root().join(".wharf/claims").join(record.root.path());
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir(directory.join(record.claim().name())).unwrap();
    }
}

#[test]
fn a_sweep_says_what_it_had_to_pass_over() {
    let directory = tempfile::tempdir().unwrap();
    let dead = open(directory.path());
    dead.tmp
        .create_dir(&Draft { key: key("v"), what: What::Root, worker: dead.worker }.name(), 0o700)
        .unwrap();
    let share = successor(directory.path(), &dead);
    let turn = share.begin(Kind::Volume, key("v")).unwrap();
    let own = Draft { key: key("v"), what: What::Record, worker: share.worker };
    share.tmp.create_dir(&own.name(), 0o700).unwrap();
    assert_eq!(share.sweep(&mut |_| {}).unwrap().passed_over, 1, "its own is no leftover");
    drop(turn);
    assert_eq!(share.sweep(&mut |_| {}).unwrap().passed_over, 0);
    sound(&share);
}

/// As many directories of claims as volumes: few of them are open at a time, and the driver hears of each.
#[test]
fn many_claims_are_swept_with_few_open_files() {
    let home = tempfile::tempdir().unwrap();
    let share = open(home.path());
    let alive = create(&share, &volume("v", "d/7/alive", OnDelete::Delete)).unwrap();
    for n in 0..1500 {
        let root = place(&format!("d/{n}/x"));
        share.make_dead_claim(&VolumeRecord { root, incarnation: Uuid::new_v4(), ..alive.clone() });
    }
    let open_now = || {
        let files =
            fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
        files.filter(|path| path.starts_with(home.path())).count()
    };
    let (before, mut most, mut heard) = (open_now(), 0, 0);
    share
        .sweep(&mut |number| {
            heard += 1;
            if number % 100 == 0 {
                most = most.max(open_now());
            }
        })
        .unwrap();
    assert!(most <= before + 8, "{most} files were open, {before} before");
    assert!(heard > 3000, "{heard}");
    assert_eq!(claims(&share), [(alive.root.path(), alive.claim())]);
    sound(&share);
}
