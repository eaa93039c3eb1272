use super::{
    super::{copy, copy_remote},
    Stop, chain, open_files,
};
use crate::os::{
    Error,
    reflink::exclusive_bytes,
    testing::{Bind, Kind, MIB, Pool, run},
};
use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags, linkat, lsetxattr, mknodat, setxattr};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{
        fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// user::rwx, group::r-x, mask::rwx, user:7:rwx, other::---, as the kernel keeps it.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16,
    0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

fn copied(from: &Path, to: &Path, share: bool) -> crate::os::Result<u64> {
    let mut last = 0;
    let (from, to) = (File::open(from).unwrap(), File::open(to).unwrap());
    copy(&from, &to, share, &mut |bytes| {
        last = bytes;
        true
    })?;
    Ok(last)
}

/// One of everything.
fn furnish(at: &Path) {
    fs::create_dir_all(at.join("a/b")).unwrap();
    fs::create_dir_all(at.join("private")).unwrap();
    let sparse = File::create(at.join("a/sparse")).unwrap();
    sparse.write_all_at(&vec![1; 1 << 20], 4 << 20).unwrap();
    sparse.set_len(16 << 20).unwrap();
    fs::write(at.join("a/b/small"), b"small").unwrap();
    fs::write(at.join("suid"), b"#!").unwrap();
    fs::write(at.join("empty"), b"").unwrap();
    symlink("/nowhere/at all", at.join("link")).unwrap();
    mknodat(CWD, at.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    mknodat(CWD, at.join("null"), FileType::CharacterDevice, Mode::RUSR, 0x103).unwrap();
    drop(UnixListener::bind(at.join("socket")).unwrap());
    for (file, name) in [("a/b/small", "linked"), ("link", "a/linked"), ("fifo", "a/b/linked fifo")] {
        linkat(CWD, at.join(file), CWD, at.join(name), AtFlags::empty()).unwrap();
    }
    for (name, key, value) in [
        ("a/b/small", "user.note", b"text".as_slice()),
        ("a/b/small", "security.wharf", b""),
        ("a", "user.empty", b""),
        ("a", "system.posix_acl_default", &ACL),
        ("empty", "system.posix_acl_access", &ACL),
        ("empty", "user.large", &[7; 2000]),
        ("", "trusted.root", b"root"),
    ] {
        setxattr(at.join(name), key, value, XattrFlags::empty()).unwrap();
    }
    lsetxattr(at.join("link"), "trusted.link", b"link", XattrFlags::empty()).unwrap();
    lsetxattr(at.join("fifo"), "trusted.fifo", b"fifo", XattrFlags::empty()).unwrap();
    lchown(at.join("link"), Some(11), Some(12)).unwrap();
    chown(at.join("suid"), Some(5), Some(6)).unwrap();
    // cap_net_raw, permitted and effective.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(at.join("suid"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    fs::set_permissions(at.join("suid"), PermissionsExt::from_mode(0o6755)).unwrap();
    fs::set_permissions(at.join("a/b"), PermissionsExt::from_mode(0o2770)).unwrap();
    chown(at.join("private"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(at.join("private"), PermissionsExt::from_mode(0o000)).unwrap();
    for (n, name) in ["link", "fifo", "a/sparse", "a/b/small", "a/b", "a", "private", ""].iter().enumerate() {
        let when = format!("2001-02-03 04:05:0{n}.123456789 UTC");
        run("touch", ["-h".as_ref(), "-d".as_ref(), when.as_ref(), at.join(name).as_os_str()]);
    }
}

/// All that a copy must keep, by path.
fn described(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(name) = pending.pop() {
        let path = root.join(&name);
        let stat = fs::symlink_metadata(&path).unwrap();
        let mut children: Vec<_> = match fs::read_dir(&path) {
            Ok(entries) if stat.is_dir() => entries.map(|e| name.join(e.unwrap().file_name())).collect(),
            _ => Vec::new(),
        };
        children.sort();
        children.reverse();
        pending.extend(children);
        let first = names.entry(stat.ino()).or_insert_with(|| name.clone()).clone();
        let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let hash =
            content.iter().fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add((*byte).into()));
        let size = if stat.is_dir() { 0 } else { stat.size() };
        found.insert(
            name.clone(),
            format!(
                "{:o} {}:{} {size} {hash:x} {} {}.{} {:?} first {first:?} {:?}",
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.rdev(),
                stat.mtime(),
                stat.mtime_nsec(),
                fs::read_link(&path).ok(),
                extended(&path)
            ),
        );
    }
    found
}

fn extended(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (String::from_utf8(name.to_vec()).unwrap(), value[..length].to_vec())
        })
        .collect()
}

#[test]
fn everything_is_kept() {
    for (kind, share) in [(Kind::Xfs, true), (Kind::Xfs, false), (Kind::Ext4, true), (Kind::Btrfs, true)] {
        let pool = Pool::new(kind, 320 * MIB);
        let (from, to) = (pool.path().join("from"), pool.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        furnish(&from);
        let mut expected = described(&from);
        // Its description has read it: give it an access time that any reading would change.
        run(
            "touch",
            ["-a".as_ref(), "-d".as_ref(), "2001-02-03".as_ref(), from.join("a/sparse").as_os_str()],
        );
        let accessed = |root: &Path| fs::metadata(root.join("a/sparse")).unwrap().atime();
        let before = accessed(&from);
        assert!(expected.remove(Path::new("socket")).is_some());
        assert!(copied(&from, &to, share).unwrap() >= MIB);
        assert_eq!((accessed(&from), accessed(&to)), (before, before), "{kind:?} {share}");
        let found = described(&to);
        for (name, what) in &expected {
            assert_eq!(found.get(name), Some(what), "{kind:?} {share} {name:?}");
        }
        assert_eq!(found.len(), expected.len(), "{:?}", found.keys());
        assert_eq!(described(&from).len(), expected.len() + 1, "the source is as it was");
        let copy = File::open(to.join("a/sparse")).unwrap();
        run("sync", ["-f".as_ref(), to.as_os_str()]);
        assert!(copy.metadata().unwrap().blocks() * 512 < 3 * MIB, "{kind:?}: holes are kept");
        if share && kind != Kind::Ext4 {
            assert_eq!(exclusive_bytes(&copy).unwrap(), 0, "{kind:?}");
        }
    }
}

#[test]
fn a_full_directory_a_mount_and_a_stop_are_errors() {
    let pool = Pool::new(Kind::Ext4, 64 * MIB);
    let (from, to) = (pool.path().join("from"), pool.path().join("to"));
    fs::create_dir_all(from.join("mounted")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("file"), vec![1; 1 << 20]).unwrap();
    assert!(matches!(copied(&to, &from, true), Err(Error::Unexpected(_))), "not empty");
    let (source, target) = (File::open(&from).unwrap(), File::open(&to).unwrap());
    let stopped = copy(&source, &target, false, &mut |bytes| bytes == 0);
    assert!(matches!(stopped, Err(Error::Cancelled(_))), "{stopped:?}");
    let _bind = Bind::new(pool.path(), &from.join("mounted"));
    fs::create_dir(pool.path().join("other")).unwrap();
    let error = copied(&from, &pool.path().join("other"), false).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EXDEV), "{error:?}");
}

#[test]
fn no_room_is_said_so() {
    let pool = Pool::new(Kind::Ext4, 16 * MIB);
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("large"), vec![1; 32 << 20]).unwrap();
    fs::create_dir(pool.path().join("to")).unwrap();
    let error = copied(from.path(), &pool.path().join("to"), true).unwrap_err();
    assert!(error.is_no_space(), "{error:?}");
}

#[test]
fn depth_has_no_limit() {
    let pool = Pool::new(Kind::Xfs, 320 * MIB);
    let (from, to) = (pool.path().join("from"), pool.path().join("to"));
    let deepest = chain(&from, 10_000);
    rustix::fs::symlinkat("at the end", &deepest, "link").unwrap();
    drop(deepest);
    fs::create_dir(&to).unwrap();
    let before = open_files();
    let (source, target) = (File::open(&from).unwrap(), File::open(&to).unwrap());
    let (mut calls, mut most) = (0, 0);
    copy(&source, &target, true, &mut |_| {
        calls += 1;
        if calls % 1000 == 0 {
            most = most.max(open_files());
        }
        true
    })
    .unwrap();
    assert!(most < before + 300, "{most} files open, {before} before");
    let count = |path: &Path| super::super::usage(path, 100_000).unwrap().unwrap().inodes;
    assert_eq!((count(&from), count(&to)), (10_002, 10_002));
}

#[test]
fn as_many_links_as_the_filesystem_allows() {
    let pool = Pool::new(Kind::Ext4, 128 * MIB);
    let (from, to) = (pool.path().join("from"), pool.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("0"), b"x").unwrap();
    let mut links = 1_u64;
    while fs::hard_link(from.join("0"), from.join(links.to_string())).is_ok() {
        links += 1;
    }
    assert_eq!(links, 65_000);
    copied(&from, &to, false).unwrap();
    assert_eq!(fs::metadata(to.join("0")).unwrap().nlink(), links);
    assert_eq!(fs::read_dir(&to).unwrap().count() as u64, links);
}

#[test]
fn the_end_of_the_links_is_told_step_by_step() {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    for n in 0..20 {
        fs::write(from.join(n.to_string()), b"").unwrap();
        fs::hard_link(from.join(n.to_string()), home.path().join(format!("other {n}"))).unwrap();
    }
    let kept = || {
        let mut names = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path());
        let links = names.find(|path| path.to_str().unwrap().contains(".wharf-links-"));
        links.map_or(0, |links| fs::read_dir(links).unwrap().count())
    };
    let mut seen = Vec::new();
    let (source, target) = (File::open(&from).unwrap(), File::open(&to).unwrap());
    copy(&source, &target, false, &mut |_| {
        seen.push(kept());
        true
    })
    .unwrap();
    assert!(seen.ends_with(&(0..20).rev().collect::<Vec<_>>()), "{seen:?}");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 20);
}

#[test]
fn a_tree_that_changes_meanwhile_never_leads_out() {
    let home = tempfile::tempdir().unwrap();
    let (from, outside) = (home.path().join("from"), home.path().join("outside"));
    fs::create_dir_all(from.join("real")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for n in 0..20 {
                    let _ = fs::write(from.join(format!("file {n}")), b"x");
                }
                let _ = fs::rename(from.join("real"), from.join("away"));
                let _ = symlink(&outside, from.join("real"));
                let _ = fs::remove_file(from.join("real"));
                let _ = fs::rename(from.join("away"), from.join("real"));
                let _ = fs::remove_file(from.join("file 7"));
                let _ = symlink(outside.join("secret"), from.join("file 7"));
                for n in 0..20 {
                    let _ = fs::remove_file(from.join(format!("file {n}")));
                }
            }
        });
        for n in 0..300 {
            let to = home.path().join(format!("to {n}"));
            fs::create_dir(&to).unwrap();
            let outcome = copied(&from, &to, false);
            assert!(outcome.is_ok(), "{outcome:?}");
            for (name, what) in described(&to) {
                assert!(!name.ends_with("secret"), "{name:?} {what}");
                if !fs::symlink_metadata(to.join(&name)).unwrap().is_symlink() && to.join(&name).is_file() {
                    assert_ne!(fs::read(to.join(&name)).unwrap(), b"secret");
                }
            }
        }
    });
}

/// On NFS a copy is no cut: a file that grows while it is copied is copied once more, and what clients call
/// files that were removed while open is nobody's.
#[test]
fn a_file_that_grows_on_nfs_is_copied_once_more() {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("f"), vec![1; 1 << 20]).unwrap();
    fs::write(from.join(".nfs00000000000000010000002a"), b"").unwrap();
    let mut grown = false;
    copy_remote(&File::open(&from).unwrap(), &File::open(&to).unwrap(), false, false, &mut |bytes| {
        if bytes > 0 && !std::mem::replace(&mut grown, true) {
            fs::write(from.join("f"), vec![2; 3 << 20]).unwrap();
        }
        true
    })
    .unwrap();
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    assert!(fs::read(to.join("f")).unwrap() == vec![2; 3 << 20]);
}
