//! Mounts on the node's own paths: made in one step, asked and taken away by children.

use crate::{
    child::launcher,
    fuse::{Mood, Server},
    host::{Disk, eventually, namespaces_with, run, scratch},
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};
use wharf::{
    error::Error,
    os::{mount::Attributes, mountinfo},
    share::{Children, Looked, Staging, Unmounted, Unmounting, node::Patience, wire::What},
};

const SHORT: Patience = Patience {
    mounting: Duration::from_secs(5),
    asking: Duration::from_secs(1),
    unmounting: Duration::from_secs(1),
};

/// A directory that is unmounted, if need be, before it is removed.
struct Point {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Point {
    fn new() -> Self {
        let directory = scratch();
        let path = directory.path().join("target");
        fs::create_dir(&path).unwrap();
        Self { path, _directory: directory }
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        while mountinfo::at(&self.path).unwrap().is_some() {
            run("umount", [OsStr::new("-l"), self.path.as_os_str()]);
        }
    }
}

fn disk(disk: &Disk, below: &str, target: &Path) -> Staging {
    let what = What::Local { source: disk.source(), fstype: "ext4".into(), data: String::new() };
    Staging {
        what,
        below: below.into(),
        target: target.to_owned(),
        attributes: Attributes { nosuid: true, nodev: true, read_only: true, ..Attributes::default() },
        fileid: None,
        instead_of: None,
    }
}

fn unmounting(target: &Path, filesystems: &[&str]) -> Unmounting {
    let filesystems = filesystems.iter().map(|&name| name.to_owned()).collect();
    Unmounting { filesystems, ..Unmounting::of(target, false) }
}

#[test]
fn a_directory_of_a_share_is_mounted_in_one_step() {
    let (share, point) = (Disk::new(), Point::new());
    fs::create_dir_all(share.path().join("a/b")).unwrap();
    fs::write(share.path().join("a/b/file"), "x").unwrap();
    std::os::unix::fs::symlink("a", share.path().join("link")).unwrap();
    let inode = fs::metadata(share.path().join("a/b")).unwrap().ino();
    let children = Children::new(launcher(), SHORT);

    // Not through a symlink, not out of the share, not what is another directory.
    for below in ["link/b", "../..", "/a", "missing"] {
        let error = children.mount("paths", disk(&share, below, &point.path)).unwrap_err();
        assert!(matches!(error, Error::Os { .. }), "{below}: {error:?}");
        assert_eq!(mountinfo::at(&point.path).unwrap(), None, "{below}");
    }
    let other = Staging { fileid: Some(inode + 1), ..disk(&share, "a/b", &point.path) };
    assert!(matches!(children.mount("paths", other), Err(Error::Refused(_))));
    assert_eq!(mountinfo::at(&point.path).unwrap(), None);

    let wanted = Staging { fileid: Some(inode), ..disk(&share, "a/b", &point.path) };
    let staged = children.mount("paths", wanted).unwrap();
    assert_eq!(staged.fileid, inode);
    let mount = mountinfo::at(&point.path).unwrap().unwrap();
    assert_eq!(
        (mount.source.as_str(), mount.root.as_path()),
        (share.source().to_str().unwrap(), Path::new("/a/b"))
    );
    assert!(mount.has("ro") && mount.has("nosuid") && mount.has("nodev"), "{mount:?}");
    assert!(fs::write(point.path.join("new"), "").is_err());
    assert_eq!(fs::read(point.path.join("file")).unwrap(), b"x");
    let Looked::Answer(space) = children.figures("paths", &point.path).unwrap() else { panic!() };
    assert!(space.total > 1 << 20 && space.read_only, "{space:?}");
    assert_eq!(children.unmount("paths", &unmounting(&point.path, &[])).unwrap(), Unmounted::Plainly);
    assert_eq!(children.unmount("paths", &unmounting(&point.path, &[])).unwrap(), Unmounted::Absent);
    assert_eq!(children.lost("paths"), 0);
}

#[test]
fn a_mount_in_use_is_taken_away_lazily_where_that_is_allowed() {
    let (share, point) = (Disk::new(), Point::new());
    fs::write(share.path().join("file"), "kept").unwrap();
    let children = Children::new(launcher(), SHORT);
    children.mount("lazy", disk(&share, "", &point.path)).unwrap();
    let open = File::open(point.path.join("file")).unwrap();
    // An ext4 is never unmounted but plainly, and the error says that it is busy.
    for target in [Unmounting::of(&point.path, true), unmounting(&point.path, &["nfs"])] {
        let error = children.unmount("lazy", &target).unwrap_err();
        assert!(error.chain().contains("never unmounted lazily"), "{error:?}");
    }
    let plain = Unmounting { lazy: false, ..unmounting(&point.path, &["ext4"]) };
    let error = children.unmount("lazy", &plain).unwrap_err();
    assert!(error.chain().contains("busy"), "{error:?}");
    assert!(mountinfo::at(&point.path).unwrap().is_some());
    assert_eq!(children.unmount("lazy", &unmounting(&point.path, &["ext4"])).unwrap(), Unmounted::Lazily);
    assert_eq!(mountinfo::at(&point.path).unwrap(), None);
    assert_eq!(std::io::read_to_string(open).unwrap(), "kept");
}

/// A mount of a server that can fall silent.
fn remote(server: &Server, target: &Path) -> Staging {
    let (below, attributes) = (PathBuf::new(), Attributes::default());
    Staging {
        what: server.what(),
        below,
        target: target.to_owned(),
        attributes,
        fileid: None,
        instead_of: None,
    }
}

#[test]
fn a_mount_that_comes_late_appears_nowhere() {
    let (server, point) = (Server::new(), Point::new());
    let children = Children::new(server.launcher(), Patience { mounting: Duration::from_secs(1), ..SHORT });
    server.set(Mood::Silent);
    let begin = Instant::now();
    let error = children.mount("late", remote(&server, &point.path)).unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(text) if text.contains("did not end within 1s")),
        "{error:?}"
    );
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(children.lost("late"), 1, "it waits for an answer that only the server can give");
    server.set(Mood::Answers);
    eventually("it is gone", || children.lost("late") == 0);
    assert_eq!(mountinfo::at(&point.path).unwrap(), None);
    eventually("nobody has it mounted", || namespaces_with(server.source()) == 0);
    assert_eq!(children.mount("late", remote(&server, &point.path)).unwrap().fileid, 1);
}

#[test]
fn a_stuck_mount_is_told_and_can_still_be_taken_away() {
    for force in [true, false] {
        let (server, point) = (Server::new(), Point::new());
        let children = Children::new(server.launcher(), SHORT);
        children.mount("stuck", remote(&server, &point.path)).unwrap();
        assert!(matches!(children.figures("stuck", &point.path), Ok(Looked::Answer(_))));
        server.set(Mood::Silent);
        let begin = Instant::now();
        assert_eq!(children.figures("stuck", &point.path).unwrap(), Looked::Stuck);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        assert_eq!(children.lost("stuck"), 1);
        // Another server is not concerned.
        assert!(matches!(children.figures("other", Path::new("/")), Ok(Looked::Answer(_))));

        let wanted = Unmounting { force, silent: force, ..unmounting(&point.path, &["fuse"]) };
        let way = children.unmount("stuck", &wanted).unwrap();
        assert!(way == Unmounted::Lazily || force && way == Unmounted::ByForce, "{way:?}");
        assert_eq!(mountinfo::at(&point.path).unwrap(), None);
        if !force {
            assert_eq!(children.lost("stuck"), 1, "without force it waits for the server");
            server.set(Mood::Answers);
        }
        eventually("it is gone", || children.lost("stuck") == 0);
    }
}

#[test]
fn children_of_one_server_are_few() {
    let (server, point) = (Server::new(), Point::new());
    let patience = Patience { asking: Duration::from_secs(3), ..SHORT };
    let children = Children::new(server.launcher(), patience);
    children.mount("few", remote(&server, &point.path)).unwrap();
    server.set(Mood::Silent);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = (0..36).map(|_| scope.spawn(|| children.figures("few", &point.path))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let stuck = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Looked::Stuck))).count();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::Unavailable(_)))).count();
    assert_eq!((stuck, refused, children.lost("few")), (32, 4, 32));
    assert!(matches!(children.figures("others", Path::new("/")), Ok(Looked::Answer(_))));
    // Unmounts have room of their own.
    let forced = Unmounting { force: true, silent: true, ..unmounting(&point.path, &["fuse"]) };
    let way = children.unmount("few", &forced);
    assert!(matches!(way, Ok(Unmounted::ByForce | Unmounted::Lazily)), "{way:?}");
    eventually("they are gone", || children.lost("few") == 0);
}
