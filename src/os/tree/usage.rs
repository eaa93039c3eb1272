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
use std::{collections::HashSet, path::Path};

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
    let mut count = Count { usage: Usage::default(), linked: HashSet::new() };
    count.add(&fstat(&directory).at("look at", root)?);
    let mut walk = Walk::at(directory, root.to_owned())?;
    // Names, not inodes: one file may have very many.
    let mut entries = 0;
    loop {
        match walk.next()? {
            Some(_) if entries == limit => return Ok(None),
            Some(entry) => count.entry(&mut walk, &entry)?,
            None if walk.depth() > 1 => {
                walk.leave()?;
                continue;
            }
            None => return Ok(Some(count.usage)),
        }
        entries += 1;
    }
}

struct Count {
    usage: Usage,
    /// Inodes with more than one name that were counted: at most as many as `limit`.
    linked: HashSet<Inode>,
}

impl Count {
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
