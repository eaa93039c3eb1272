//! Mount namespaces: one of its own for a share, so that no path of the host leads there, and the way in for
//! the child that forces the share off.

use super::{
    At as _, Error, Result,
    mount::{self, Attributes},
    nfs,
};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx},
    io::Errno,
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
        open_tree, unmount,
    },
    process::{chdir, pivot_root},
};
use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Where a share is mounted in a namespace of its own.
pub const PLACE: &str = "/share";

/// Any directory that every host has: the new root is built over it.
const SCAFFOLD: &str = "/proc";

/// What its mount is called.
const SCAFFOLD_NAME: &str = "wharf";

/// A mount namespace that this process can go back to.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    /// The one that this process is in.
    pub fn current() -> Result<Self> {
        open_namespace(Path::new("/proc/self/ns/mnt")).map(Self)
    }

    /// Goes there. The root and the working directory are its root from then on.
    pub fn enter(&self) -> Result<()> {
        must_be_single()?;
        setns(&self.0, CloneFlags::CLONE_NEWNS).at("enter", "a mount namespace")
    }
}

fn open_namespace(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).at("open", path)
}

/// Puts this process into a mount namespace of its own that holds nothing but an empty directory at [`PLACE`]
/// and `/proc`.
///
/// Every mount of the host is let go: a copy would keep a volume's filesystem alive, with its loop device, after
/// it was unmounted on the host.
pub fn isolate() -> Result<()> {
    must_be_single()?;
    unshare(CloneFlags::CLONE_NEWNS).at("make", "a mount namespace")?;
    let everything = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", everything).at("separate the mounts below", "/")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let processes = open_tree(CWD, "/proc", flags).at("clone the mount of", "/proc")?;
    let attributes = Attributes { nosuid: true, nodev: true, noexec: true, ..Attributes::default() };
    mount::mount(Path::new(SCAFFOLD_NAME), Path::new(SCAFFOLD), "tmpfs", attributes, "size=64k,mode=700")?;
    let root = Path::new(SCAFFOLD);
    for name in ["proc", PLACE.trim_start_matches('/')] {
        fs::create_dir(root.join(name)).at("create", root.join(name))?;
    }
    move_mount(&processes, "", CWD, root.join("proc"), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .at("move /proc to", root.join("proc"))?;
    // pivot_root(2): the old root on top of the new one, without a directory for it, and gone.
    chdir(root).at("go to", root)?;
    pivot_root(".", ".").at("change the root to", root)?;
    unmount(".", UnmountFlags::DETACH).at("let go of", "the host's mounts")?;
    chdir("/").at("go to", "/")
}

/// A namespace belongs to a thread; others would stay behind, and /proc/PID/ns tells of the first one.
fn must_be_single() -> Result<()> {
    let tasks = fs::read_dir("/proc/self/task").at("list the threads of", "this process")?.count();
    match tasks {
        1 => Ok(()),
        _ => {
            Err(Error::Unexpected(format!("a process of {tasks} threads cannot change its mount namespace")))
        }
    }
}

/// Puts this process into the mount namespace that [`isolate`] made for another one, also where its first thread has
/// ended while another one hangs. `false`: none of its threads is in one, or not any more; this process is then in no
/// namespace of use.
pub fn enter_that_of(process: i32) -> Result<bool> {
    must_be_single()?;
    let tasks = PathBuf::from(format!("/proc/{process}/task"));
    let entries = match fs::read_dir(&tasks) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).at("list", tasks),
    };
    for task in entries {
        let Ok(task) = task else { continue };
        let namespace = match open_namespace(&task.path().join("ns/mnt")) {
            Ok(namespace) => namespace,
            // Ended, or ending: such a task has none.
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ESRCH)) => continue,
            Err(error) => return Err(error),
        };
        setns(&namespace, CloneFlags::CLONE_NEWNS).at("enter the mount namespace of", task.path())?;
        return is_isolated();
    }
    Ok(false)
}

/// Whether the root is what [`isolate`] makes of it: a host may have something at [`PLACE`], too.
fn is_isolated() -> Result<bool> {
    let all = super::mountinfo::read()?;
    let root = all.iter().find(|mount| mount.point == Path::new("/"));
    Ok(root.is_some_and(|root| (&*root.fstype, &*root.source) == ("tmpfs", SCAFFOLD_NAME)))
}

/// What forcing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// Everything that waited for the server has been released; something still uses the mount.
    Released,
    /// It is no longer mounted.
    Unmounted,
}

/// Makes the filesystem mounted at [`PLACE`] give up whatever it waits for (umount2(2), MNT_FORCE).
///
/// Only in a namespace that [`isolate`] made: on a host the same superblock may be other volumes', too.
pub fn force() -> Result<Forced> {
    match unmount(PLACE, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL) => Ok(Forced::Unmounted),
        Err(Errno::BUSY) => Ok(Forced::Released),
        Err(error) => Err(error).at("force", PLACE),
    }
}

/// A mount that no path leads to: what is mounted at [`PLACE`], or a directory below it.
#[derive(Debug)]
pub struct Tree {
    mount: OwnedFd,
}

/// Takes the directory `below` of what is mounted at [`PLACE`]; empty: its root.
pub fn subtree(below: &Path, attributes: Attributes) -> Result<Tree> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, PLACE, flags, Mode::empty()).at("open", PLACE)?;
    let directory = if below.as_os_str().is_empty() { root } else { beneath(&root, below)? };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(&directory, "", flags).at("clone the mount of", below)?;
    mount::set_attributes(&mount, attributes).at("restrict the mount of", below)?;
    Ok(Tree { mount })
}

impl Tree {
    /// The inode number of its root, asked of the server.
    pub fn fileid(&self) -> Result<u64> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        let stat = statx(&self.mount, "", flags, StatxFlags::BASIC_STATS);
        stat.and_then(|stat| nfs::number_of_living(&stat)).at("look at", "the share's directory")
    }

    /// The number of its superblock, as mountinfo shows it.
    pub fn device(&self) -> Result<u64> {
        let stat = self.known(StatxFlags::BASIC_STATS)?;
        Ok(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor))
    }

    /// Its id, as mountinfo shows it; it keeps it wherever it is put.
    pub fn id(&self) -> Result<u64> {
        self.known(StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
    }

    /// What the kernel knows without the server.
    fn known(&self, what: StatxFlags) -> Result<Statx> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        statx(&self.mount, "", flags, what).at("look at", "the share's directory")
    }

    /// Puts it on `target` in the namespace in which this process is now.
    pub fn attach(self, target: &Path) -> Result<()> {
        let to = mount::place(target)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.mount, "", to.as_fd(), "", flags).at("mount on", target)
    }
}

/// Never out of the share, and through no symlink.
fn beneath(root: &OwnedFd, below: &Path) -> Result<OwnedFd> {
    let how = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, below, flags, Mode::empty(), how).at("open the share's directory", below)
}

/// What a lazy or forced unmount of a filesystem that may be anybody's is allowed on.
fn must_be(target: &Path, filesystems: &[String]) -> Result<()> {
    match super::mountinfo::named(target)? {
        Some(mount) if filesystems.contains(&mount.fstype) => Ok(()),
        Some(mount) => Err(Error::Unexpected(format!(
            "{target:?} is a mount of {}, which is never unmounted lazily or by force",
            mount.fstype
        ))),
        None => Err(io::Error::from_raw_os_error(libc::EINVAL)).at("find the mount on", target),
    }
}

/// umount2(2) with MNT_FORCE, for a mount that alone uses its superblock and is of one of `filesystems`.
pub fn unmount_by_force(target: &Path, filesystems: &[String]) -> Result<()> {
    must_be(target, filesystems)?;
    unmount(target, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW).at("unmount by force", target)
}

/// umount2(2) with MNT_DETACH, for a mount of one of `filesystems`: its users keep it, no path leads there.
pub fn unmount_lazily(target: &Path, filesystems: &[String]) -> Result<()> {
    must_be(target, filesystems)?;
    unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).at("unmount lazily", target)
}
