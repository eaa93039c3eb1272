//! Removal of whatever a name stands for.

use super::walk::{Entry, Level, Walk, open_below, reopen};
use crate::os::{Error, Result, btrfs, file, mountinfo};
use rustix::{
    fs::{AtFlags, FileType, IFlags, OFlags, fstat, ioctl_getflags, ioctl_setflags, unlinkat},
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// How often a directory is emptied again that somebody fills meanwhile.
const ROUNDS: u32 = 16;
/// What cannot be done, in messages.
const QGROUP: &str = "remove the qgroup of";

/// Removes `parent/name` whatever it is: file or tree, with nested btrfs subvolumes (read-only ones
/// too, and their qgroups) and with what chattr(1) has made immutable. Absent is fine. `progress` gets
/// the number of entries removed so far; a subvolume that goes as a whole counts as one.
///
/// A mount inside is an error; what lies behind it is not touched. Only mounts in this mount namespace
/// are noticed: the kernel itself detaches those of others from what is removed. Nothing is synced.
pub fn remove(parent: &Path, name: &OsStr, progress: &mut dyn FnMut(u64)) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/') {
        return Err(Error::Unexpected(format!("{name:?} is no name of an entry of {parent:?}")));
    }
    let directory = file::open(parent, OFlags::RDONLY | OFlags::DIRECTORY, "open directory")?;
    let walk = Walk::at(directory, parent.to_owned())?;
    let mut removal = Removal { walk, removed: 0, progress, mounts: None };
    removal.take(&Entry::new(name.to_owned(), FileType::Unknown))?;
    while removal.walk.depth() > 1 {
        match removal.walk.next()? {
            Some(entry) => removal.take(&entry)?,
            None => removal.finish()?,
        }
    }
    Ok(())
}

/// A removal under way.
struct Removal<'a> {
    walk: Walk,
    removed: u64,
    progress: &'a mut dyn FnMut(u64),
    /// Where mounts are; read when first needed.
    mounts: Option<Vec<PathBuf>>,
}

impl Removal<'_> {
    /// Removes what is not a directory, enters what is.
    fn take(&mut self, entry: &Entry) -> Result<()> {
        let name = entry.name.as_os_str();
        let mut kind = entry.kind;
        for _ in 0..ROUNDS {
            if kind != FileType::Directory {
                match self.unprotected(name, |at| unlinkat(at, name, AtFlags::empty()))? {
                    Ok(()) => {
                        self.count();
                        return Ok(());
                    }
                    Err(Errno::NOENT) => return Ok(()),
                    Err(Errno::ISDIR) => {}
                    Err(e) => return Err(self.failed(e, name)),
                }
            }
            match self.walk.enter(name, 0) {
                Ok(()) => return self.entered(name),
                Err(Errno::NOENT) => return Ok(()),
                // A file took the directory's place.
                Err(Errno::NOTDIR | Errno::LOOP) => kind = FileType::Unknown,
                Err(e) => return Err(self.failed(e, name)),
            }
        }
        Err(self.failed(Errno::AGAIN, name))
    }

    /// Looks at a directory that was just entered. A subvolume goes as a whole, whatever it holds,
    /// unless something inside has to be looked at: subvolumes of its own, or mounts.
    fn entered(&mut self, name: &OsStr) -> Result<()> {
        let directory = self.walk.directory()?;
        if !btrfs::is_root(directory).map_err(|e| self.failed_here(e))? {
            return Ok(());
        }
        if !self.has_mounts_below()? {
            match self.destroy(name)? {
                Ok(()) => return self.walk.leave().map(drop),
                Err(Errno::NOTEMPTY) => {}
                Err(e) => return Err(self.failed_here(e)),
            }
        }
        let directory = self.walk.directory()?;
        match btrfs::switch_read_only(directory, false).map_err(|e| self.failed_here(e))? {
            true => Ok(()),
            false => Err(self.failed_here(Errno::ROFS)),
        }
    }

    /// Removes the directory that the walk is in and that has been emptied.
    fn finish(&mut self) -> Result<()> {
        let directory = self.walk.directory()?;
        let subvolume = btrfs::is_root(directory).map_err(|e| self.failed_here(e))?;
        let id =
            if subvolume { Some(btrfs::root_id(directory).map_err(|e| self.failed_here(e))?) } else { None };
        let Level { name, rounds, .. } = self.walk.leave()?;
        let outcome = match id {
            Some(id) => self.destroy_named(&name, id)?,
            None => self.unprotected(&name, |at| unlinkat(at, &name, AtFlags::REMOVEDIR))?,
        };
        match outcome {
            Ok(()) => {
                if id.is_none() {
                    self.count();
                }
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if rounds < ROUNDS => {
                match self.walk.enter(&name, rounds + 1) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(e) => Err(self.failed(e, &name)),
                }
            }
            Err(e) => Err(self.failed(e, &name)),
        }
    }

    /// Destroys the subvolume that was just entered; the walk stays in it.
    fn destroy(&mut self, name: &OsStr) -> Result<Result<(), Errno>> {
        let id = btrfs::root_id(self.walk.directory()?);
        let parent = self.walk.parent()?;
        let mut outcome = btrfs::destroy(parent, name);
        if outcome == Err(Errno::PERM) && unprotect(parent, name, self.walk.depth() > 2) {
            outcome = btrfs::destroy(parent, name);
        }
        if let (Ok(()), Ok(id)) = (outcome, id) {
            crate::failpoint!("tree.subvolume-destroyed");
            btrfs::drop_qgroup(parent, id).map_err(|e| self.walk.failed_here(QGROUP, e))?;
            self.count();
        }
        Ok(outcome)
    }

    /// Destroys a subvolume that the walk has left.
    fn destroy_named(&mut self, name: &OsStr, id: u64) -> Result<Result<(), Errno>> {
        let outcome = self.unprotected(name, |at| btrfs::destroy(at, name))?;
        if outcome.is_ok() {
            crate::failpoint!("tree.emptied-subvolume-destroyed");
            let parent = self.walk.directory()?;
            btrfs::drop_qgroup(parent, id).map_err(|e| self.walk.failed(QGROUP, name, e))?;
            self.count();
        }
        Ok(outcome)
    }

    /// Does something to a name where the walk is; once more when EPERM came from attributes that could
    /// be cleared.
    fn unprotected(
        &self,
        name: &OsStr,
        act: impl Fn(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<Result<(), Errno>> {
        let directory = self.walk.directory()?;
        Ok(match act(directory) {
            Err(Errno::PERM) if unprotect(directory, name, self.walk.depth() > 1) => act(directory),
            other => other,
        })
    }

    /// Whether something is mounted below where the walk is: destroying a subvolume would detach it.
    /// A path too deep to tell counts as yes.
    fn has_mounts_below(&mut self) -> Result<bool> {
        let Ok(here) = std::fs::read_link(super::walk::link_of(self.walk.directory()?)) else {
            return Ok(true);
        };
        let mounts = match &mut self.mounts {
            Some(mounts) => mounts,
            unread => unread.insert(mountinfo::read()?.into_iter().map(|mount| mount.point).collect()),
        };
        Ok(mounts.iter().any(|point| point.starts_with(&here)))
    }

    fn count(&mut self) {
        crate::failpoint!("tree.removed");
        self.removed += 1;
        (self.progress)(self.removed);
    }

    fn failed(&self, errno: Errno, name: &OsStr) -> Error {
        let op = match errno {
            Errno::XDEV | Errno::BUSY => "remove a mount point:",
            _ => "remove",
        };
        self.walk.failed(op, name, errno)
    }

    fn failed_here(&self, errno: Errno) -> Error {
        self.failed(errno, OsStr::new(""))
    }
}

/// Clears the immutable and append-only attributes of an entry, and of its directory where that is
/// `inside` the tree; whether there was anything to clear.
fn unprotect(directory: impl AsFd, name: &OsStr, inside: bool) -> bool {
    let mut cleared = inside && clear(&directory);
    if let Ok(handle) = open_below(&directory, name, OFlags::PATH)
        && let Ok(stat) = fstat(&handle)
        // Only these can carry them, and opening a device would do more than that.
        && matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory)
        && let Ok(entry) = reopen(&handle, OFlags::RDONLY)
    {
        cleared |= clear(&entry);
    }
    cleared
}

fn clear(file: impl AsFd) -> bool {
    let protection = IFlags::IMMUTABLE | IFlags::APPEND;
    match ioctl_getflags(&file) {
        Ok(flags) if flags.intersects(protection) => ioctl_setflags(&file, flags - protection).is_ok(),
        _ => false,
    }
}
