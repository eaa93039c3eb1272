//! What a volume's record and directory say about it while nobody has to do with it.

use super::{Key, Share, fault::OnShare, place::Aim};
use crate::{
    error::{Error, Result},
    os::{
        space::{self, Space},
        tree,
    },
};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What is wrong with a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flaw {
    /// Its directory is gone.
    Gone,
    /// Another directory, or something else, stands in its place.
    Replaced,
    /// Its record cannot be read, and why.
    Damaged(String),
    /// The server gives no answer, and how that showed.
    Silent(String),
}

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes that were counted.
    pub bytes: u64,
    /// Inodes that were counted, the root among them.
    pub inodes: u64,
    /// All of it was counted.
    pub complete: bool,
    /// How large it is by its record, in bytes.
    pub size: u64,
    /// The figures of a quota that the server has on the directory.
    pub quota: Option<Space>,
}

/// How far a count goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// So many names.
    pub entries: u64,
    /// Until then.
    pub until: Instant,
}

impl Share {
    /// Looks at one of the own cluster's volumes; `None`: nothing is wrong.
    pub fn flaw(&self, key: Key) -> Result<Option<Flaw>> {
        let record = match self.own_volume(key) {
            Err(Error::Damaged(why)) => return Ok(Some(Flaw::Damaged(why))),
            found => found?.ok_or_else(|| absent(key))?,
        };
        Ok(match self.standing(&record.root, Aim::Existing) {
            Ok(Some((_, stat))) if stat.is_dir && stat.inode.number == record.fileid => None,
            Ok(None) => Some(Flaw::Gone),
            // A symlink, a file, another filesystem: on the way, or in its place.
            Ok(Some(_)) | Err(Error::Refused(_)) => Some(Flaw::Replaced),
            Err(error) => return Err(error),
        })
    }

    /// Counts what a volume holds, whichever cluster it belongs to: who asks is a node that has it mounted, and a node
    /// does not know its cluster. `None`: there is no such volume. `progress` is called now and then.
    pub fn usage(&self, key: Key, bounds: Bounds, progress: &mut dyn FnMut(u64)) -> Result<Option<Usage>> {
        let Some(record) = self.volume(key)? else { return Ok(None) };
        let root = self.open_root_of(&record)?;
        let doing = || format!("counting what volume {key} holds");
        let own = space::of_open(root.file()).on_share(doing)?;
        let whole = space::of_open(self.root.file()).on_share(doing)?;
        // Figures of its own: the server answers for the directory, not for its filesystem.
        let quota = (own.total != whole.total || own.inodes != whole.inodes).then_some(own);
        let Bounds { entries, until } = bounds;
        let (usage, complete) = tree::usage_within(root.file(), entries, until, progress).on_share(doing)?;
        let size = record.size_bytes;
        Ok(Some(Usage { bytes: usage.bytes, inodes: usage.inodes, complete, size, quota }))
    }
}

fn absent(key: Key) -> Error {
    Error::NotFound(format!("volume {key} does not exist on the share"))
}
