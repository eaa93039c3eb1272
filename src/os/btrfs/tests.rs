#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::os::{
    file::{create_dir, sync_filesystem, write_new},
    testing::{Kind, MIB, Pool, run},
};
use std::{fs, path::PathBuf, thread::sleep, time::Duration};

fn pool(kind: Kind) -> Pool {
    Pool::new(kind, 256 * MIB)
}

fn subvolume(parent: &Path, name: &str) -> PathBuf {
    create_subvolume(parent, name.as_ref()).unwrap();
    parent.join(name)
}

#[test]
fn subvolumes_and_snapshots() {
    let pool = pool(Kind::Btrfs);
    let source = subvolume(pool.path(), "source");
    assert!(is_btrfs(&source).unwrap() && is_subvolume(&source).unwrap());
    write_new(&source.join("file"), b"first").unwrap();
    snapshot(&source, pool.path(), "cut".as_ref(), true).unwrap();
    fs::write(source.join("file"), b"second").unwrap();
    let cut = pool.path().join("cut");
    assert_eq!(fs::read(cut.join("file")).unwrap(), b"first");
    assert_ne!(subvolume_id(&cut).unwrap(), subvolume_id(&source).unwrap());
    let error = fs::write(cut.join("file"), b"third").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    set_read_only(&cut, false).unwrap();
    fs::write(cut.join("file"), b"third").unwrap();
    set_read_only(&cut, true).unwrap();
    assert!(fs::write(cut.join("file"), b"fourth").is_err());
    let again = snapshot(&source, pool.path(), "cut".as_ref(), false).unwrap_err();
    assert_eq!(again.errno(), Some(libc::EEXIST));
}

#[test]
fn a_plain_directory_is_no_subvolume() {
    let pool = pool(Kind::BtrfsQuota);
    let plain = pool.path().join("plain");
    create_dir(&plain).unwrap();
    assert!(!is_subvolume(&plain).unwrap());
    // Each of these would otherwise mean the whole pool.
    assert!(matches!(subvolume_id(&plain), Err(Error::Unexpected(_))));
    assert!(matches!(set_limit(&plain, Some(MIB)), Err(Error::Unexpected(_))));
    assert!(matches!(set_read_only(&plain, true), Err(Error::Unexpected(_))));
    assert!(matches!(qgroup(&plain), Err(Error::Unexpected(_))));
    assert!(matches!(snapshot(&plain, pool.path(), "x".as_ref(), true), Err(Error::Unexpected(_))));
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(!is_btrfs(elsewhere.path()).unwrap());
    assert!(create_subvolume(elsewhere.path(), "x".as_ref()).is_err());
}

#[test]
fn limits_hold_and_figures_are_read() {
    let pool = pool(Kind::BtrfsQuota);
    let source = subvolume(pool.path(), "source");
    assert!(quota_enabled(&source).unwrap() && quota_consistent(&source).unwrap());
    assert_eq!(qgroup(&source).unwrap().unwrap().limit, None);
    set_limit(&source, Some(8 * MIB)).unwrap();
    fs::write(source.join("file"), vec![1; 4 << 20]).unwrap();
    sync_filesystem(pool.path()).unwrap();
    let figures = qgroup(&source).unwrap().unwrap();
    assert!(figures.referenced >= 4 * MIB && figures.exclusive >= 4 * MIB, "{figures:?}");
    assert_eq!(figures.limit, Some(8 * MIB));
    let error = fs::write(source.join("more"), vec![1; 6 << 20]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EDQUOT));

    snapshot(&source, pool.path(), "cut".as_ref(), false).unwrap();
    let cut = pool.path().join("cut");
    assert_eq!(qgroup(&cut).unwrap().unwrap().limit, Some(8 * MIB), "a snapshot inherits the limit");
    set_limit(&cut, Some(32 * MIB)).unwrap();
    fs::write(cut.join("more"), vec![1; 6 << 20]).unwrap();
    set_limit(&source, None).unwrap();
    assert_eq!(qgroup(&source).unwrap().unwrap().limit, None);
    fs::write(source.join("more"), vec![1; 6 << 20]).unwrap();
}

#[test]
fn without_classic_quotas_there_are_no_figures() {
    let pool = pool(Kind::Btrfs);
    let source = subvolume(pool.path(), "source");
    assert!(!quota_enabled(&source).unwrap());
    assert_eq!(qgroup(&source).unwrap(), None);
    assert!(set_limit(&source, Some(MIB)).is_err());
    remove_qgroup(pool.path(), 4711).unwrap();
    assert!(remove_qgroup(pool.path(), 5).is_err());
    // quota_ctl with BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA; the tools here are too old to know it.
    let mut arguments = linux_raw_sys::btrfs::btrfs_ioctl_quota_ctl_args { cmd: 4, status: 0 };
    let root = File::open(pool.path()).unwrap();
    ioctl::update::<{ linux_raw_sys::ioctl::BTRFS_IOC_QUOTA_CTL }, _>(&root, &mut arguments).unwrap();
    assert!(!quota_enabled(&source).unwrap());
    assert_eq!(qgroup(&source).unwrap(), None);
}

#[test]
fn a_deleted_subvolume_leaves_no_qgroup() {
    let pool = pool(Kind::BtrfsQuota);
    let source = subvolume(pool.path(), "source");
    set_limit(&source, Some(64 * MIB)).unwrap();
    fs::write(source.join("file"), vec![1; 4 << 20]).unwrap();
    let id = subvolume_id(&source).unwrap();
    let directory = File::open(pool.path()).unwrap();
    let living = remove_qgroup(pool.path(), id).unwrap_err();
    assert_eq!(living.errno(), Some(libc::EBUSY));
    assert_eq!(qgroup(&source).unwrap().unwrap().limit, Some(64 * MIB));
    let uuid = run("findmnt", ["-no".as_ref(), "UUID".as_ref(), pool.path().as_os_str()]);
    let sysfs = PathBuf::from(format!("/sys/fs/btrfs/{uuid}/qgroups/0_{id}"));
    assert!(sysfs.exists());

    destroy(&directory, "source".as_ref()).unwrap();
    remove_qgroup(pool.path(), id).unwrap();
    for _ in 0..100 {
        free_deleted(pool.path()).unwrap();
        remove_qgroup(pool.path(), id).unwrap();
        if !sysfs.exists() {
            return;
        }
        sleep(Duration::from_millis(50));
    }
    panic!("{sysfs:?} is still there");
}

#[test]
fn nested_subvolumes_are_found_wherever_they_hide() {
    let pool = pool(Kind::Btrfs);
    let top = subvolume(pool.path(), "top");
    subvolume(pool.path(), "beside");
    assert_eq!(nested_subvolumes(&top).unwrap(), Vec::<PathBuf>::new());
    fs::create_dir_all(top.join("a/b")).unwrap();
    let inner = subvolume(&top.join("a/b"), "inner");
    subvolume(&inner, "innermost");
    let long = "n".repeat(255);
    subvolume(&top, &long);
    set_read_only(&inner, true).unwrap();
    let expected: Vec<PathBuf> =
        ["a/b/inner", "a/b/inner/innermost", &long].into_iter().map(PathBuf::from).collect();
    assert_eq!(nested_subvolumes(&top).unwrap(), expected);
    fs::rename(top.join("a"), top.join("c")).unwrap();
    assert_eq!(nested_subvolumes(&top).unwrap()[0], Path::new("c/b/inner"));

    // More than one answer of the kernel holds.
    let wide = subvolume(pool.path(), "wide");
    for n in 0..100 {
        subvolume(&wide, &format!("{n:0>200}"));
    }
    assert_eq!(nested_subvolumes(&wide).unwrap().len(), 100);
}

#[test]
fn a_subvolume_too_deep_for_a_path_is_found_and_one_made_without_privilege() {
    let pool = pool(Kind::Btrfs);
    let top = subvolume(pool.path(), "top");
    let name = "d".repeat(200);
    let mut directory = rustix::fs::open(&top, OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..25 {
        rustix::fs::mkdirat(&directory, &name, rustix::fs::Mode::RWXU).unwrap();
        directory =
            rustix::fs::openat(&directory, &name, OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    create_at(&directory, "deep".as_ref()).unwrap();
    assert_eq!(nested_subvolumes(&top).unwrap(), [Path::new("…/deep")]);

    let home = top.join("home");
    create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let create = format!("btrfs subvolume create {}/own", home.display());
    fs::set_permissions(pool.path().parent().unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    fs::set_permissions(&top, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    run("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &create]);
    fs::set_permissions(home.join("own"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    assert_eq!(nested_subvolumes(&top).unwrap(), [Path::new("home/own"), Path::new("…/deep")]);
}

#[test]
fn copy_on_write_is_switched_off_only_while_empty() {
    let pool = pool(Kind::Btrfs);
    let (empty, full) = (pool.path().join("empty"), pool.path().join("full"));
    write_new(&empty, b"").unwrap();
    write_new(&full, &[1; 8192]).unwrap();
    set_nocow(&empty).unwrap();
    assert!(run("lsattr", [empty.as_os_str()]).split(' ').next().unwrap().contains('C'));
    assert!(set_nocow(&full).is_err());
    create_dir(&pool.path().join("directory")).unwrap();
    set_nocow(&pool.path().join("directory")).unwrap();
}

#[test]
fn a_qgroup_without_a_subvolume_is_a_stray() {
    let pool = pool(Kind::BtrfsQuota);
    subvolume(pool.path(), "living");
    let deleted = subvolume(pool.path(), "deleted");
    let id = subvolume_id(&deleted).unwrap();
    assert_eq!(stray_qgroups(pool.path()).unwrap(), [0; 0]);
    // Until the kernel's cleaner comes, which it does after the next commit.
    run("btrfs", ["subvolume".as_ref(), "delete".as_ref(), deleted.as_os_str()]);
    assert_eq!(stray_qgroups(pool.path()).unwrap(), [id]);
    let plain = self::pool(Kind::Btrfs);
    assert_eq!(stray_qgroups(plain.path()).unwrap(), [0; 0]);
}
