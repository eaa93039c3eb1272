use super::{super::remove, Stop, chain, open_files};
use crate::os::{
    Error,
    testing::{Bind, Kind, MIB, Pool, run},
};
use rustix::fs::{CWD, FileType, Mode};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

fn gone(parent: &Path, name: &str) -> u64 {
    let mut last = 0;
    remove(parent, name.as_ref(), &mut |n| last = n).unwrap();
    assert!(fs::symlink_metadata(parent.join(name)).is_err(), "{name} is still there");
    last
}

#[test]
fn anything_goes_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    fs::create_dir(at.join("kept")).unwrap();
    fs::write(at.join("kept/file"), b"kept").unwrap();
    fs::create_dir_all(at.join("tree/a/b")).unwrap();
    fs::write(at.join("tree/a/b/file"), b"x").unwrap();
    symlink(at.join("kept"), at.join("tree/a/outside")).unwrap();
    symlink("nowhere", at.join("tree/dangling")).unwrap();
    rustix::fs::mknodat(CWD, at.join("tree/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    rustix::fs::mknodat(CWD, at.join("tree/null"), FileType::CharacterDevice, Mode::RWXU, 0x103).unwrap();
    fs::set_permissions(at.join("tree/a/b"), PermissionsExt::from_mode(0o000)).unwrap();
    fs::set_permissions(at.join("tree/a"), PermissionsExt::from_mode(0o000)).unwrap();
    symlink("kept", at.join("link")).unwrap();
    assert_eq!(gone(at, "tree"), 8);
    assert_eq!(gone(at, "link"), 1);
    assert_eq!(gone(at, "absent"), 0);
    assert_eq!(fs::read(at.join("kept/file")).unwrap(), b"kept");
    for name in ["", ".", "..", "kept/file", "kept/"] {
        assert!(matches!(remove(at, name.as_ref(), &mut |_| ()), Err(Error::Unexpected(_))), "{name:?}");
    }
    assert!(remove(&at.join("absent"), "x".as_ref(), &mut |_| ()).unwrap_err().is_not_found());
    assert_eq!(fs::read(at.join("kept/file")).unwrap(), b"kept");
}

#[test]
fn depth_has_no_limit_and_few_files_are_open() {
    let pool = Pool::new(Kind::Xfs, 320 * MIB);
    drop(chain(&pool.path().join("deep"), 100_000));
    let before = open_files();
    let (mut calls, mut most) = (0_u64, 0);
    remove(pool.path(), "deep".as_ref(), &mut |_| {
        calls += 1;
        if calls.is_multiple_of(10_000) {
            most = most.max(open_files());
        }
    })
    .unwrap();
    assert_eq!(calls, 100_001);
    // Other tests open files meanwhile, too.
    assert!(most < before + 300, "{most} files open, {before} before");
}

#[test]
fn wide_and_deep_at_once() {
    for kind in [Kind::Xfs, Kind::Btrfs, Kind::Ext4] {
        let pool = Pool::new(kind, 320 * MIB);
        // Beyond the directories that stay open, each with more names than one reading gives.
        let mut at = pool.path().join("top");
        for level in 0..50 {
            fs::create_dir(&at).unwrap();
            for n in 0..if level % 10 == 0 { 1500 } else { 20 } {
                fs::write(at.join(format!("some-rather-long-name-{n}")), b"").unwrap();
            }
            at.push("next");
        }
        assert_eq!(gone(pool.path(), "top"), 5 * 1500 + 45 * 20 + 50, "{kind:?}");
    }
}

#[test]
fn a_mount_inside_stops_it() {
    let pool = Pool::new(Kind::Ext4, 64 * MIB);
    let at = pool.path();
    fs::create_dir_all(at.join("tree/a/mounted")).unwrap();
    fs::create_dir(at.join("behind")).unwrap();
    fs::write(at.join("behind/file"), b"precious").unwrap();
    fs::write(at.join("tree/a/file"), b"").unwrap();
    for (source, target) in [("behind", "tree/a/mounted"), ("behind/file", "tree/a/file"), ("behind", "tree")]
    {
        let bind = Bind::new(&at.join(source), &at.join(target));
        let error = remove(at, "tree".as_ref(), &mut |_| ()).unwrap_err();
        assert!(matches!(error.errno(), Some(libc::EXDEV | libc::EBUSY)), "{error:?}");
        assert!(error.to_string().contains("mount point"), "{error}");
        assert!(error.to_string().contains(target), "{error}");
        drop(bind);
        assert_eq!(fs::read(at.join("behind/file")).unwrap(), b"precious");
        fs::create_dir_all(at.join("tree/a/mounted")).unwrap();
        fs::write(at.join("tree/a/file"), b"").unwrap();
    }
    gone(at, "tree");
}

#[test]
fn attributes_that_forbid_it_are_cleared() {
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let pool = Pool::new(kind, 320 * MIB);
        let at = pool.path();
        fs::create_dir_all(at.join("tree/append/below")).unwrap();
        fs::create_dir_all(at.join("tree/immutable/below/empty")).unwrap();
        for file in ["tree/append/file", "tree/append/log", "tree/immutable/file", "tree/plain"] {
            fs::write(at.join(file), b"x").unwrap();
        }
        for (flag, name) in [
            ("+a", "tree/append/log"),
            ("+a", "tree/append"),
            ("+i", "tree/immutable/file"),
            ("+i", "tree/immutable/below/empty"),
            ("+i", "tree/immutable"),
            ("+i", "tree/plain"),
            ("+i", "tree"),
        ] {
            run("chattr", [flag.as_ref(), at.join(name).as_os_str()]);
        }
        assert!(fs::remove_file(at.join("tree/plain")).is_err());
        gone(at, "tree");
        fs::write(at.join("single"), b"x").unwrap();
        run("chattr", ["+i".as_ref(), at.join("single").as_os_str()]);
        gone(at, "single");
        // What forbids it outside the tree is not the tree's: it stays.
        fs::create_dir_all(at.join("kept/tree")).unwrap();
        run("chattr", ["+i".as_ref(), at.join("kept").as_os_str()]);
        let error = remove(&at.join("kept"), "tree".as_ref(), &mut |_| ()).unwrap_err();
        run("chattr", ["-i".as_ref(), at.join("kept").as_os_str()]);
        assert_eq!(error.errno(), Some(libc::EPERM), "{kind:?}");
    }
}

#[test]
fn a_file_in_use_as_swap_is_an_error() {
    let pool = Pool::new(Kind::Ext4, 64 * MIB);
    fs::create_dir(pool.path().join("tree")).unwrap();
    // EPERM again after there was nothing to clear.
    let swap = pool.path().join("tree/swap");
    fs::write(&swap, vec![0; 1 << 20]).unwrap();
    fs::set_permissions(&swap, PermissionsExt::from_mode(0o600)).unwrap();
    run("mkswap", [swap.as_os_str()]);
    run("swapon", [swap.as_os_str()]);
    let outcome = remove(pool.path(), "tree".as_ref(), &mut |_| ());
    run("swapoff", [swap.as_os_str()]);
    assert_eq!(outcome.unwrap_err().errno(), Some(libc::EPERM));
    gone(pool.path(), "tree");
}

#[test]
fn a_directory_that_is_moved_out_is_not_followed() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    fs::create_dir(at.join("outside")).unwrap();
    fs::write(at.join("outside/file"), b"precious").unwrap();
    let deepest: std::path::PathBuf = std::iter::repeat_n("d", 60).collect();
    fs::create_dir_all(at.join("tree").join(&deepest)).unwrap();
    fs::write(at.join("tree").join(&deepest).join("file"), b"x").unwrap();
    let mut moved = false;
    let outcome = remove(at, "tree".as_ref(), &mut |_| {
        if !moved {
            fs::rename(at.join("tree/d/d/d"), at.join("outside/d")).unwrap();
            moved = true;
        }
    });
    assert!(matches!(&outcome, Err(Error::Unexpected(what)) if what.contains("moved")), "{outcome:?}");
    assert_eq!(fs::read(at.join("outside/file")).unwrap(), b"precious");
    gone(at, "tree");
}

#[test]
fn a_symlink_put_in_its_way_is_not_followed() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path();
    fs::create_dir(at.join("outside")).unwrap();
    fs::write(at.join("outside/file"), b"precious").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::create_dir_all(at.join("tree/swapped"));
                let _ = fs::write(at.join("tree/swapped/file"), b"x");
                let _ = fs::rename(at.join("tree/swapped"), at.join("tree/real"));
                let _ = symlink(at.join("outside"), at.join("tree/swapped"));
                let _ = fs::remove_file(at.join("tree/swapped"));
            }
        });
        let end = Instant::now() + Duration::from_millis(700);
        while Instant::now() < end {
            // Whether it succeeds against somebody who goes on filling it does not matter here.
            let _ = remove(at, "tree".as_ref(), &mut |_| ());
            assert_eq!(fs::read(at.join("outside/file")).unwrap(), b"precious");
        }
    });
    gone(at, "tree");
}
