//! Files that must survive: creation, durable replacement, allocation, synchronisation.

use super::{At, Error, Result};
use linux_raw_sys::general::{FS_XFLAG_PROJINHERIT, fsxattr};
use rustix::{
    fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RawMode, RenameFlags},
    io::Errno,
    ioctl::{Getter, ioctl},
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How the names of [`replace`]'s temporary files end.
pub const TEMPORARY: &str = ".new";

/// Which inode a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub number: u64,
}

/// The parts of stat(2) that wharf looks at.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Identity.
    pub inode: Inode,
    /// `st_size`.
    pub size: u64,
    /// `st_blocks` in bytes.
    pub allocated: u64,
    /// Is a directory.
    pub is_dir: bool,
    /// Is a regular file.
    pub is_file: bool,
    /// Is a block device.
    pub is_block: bool,
    /// Device number, for a node.
    pub rdev: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `st_ctime`: when the inode was last changed in any way, its name included.
    pub changed: SystemTime,
    /// `st_mtime`.
    pub modified: SystemTime,
    is_symlink: bool,
}

impl Stat {
    /// Is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.is_symlink
    }
}

impl From<rustix::fs::Stat> for Stat {
    fn from(stat: rustix::fs::Stat) -> Self {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Self {
            inode: Inode { device: stat.st_dev, number: stat.st_ino },
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            allocated: u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512),
            is_dir: kind == FileType::Directory,
            is_file: kind == FileType::RegularFile,
            is_block: kind == FileType::BlockDevice,
            rdev: stat.st_rdev,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            is_symlink: kind == FileType::Symlink,
        }
    }
}

fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH
        + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
        + Duration::from_nanos(nanoseconds)
}

/// lstat(2); `None` when nothing is there (ENOENT, ENOTDIR).
pub fn stat(path: &Path) -> Result<Option<Stat>> {
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat.into())),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e).at("look at", path),
    }
}

/// fstat(2).
pub fn stat_file(file: &File) -> Result<Stat> {
    rustix::fs::fstat(file).map(Stat::from).map_err(on("look at", file))
}

/// Its size now: an NFS client is made to ask its server.
pub fn size_now(file: &File) -> Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let stat = rustix::fs::statx(file, "", flags, rustix::fs::StatxFlags::SIZE);
    stat.map(|stat| stat.stx_size).map_err(on("look at", file))
}

/// Makes one directory with mode 0700; an existing one is an error (EEXIST).
pub fn create_dir(path: &Path) -> Result<()> {
    rustix::fs::mkdirat(CWD, path, Mode::RWXU).at("create directory", path)
}

/// Creates a new file (O_EXCL, O_NOFOLLOW, 0600), open for reading and writing.
pub fn create_new(path: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map(File::from).at("create", path)
}

/// Opens an existing regular file for reading and writing (O_NOFOLLOW, O_NONBLOCK: an image may carry a lease).
pub fn open_image(path: &Path) -> Result<File> {
    open_regular(path, OFlags::RDWR)
}

/// Opens an existing regular file for reading (O_NOFOLLOW, O_NONBLOCK).
pub fn open_for_reading(path: &Path) -> Result<File> {
    open_regular(path, OFlags::RDONLY)
}

/// Opens an existing directory (O_DIRECTORY, O_NOFOLLOW).
pub fn open_dir(path: &Path) -> Result<File> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY, "open directory")
}

/// Sets the size without owning blocks (ftruncate(2)); a hole reads as zeroes.
pub fn set_size(file: &File, size: u64) -> Result<()> {
    rustix::fs::ftruncate(file, size).at(format!("set the size to {size} of"), shown(file))
}

/// Reads a regular file of at most `limit` bytes (O_NOFOLLOW); a larger one is an error.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = open_regular(path, OFlags::RDONLY)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > limit {
        return Err(Error::Unexpected(format!("{path:?} is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Writes a new file. Neither it nor its directory entry is durable yet. A failure leaves no file.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create_new(path)?;
    let written = file.write_all(bytes).at("write", path);
    if written.is_err() {
        let _ = remove_file(path);
    }
    written
}

/// Replaces `path` atomically and durably: temporary file beside it, fsync, rename, fsync of the directory.
///
/// The caller holds the object's lock. So the temporary file has one fixed name: what a crash leaves
/// of it, the next replacement takes away.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = parent_of(path)?;
    let op = "replace";
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    let temporary = PathBuf::from(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file =
        rustix::fs::open(&temporary, flags, Mode::RUSR | Mode::WUSR).map(File::from).at(op, path)?;
    let written = file.write_all(bytes).and_then(|()| settle(&file)).at(op, path);
    crate::failpoint!("file.replacement-written");
    let renamed = written.and_then(|()| rustix::fs::rename(&temporary, path).at(op, path));
    if renamed.is_err() {
        let _ = remove_file(&temporary);
    }
    renamed?;
    crate::failpoint!("file.replaced");
    settle(&open(directory, OFlags::RDONLY, "sync")?).at("sync", directory)
}

/// fsync(2).
pub(super) fn settle(file: &File) -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    if crate::failpoint::sync_is_left_out() {
        return Ok(());
    }
    file.sync_all()
}

/// rename(2) with RENAME_NOREPLACE. An NFS client has no such flag and answers EINVAL.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .at(format!("rename to {to:?}:"), from)
}

/// fsync(2) of a file or directory.
pub fn sync(path: &Path) -> Result<()> {
    let file = open(path, OFlags::RDONLY, "sync")?;
    rustix::fs::fsync(file).at("sync", path)
}

/// syncfs(2) of the filesystem that holds `path`.
pub fn sync_filesystem(path: &Path) -> Result<()> {
    let op = "sync the filesystem of";
    let file = open(path, OFlags::RDONLY, op)?;
    rustix::fs::syncfs(file).at(op, path)
}

/// Owns every block up to `size` and grows the file to it (fallocate(2), mode 0); holes that a trim
/// made are filled. A file that is larger keeps its size.
///
/// When there is no room (ENOSPC, EDQUOT) the file has its old size again and nothing is allocated
/// beyond it. Blocks shared with another file stay shared: writing to them still takes room.
pub fn allocate(file: &File, size: u64) -> Result<()> {
    let before = stat_file(file)?.size;
    if size == 0 {
        return Ok(());
    }
    let outcome = rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size));
    if let Err(error) = outcome {
        // ext4 and XFS keep what they got, ext4 with a larger size, XFS beyond the end: a truncation
        // to the old size frees both.
        if size > before {
            rustix::fs::ftruncate(file, before).map_err(on("undo the allocation of", file))?;
        }
        return Err(error).at(format!("allocate {size} bytes for"), shown(file));
    }
    Ok(())
}

/// Sets owner and permission bits of an open file or directory, only what is given.
pub fn set_owner(file: &File, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) -> Result<()> {
    if uid.is_some() || gid.is_some() {
        std::os::unix::fs::fchown(file, uid, gid).map_err(on("change the owner of", file))?;
    }
    crate::failpoint!("file.owner-changed");
    // After the owner: chown(2) takes set-id bits away.
    if let Some(mode) = mode {
        let mode = Mode::from_raw_mode(RawMode::from(mode));
        rustix::fs::fchmod(file, mode).map_err(on("change the mode of", file))?;
    }
    Ok(())
}

/// Removes a file; absent is fine.
pub fn remove_file(path: &Path) -> Result<()> {
    remove(path, AtFlags::empty(), "remove")
}

/// rmdir(2); absent is fine.
pub fn remove_dir(path: &Path) -> Result<()> {
    remove(path, AtFlags::REMOVEDIR, "remove directory")
}

/// The names in a directory, sorted.
pub fn list(path: &Path) -> Result<Vec<OsString>> {
    let directory = open(path, OFlags::RDONLY | OFlags::DIRECTORY, "list")?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory).at("list", path)? {
        let entry = entry.at("list", path)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether the directory carries FS_XFLAG_PROJINHERIT (renames from outside would be EXDEV).
pub fn inherits_project(path: &Path) -> Result<bool> {
    const GET: u32 = linux_raw_sys::ioctl::FS_IOC_FSGETXATTR;
    let op = "read the project flags of";
    let directory = open(path, OFlags::RDONLY | OFlags::DIRECTORY, op)?;
    // SAFETY: FS_IOC_FSGETXATTR writes one fsxattr, which is plain data.
    match unsafe { ioctl(&directory, Getter::<GET, fsxattr>::new()) } {
        Ok(attributes) => Ok(attributes.fsx_xflags & FS_XFLAG_PROJINHERIT != 0),
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(e).at(op, path),
    }
}

/// The path with every symlink resolved.
pub fn canonical(path: &Path) -> Result<PathBuf> {
    path.canonicalize().at("resolve", path)
}

/// What an open file is called in messages: the path that the kernel remembers.
pub(super) fn shown(file: impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| link.into())
}

/// Makes an error about an open file, whose name is looked up only then.
pub(super) fn on<E: Into<io::Error>>(op: &str, file: impl AsFd) -> impl FnOnce(E) -> Error {
    move |e| Error::Path { op: op.to_owned(), path: shown(file), source: e.into() }
}

/// Opens without following a symlink at the end and without waiting (fifo, lease).
pub(super) fn open(path: &Path, flags: OFlags, op: &str) -> Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from).at(op, path)
}

/// An image on which somebody holds a lease for a moment ([`super::loopdev`]'s probe) refuses to be
/// opened without waiting: the moment is waited for, not the 45 seconds that a blocking open may take.
fn open_regular(path: &Path, flags: OFlags) -> Result<File> {
    let mut attempts = 0;
    let file = loop {
        match open(path, flags, "open") {
            Err(e) if e.errno() == Some(libc::EWOULDBLOCK) && attempts < 200 => {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => break opened?,
        }
    };
    if stat_file(&file)?.is_file {
        Ok(file)
    } else {
        Err(Error::Unexpected(format!("{path:?} is no regular file")))
    }
}

fn parent_of(path: &Path) -> Result<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(Error::Unexpected(format!("{path:?} has no parent directory"))),
    }
}

fn remove(path: &Path, flags: AtFlags, op: &str) -> Result<()> {
    match rustix::fs::unlinkat(CWD, path, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).at(op, path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::{
        super::testing::{Kind, MIB, Pool},
        *,
    };
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

    #[test]
    fn replace_leaves_nothing_but_the_new_bytes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("record");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read_small(&path, 3).unwrap(), b"two");
        assert_eq!(list(home.path()).unwrap(), ["record"]);
        assert_eq!(stat(&path).unwrap().unwrap().mode, 0o600);
        // A directory in the way is an error, and the temporary file is gone.
        let taken = home.path().join("taken");
        create_dir(&taken).unwrap();
        assert_eq!(replace(&taken, b"x").unwrap_err().errno(), Some(libc::EISDIR));
        assert_eq!(list(home.path()).unwrap(), ["record", "taken"]);
    }

    #[test]
    fn reading_has_a_limit_and_follows_nothing() {
        let home = tempfile::tempdir().unwrap();
        let (path, link) = (home.path().join("file"), home.path().join("link"));
        write_new(&path, b"1234").unwrap();
        symlink(&path, &link).unwrap();
        assert_eq!(read_small(&path, 4).unwrap(), b"1234");
        assert!(matches!(read_small(&path, 3), Err(Error::Unexpected(_))));
        assert_eq!(read_small(&link, 9).unwrap_err().errno(), Some(libc::ELOOP));
        assert_eq!(open_image(&link).unwrap_err().errno(), Some(libc::ELOOP));
        assert!(matches!(open_image(home.path()), Err(Error::Path { .. })));
        assert_eq!(write_new(&path, b"").unwrap_err().errno(), Some(libc::EEXIST));
        assert_eq!(read_small(&path, 4).unwrap(), b"1234");
        let fifo = home.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(matches!(read_small(&fifo, 9), Err(Error::Unexpected(_))));
    }

    #[test]
    fn absent_and_present_objects() {
        let home = tempfile::tempdir().unwrap();
        let (a, b) = (home.path().join("a"), home.path().join("b"));
        assert!(stat(&a).unwrap().is_none());
        remove_file(&a).unwrap();
        remove_dir(&a).unwrap();
        create_dir(&a).unwrap();
        assert_eq!(create_dir(&a).unwrap_err().errno(), Some(libc::EEXIST));
        assert!(stat(&a).unwrap().is_some_and(|s| s.is_dir && s.mode == 0o700));
        write_new(&b, b"").unwrap();
        assert_eq!(rename_new(&a, &b).unwrap_err().errno(), Some(libc::EEXIST));
        assert!(stat(&b.join("below")).unwrap().is_none());
        assert!(remove_dir(&home.path().join("b")).is_err());
        remove_file(&b).unwrap();
        rename_new(&a, &b).unwrap();
        sync(&b).unwrap();
        sync_filesystem(&b).unwrap();
        assert!(!inherits_project(&b).unwrap());
    }

    #[test]
    fn owner_and_mode_are_both_what_was_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let file = create_new(&home.path().join("file")).unwrap();
        set_owner(&file, Some(7), Some(8), Some(0o6755)).unwrap();
        let stat = stat_file(&file).unwrap();
        assert_eq!((stat.uid, stat.gid, stat.mode), (7, 8, 0o6755));
        set_owner(&file, None, None, Some(0o600)).unwrap();
        let stat = stat_file(&file).unwrap();
        assert_eq!((stat.uid, stat.gid, stat.mode), (7, 8, 0o600));
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn allocation_fills_holes_and_fails_without_trace() {
        for (kind, size) in [(Kind::Ext4, 64), (Kind::Xfs, 320), (Kind::Btrfs, 200)] {
            let pool = Pool::new(kind, size * MIB);
            let file = create_new(&pool.path().join("image")).unwrap();
            file.write_all_at(b"kept", MIB).unwrap();
            allocate(&file, 4 * MIB).unwrap();
            let full = stat_file(&file).unwrap();
            assert!(full.size == 4 * MIB && full.allocated >= 4 * MIB, "{kind:?}: {full:?}");

            let error = allocate(&file, 2 * size * MIB).unwrap_err();
            assert!(error.is_no_space(), "{kind:?}: {error:?}");
            sync_filesystem(pool.path()).unwrap();
            let after = stat_file(&file).unwrap();
            assert_eq!((after.size, after.allocated), (full.size, full.allocated), "{kind:?}");

            allocate(&file, MIB).unwrap();
            assert_eq!(stat_file(&file).unwrap().size, 4 * MIB, "{kind:?} shrank");
            let mut kept = [0; 4];
            file.read_exact_at(&mut kept, MIB).unwrap();
            assert_eq!(&kept, b"kept");
        }
    }
}
