//! Leftovers on shares: of this owner, and what nobody knows.

use super::{Finding, Row, Store};
use crate::{
    commands::shares::{each, reach, reason, remote},
    config::{ShareArgs, check_shares},
    error::Result,
    service::nfs::At,
    share::{
        Remote,
        store::{Fate, Leftover, What},
    },
};
use std::{path::Path, sync::Arc};

/// One, and the way to it.
pub(super) struct OnShare {
    remote: Arc<Remote>,
    at: At,
    leftover: Leftover,
}

/// Looks through all shares.
pub(super) fn find(arguments: &ShareArgs) -> std::result::Result<Vec<Finding>, String> {
    if arguments.shares.is_empty() {
        return Ok(Vec::new());
    }
    check_shares(&arguments.shares)?;
    let remote = Arc::new(remote(arguments.owner.as_deref())?);
    let looked = each(&arguments.shares, |at| remote.leftovers(&reach(at)));
    let mut found = Vec::new();
    for (at, outcome) in arguments.shares.iter().zip(looked) {
        let leftovers = outcome
            .map_err(|error| format!("share {at} cannot be looked through: {}", reason(at, &error)))?;
        found.extend(leftovers.into_iter().map(|leftover| {
            Finding::OnShare(OnShare { remote: Arc::clone(&remote), at: at.clone(), leftover })
        }));
    }
    Ok(found)
}

impl OnShare {
    pub(super) fn row(&self) -> Row {
        let Leftover { what, place, bytes, since, fate } = &self.leftover;
        let reason = match fate {
            Fate::Purge => None,
            Fate::Leave(reason) => Some(reason.clone()),
        };
        // Seen from the share, as a client of it would.
        let place = Path::new("/").join(place);
        Row::new(Store::Share(self.at.to_string()), describe(what, &place), &place, *bytes, *since, reason)
    }

    /// Why it stays; `None`: it is gone.
    pub(super) fn purge(&self) -> Result<Option<String>> {
        self.remote.purge_leftover(&reach(&self.at), self.leftover.clone())
    }
}

fn describe(what: &What, place: &Path) -> String {
    let is_snapshot = place.starts_with("/.wharf/snapshots");
    match what {
        What::Draft(_) => "unfinished work",
        What::Unfinished(_) => "unfinished volume",
        What::HalfDeleted(_) => "half-deleted snapshot",
        What::Trash(_) => "removed, not purged",
        What::Damaged(_) if is_snapshot => "snapshot without a readable record",
        What::Damaged(_) => "volume without a readable record",
        What::Lost(_) => "volume without its directory",
        What::Stranger => "stranger",
    }
    .to_owned()
}
