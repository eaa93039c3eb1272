//! A look at a directory that is a pool, or is to become one. Nothing is made there.

use super::{
    format,
    pool::{PoolConfig, checked_home},
};
use crate::{
    error::{Doing, Result},
    os::{
        btrfs, host,
        mountinfo::{self, Mount},
        quota, reflink,
        space::{self, Space},
    },
};
use std::path::PathBuf;
use uuid::Uuid;

/// What `wharf check` shows of a pool.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The directory, symlinks above it resolved.
    pub home: PathBuf,
    /// The mount that it lies in.
    pub mount: Mount,
    /// The store's identity; `None`: an empty directory, in which the first start makes one.
    pub store: Option<Uuid>,
    /// Files can share blocks.
    pub reflink: bool,
    /// On btrfs: whether classic qgroups are on.
    pub qgroups: Option<bool>,
    /// On XFS and ext4: whether project quota is on.
    pub project_quota: bool,
    /// Files can be used past the page cache; `None`: nothing can be written there now.
    pub direct_io: Option<bool>,
    /// Room.
    pub space: Space,
}

impl Survey {
    /// The pool's directory is the root of a mount, so that a disk that is not there is noticed.
    pub fn is_mountpoint(&self) -> bool {
        self.mount.point == self.home
    }
}

/// Fails where [`Pool::open`](super::Pool::open) would: no directory, not mounted, foreign files.
pub fn survey(config: &PoolConfig) -> Result<Survey> {
    let home = checked_home(config)?;
    let doing = || format!("looking at pool {:?}", config.name);
    let store = format::read(&home)?;
    if store.is_none() {
        format::refuse_foreign(&home)?;
    }
    let absent = || crate::os::Error::Unexpected(format!("the mount of {} cannot be found", home.display()));
    let mount = mountinfo::of(&home).and_then(|mount| mount.ok_or_else(absent)).doing(doing)?;
    let qgroups = if btrfs::is_btrfs(&home).doing(doing)? {
        Some(btrfs::quota_enabled(&home).doing(doing)?)
    } else {
        None
    };
    Ok(Survey {
        mount,
        store: store.map(|format| format.uuid),
        reflink: reflink::supported(&home).doing(doing)?,
        qgroups,
        project_quota: quota::enforced(&home).doing(doing)?,
        direct_io: host::direct_io(&home).doing(doing)?,
        space: space::of(&home).doing(doing)?,
        home,
    })
}
