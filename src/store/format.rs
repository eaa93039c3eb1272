//! The identity of a pool: `format.json`, and how a new store is made.
//!
//! A pool whose disk is not mounted looks like an empty directory on the root filesystem. A store is
//! therefore made only in an empty directory, at start, and logged; and before every mutation the
//! pool's identity is compared with what the driver started with.

use super::sealed;
use crate::{
    error::{Doing, Error, Result},
    failpoint,
    os::file,
};
use serde::{Deserialize, Serialize};
use std::path::Path;
use uuid::Uuid;

/// The version of the layout of files that this driver reads and writes.
pub const VERSION: u32 = 1;
/// Names the store.
pub const FORMAT: &str = "format.json";
/// Byte-range locks are taken on it.
pub const LOCK: &str = "lock";
/// Directories of a store.
pub const DIRECTORIES: [&str; 4] = ["volumes", "snapshots", "tmp", "trash"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    pub version: u32,
    pub uuid: Uuid,
}

/// Reads `home/format.json`; `None` when there is none.
pub fn read(home: &Path) -> Result<Option<Format>> {
    sealed::read(&home.join(FORMAT), VERSION)
}

/// Makes a store in an empty directory (`lost+found` and an interrupted earlier attempt count as empty).
/// `format.json` comes last: only then the directory is a store.
pub fn create(home: &Path) -> Result<Format> {
    refuse_foreign(home)?;
    for name in DIRECTORIES {
        let path = home.join(name);
        match file::create_dir(&path) {
            Err(e) if e.is_already_there() => {}
            result => result.doing(|| format!("making a new store in {}", home.display()))?,
        }
        failpoint!("store.directory-made");
    }
    let lock = home.join(LOCK);
    if file::stat(&lock).doing(|| format!("looking at {}", lock.display()))?.is_none() {
        file::write_new(&lock, b"").doing(|| format!("making {}", lock.display()))?;
    }
    failpoint!("store.lock-made");
    let format = Format { version: VERSION, uuid: Uuid::new_v4() };
    file::replace(&home.join(FORMAT), &sealed::seal(&format)?)
        .doing(|| format!("making a new store in {}", home.display()))?;
    tracing::info!(pool = %home.display(), store = %format.uuid, "made a new store in an empty directory");
    Ok(format)
}

/// Fails unless the directory, which is no store, may become one.
pub fn refuse_foreign(home: &Path) -> Result<()> {
    let ours = |name: &std::ffi::OsStr| {
        DIRECTORIES.iter().chain(&[LOCK, "lost+found"]).any(|known| name == *known)
            || name.to_string_lossy() == format!("{FORMAT}{}", file::TEMPORARY)
    };
    let names = file::list(home).doing(|| format!("listing {}", home.display()))?;
    if let Some(foreign) = names.iter().find(|name| !ours(name)) {
        return Err(Error::Invalid(format!(
            "pool directory {} is not empty (it holds {foreign:?}) and is no store of this driver: \
             give an empty directory, or mount the pool's disk there",
            home.display()
        )));
    }
    for name in DIRECTORIES {
        let path = home.join(name);
        if file::list(&path).is_ok_and(|inside| !inside.is_empty()) {
            return Err(Error::Damaged(format!(
                "pool {} lost its {FORMAT} but {name}/ is not empty: restore {FORMAT} from a backup",
                home.display()
            )));
        }
    }
    Ok(())
}
