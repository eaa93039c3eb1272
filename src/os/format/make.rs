//! mkfs with a pinned feature set, read back from the superblock.

use super::{BLOCK, Content, Filesystem, content, read_superblock, superblock::Superblock};
use crate::os::{
    Error, Result,
    command::{self, Tool},
    file,
};
use std::{ffi::OsStr, fs::File, path::Path, sync::OnceLock, time::Duration};

/// Making a filesystem writes little, whatever its size; the pool may be slow.
const LIMIT: Duration = Duration::from_secs(120);

/// docs/formats.md gives the reasons. `none` first: without it mke2fs.conf would add its own.
const EXT4_FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,meta_bg,extent,64bit,flex_bg,\
    metadata_csum_seed,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// The same as the superblock has it: compatible, incompatible, read-only compatible.
const EXT4_BITS: [u32; 3] = [0x2c, 0x22d2, 0x46b];

const XFS_METADATA: &str = "crc=1,finobt=1,reflink=1,rmapbt=0,bigtime=1,inobtcount=1";
const XFS_INODES: &str = "size=512,sparse=1,maxpct=25,attr=2,projid32bit=1";
/// The same as the superblock has it: nothing; ftype, sparse inodes, bigtime; finobt, reflink, inobtcount.
const XFS_BITS: [u32; 3] = [0, 0xb, 0xd];
/// Features that newer xfsprogs switch on by themselves and older ones do not know: the option, its suboption.
const XFS_NEWER: [(&str, &str); 3] = [("-i", "nrext64=0"), ("-i", "exchange=0"), ("-n", "parent=0")];

/// Makes a filesystem in `image` as large as the file, block size 4096, feature set pinned
/// (docs/formats.md), never discarding. Called from one place only: design invariant 1.
///
/// An image that is not blank is refused, and no tool is ever told to overwrite. Nothing is synced:
/// the file is the caller's.
pub fn make(filesystem: Filesystem, image: &Path) -> Result<()> {
    let file = file::open_image(image)?;
    let size = file::stat_file(&file)?.size;
    if size < filesystem.minimum() || !size.is_multiple_of(BLOCK) {
        return Err(Error::Unexpected(format!(
            "{image:?} has {size} bytes, {filesystem:?} needs a multiple of {BLOCK} of at least {}",
            filesystem.minimum()
        )));
    }
    if content(&file)? != Content::Blank {
        return Err(Error::Unexpected(format!("{image:?} is not blank: it is not formatted over")));
    }
    match filesystem {
        Filesystem::Ext4 => make_ext4(image)?,
        Filesystem::Xfs => make_xfs(image)?,
    }
    verify(filesystem, &file, size).map_err(|what| {
        Error::Unexpected(format!("mkfs made other than asked in {image:?}: {what}; see docs/formats.md"))
    })
}

fn make_ext4(image: &Path) -> Result<()> {
    let options = [
        // Quiet, and everything that mke2fs.conf could choose: block size, reserve, inode size and
        // ratio, flex group, reaction to errors.
        "-q",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-m",
        "0",
        "-I",
        "256",
        "-i",
        "16384",
        "-G",
        "16",
        "-e",
        "remount-ro",
        // Discarding would punch holes into a thick image; so would zeroing inode tables after the mount.
        "-E",
        "nodiscard,assume_storage_prezeroed=1",
        "-O",
        EXT4_FEATURES,
    ];
    let arguments = options.iter().map(OsStr::new).chain([image.as_os_str()]);
    command::run(Tool::Mke2fs, arguments, &[0], LIMIT).map(drop)
}

fn make_xfs(image: &Path) -> Result<()> {
    let mut options = vec![
        "-q",
        "-K",
        "-b",
        "size=4096",
        "-s",
        "size=4096",
        "-m",
        XFS_METADATA,
        "-i",
        XFS_INODES,
        "-n",
        "version=2,ftype=1",
    ];
    let usage = xfs_usage()?;
    for (option, suboption) in XFS_NEWER {
        if usage.contains(suboption) {
            options.extend([option, suboption]);
        }
    }
    let arguments = options.iter().map(OsStr::new).chain([image.as_os_str()]);
    command::run(Tool::MkfsXfs, arguments, &[0], LIMIT).map(drop)
}

/// What mkfs.xfs says it can do. Asked once: a tool that is replaced meanwhile and makes other
/// filesystems is noticed when the superblock is read back.
fn xfs_usage() -> Result<&'static str> {
    static USAGE: OnceLock<String> = OnceLock::new();
    if let Some(known) = USAGE.get() {
        return Ok(known);
    }
    // Without a device it prints its usage and fails.
    let output = command::run(Tool::MkfsXfs, [] as [&str; 0], &[0, 1], LIMIT)?;
    Ok(USAGE.get_or_init(|| output.stderr + &output.stdout))
}

/// Reads back what the tool made: its exit code says nothing about a journal that it left out for
/// want of room, or about features that its configuration added.
fn verify(filesystem: Filesystem, file: &File, expected: u64) -> Result<(), String> {
    let superblock = read_superblock(file).map_err(|e| e.to_string())?;
    let (size, features, pinned) = match (filesystem, &superblock) {
        (Filesystem::Ext4, Superblock::Ext4(found)) => (found.size, found.features, EXT4_BITS),
        (Filesystem::Xfs, Superblock::Xfs(found)) => (found.size, found.features, XFS_BITS),
        _ => return Err(format!("found {superblock:?}")),
    };
    if features != pinned {
        return Err(format!("features {features:x?} instead of {pinned:x?}"));
    }
    if size != expected {
        return Err(format!("{size} bytes instead of {expected}"));
    }
    Ok(())
}
