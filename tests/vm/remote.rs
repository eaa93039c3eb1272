//! Shares of real servers as the driver's process uses them, by helpers.

use crate::{
    guest::{A, A6, B, Frozen, Server, required},
    share::{Scene, copy_of, key, names, operations_at, place, remote, snapshot, volume},
    support::{MIB, data, eventually, host::run},
};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    thread,
    time::{Duration, Instant},
};
use wharf::{
    error::Error,
    os::{
        nfs::{Powers, Version},
        quota,
    },
    share::{
        Remote,
        store::{Flaw, NewVolume, OnDelete},
    },
    volume::{Owner, Source},
};

/// Hard links, holes, odd names, odd modes, a file that is not tiny; on the server, so that nothing is held back.
fn furnish(at: &Path) {
    fs::create_dir_all(at.join("sub/ü\n")).unwrap();
    fs::write(at.join("sub/ü\n/a b"), b"small").unwrap();
    fs::hard_link(at.join("sub/ü\n/a b"), at.join("linked")).unwrap();
    symlink("/nowhere", at.join("link")).unwrap();
    let sparse = File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(&vec![7; 1 << 20], 8 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    fs::write(at.join("data"), data::bytes(1, 3 << 20)).unwrap();
    fs::write(at.join("private"), b"x").unwrap();
    fs::set_permissions(at.join("private"), PermissionsExt::from_mode(0o4600)).unwrap();
    chown(at.join("sub"), Some(12), Some(34)).unwrap();
    setxattr(at.join("private"), "user.note", b"text", XattrFlags::empty()).unwrap();
    run("mknod", [at.join("fifo").to_str().unwrap(), "p"]);
}

/// Names, kinds, modes, owners, times, links, sizes and contents.
fn described(at: &Path) -> Vec<String> {
    let format = "%P|%y|%m|%U|%G|%T@|%l|%n|";
    let list = run(
        "find",
        [at.to_str().unwrap(), "-mindepth", "1", "-printf", format]
            .into_iter()
            .chain(["(", "-type", "f", "-printf", "%s", "-o", "-true", ")", "-printf", "\\0"]),
    );
    let mut lines: Vec<String> =
        list.split('\0').filter(|line| !line.is_empty()).map(str::to_owned).collect();
    lines.sort();
    lines.extend(["linked", "sparse", "data", "private"].map(|name| data::sha256(&at.join(name))));
    lines
}

fn a_life(server: Server, export: &str, options: &str, version: Version) {
    let name = format!("life-{}-{export}-{options}", server.address);
    println!("vm: {name}");
    let scene = Scene::new(server, export, &name, options);
    let (remote, share) = (&scene.remote, &scene.share);
    // Where nothing is, nothing exists and nothing is made.
    assert_eq!(remote.volume(share, key("v")).unwrap(), None);
    assert_eq!(remote.volumes(share, None, 10).unwrap().entries, []);
    remote.delete_volume(share, key("v")).unwrap();
    assert_eq!(names(scene.path()), [""; 0]);
    let examined = remote.examine(share).unwrap();
    let reflink = Some(version == Version::V4_2 && export == "xfs");
    assert_eq!(examined.version, Some(version));
    assert_eq!(examined.powers, Powers::Writable { squashed: false, reflink });
    assert_eq!((examined.store, names(scene.path())), (None, Vec::new()));
    assert!(remote.space(share).unwrap().total > 100 * MIB);

    let wanted = NewVolume {
        owner: Owner { uid: Some(1000), gid: Some(2000), mode: Some(0o770) },
        ..volume("v", "a/v")
    };
    let made = remote.create_volume(share, wanted.clone()).unwrap();
    assert_eq!(remote.create_volume(share, wanted).unwrap(), made);
    let root = scene.at("a/v");
    let meta = fs::metadata(&root).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 2000, 0o770));
    assert_eq!(meta.ino(), made.fileid);
    assert!(matches!(remote.create_volume(share, volume("w", "a")), Err(Error::Incompatible(_))));
    assert_eq!(remote.resize_volume(share, key("v"), 5, 6).unwrap().size_bytes, 6);
    assert_eq!(remote.volume_health(share, key("v")).unwrap(), None);

    furnish(&root);
    let cut = remote.create_snapshot(share, snapshot("s", "v")).unwrap();
    assert_eq!(remote.create_snapshot(share, snapshot("s", "v")).unwrap(), cut);
    let content = scene.at(".wharf/snapshots").join(key("s").to_string()).join("data");
    assert_eq!(described(&content), described(&root));
    for (name, source) in [("r", Source::Snapshot(key("s"))), ("c", Source::Volume(key("v")))] {
        remote.create_volume(share, copy_of(name, source)).unwrap();
        let copy = scene.at(name);
        assert_eq!(described(&copy), described(&root), "{name}");
        assert!(fs::metadata(copy.join("sparse")).unwrap().blocks() * 512 <= 2 * MIB, "{name} has no holes");
        let mut note = [0; 8];
        let kept = getxattr(copy.join("private"), "user.note", &mut note[..]);
        assert_eq!(kept.is_ok(), version == Version::V4_2, "{name}: {kept:?}");
    }
    let listed = remote.volumes(share, None, 2).unwrap();
    assert_eq!(listed.entries.len(), 2);
    let rest = remote.volumes(share, listed.after, 2).unwrap();
    assert_eq!((rest.entries.len(), rest.after), (1, None));
    assert_eq!(remote.snapshots(share, None, 9).unwrap().entries, [cut]);
    assert!(remote.usage(share, key("c")).unwrap().unwrap().bytes > 4 * MIB);

    remote.delete_snapshot(share, key("s")).unwrap();
    assert_eq!(remote.snapshot(share, key("s")).unwrap(), None);
    for name in ["v", "r", "c", "c"] {
        remote.delete_volume(share, key(name)).unwrap();
    }
    assert!(remote.purge(share).unwrap().left.is_empty());
    assert_eq!(names(scene.path()), [".wharf", "a"]);
    scene.assert_empty();
}

#[test]
fn volumes_live_on_4_2_where_blocks_are_shared() {
    required();
    a_life(A, "xfs", "vers=4.2", Version::V4_2);
}

#[test]
fn volumes_live_on_4_2_where_they_are_not() {
    required();
    a_life(A, "ext4", "", Version::V4_2);
}

#[test]
fn volumes_live_on_4_1() {
    required();
    a_life(A, "xfs", "vers=4.1", Version::V4_1);
    a_life(B, "xfs", "vers=4.0", Version::V4_0);
}

#[test]
fn volumes_live_on_3() {
    required();
    a_life(A, "ext4", "vers=3", Version::V3);
    a_life(A6, "xfs", "vers=3", Version::V3);
}

#[test]
fn a_port_that_is_not_2049() {
    required();
    A.listen_elsewhere();
    a_life(A, "xfs", "vers=3,port=2050", Version::V3);
    a_life(A, "xfs", "port=2050", Version::V4_2);
}

#[test]
fn directories_end_in_three_ways() {
    required();
    let scene = Scene::new(A, "xfs", "ends", "");
    let (remote, share) = (&scene.remote, &scene.share);
    for on_delete in [OnDelete::Delete, OnDelete::Retain, OnDelete::Archive] {
        let root = format!("{on_delete:?}");
        remote.create_volume(share, NewVolume { on_delete, ..volume(&root, &root) }).unwrap();
        fs::write(scene.at(&root).join("f"), "x").unwrap();
        remote.delete_volume(share, key(&root)).unwrap();
    }
    let left = names(scene.path());
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(
        left[0] == ".wharf" && left[1] == "Retain" && left[2].starts_with("archived-Archive."),
        "{left:?}"
    );
    assert_eq!(fs::read(scene.at(&left[2]).join("f")).unwrap(), b"x");
    // What another driver has made, and what a volume has.
    fs::create_dir_all(scene.at("legacy/x")).unwrap();
    remote.create_volume(share, volume("v", "own/v")).unwrap();
    let refused = remote.delete_unrecorded(share, key("l"), place("own"), OnDelete::Delete).unwrap_err();
    assert!(
        matches!(&refused, Error::Refused(text) if text.contains("127.0.0.1:/export/xfs/ends")),
        "{refused}"
    );
    remote.delete_unrecorded(share, key("l"), place("legacy"), OnDelete::Delete).unwrap();
    remote.delete_volume(share, key("v")).unwrap();
    assert_eq!(names(scene.path()).len(), 4);
    scene.assert_empty();
}

#[test]
fn operations_are_few() {
    required();
    for (options, export) in [("", "xfs"), ("vers=4.1", "xfs"), ("vers=3", "ext4")] {
        let scene = Scene::new(A, export, &format!("few-{options}"), options);
        let (remote, share) = (&scene.remote, &scene.share);
        remote.create_volume(share, volume("first", "first")).unwrap();
        let create = scene.counted(&format!("create {options}"), || {
            remote.create_volume(share, volume("v", "v")).unwrap();
        });
        let look = scene.counted(&format!("look {options}"), || {
            remote.volume(share, key("v")).unwrap().unwrap();
        });
        let delete = scene.counted(&format!("delete {options}"), || {
            remote.delete_volume(share, key("v")).unwrap();
        });
        assert!(create <= 34 && look <= 6 && delete <= 30, "{options}: {create} {look} {delete}");
    }
}

/// Times are printed; how often the server is asked does not depend on the machine.
#[test]
fn a_snapshot_costs_what_cp_does() {
    required();
    let scene = Scene::new(A, "xfs", "as-cp", "vers=4.2");
    let (remote, share) = (&scene.remote, &scene.share);
    remote.create_volume(share, volume("v", "v")).unwrap();
    for file in 0..100 {
        let directory = scene.at(&format!("v/{}", file / 20));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(file.to_string()), data::bytes(file, 64 << 10)).unwrap();
    }
    // Which mounts what long copies use.
    remote.create_snapshot(share, snapshot("first", "v")).unwrap();
    let (mut times, mut last) = ([Vec::new(), Vec::new()], [0, 0]);
    for turn in 0..3 {
        let name = format!("s{turn}");
        let begin = Instant::now();
        last[0] = scene.counted_meanwhile(|| {
            remote.create_snapshot(share, snapshot(&name, "v")).unwrap();
        });
        times[0].push(begin.elapsed());
        let mounted = A.mount_alone("xfs", "4.2");
        let source = mounted.path().join("as-cp/v");
        let target = mounted.path().join("as-cp").join(&name);
        let (before, begin) = (operations_at(mounted.path()), Instant::now());
        run("cp", ["-a".as_ref(), "--reflink=always".as_ref(), source.as_os_str(), target.as_os_str()]);
        times[1].push(begin.elapsed());
        last[1] = operations_at(mounted.path()) - before;
    }
    let [ours, theirs] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f32()
    });
    println!("vm: 100 files in 5 directories: snapshot {ours:.2} s, cp {theirs:.2} s: {:.2}", ours / theirs);
    println!("vm: operations: snapshot {}, cp {}", last[0], last[1]);
    assert!(last[0] > 100 && last[0] * 5 <= last[1] * 6, "{last:?}");
}

#[test]
fn a_squashed_root_is_told_what_it_may_not() {
    required();
    let scene = Scene::new(A, "squash", "squashed", "");
    let (remote, share) = (&scene.remote, &scene.share);
    // Nobody may write there: the directory is the real root's.
    assert_eq!(remote.examine(share).unwrap().powers, Powers::Denied);
    let denied = remote.create_volume(share, volume("v", "v")).unwrap_err();
    assert!(matches!(&denied, Error::Forbidden(text) if text.contains("root_squash")), "{denied:?}");
    fs::set_permissions(scene.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let powers = remote.examine(share).unwrap().powers;
    assert_eq!(powers, Powers::Writable { squashed: true, reflink: Some(false) });
    remote.create_volume(share, volume("v", "v")).unwrap();
    let owned = NewVolume { owner: Owner { uid: Some(1000), ..Owner::default() }, ..volume("o", "o") };
    let refused = remote.create_volume(share, owned).unwrap_err();
    assert!(matches!(&refused, Error::Forbidden(text) if text.contains("root_squash")), "{refused:?}");
    // A pod's own file: no copy is complete without it, and it cannot be purged out of its directory.
    let private = scene.at("v/private");
    fs::create_dir(&private).unwrap();
    fs::write(private.join("f"), "secret").unwrap();
    fs::set_permissions(&private, PermissionsExt::from_mode(0o700)).unwrap();
    chown(&private, Some(1000), Some(1000)).unwrap();
    let refused = remote.create_snapshot(share, snapshot("s", "v")).unwrap_err();
    assert!(matches!(&refused, Error::Refused(text) if text.contains("no_root_squash")), "{refused:?}");
    assert_eq!(remote.snapshots(share, None, 9).unwrap().entries, []);
    assert!(!remote.usage(share, key("v")).unwrap().unwrap().complete);
    remote.delete_volume(share, key("v")).unwrap();
    assert_eq!(remote.purge(share).unwrap().left.len(), 1);
    assert_eq!(remote.leftovers(share).unwrap().len(), 1);
    run("rm", ["-r", private.parent().unwrap().parent().unwrap().join(".wharf/trash").to_str().unwrap()]);
}

#[test]
fn exports_that_cannot_be_written_say_so() {
    required();
    let scene = Scene::new(A, "xfs", "full", "");
    let (remote, share) = (&scene.remote, &scene.share);
    // A limit of its own: other tests fill other exports.
    let directory = File::open(scene.path()).unwrap();
    quota::set_number(&directory, 4712, quota::Inherit::Yes).unwrap();
    quota::set_limit(scene.path(), 4712, Some(8 * MIB)).unwrap();
    remote.create_volume(share, volume("v", "v")).unwrap();
    fs::write(scene.at("v/f"), data::bytes(1, 5 << 20)).unwrap();
    let full = remote.create_volume(share, copy_of("c", Source::Volume(key("v")))).unwrap_err();
    assert!(full.is_no_space(), "{full:?}");
    assert_eq!(names(scene.path()), [".wharf", "v"]);
    remote.purge(share).unwrap();
    remote.delete_volume(share, key("v")).unwrap();
    scene.assert_empty();

    let read_only = wharf::share::Share::nfs(
        &wharf::volume::nfs::Share::parse("127.0.0.1:/export/ro").unwrap(),
        &wharf::volume::nfs::Connection::parse("").unwrap(),
    );
    assert_eq!(remote.examine(&read_only).unwrap().powers, Powers::ReadOnly);
    assert_eq!(remote.volumes(&read_only, None, 9).unwrap().entries, []);
    let refused = remote.create_volume(&read_only, volume("v", "v")).unwrap_err();
    assert!(matches!(&refused, Error::Refused(text) if text.contains("read-only")), "{refused:?}");
}

#[test]
fn two_controllers_at_once() {
    required();
    let scene = Scene::new(A, "xfs", "race", "");
    let share = &scene.share;
    let others = [remote("here"), remote("here")];
    for round in 0..4 {
        let name = format!("v{round}");
        let outcomes: Vec<_> = thread::scope(|scope| {
            let calls: Vec<_> = others
                .iter()
                .map(|remote| scope.spawn(|| remote.create_volume(share, volume(&name, &name))))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let made: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        assert!(!made.is_empty() && made.windows(2).all(|two| two[0] == two[1]), "{outcomes:?}");
        let lost = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        lost.for_each(|error| assert!(matches!(error, Error::Busy(_)), "{error:?}"));
        // The other one knows it at once, and that it is gone.
        let listed = |remote: &Remote| remote.volumes(share, None, 9).unwrap().entries.len();
        assert!(others[1].volume(share, key(&name)).unwrap().is_some());
        assert_eq!((listed(&others[0]), listed(&others[1])), (1, 1));
        others[0].delete_volume(share, key(&name)).unwrap();
        assert_eq!(listed(&others[1]), 0);
        assert_eq!(others[1].volume(share, key(&name)).unwrap(), None);
        // One directory for two volumes.
        let outcomes: Vec<_> = thread::scope(|scope| {
            let calls: Vec<_> = ["x", "y"]
                .into_iter()
                .zip(&others)
                .map(|(name, remote)| scope.spawn(move || remote.create_volume(share, volume(name, "dir"))))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert!(outcomes.iter().filter(|outcome| outcome.is_ok()).count() <= 1, "{outcomes:?}");
        for name in ["x", "y"] {
            others[0].delete_volume(share, key(name)).unwrap();
        }
    }
    // Another cluster's are not there.
    others[0].create_volume(share, volume("v", "v")).unwrap();
    assert_eq!(remote("there").volume(share, key("v")).unwrap(), None);
    assert!(matches!(remote("there").delete_volume(share, key("v")), Err(Error::Refused(_))));
    others[1].delete_volume(share, key("v")).unwrap();
    scene.assert_empty();
}

/// A helper that is killed leaves its work to the next one, which knows at once that it has ended.
#[test]
fn a_killed_copy_is_begun_anew_at_once() {
    required();
    for (export, options) in [("ext4", "vers=4.1"), ("ext4", "vers=3")] {
        let scene = Scene::new(A, export, &format!("killed-{options}"), options);
        let (remote, share) = (&scene.remote, &scene.share);
        remote.create_volume(share, volume("v", "v")).unwrap();
        fs::write(scene.at("v/f"), data::bytes(1, 64 << 20)).unwrap();
        let before = scene.helpers();
        let tmp = scene.at(".wharf/tmp");
        let outcome = thread::scope(|scope| {
            let copy = scope.spawn(|| remote.create_snapshot(share, snapshot("s", "v")));
            eventually("the copy has begun", 60, || names(&tmp).iter().any(|name| name.contains(".snap.")));
            for helper in scene.helpers().into_iter().filter(|helper| !before.contains(helper)) {
                run("kill", ["-9", &helper.to_string()]);
            }
            copy.join().unwrap()
        });
        assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
        assert_eq!(remote.snapshots(share, None, 9).unwrap().entries, []);
        let begin = Instant::now();
        remote.create_snapshot(share, snapshot("s", "v")).unwrap();
        println!("vm: the same snapshot again took {:?}", begin.elapsed());
        let content = scene.at(".wharf/snapshots").join(key("s").to_string()).join("data/f");
        assert_eq!(data::sha256(&content), data::sha256(&scene.at("v/f")));
        remote.delete_snapshot(share, key("s")).unwrap();
        remote.delete_volume(share, key("v")).unwrap();
        scene.assert_empty();
    }
}

#[test]
fn a_copy_ends_with_the_driver() {
    required();
    let scene = Scene::new(A, "ext4", "stopped", "vers=4.1");
    let (remote, share) = (&scene.remote, &scene.share);
    remote.create_volume(share, volume("v", "v")).unwrap();
    fs::write(scene.at("v/f"), data::bytes(1, 96 << 20)).unwrap();
    let tmp = scene.at(".wharf/tmp");
    let outcome = thread::scope(|scope| {
        let copy = scope.spawn(|| remote.create_snapshot(share, snapshot("s", "v")));
        eventually("the copy has begun", 60, || names(&tmp).iter().any(|name| name.contains(".snap.")));
        remote.stop();
        copy.join().unwrap()
    });
    assert!(matches!(&outcome, Err(Error::Os { source, .. }) if source.is_cancelled()), "{outcome:?}");
    let next = crate::share::remote("here");
    next.create_snapshot(share, snapshot("s", "v")).unwrap();
    next.delete_snapshot(share, key("s")).unwrap();
    next.delete_volume(share, key("v")).unwrap();
    next.sweep(share).unwrap();
    assert_eq!(next.leftovers(share).unwrap(), []);
}

#[test]
fn a_limit_of_the_server_is_the_volumes() {
    required();
    let scene = Scene::new(A, "xfs", "limited", "");
    let (remote, share) = (&scene.remote, &scene.share);
    remote.create_volume(share, volume("v", "v")).unwrap();
    fs::write(scene.at("v/f"), data::bytes(1, 3 << 20)).unwrap();
    fs::hard_link(scene.at("v/f"), scene.at("v/g")).unwrap();
    let usage = remote.usage(share, key("v")).unwrap().unwrap();
    assert!(usage.complete && usage.inodes == 2 && usage.quota.is_none(), "{usage:?}");
    assert!((3 * MIB..4 * MIB).contains(&usage.bytes), "{usage:?}");
    remote.create_volume(share, volume("q", "q")).unwrap();
    let directory = File::open(scene.at("q")).unwrap();
    quota::set_number(&directory, 4711, quota::Inherit::Yes).unwrap();
    quota::set_limit(&scene.at("q"), 4711, Some(64 * MIB)).unwrap();
    let limited = remote.usage(share, key("q")).unwrap().unwrap().quota.unwrap();
    assert_eq!(limited.total, 64 * MIB);
    for name in ["v", "q"] {
        remote.delete_volume(share, key(name)).unwrap();
    }
    scene.assert_empty();
}

#[test]
fn what_is_wrong_with_a_volume() {
    required();
    let scene = Scene::new(A, "xfs", "wrong", "");
    let (remote, share) = (&scene.remote, &scene.share);
    remote.create_volume(share, volume("v", "a/v")).unwrap();
    let flaw = || remote.volume_health(share, key("v")).unwrap();
    assert_eq!(flaw(), None);
    fs::rename(scene.at("a/v"), scene.at("kept")).unwrap();
    assert_eq!(flaw(), Some(Flaw::Gone));
    fs::create_dir(scene.at("a/v")).unwrap();
    assert_eq!(flaw(), Some(Flaw::Replaced));
    fs::remove_dir(scene.at("a/v")).unwrap();
    symlink(scene.at("kept"), scene.at("a/v")).unwrap();
    assert_eq!(flaw(), Some(Flaw::Replaced));
    fs::remove_file(scene.at("a/v")).unwrap();
    fs::rename(scene.at("kept"), scene.at("a/v")).unwrap();
    let record = scene.at(".wharf/volumes").join(key("v").to_string()).join("record.json");
    let good = fs::read(&record).unwrap();
    fs::write(&record, b"{}").unwrap();
    assert!(matches!(flaw(), Some(Flaw::Damaged(_))));
    fs::write(&record, good).unwrap();
    assert_eq!(flaw(), None);
    assert!(matches!(remote.volume_health(share, key("w")), Err(Error::NotFound(_))));
    // The store that the helper holds open is replaced behind its back.
    fs::rename(scene.at(".wharf"), scene.at("old")).unwrap();
    run("cp", ["-a", scene.at("old").to_str().unwrap(), scene.at(".wharf").to_str().unwrap()]);
    run("rm", ["-r", scene.at("old").to_str().unwrap()]);
    assert_eq!(flaw(), None);
    remote.delete_volume(share, key("v")).unwrap();
    scene.assert_empty();
}

#[test]
fn a_server_that_falls_silent_is_told_and_comes_back() {
    required();
    // A server and export that no other test of these freezes or needs while it is frozen.
    let scene = Scene::new(B, "xfs", "silent", "");
    let (remote, share) = (&scene.remote, &scene.share);
    remote.create_volume(share, volume("v", "v")).unwrap();
    let frozen = Frozen::new(B, "xfs");
    let begin = Instant::now();
    let lost = remote.create_volume(share, volume("w", "w")).unwrap_err();
    assert!(matches!(&lost, Error::Unavailable(text) if text.contains("unknown")), "{lost:?}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    drop(frozen);
    eventually("it is made", 60, || remote.create_volume(share, volume("w", "w")).is_ok());
    assert_eq!(remote.volume_health(share, key("w")).unwrap(), None);
    for name in ["v", "w"] {
        remote.delete_volume(share, key(name)).unwrap();
    }
    scene.assert_empty();
}
