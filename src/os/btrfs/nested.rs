//! Which subvolumes lie below a subvolume.

use super::{lookup, open_subvolume, root_id};
use crate::os::{At, Result, ioctl};
use linux_raw_sys::{
    btrfs::{
        BTRFS_ROOT_BACKREF_KEY, BTRFS_ROOT_REF_KEY, BTRFS_ROOT_TREE_OBJECTID, btrfs_ioctl_search_args,
        btrfs_ioctl_search_key,
    },
    ioctl::BTRFS_IOC_TREE_SEARCH,
};
use rustix::io::Errno;
use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// A ROOT_REF item: a subvolume and the directory entry that leads to it.
struct Reference {
    subvolume: u64,
    directory: u64,
    name: Vec<u8>,
}

/// Paths, relative to `path`, of all subvolumes below the subvolume at `path`, sorted, with those inside others.
///
/// The filesystem's own index is searched (BTRFS_IOC_TREE_SEARCH, needs CAP_SYS_ADMIN), not the
/// directories: neither permissions nor depth hide one. The paths are for messages: where the kernel
/// cannot tell a directory (beyond 4 KiB) `…` stands for it.
pub fn nested_subvolumes(path: &Path) -> Result<Vec<PathBuf>> {
    let op = "look for subvolumes below";
    let subvolume = open_subvolume(path)?;
    let mut found = Vec::new();
    let mut pending = vec![(root_id(&subvolume).at(op, path)?, PathBuf::new())];
    while let Some((parent, prefix)) = pending.pop() {
        for reference in references(subvolume.as_fd(), parent).at(op, path)? {
            let directory = match lookup(&subvolume, parent, reference.directory) {
                Ok(at) => {
                    let text: Vec<u8> =
                        at.name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|b| *b != 0).collect();
                    prefix.join(OsStr::from_bytes(&text))
                }
                Err(Errno::NAMETOOLONG) => prefix.join("…"),
                // Deleted a moment ago.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e).at(op, path),
            };
            let place = directory.join(OsStr::from_bytes(&reference.name));
            found.push(place.clone());
            pending.push((reference.subvolume, place));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a directory entry leads to the subvolume: false as soon as it is deleted, also while its
/// blocks are still being freed.
pub(super) fn is_linked(file: BorrowedFd<'_>, subvolume: u64) -> Result<bool, Errno> {
    Ok(!search(file, subvolume, BTRFS_ROOT_BACKREF_KEY)?.is_empty())
}

/// All ROOT_REF items of one subvolume.
fn references(file: BorrowedFd<'_>, parent: u64) -> Result<Vec<Reference>, Errno> {
    search(file, parent, BTRFS_ROOT_REF_KEY)
}

/// All items of one kind (ROOT_REF or its mirror ROOT_BACKREF) of one subvolume.
fn search(file: BorrowedFd<'_>, object: u64, kind: u32) -> Result<Vec<Reference>, Errno> {
    let mut found = Vec::new();
    let mut next = Some(0);
    while let Some(from) = next {
        let mut arguments = btrfs_ioctl_search_args {
            key: btrfs_ioctl_search_key {
                tree_id: u64::from(BTRFS_ROOT_TREE_OBJECTID),
                min_objectid: object,
                max_objectid: object,
                min_offset: from,
                max_offset: u64::MAX,
                min_transid: 0,
                max_transid: u64::MAX,
                min_type: kind,
                max_type: kind,
                nr_items: u32::MAX,
                unused: 0,
                unused1: 0,
                unused2: 0,
                unused3: 0,
                unused4: 0,
            },
            buf: [0; 3992],
        };
        ioctl::update::<BTRFS_IOC_TREE_SEARCH, _>(file, &mut arguments)?;
        let before = found.len();
        parse(&arguments.buf.map(|c| c.to_ne_bytes()[0]), arguments.key.nr_items, &mut found);
        let last = found.get(before..).and_then(|new| new.last());
        next = last.and_then(|last: &Reference| last.subvolume.checked_add(1));
    }
    Ok(found)
}

/// Takes `items` items out of the search's answer: a header in the machine's byte order (transid,
/// objectid, offset, type, len), then `struct btrfs_root_ref` in little endian, then the name.
fn parse(mut bytes: &[u8], items: u32, found: &mut Vec<Reference>) {
    for _ in 0..items {
        let Some((header, rest)) = bytes.split_first_chunk::<32>() else { return };
        let length = u32::from_ne_bytes([header[28], header[29], header[30], header[31]]);
        let Some((item, rest)) = rest.split_at_checked(length as usize) else { return };
        bytes = rest;
        let (Some(subvolume), Some((directory, item))) =
            (header[16..].first_chunk(), item.split_first_chunk())
        else {
            return;
        };
        // Between them: a sequence number (8 bytes) and the name's length (2), which the item's end also tells.
        let Some(name) = item.get(10..) else { return };
        found.push(Reference {
            subvolume: u64::from_ne_bytes(*subvolume),
            directory: u64::from_le_bytes(*directory),
            name: name.to_vec(),
        });
    }
}
