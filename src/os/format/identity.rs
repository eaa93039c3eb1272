//! A new uuid for a copy, so that two of a kind can be told apart and mounted together.

use super::{
    Content, Filesystem, content, read_superblock,
    superblock::{EXT4_RECOVER, Superblock},
};
use crate::os::{
    Error, Result,
    command::{self, Tool},
    file,
};
use std::{ffi::OsStr, path::Path, time::Duration};
use uuid::Uuid;

/// Only superblocks (and XFS's log) are written.
const LIMIT: Duration = Duration::from_secs(120);

/// Gives a clean, detached filesystem a new uuid and reads it back.
///
/// One whose log must be replayed is refused: mount and unmount it once before.
pub fn set_identity(filesystem: Filesystem, image: &Path, uuid: Uuid) -> Result<()> {
    let file = file::open_image(image)?;
    match (content(&file)?, filesystem) {
        (Content::Known { filesystem: found, uuid: old, .. }, wanted) if found == wanted => {
            if old == uuid {
                return Ok(());
            }
        }
        (found, _) => {
            return Err(Error::Unexpected(format!("{image:?} holds no {filesystem:?} but {found:?}")));
        }
    }
    let said = match filesystem {
        Filesystem::Ext4 => ext4(&file, image, uuid)?,
        Filesystem::Xfs => xfs(image, uuid)?,
    };
    match content(&file)? {
        Content::Known { uuid: now, .. } if now == uuid => Ok(()),
        _ => Err(Error::Unexpected(format!(
            "{image:?} did not take a new identity (is its log replayed?): {}",
            said.trim()
        ))),
    }
}

fn ext4(file: &std::fs::File, image: &Path, uuid: Uuid) -> Result<String> {
    if let Superblock::Ext4(found) = read_superblock(file)?
        && found.features[1] & EXT4_RECOVER != 0
    {
        return Err(Error::Unexpected(format!("{image:?} has a journal to replay: mount it once")));
    }
    let uuid = uuid.to_string();
    let arguments = [OsStr::new("-U"), uuid.as_ref(), image.as_os_str()];
    command::run(Tool::Tune2fs, arguments, &[0], LIMIT).map(|output| output.stderr)
}

/// xfs_db exits with 0 also when it refuses a dirty log: only reading back tells.
fn xfs(image: &Path, uuid: Uuid) -> Result<String> {
    let command = format!("uuid {uuid}");
    let arguments = [OsStr::new("-x"), "-f".as_ref(), "-c".as_ref(), command.as_ref(), image.as_os_str()];
    command::run(Tool::XfsDb, arguments, &[0], LIMIT).map(|output| output.stderr)
}
