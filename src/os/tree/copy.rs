//! Copies of trees.

use super::{
    attributes::{self, Failure},
    walk::{Entry, Walk, open_below, reopen},
};
use crate::os::{At, Error, Result, file::settle, reflink};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Stat, fstat, ftruncate, ioctl_ficlone, linkat, mkdirat, mknodat,
        openat, readlinkat, renameat, symlinkat, unlinkat,
    },
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};
use uuid::Uuid;

/// Copies a tree into an empty directory: modes, owners, times, xattrs, hard links, symlinks, holes,
/// device nodes, fifos, and what the root directory itself carries; file data by reflink when `share`
/// (by sparse copy where a file cannot share its blocks), else by sparse copy. Sockets are left out, a
/// file whose name is gone meanwhile is no error, a mount inside is one. Subvolumes become directories.
///
/// `progress` gets the bytes of data so far and says whether to go on; if not, the outcome is
/// [`Error::Cancelled`]. After any error `to` is incomplete. Nothing is synced.
pub fn copy(from: &File, to: &File, share: bool, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    copy_by(from, to, Manner { share, ..Manner::default() }, progress)
}

/// As [`copy`], between two trees on one NFS mount: names that clients give to files that were removed
/// while open are left out, a file whose size has changed meanwhile is copied once more, one that another
/// client has replaced is looked for again, runs of zeroes become holes, and the data of each file is synced.
pub fn copy_remote(
    from: &File,
    to: &File,
    share: bool,
    in_kernel: bool,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    copy_by(from, to, Manner { share, remote: true, in_kernel }, progress)
}

/// How often a name is looked up again whose file the server does not know any more.
const TRIES: u32 = 3;

/// How a tree is copied.
#[derive(Clone, Copy, Debug, Default)]
struct Manner {
    /// Files may share blocks.
    share: bool,
    /// On NFS.
    remote: bool,
    /// There: the server copies by itself where it is asked to (copy_file_range(2)).
    in_kernel: bool,
}

fn copy_by(from: &File, to: &File, manner: Manner, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    let (source, mut target) = (Walk::at(from, shown(from))?, Walk::at(to, shown(to))?);
    if target.next()?.is_some() {
        return Err(Error::Unexpected(format!("{:?} is not empty", shown(to))));
    }
    let mut copy = Copy { source, target, links: Links::make(to)?, manner, bytes: 0, progress };
    let outcome = copy.all();
    let removed = copy.links.remove(&mut || (copy.progress)(copy.bytes));
    outcome?;
    removed?;
    // Last, because removing the links has changed the root's times.
    copy.leave_directory()
}

struct Copy<'a> {
    source: Walk,
    target: Walk,
    links: Links,
    manner: Manner,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64) -> bool,
}

impl Copy<'_> {
    /// Everything but the root directory itself.
    fn all(&mut self) -> Result<()> {
        loop {
            match self.source.next()? {
                Some(entry) => {
                    self.entry(&entry)?;
                    crate::failpoint!("tree.copied");
                }
                None if self.source.depth() == 1 => return Ok(()),
                None => {
                    self.leave_directory()?;
                    self.source.leave()?;
                    self.target.leave()?;
                }
            }
            if !(self.progress)(self.bytes) {
                return Err(Error::Cancelled("the copy"));
            }
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<()> {
        if self.manner.remote && is_silly(&entry.name) {
            return Ok(());
        }
        while_stale(|| self.attempt(entry))
    }

    fn attempt(&mut self, entry: &Entry) -> Result<Seen> {
        let name = entry.name.as_os_str();
        if entry.kind == FileType::Directory
            && let Some(seen) = self.directory(name)?
        {
            return Ok(seen);
        }
        // A handle first: opening for reading would do something to a device.
        let handle = match open_below(self.source.directory()?, name, OFlags::PATH) {
            Ok(handle) => handle,
            Err(e) => return seen(e, self.source.failed("open", name, e)),
        };
        let stat = match fstat(&handle) {
            Ok(stat) => stat,
            Err(e) => return seen(e, self.source.failed("look at", name, e)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            // One that has just come to stand there, or one whose kind the list did not tell.
            FileType::Directory => Ok(self.directory(name)?.unwrap_or(Seen::Done)),
            FileType::Socket => Ok(Seen::Done),
            kind => self.file(name, &handle, &stat, kind),
        }
    }

    /// Enters a directory and makes its copy, whose attributes come when it is left. `None`: it is none.
    fn directory(&mut self, name: &OsStr) -> Result<Option<Seen>> {
        match self.source.enter(name, 0) {
            Ok(()) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return seen(e, self.source.failed("open directory", name, e)).map(Some),
        }
        match mkdirat(self.target.directory()?, name, Mode::RWXU) {
            Ok(()) => {
                self.target.enter(name, 0).map_err(|e| self.target.failed("open directory", name, e))?;
            }
            // A changing directory may give a name twice.
            Err(Errno::EXIST) => drop(self.source.leave()?),
            Err(e) => return Err(self.target.failed("create directory", name, e)),
        }
        Ok(Some(Seen::Done))
    }

    /// Attributes of the directory where the walks are: its times would not survive new entries.
    fn leave_directory(&self) -> Result<()> {
        let source = self.source.directory()?;
        let stat = fstat(source).map_err(|e| self.source.failed_here("look at", e))?;
        attributes::copy(source, self.target.directory()?, &stat)
            .map_err(|Failure { op, errno }| self.target.failed_here(op, errno))
    }

    /// Anything that is no directory.
    fn file(&mut self, name: &OsStr, handle: &OwnedFd, stat: &Stat, kind: FileType) -> Result<Seen> {
        let link = (stat.st_nlink > 1).then(|| format!("{:x}-{:x}", stat.st_dev, stat.st_ino));
        if let Some(link) = &link
            && self
                .links
                .take(link, self.target.directory()?, name)
                .map_err(|e| self.target.failed("link", name, e))?
        {
            return Ok(Seen::Done);
        }
        let mut file = None;
        let made = match kind {
            FileType::RegularFile => {
                let source: File = match reopen(handle, OFlags::RDONLY) {
                    Ok(source) => source.into(),
                    Err(e) => return seen(e, self.source.failed("open", name, e)),
                };
                match self.regular(name, &source, stat) {
                    Err(e) if e.is_stale() => return self.again(name, e),
                    made => made?.map(|made| file = Some(OwnedFd::from(made))),
                }
            }
            FileType::Symlink => match readlinkat(handle, "", Vec::new()) {
                Ok(content) => symlinkat(content, self.target.directory()?, name),
                Err(e) => return seen(e, self.source.failed("read the link", name, e)),
            },
            _ => {
                let mode = Mode::RUSR | Mode::WUSR;
                mknodat(self.target.directory()?, name, kind, mode, stat.st_rdev)
            }
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(Seen::Done),
            Err(e) => return Err(self.target.failed("create", name, e)),
        }
        let at = self.target.directory()?;
        let target = match file {
            Some(file) => file,
            None => open_below(at, name, OFlags::PATH).map_err(|e| self.target.failed("open", name, e))?,
        };
        match attributes::copy(handle.as_fd(), target.as_fd(), stat) {
            Ok(()) => {}
            Err(Failure { op, errno }) if errno == Errno::STALE => {
                return self.again(name, self.target.failed(op, name, errno));
            }
            Err(Failure { op, errno }) => return Err(self.target.failed(op, name, errno)),
        }
        if let Some(link) = &link {
            self.links.keep(link, at, name).map_err(|e| self.target.failed("link", name, e))?;
        }
        Ok(Seen::Done)
    }

    /// Takes back what was copied of a file that the server does not know any more.
    fn again(&self, name: &OsStr, error: Error) -> Result<Seen> {
        unlinkat(self.target.directory()?, name, AtFlags::empty())
            .map_err(|e| self.target.failed("remove", name, e))?;
        Ok(Seen::Stale(error))
    }

    /// The inner error is one of making the copy. After a stale outer one there is a part of it.
    fn regular(&mut self, name: &OsStr, source: &File, stat: &Stat) -> Result<Result<File, Errno>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut mode = Mode::RUSR | Mode::WUSR;
        if self.manner.remote {
            // One call less where this is all; nobody else comes where the copy is made.
            mode |= Mode::from_raw_mode(stat.st_mode & 0o777);
        }
        let target: File = match openat(self.target.directory()?, name, flags, mode) {
            Ok(target) => target.into(),
            Err(e) => return Ok(Err(e)),
        };
        self.data(source, &target).map(|()| Ok(target))
    }

    fn data(&mut self, source: &File, target: &File) -> Result<()> {
        if self.manner.share {
            match ioctl_ficlone(target, source) {
                Ok(()) => {
                    self.bytes += fstat(target).map_or(0, |stat| stat.st_size.unsigned_abs());
                    return Ok(());
                }
                // This file cannot (NOCOW on btrfs), or none can.
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY) => {}
                Err(e) => return Err(e).at("share the blocks of", shown(source)),
            }
        }
        if !self.manner.remote {
            return self.bytes_of(source, target);
        }
        // It was just opened, for which a client asks.
        let before = crate::os::file::stat_file(source)?.size;
        self.bytes_of(source, target)?;
        if crate::os::file::size_now(source)? != before {
            ftruncate(target, 0).at("start anew with", shown(target))?;
            self.bytes_of(source, target)?;
        }
        settle(target).at("sync", shown(target))
    }

    fn bytes_of(&mut self, source: &File, target: &File) -> Result<()> {
        let (before, mut copied) = (self.bytes, 0);
        let mut progress = |bytes| {
            copied = bytes;
            (self.progress)(before + bytes)
        };
        if self.manner.remote {
            reflink::copy_remote(source, target, self.manner.in_kernel, &mut progress)?;
        } else {
            reflink::copy_sparse(source, target, &mut progress)?;
        }
        self.bytes = before + copied;
        Ok(())
    }
}

/// What became of one name.
#[derive(Debug)]
enum Seen {
    /// It is copied, is none of those that are, or is gone.
    Done,
    /// The server does not know what stood there any more, for this reason; nothing of it is left in the copy.
    Stale(Error),
}

/// What an error that met something in the source says about it.
fn seen(errno: Errno, error: Error) -> Result<Seen> {
    match errno {
        Errno::NOENT => Ok(Seen::Done),
        Errno::STALE => Ok(Seen::Stale(error)),
        _ => Err(error),
    }
}

/// What is stale was removed or replaced by another client, or the server that has just taken over does not know it
/// yet. Only the name tells: while it is there the file must be in the copy, and a copy without it is none.
fn while_stale(mut attempt: impl FnMut() -> Result<Seen>) -> Result<()> {
    let mut tries = 0;
    loop {
        match attempt()? {
            Seen::Done => return Ok(()),
            Seen::Stale(error) if tries == TRIES => return Err(error),
            Seen::Stale(_) => tries += 1,
        }
    }
}

/// The copies of files with several names, each kept under a name made of its original's inode in a
/// directory that exists while the copy runs: no path is too long for them and none has to stay open.
struct Links {
    root: OwnedFd,
    name: String,
    directory: OwnedFd,
    shown: PathBuf,
}

impl Links {
    fn make(root: &File) -> Result<Self> {
        let name = format!(".wharf-links-{}", Uuid::new_v4());
        let shown = shown(root).join(&name);
        let op = "create directory";
        mkdirat(root, &name, Mode::RWXU).at(op, &shown)?;
        let directory = open_below(root, OsStr::new(&name), OFlags::DIRECTORY).at(op, &shown)?;
        let root = root.try_clone().at(op, &shown)?.into();
        Ok(Self { root, name, directory, shown })
    }

    /// Gives the kept file another name; false when none is kept.
    fn take(&self, link: &str, at: impl AsFd, name: &OsStr) -> Result<bool, Errno> {
        match linkat(&self.directory, link, &at, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            // The kept name is one more than the original has: at the limit it becomes the last one.
            Err(Errno::MLINK) => renameat(&self.directory, link, &at, name).map(|()| true),
            Err(e) => Err(e),
        }
    }

    fn keep(&self, link: &str, at: impl AsFd, name: &OsStr) -> Result<(), Errno> {
        match linkat(&at, name, &self.directory, link, AtFlags::empty()) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Each is a call to the server, so this may take long, too.
    fn remove(&self, progress: &mut dyn FnMut() -> bool) -> Result<()> {
        let op = "remove";
        let mut walk = Walk::at(&self.directory, self.shown.clone())?;
        while let Some(entry) = walk.next()? {
            unlinkat(&self.directory, &entry.name, AtFlags::empty()).at(op, &self.shown)?;
            if !progress() {
                return Err(Error::Cancelled("the copy"));
            }
        }
        unlinkat(&self.root, OsStr::from_bytes(self.name.as_bytes()), AtFlags::REMOVEDIR).at(op, &self.shown)
    }
}

/// What an NFS client calls a file that was removed while it had it open: `.nfs` and hexadecimal digits.
fn is_silly(name: &OsStr) -> bool {
    let digits = name.as_bytes().strip_prefix(b".nfs");
    digits.is_some_and(|digits| digits.len() >= 8 && digits.iter().all(u8::is_ascii_hexdigit))
}

fn shown(file: &File) -> PathBuf {
    crate::os::file::shown(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_name_that_is_gone_is_left_out() {
        let stale = || Error::Path { op: "open".into(), path: "f".into(), source: Errno::STALE.into() };
        let run = |outcomes: Vec<Errno>| {
            let mut asked = 0;
            let outcome = while_stale(|| {
                asked += 1;
                match outcomes.get(asked - 1).copied() {
                    Some(errno) => {
                        seen(errno, Error::Path { op: "open".into(), path: "f".into(), source: errno.into() })
                    }
                    None => Ok(Seen::Done),
                }
            });
            (outcome.map_err(|error| error.errno().unwrap()), asked)
        };
        assert_eq!(run(vec![Errno::NOENT]), (Ok(()), 1));
        assert_eq!(run(vec![Errno::STALE, Errno::NOENT]), (Ok(()), 2));
        assert_eq!(run(vec![Errno::STALE, Errno::STALE]), (Ok(()), 3), "replaced, and copied then");
        assert_eq!(run(vec![Errno::STALE; 9]), (Err(libc::ESTALE), 4));
        assert_eq!(run(vec![Errno::ACCESS]), (Err(libc::EACCES), 1));
        assert!(stale().is_outcome_unknown(), "which is never final");
    }
}
