//! Trees copied on a share: snapshots, restores, clones. File by file, so not one cut of all.

use crate::{
    error::{Error, Result},
    os::{directory::Directory, tree},
};
use serde::{Deserialize, Serialize};

/// What the mount can do for a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Files can share blocks (FICLONE): tried for each, on NFS from 4.2.
    pub reflink: bool,
    /// The server copies by itself (copy_file_range): NFS 4.2. Elsewhere the call would move the data
    /// through this host and pass that off as the server's work.
    pub server_copy: bool,
}

/// Copies all of `from` into the empty directory `to`, and syncs it. `progress` gets the bytes so far and
/// says whether to go on.
pub fn tree(
    from: &Directory,
    to: &Directory,
    abilities: Abilities,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    let Abilities { reflink, server_copy } = abilities;
    let copied = tree::copy_remote(from.file(), to.file(), reflink, server_copy, progress);
    copied.and_then(|()| to.sync_filesystem()).map_err(|source| {
        let doing = format!("copying {}", from.path().display());
        if source.is_outcome_unknown() {
            // The copy is thrown away; it is made anew.
            return Error::Unavailable(format!("{}; the same request starts anew", chain(doing, source)));
        }
        if source.is_denied() {
            return Error::Refused(format!(
                "{}; a copy must be complete, so the server has to let this host's root read every file and give \
                 copies to the files' owners: export with `no_root_squash`",
                chain(doing, source)
            ));
        }
        Error::Os { doing, source }
    })
}

fn chain(doing: String, source: crate::os::Error) -> String {
    Error::Os { doing, source }.chain()
}
