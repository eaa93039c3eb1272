//! Going down and up in a tree of any depth with few open files.

use crate::os::{At, Error, Result, file::Inode};
use rustix::{
    fs::{FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, fstat, openat2, seek},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

/// How many directories, the deepest ones, are open at a time.
const OPEN: usize = 32;
/// One getdents64(2).
const BUFFER: usize = 32 << 10;
/// The longest path that a message shows.
const SHOWN: usize = 4096;
/// How often openat2(2) is tried again when a rename elsewhere made it unsure (EAGAIN).
const TRIES: u32 = 64;

/// One name in a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: OsString,
    /// As the directory has it, possibly [`FileType::Unknown`], possibly outdated.
    pub kind: FileType,
    /// Where reading goes on after this entry.
    next: u64,
}

impl Entry {
    pub fn new(name: OsString, kind: FileType) -> Self {
        Self { name, kind, next: 0 }
    }
}

/// One directory on the way from the root to where the walk is.
#[derive(Debug)]
pub(super) struct Level {
    /// Its name in its parent.
    pub name: OsString,
    inode: Inode,
    /// How often it has been entered because it did not stay empty.
    pub rounds: u32,
    /// `None`: closed because the walk is far below. `..` opens it again.
    directory: Option<OwnedFd>,
    /// Read from the directory and not yet given out.
    entries: VecDeque<Entry>,
    /// Where reading goes on after what was given out.
    position: u64,
}

/// A place in a tree. The last level is where it is; it and the one before are always open after
/// [`Walk::enter`].
#[derive(Debug)]
pub(super) struct Walk {
    root: PathBuf,
    levels: Vec<Level>,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Walk {
    /// Starts at an open directory, which is opened anew; `shown` is its name in messages.
    pub fn at(directory: impl AsFd, shown: PathBuf) -> Result<Self> {
        let mut walk = Self { root: shown, levels: Vec::new(), buffer: vec![MaybeUninit::uninit(); BUFFER] };
        let level = Level::open(directory, ".".as_ref()).at("open directory", &walk.root)?;
        walk.levels.push(level);
        Ok(walk)
    }

    /// How many directories lie between the walk's place and its root, both counted.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The directory where the walk is.
    pub fn directory(&self) -> Result<BorrowedFd<'_>> {
        self.open_level(1)
    }

    /// The directory above; open only right after [`Walk::enter`].
    pub fn parent(&self) -> Result<BorrowedFd<'_>> {
        self.open_level(2)
    }

    /// Goes down into a directory. Nothing has changed when that fails.
    pub fn enter(&mut self, name: &OsStr, rounds: u32) -> Result<(), Errno> {
        let directory = self.levels.last().and_then(|level| level.directory.as_ref()).ok_or(Errno::BADF)?;
        let level = Level { rounds, ..Level::open(directory, name)? };
        self.levels.push(level);
        if let Some(far) = self.levels.len().checked_sub(OPEN + 1).and_then(|n| self.levels.get_mut(n)) {
            far.directory = None;
            far.entries = VecDeque::new();
        }
        Ok(())
    }

    /// Goes up; gives the directory that was left. At the root it is an error.
    pub fn leave(&mut self) -> Result<Level> {
        let left = if self.levels.len() > 1 { self.levels.pop() } else { None };
        let (Some(left), Some(parent)) = (left, self.levels.last_mut()) else {
            return Err(Error::Unexpected(format!("the walk of {:?} ended above it", self.root)));
        };
        if parent.directory.is_none() {
            let directory = left
                .directory
                .as_ref()
                .ok_or(Errno::BADF)
                .and_then(|child| open_with(child, "..".as_ref(), DIRECTORY, ResolveFlags::empty()));
            let found = directory.and_then(|directory| Ok((inode_of(&directory)?, directory)));
            match found {
                // Somebody moved the directory meanwhile: its parent is another, perhaps outside.
                Ok((inode, _)) if inode != parent.inode => {
                    return Err(Error::Unexpected(format!(
                        "{:?} was moved while it was walked",
                        self.place(&left.name)
                    )));
                }
                Ok((_, directory)) => parent.directory = Some(directory),
                Err(e) => return Err(self.failed_here("go back up to", e)),
            }
        }
        Ok(left)
    }

    /// The next name in the directory where the walk is.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        if level.entries.is_empty()
            && let Err(e) = level.read(&mut self.buffer)
        {
            return Err(self.failed_here("list", e));
        }
        let entry = level.entries.pop_front();
        if let Some(entry) = &entry {
            level.position = entry.next;
        }
        Ok(entry)
    }

    /// An error about a name where the walk is.
    pub fn failed(&self, op: impl Into<String>, name: &OsStr, errno: Errno) -> Error {
        Error::Path { op: op.into(), path: self.place(name), source: errno.into() }
    }

    /// An error about the directory where the walk is.
    pub fn failed_here(&self, op: impl Into<String>, errno: Errno) -> Error {
        self.failed(op, OsStr::new(""), errno)
    }

    /// The path of a name where the walk is, for messages only: it is cut short in the middle when
    /// it is very long.
    fn place(&self, name: &OsStr) -> PathBuf {
        let mut path = self.root.clone();
        for level in self.levels.iter().skip(1) {
            if path.as_os_str().len() + level.name.len() > SHOWN {
                path.push("…");
                break;
            }
            path.push(&level.name);
        }
        if !name.is_empty() {
            path.push(name);
        }
        path
    }

    fn open_level(&self, from_end: usize) -> Result<BorrowedFd<'_>> {
        let level = self.levels.len().checked_sub(from_end).and_then(|n| self.levels.get(n));
        match level.and_then(|level| level.directory.as_ref()) {
            Some(directory) => Ok(directory.as_fd()),
            None => Err(Errno::BADF).at("walk", &self.root),
        }
    }
}

impl Level {
    fn open(parent: impl AsFd, name: &OsStr) -> Result<Self, Errno> {
        // Without a new access time, where that is allowed: it would be a write for each directory.
        let directory = match open_below(&parent, name, DIRECTORY | OFlags::NOATIME) {
            Err(Errno::PERM) => open_below(&parent, name, DIRECTORY)?,
            other => other?,
        };
        let inode = inode_of(&directory)?;
        let (name, entries) = (name.to_owned(), VecDeque::new());
        Ok(Self { name, inode, rounds: 0, directory: Some(directory), entries, position: 0 })
    }

    /// Reads on after what was given out. A directory that is gone has no entries.
    fn read(&mut self, buffer: &mut [MaybeUninit<u8>]) -> Result<(), Errno> {
        let directory = self.directory.as_ref().ok_or(Errno::BADF)?;
        let mut position = self.position;
        while self.entries.is_empty() {
            // Positions outlive a closed directory: they are what an NFS server hands out, too.
            seek(directory, SeekFrom::Start(position))?;
            let mut answer = RawDir::new(directory, buffer);
            let before = position;
            loop {
                match answer.next() {
                    None => return Ok(()),
                    Some(Err(Errno::NOENT)) => return Ok(()),
                    Some(Err(e)) => return Err(e),
                    Some(Ok(entry)) => {
                        position = entry.next_entry_cookie();
                        let name = entry.file_name().to_bytes();
                        if name != b"." && name != b".." {
                            let (name, kind) = (OsStr::from_bytes(name).to_owned(), entry.file_type());
                            self.entries.push_back(Entry { name, kind, next: position });
                        }
                    }
                }
                if answer.is_buffer_empty() {
                    break;
                }
            }
            if position == before {
                return Ok(());
            }
        }
        Ok(())
    }
}

const DIRECTORY: OFlags = OFlags::DIRECTORY;

/// Opens a name in a directory and nothing else: no symlink, no mount point, nothing above.
pub(in crate::os) fn open_below(directory: impl AsFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_with(directory, name, flags, ResolveFlags::BENEATH)
}

/// Opens what an O_PATH handle stands for, by the link in /proc that leads to this very inode: the name
/// may lead to something else by now, such as a device.
pub(super) fn reopen(handle: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let link = link_of(handle);
    match rustix::fs::open(&link, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::open(&link, flags, Mode::empty()),
        other => other,
    }
}

/// The path in /proc that leads to what is open.
pub(super) fn link_of(handle: impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd()).into()
}

fn open_with(from: impl AsFd, name: &OsStr, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = more | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(from.as_fd(), name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

fn inode_of(file: impl AsFd) -> Result<Inode, Errno> {
    let stat = fstat(file)?;
    Ok(Inode { device: stat.st_dev, number: stat.st_ino })
}
