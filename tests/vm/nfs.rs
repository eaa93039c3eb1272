//! The servers of the guest do what tests of NFS volumes rely on.

use crate::guest::{A, A6, B, B6, Corner, Frozen, link_b, required};
use rustix::io::Errno;
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    thread,
    time::Duration,
};

#[test]
fn every_version_mounts_over_ipv4_and_ipv6() {
    required();
    let _link = link_b();
    for (server, version) in [
        (A, "4.2"),
        (A, "4.1"),
        (A, "4.0"),
        (A, "3"),
        (A6, "4.2"),
        (A6, "3"),
        (B, "4.2"),
        (B6, "4.1"),
        (B, "3"),
    ] {
        let name = format!("versions-{}-{version}", server.address);
        let corner = Corner::new(server, "xfs", &name);
        let share = server.mount("xfs", version);
        fs::write(share.path().join(&name).join("f"), "written by the client").unwrap();
        assert_eq!(fs::read_to_string(corner.0.join("f")).unwrap(), "written by the client");
        println!("vm: NFS {version} of {}", server.address);
    }
}

#[test]
fn blocks_are_shared_over_4_2_where_the_export_can() {
    required();
    for (export, version, expected) in [
        ("xfs", "4.2", Ok(())),
        ("ext4", "4.2", Err(Errno::OPNOTSUPP)),
        ("xfs", "4.1", Err(Errno::OPNOTSUPP)),
        ("xfs", "3", Err(Errno::OPNOTSUPP)),
    ] {
        let name = format!("reflink-{version}");
        let _corner = Corner::new(A, export, &name);
        let share = A.mount(export, version);
        let place = share.path().join(&name);
        let content = vec![7_u8; 8 << 20];
        // FICLONE reads its source: EBADF where it was opened for writing only.
        let mut from =
            File::options().read(true).write(true).create_new(true).open(place.join("from")).unwrap();
        from.write_all(&content).unwrap();
        from.sync_all().unwrap();
        let before = A.inside(export).join(&name).join("from").metadata().unwrap().blocks();
        assert!(before > 0, "the server has the data");
        let to = File::create(place.join("to")).unwrap();
        let outcome = rustix::fs::ioctl_ficlone(&to, &from);
        assert_eq!(outcome, expected, "{export} {version}");
        if outcome.is_ok() {
            to.sync_all().unwrap();
            assert_eq!(fs::read(place.join("to")).unwrap(), content);
        }
    }
}

#[test]
fn root_is_squashed_where_the_export_says_so() {
    required();
    let share = A.mount("squash", "4.2");
    let place = share.path().join("squashed");
    fs::create_dir(&place).unwrap();
    assert_ne!(fs::metadata(A.inside("squash").join("squashed")).unwrap().uid(), 0);
    fs::set_permissions(&place, Permissions::from_mode(0o750)).unwrap();
    let refused = chown(&place, Some(1000), None).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    fs::remove_dir(&place).unwrap();
}

#[test]
fn read_only_and_full_exports_say_so() {
    required();
    let share = A.mount("ro", "4.2");
    assert_eq!(fs::read_to_string(share.path().join("file")).unwrap(), "content\n");
    let refused = fs::create_dir(share.path().join("d")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let share = A.mount("small", "4.2");
    let fill = || -> io::Result<()> {
        let mut file = File::create(share.path().join("f"))?;
        file.write_all(&vec![1; 32 << 20])?;
        file.sync_all()
    };
    assert_eq!(fill().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    fs::remove_file(share.path().join("f")).unwrap();
}

#[test]
fn a_frozen_server_leaves_the_other_alone() {
    required();
    let (a, b) = (A.mount("xfs", "4.2"), B.mount("xfs", "4.2"));
    let _corners = (Corner::new(A, "xfs", "apart"), Corner::new(B, "xfs", "apart"));
    let frozen = Frozen::new(B, "xfs");
    let stuck = {
        let place = b.path().join("apart/d");
        thread::spawn(move || fs::create_dir(place))
    };
    thread::sleep(Duration::from_secs(1));
    fs::create_dir(a.path().join("apart/d")).unwrap();
    fs::write(a.path().join("apart/f"), "x").unwrap();
    assert!(!stuck.is_finished(), "nothing is made on a frozen export");
    drop(frozen);
    stuck.join().unwrap().unwrap();
}
