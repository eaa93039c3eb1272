//! What a tree holds.

use super::walk::{Entry, Walk};
use crate::os::{
    At, Result, btrfs,
    file::{self, Inode},
};
use rustix::{
    fs::{AtFlags, FileType, OFlags, Stat, fstat, statat},
    io::Errno,
};
use std::{collections::HashSet, fs::File, os::fd::OwnedFd, path::Path, time::Instant};

/// What a tree holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes, each hard-linked file once; btrfs keeps no such figure for directories.
    pub bytes: u64,
    /// Inodes, the root among them.
    pub inodes: u64,
    /// btrfs subvolumes found below the root. What they hold is counted above, though neither a
    /// qgroup's limit nor a snapshot of the root covers it.
    pub subvolumes: u64,
}

/// Counts a tree, mounts inside it left out; stops with `None` beyond `limit` entries. What vanishes
/// meanwhile is not counted.
pub fn usage(root: &Path, limit: u64) -> Result<Option<Usage>> {
    let directory = file::open(root, OFlags::RDONLY | OFlags::DIRECTORY, "open directory")?;
    let mut count = Count::default();
    let complete = count.all(directory.into(), root, limit, &mut |_| true)?;
    Ok(complete.then_some(count.usage))
}

/// As [`usage`] for a directory on a server that may take its time, and may not let everybody look everywhere:
/// `false`: what was counted is not all. `progress` gets the number of names.
pub fn usage_within(
    root: &File,
    limit: u64,
    until: Instant,
    progress: &mut dyn FnMut(u64),
) -> Result<(Usage, bool)> {
    let shown = file::shown(root);
    let directory = root.try_clone().at("open again", &shown)?;
    let mut count = Count { tolerant: true, ..Count::default() };
    let complete = count.all(directory.into(), &shown, limit, &mut |names| {
        progress(names);
        Instant::now() < until
    })?;
    Ok((count.usage, complete && !count.denied))
}

#[derive(Default)]
struct Count {
    usage: Usage,
    /// A directory that may not be looked into is left out.
    tolerant: bool,
    denied: bool,
    /// Inodes with more than one name that were counted: at most as many as `limit`.
    linked: HashSet<Inode>,
}

impl Count {
    /// False: `limit` or `go_on` has ended it.
    fn all(
        &mut self,
        root: OwnedFd,
        shown: &Path,
        limit: u64,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool> {
        self.add(&fstat(&root).at("look at", shown)?);
        let mut walk = Walk::at(root, shown.to_owned())?;
        // Names, not inodes: one file may have very many.
        let mut entries = 0;
        loop {
            match walk.next() {
                Ok(Some(_)) if entries == limit => return Ok(false),
                Ok(Some(entry)) => self.entry(&mut walk, &entry)?,
                // What may be opened may still not be read.
                Err(error) if self.tolerant && error.is_denied() && walk.depth() > 1 => {
                    self.denied = true;
                    walk.leave()?;
                    continue;
                }
                Err(error) => return Err(error),
                Ok(None) if walk.depth() > 1 => {
                    walk.leave()?;
                    continue;
                }
                Ok(None) => return Ok(true),
            }
            entries += 1;
            if !go_on(entries) {
                return Ok(false);
            }
        }
    }

    fn entry(&mut self, walk: &mut Walk, entry: &Entry) -> Result<()> {
        if entry.kind != FileType::Directory {
            let at = walk.directory()?;
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            match statat(at, &entry.name, flags) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
                    // Another device: a file with something mounted on it.
                    if stat.st_dev == fstat(at).map_err(|e| walk.failed_here("look at", e))?.st_dev {
                        self.add(&stat);
                    }
                    return Ok(());
                }
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::STALE) if self.tolerant => return Ok(()),
                Err(Errno::ACCESS | Errno::PERM) if self.tolerant => {
                    self.denied = true;
                    return Ok(());
                }
                Err(e) => return Err(walk.failed("look at", &entry.name, e)),
            }
        }
        match walk.enter(&entry.name, 0) {
            Ok(()) => {
                let directory = walk.directory()?;
                let failed = |e| walk.failed_here("look at", e);
                let stat = fstat(directory).map_err(failed)?;
                self.usage.subvolumes += u64::from(btrfs::is_root(directory).map_err(failed)?);
                self.add(&stat);
                Ok(())
            }
            // Gone, replaced, or a mount point.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(()),
            Err(Errno::STALE) if self.tolerant => Ok(()),
            Err(Errno::ACCESS | Errno::PERM) if self.tolerant => {
                self.denied = true;
                Ok(())
            }
            Err(e) => Err(walk.failed("open directory", &entry.name, e)),
        }
    }

    fn add(&mut self, stat: &Stat) {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let inode = Inode { device: stat.st_dev, number: stat.st_ino };
        if !is_dir && stat.st_nlink > 1 && !self.linked.insert(inode) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.bytes = self.usage.bytes.saturating_add(file::Stat::from(*stat).allocated);
    }
}
