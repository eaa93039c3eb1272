//! statmount(2) and listmount(2): one mount, or the ids of all, without thousands of lines to print and to
//! parse. Linux 6.13 has what is needed here; elsewhere [`super`] reads /proc/self/mountinfo.

use super::Mount;
use crate::os::{Error, Result};
use linux_raw_sys::general::{
    __NR_listmount, __NR_statmount, LSMT_ROOT, MNT_ID_REQ_SIZE_VER0, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME, STATMOUNT_FS_TYPE, STATMOUNT_MNT_BASIC, STATMOUNT_MNT_OPTS, STATMOUNT_MNT_POINT,
    STATMOUNT_MNT_ROOT, STATMOUNT_PROPAGATE_FROM, STATMOUNT_SB_BASIC, STATMOUNT_SB_SOURCE, mnt_id_req,
    statmount,
};
use rustix::fs::makedev;
use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// How many ids one call of listmount(2) gives.
const IDS: usize = 4096;
/// Two paths and the options of a filesystem; more is tried when this is too small.
const ROOM: usize = 4096;
const MOST_ROOM: usize = 1 << 20;

/// Superblock flags that mountinfo shows for every filesystem (`SB_RDONLY` and so on of linux/fs.h).
const SUPER_OPTIONS: [(u32, &str); 3] = [(1 << 4, "sync"), (1 << 7, "dirsync"), (1 << 25, "lazytime")];
const SUPER_READ_ONLY: u32 = 1;
/// Propagation flags (`MS_SHARED`, `MS_SLAVE`, `MS_UNBINDABLE`).
const SHARED: u64 = 1 << 20;
const SLAVE: u64 = 1 << 19;
const UNBINDABLE: u64 = 1 << 17;

/// The ids of all mounts of this mount namespace; an id is never given twice while the machine runs. `None`: the
/// kernel (or a seccomp filter) has no such call.
pub(super) fn ids() -> Result<Option<Vec<u64>>> {
    // The field is unsigned; the constant is all ones.
    let root = i64::from(LSMT_ROOT).cast_unsigned();
    let mut all = Vec::new();
    loop {
        let request = request(root, all.last().copied().unwrap_or(0));
        let before = all.len();
        all.resize(before + IDS, 0_u64);
        // SAFETY: the kernel reads one mnt_id_req of the size that stands in it, and writes at most as many
        // ids as it is told there is room for; both outlive the call.
        let got = unsafe {
            let free = all.as_mut_ptr().add(before);
            libc::syscall(__NR_listmount.into(), &raw const request, free, IDS, 0)
        };
        let Ok(got) = usize::try_from(got) else {
            return match io::Error::last_os_error() {
                e if is_missing(&e) => Ok(None),
                e => Err(Error::Unexpected(format!("cannot list the mounts: {e}"))),
            };
        };
        all.truncate(before + got);
        if got < IDS {
            return Ok(Some(all));
        }
    }
}

/// What is known of one mount.
#[derive(Debug)]
pub(super) enum Answer<T> {
    Found(T),
    /// It has been unmounted.
    Gone,
    /// The kernel cannot tell (all of it).
    Unknown,
}

/// The device number of a mount's superblock: it never changes.
pub(super) fn device(id: u64) -> Result<Answer<u64>> {
    ask(id, STATMOUNT_SB_BASIC, |reply| Some(reply.device()))
}

/// Where a mount is now.
pub(super) fn point(id: u64) -> Result<Answer<PathBuf>> {
    ask(id, STATMOUNT_MNT_POINT, |reply| reply.path(reply.head.mnt_point))
}

/// The whole line of /proc/self/mountinfo.
pub(super) fn mount(id: u64) -> Result<Answer<Mount>> {
    let mask = STATMOUNT_SB_BASIC
        | STATMOUNT_MNT_BASIC
        | STATMOUNT_PROPAGATE_FROM
        | STATMOUNT_MNT_ROOT
        | STATMOUNT_MNT_POINT
        | STATMOUNT_FS_TYPE
        | STATMOUNT_MNT_OPTS
        | STATMOUNT_SB_SOURCE;
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method's own lifetime is too narrow")]
    let answer = ask(id, mask, |reply| reply.mount());
    answer
}

fn ask<T>(id: u64, mask: u32, read: impl Fn(&Reply) -> Option<T>) -> Result<Answer<T>> {
    let request = request(id, mask.into());
    let mut room = ROOM;
    loop {
        // u64, so that the structure at its beginning is aligned.
        let mut buffer = vec![0_u64; room / size_of::<u64>()];
        // SAFETY: the kernel reads one mnt_id_req of the size that stands in it and writes at most `room`
        // bytes; both outlive the call.
        let result =
            unsafe { libc::syscall(__NR_statmount.into(), &raw const request, buffer.as_mut_ptr(), room, 0) };
        if result == 0 {
            let reply = Reply::new(&buffer);
            // These are left out when they are empty. A kernel that knows SB_SOURCE knows them too.
            let required = u64::from(mask & !(STATMOUNT_MNT_OPTS | STATMOUNT_PROPAGATE_FROM));
            let complete = reply.head.mask & required == required;
            return Ok(read(&reply).filter(|_| complete).map_or(Answer::Unknown, Answer::Found));
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EOVERFLOW) && room < MOST_ROOM => room *= 4,
            e if e.raw_os_error() == Some(libc::ENOENT) => return Ok(Answer::Gone),
            e if is_missing(&e) => return Ok(Answer::Unknown),
            e => return Err(Error::Unexpected(format!("cannot look at a mount: {e}"))),
        }
    }
}

fn request(id: u64, param: u64) -> mnt_id_req {
    mnt_id_req { size: MNT_ID_REQ_SIZE_VER0, spare: 0, mnt_id: id, param, mnt_ns_id: 0 }
}

/// No such call, or one that a container runtime's filter does not know.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL))
}

struct Reply<'a> {
    head: &'a statmount,
    strings: &'a [u8],
}

impl<'a> Reply<'a> {
    fn new(buffer: &'a [u64]) -> Self {
        const { assert!(size_of::<statmount>() <= ROOM && align_of::<statmount>() <= align_of::<u64>()) };
        let base = buffer.as_ptr();
        // SAFETY: the buffer is aligned and, by its size, holds the structure, whose fields are integers;
        // behind it are bytes to the end of the buffer.
        unsafe {
            let strings = base.cast::<u8>().add(size_of::<statmount>());
            let length = size_of_val(buffer) - size_of::<statmount>();
            Self { head: &*base.cast(), strings: std::slice::from_raw_parts(strings, length) }
        }
    }

    fn device(&self) -> u64 {
        makedev(self.head.sb_dev_major, self.head.sb_dev_minor)
    }

    fn bytes(&self, offset: u32) -> Option<&[u8]> {
        self.strings.get(offset as usize..)?.split(|byte| *byte == 0).next()
    }

    fn path(&self, offset: u32) -> Option<PathBuf> {
        Some(Path::new(OsStr::from_bytes(self.bytes(offset)?)).to_owned())
    }

    /// The string that `flag` announces; empty when it is not there.
    fn text(&self, flag: u32, offset: u32) -> String {
        let there = self.head.mask & u64::from(flag) != 0;
        let bytes = self.bytes(offset).filter(|_| there).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn mount(&self) -> Option<Mount> {
        let head = self.head;
        Some(Mount {
            id: head.mnt_id_old.into(),
            device: self.device(),
            root: self.path(head.mnt_root)?,
            point: self.path(head.mnt_point)?,
            options: self.options(),
            fstype: self.text(STATMOUNT_FS_TYPE, head.fs_type),
            source: self.text(STATMOUNT_SB_SOURCE, head.sb_source),
            super_options: self.super_options(),
            propagation: self.propagation(),
        })
    }

    fn options(&self) -> String {
        let is = |bits: u32| self.head.mnt_attr & u64::from(bits) == u64::from(bits);
        let mut options = vec![if is(MOUNT_ATTR_RDONLY) { "ro" } else { "rw" }];
        let relative = !is(MOUNT_ATTR_NOATIME) && !is(MOUNT_ATTR_STRICTATIME);
        for (set, name) in [
            (is(MOUNT_ATTR_NOSUID), "nosuid"),
            (is(MOUNT_ATTR_NODEV), "nodev"),
            (is(MOUNT_ATTR_NOEXEC), "noexec"),
            (is(MOUNT_ATTR_NOATIME), "noatime"),
            (is(MOUNT_ATTR_NODIRATIME), "nodiratime"),
            (relative, "relatime"),
            (is(MOUNT_ATTR_NOSYMFOLLOW), "nosymfollow"),
        ] {
            if set {
                options.push(name);
            }
        }
        options.join(",")
    }

    fn super_options(&self) -> String {
        let flags = self.head.sb_flags;
        let mut options = vec![if flags & SUPER_READ_ONLY != 0 { "ro" } else { "rw" }];
        options.extend(SUPER_OPTIONS.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name));
        let own = self.text(STATMOUNT_MNT_OPTS, self.head.mnt_opts);
        if !own.is_empty() {
            options.push(&own);
        }
        options.join(",")
    }

    fn propagation(&self) -> String {
        let head = self.head;
        let is = |flag: u64| head.mnt_propagation & flag != 0;
        let mut fields = Vec::new();
        if is(SHARED) {
            fields.push(format!("shared:{}", head.mnt_peer_group));
        }
        if is(SLAVE) {
            fields.push(format!("master:{}", head.mnt_master));
            if head.propagate_from != 0 && head.propagate_from != head.mnt_master {
                fields.push(format!("propagate_from:{}", head.propagate_from));
            }
        }
        if is(UNBINDABLE) {
            fields.push("unbindable".to_owned());
        }
        fields.join(" ")
    }
}
