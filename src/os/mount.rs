//! Mounting and unmounting.

use super::{At as _, Error, Result};
use linux_raw_sys::general::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY, mount_attr,
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};
use sys_mount::MountFlags;

/// Restrictions of a bind mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// MOUNT_ATTR_RDONLY.
    pub read_only: bool,
    /// MOUNT_ATTR_NOSUID.
    pub nosuid: bool,
    /// MOUNT_ATTR_NODEV.
    pub nodev: bool,
    /// MOUNT_ATTR_NOEXEC.
    pub noexec: bool,
    /// MOUNT_ATTR_NOATIME.
    pub noatime: bool,
}

impl Attributes {
    fn flags(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NOSUID, self.nosuid);
        flags.set(MountFlags::NODEV, self.nodev);
        flags.set(MountFlags::NOEXEC, self.noexec);
        flags.set(MountFlags::NOATIME, self.noatime);
        flags
    }

    /// What mount_setattr(2) sets and, because the access time is a field of several bits, clears first.
    fn set_and_clear(self) -> (u32, u32) {
        let set = [
            (self.read_only, MOUNT_ATTR_RDONLY),
            (self.nosuid, MOUNT_ATTR_NOSUID),
            (self.nodev, MOUNT_ATTR_NODEV),
            (self.noexec, MOUNT_ATTR_NOEXEC),
            (self.noatime, MOUNT_ATTR_NOATIME),
        ];
        let set = set.iter().filter(|(wanted, _)| *wanted).fold(0, |bits, (_, bit)| bits | bit);
        // A clone brings along what its source was mounted with; only a read-only source stays so.
        let foreign = (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC) & !set;
        (set, foreign | if self.noatime { MOUNT_ATTR__ATIME } else { 0 })
    }
}

/// Mounts a filesystem (mount(2) by sys-mount): `attributes` become flags, `data` goes to the filesystem.
pub fn mount(source: &Path, target: &Path, fstype: &str, attributes: Attributes, data: &str) -> Result<()> {
    // Always with a type: without one the crate tries every filesystem that the kernel knows.
    let mut builder = sys_mount::Mount::builder().fstype(fstype).flags(attributes.flags());
    if !data.is_empty() {
        builder = builder.data(data);
    }
    builder.mount(source, target).map(drop).at(format!("mount {source:?} as {fstype} on"), target)
}

/// Binds `source` (the mount or directory or node that is there now, not what is mounted below it) on
/// `target` with all attributes in one step: open_tree, mount_setattr, move_mount. Symlinks at the end
/// of either path are not followed. A source that is mounted read-only stays so; whether mounts
/// propagate is left as it is there.
pub fn bind(source: &Path, target: &Path, attributes: Attributes) -> Result<()> {
    // From here on through descriptors: no exchange of a path can redirect the mount.
    let from = place(source)?;
    let to = place(target)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&from, "", flags).at("clone the mount of", source)?;
    set_attributes(&tree, attributes).at("restrict the mount of", source)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let moved = move_mount(&tree, "", &to, "", flags).at(format!("bind {source:?} on"), target);
    // An open tree keeps the mount busy; the caller may unmount at once.
    drop(tree);
    moved
}

pub(super) fn place(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = openat(CWD, path, flags, Mode::empty()).at("open", path)?;
    // O_PATH opens a symlink itself; cloned, it would be a mount that leads nowhere.
    let stat = fstat(&place).at("examine", path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Err(Errno::LOOP).at("bind a symlink", path),
        _ => Ok(place),
    }
}

pub(super) fn set_attributes(tree: &OwnedFd, attributes: Attributes) -> io::Result<()> {
    let (set, clear) = attributes.set_and_clear();
    let wanted = mount_attr { attr_set: set.into(), attr_clr: clear.into(), propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a C string, the structure and its size belong together, both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of::<mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Unmounts what is on top at `target` (UMOUNT_NOFOLLOW, never lazily); EINVAL (no mount) is an error.
pub fn unmount(target: &Path) -> Result<()> {
    // Not by sys-mount: its NOFOLLOW is open(2)'s O_NOFOLLOW, which umount2(2) refuses.
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW).at("unmount", target)
}

/// A mounted filesystem that no path leads to; it ends when this is dropped, or a moment later when a
/// child is just between fork and exec: `loopdev::wait_unused` tells when the image may be worked on.
#[derive(Debug)]
pub struct Detached {
    /// The open root directory, on which ioctls work.
    pub root: File,
}

/// Mounts without a place in the tree (fsopen, fsconfig, fsmount): nothing stays behind when the process dies.
/// `options` are `key` or `key=value` pairs. The kernel's own message is part of the error.
pub fn mount_detached(source: &Path, fstype: &str, options: &[(&str, Option<&str>)]) -> Result<Detached> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).at(format!("prepare {fstype} for"), source)?;
    let mounted = configure(&context, source, options).and_then(|()| {
        let restricted = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, restricted)
    });
    let mounted = mounted.map_err(|e| Error::Path {
        op: format!("mount as {fstype}{}", complaint(&context)),
        path: source.to_owned(),
        source: e.into(),
    })?;
    // The mount's own descriptor is an O_PATH one, ioctls on it are EBADF. The open directory keeps the
    // filesystem alive as well.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(&mounted, ".", flags, Mode::empty()).at("open the root of", source)?;
    Ok(Detached { root: root.into() })
}

fn configure(context: &OwnedFd, source: &Path, options: &[(&str, Option<&str>)]) -> Result<(), Errno> {
    fsconfig_set_string(context, "source", source)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context, *key, *value)?,
            None => fsconfig_set_flag(context, *key)?,
        }
    }
    fsconfig_create(context)
}

/// What the kernel has written about the failure: each read(2) gives one message, `e `, `w ` or `i ` first.
fn complaint(context: &OwnedFd) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = rustix::io::read(context, &mut buffer)
        && length > 0
    {
        let message = String::from_utf8_lossy(&buffer[..length]);
        messages.push(message.get(2..).unwrap_or_default().trim_end().to_owned());
    }
    if messages.is_empty() { String::new() } else { format!(" ({})", messages.join("; ")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::os::{
        loopdev::{
            self,
            scratch::{MIB, Mounted, Scratch, attach, eventually, inode, unmounted},
        },
        mountinfo,
    };
    use std::{
        fs::{self, OpenOptions},
        os::unix::fs::{MetadataExt, symlink},
        time::Duration,
    };

    const ALL: Attributes =
        Attributes { read_only: true, nosuid: true, nodev: true, noexec: true, noatime: true };

    #[test]
    fn a_filesystem_in_an_image() {
        let scratch = Scratch::new();
        let image = scratch.ext4("a");
        let target = scratch.directory("m");
        let _mounted = Mounted::guard(&target);
        let held = attach(&image);
        let attributes = Attributes { nosuid: true, nodev: true, ..Attributes::default() };
        mount(&held.path(), &target, "ext4", attributes, "errors=remount-ro,commit=7").unwrap();
        let mount = mountinfo::at(&target).unwrap().unwrap();
        assert_eq!(mount.device, loopdev::device_number(held.number));
        assert_eq!((mount.fstype.as_str(), mount.root.as_path()), ("ext4", Path::new("/")));
        assert!(mount.has("nosuid") && mount.has("nodev") && !mount.has("noexec") && !mount.is_read_only());
        assert!(mount.super_options.contains("commit=7"), "{mount:?}");
        drop(held);
        fs::write(target.join("f"), "still attached").unwrap();
        unmounted(&target);
        eventually("the loop goes with the mount", || loopdev::find(inode(&image)).unwrap().is_none());
    }

    #[test]
    fn a_refused_mount_names_source_and_target_but_no_options() {
        let scratch = Scratch::new();
        let held = attach(&scratch.image("empty", MIB));
        let target = scratch.directory("m");
        let _mounted = Mounted::guard(&target);
        let error = mount(&held.path(), &target, "ext4", Attributes::default(), "commit=7").unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        let text = error.to_string();
        assert!(
            text.contains(held.path().to_str().unwrap()) && text.contains(target.to_str().unwrap()),
            "{text}"
        );
        assert!(!text.contains("commit"), "{text}");
    }

    #[test]
    fn a_bind_carries_all_attributes_and_leaves_its_source_alone() {
        let scratch = Scratch::new();
        let [source, target] = ["source", "target"].map(|name| scratch.directory(name));
        let _mounted = Mounted::guard(&target);
        bind(&source, &target, ALL).unwrap();
        let mount = mountinfo::at(&target).unwrap().unwrap();
        for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
            assert!(mount.has(option), "{option}: {mount:?}");
        }
        let error = fs::write(target.join("f"), "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        fs::write(source.join("f"), "x").unwrap();
        assert_eq!(fs::read(target.join("f")).unwrap(), b"x");
        // Nothing of ours keeps it busy.
        unmounted(&target);
        assert_eq!(mountinfo::at(&target).unwrap(), None);
    }

    #[test]
    fn one_attribute_brings_no_other() {
        let scratch = Scratch::new();
        let [source, target] = ["source", "target"].map(|name| scratch.directory(name));
        let before = |path: &Path| {
            let _mounted = Mounted::guard(path);
            bind(&source, path, Attributes::default()).unwrap();
            mountinfo::at(path).unwrap().unwrap()
        };
        let plain = before(&target);
        for (attributes, option) in [
            (Attributes { read_only: true, ..Attributes::default() }, "ro"),
            (Attributes { nosuid: true, ..Attributes::default() }, "nosuid"),
            (Attributes { nodev: true, ..Attributes::default() }, "nodev"),
            (Attributes { noexec: true, ..Attributes::default() }, "noexec"),
            (Attributes { noatime: true, ..Attributes::default() }, "noatime"),
        ] {
            let _mounted = Mounted::guard(&target);
            bind(&source, &target, attributes).unwrap();
            let mount = mountinfo::at(&target).unwrap().unwrap();
            assert!(mount.has(option), "{mount:?}");
            for other in
                ["ro", "nosuid", "nodev", "noexec", "noatime"].iter().filter(|other| **other != option)
            {
                assert_eq!(mount.has(other), plain.has(other), "{option} brought {other}");
            }
        }
    }

    #[test]
    fn a_bind_takes_what_is_on_top_and_nothing_below_it() {
        let scratch = Scratch::new();
        let [under, top, inner, target] =
            ["under", "top", "inner", "target"].map(|name| scratch.directory(name));
        fs::write(top.join("on top"), "").unwrap();
        fs::write(inner.join("inside"), "").unwrap();
        let submount = top.join("sub");
        fs::create_dir(&submount).unwrap();
        let _under = Mounted::guard(&under);
        bind(&top, &under, Attributes::default()).unwrap();
        let below = under.join("sub");
        let _below = Mounted::guard(&below);
        bind(&inner, &below, Attributes::default()).unwrap();

        let _mounted = Mounted::guard(&target);
        bind(&under, &target, Attributes::default()).unwrap();
        assert!(target.join("on top").exists());
        assert!(below.join("inside").exists());
        assert!(!target.join("sub/inside").exists(), "the submount came along");
    }

    #[test]
    fn symlinks_at_the_end_are_refused() {
        let scratch = Scratch::new();
        let [source, target] = ["source", "target"].map(|name| scratch.directory(name));
        let [to_source, to_target] = ["to source", "to target"].map(|name| scratch.path(name));
        symlink(&source, &to_source).unwrap();
        symlink(&target, &to_target).unwrap();
        let _mounted = Mounted::guard(&target);
        for (from, to) in [(&to_source, &target), (&source, &to_target)] {
            assert_eq!(bind(from, to, Attributes::default()).unwrap_err().errno(), Some(libc::ELOOP));
            assert_eq!(mountinfo::at(&target).unwrap(), None);
        }
        bind(&source, &target, Attributes::default()).unwrap();
        assert_eq!(unmount(&to_target).unwrap_err().errno(), Some(libc::EINVAL));
        assert!(mountinfo::at(&target).unwrap().is_some());
    }

    #[test]
    fn a_device_node_on_a_file() {
        let scratch = Scratch::new();
        let held = attach(&scratch.image("a", MIB));
        let target = scratch.empty_file("device");
        let _mounted = Mounted::guard(&target);
        let block = Attributes { nosuid: true, noexec: true, ..Attributes::default() };
        bind(&held.path(), &target, block).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().rdev(), loopdev::device_number(held.number));
        let mount = mountinfo::at(&target).unwrap().unwrap();
        assert_eq!(mount.root, Path::new(&format!("/loop{}", held.number)));
        OpenOptions::new().read(true).write(true).open(&target).unwrap();
        unmounted(&target);

        // Why block binds must not carry nodev, and why read-only needs more than a mount.
        bind(&held.path(), &target, Attributes { nodev: true, ..block }).unwrap();
        assert_eq!(File::open(&target).unwrap_err().raw_os_error(), Some(libc::EACCES));
        unmounted(&target);
        bind(&held.path(), &target, Attributes { read_only: true, ..block }).unwrap();
        OpenOptions::new().write(true).open(&target).unwrap();
    }

    #[test]
    fn a_directory_and_a_file_do_not_fit() {
        let scratch = Scratch::new();
        let directory = scratch.directory("d");
        let file = scratch.empty_file("f");
        for (from, to) in [(&directory, &file), (&file, &directory)] {
            let _mounted = Mounted::guard(to);
            bind(from, to, Attributes::default()).unwrap_err();
            assert_eq!(mountinfo::at(to).unwrap(), None);
        }
        assert!(bind(&scratch.path("absent"), &file, Attributes::default()).unwrap_err().is_not_found());
    }

    #[test]
    fn unmounting_says_what_stands_in_the_way() {
        let scratch = Scratch::new();
        let [source, target] = ["source", "target"].map(|name| scratch.directory(name));
        assert_eq!(unmount(&target).unwrap_err().errno(), Some(libc::EINVAL));
        let _mounted = Mounted::guard(&target);
        bind(&source, &target, Attributes::default()).unwrap();
        let open = File::create_new(target.join("f")).unwrap();
        assert_eq!(unmount(&target).unwrap_err().errno(), Some(libc::EBUSY));
        assert!(mountinfo::at(&target).unwrap().is_some(), "unmounted lazily");
        drop(open);
        eventually("no longer busy", || unmount(&target).is_ok());
    }

    #[test]
    fn a_detached_mount_is_nowhere_and_ends_when_dropped() {
        let scratch = Scratch::new();
        let image = scratch.ext4("a");
        let held = attach(&image);
        let device = loopdev::device_number(held.number);
        let detached = mount_detached(&held.path(), "ext4", &[("errors", Some("remount-ro"))]).unwrap();
        drop(held);
        assert!(mountinfo::read().unwrap().iter().all(|mount| mount.device != device));
        assert_eq!(detached.root.metadata().unwrap().dev(), device);
        rustix::fs::ioctl_getflags(&detached.root).expect("ioctls work");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&detached.root, "f", flags, Mode::RUSR).unwrap();
        rustix::io::write(&file, b"inside").unwrap();
        drop(file);
        assert!(loopdev::in_use(&image).unwrap());
        drop(detached);
        assert!(loopdev::wait_unused(&image, Duration::from_secs(10)).unwrap());

        let held = attach(&image);
        let detached = mount_detached(&held.path(), "ext4", &[("ro", None)]).unwrap();
        openat(&detached.root, "f", OFlags::RDONLY, Mode::empty()).expect("what was written is there");
        let error = openat(&detached.root, "g", flags, Mode::RUSR).unwrap_err();
        assert_eq!(error, Errno::ROFS);
    }

    #[test]
    fn a_refused_detached_mount_gives_the_kernels_reason() {
        let scratch = Scratch::new();
        let image = scratch.ext4("a");
        let held = attach(&image);
        let error = mount_detached(&held.path(), "ext4", &[("nonsense", None)]).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().contains("Unknown parameter 'nonsense'"), "{error}");
        let error = mount_detached(&held.path(), "ext4", &[("errors", Some("nonsense"))]).unwrap_err();
        assert!(error.to_string().contains("errors"), "{error}");
        let error = mount_detached(&scratch.path("absent"), "ext4", &[]).unwrap_err();
        assert!(error.is_not_found(), "{error}");
        let error = mount_detached(&held.path(), "nofs", &[]).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENODEV));
    }
}
