//! Leftovers on pools.

use super::{Finding, Row, Store};
use crate::{
    commands::print,
    store::{Fate, Kind, Leftover, Pool, PoolConfig, Purged, What},
};
use std::sync::Arc;

/// One, and where it is.
pub(super) struct OnPool {
    pool: Arc<Pool>,
    leftover: Leftover,
}

/// Looks through all pools.
pub(super) fn find(pools: &[PoolConfig]) -> Result<Vec<Finding>, String> {
    let mut found = Vec::new();
    for config in pools {
        let look = || {
            let pool = Pool::inspect(config)?;
            let leftovers = pool.leftovers()?;
            Ok((pool, leftovers))
        };
        let (pool, leftovers) = look().map_err(|error: crate::error::Error| {
            format!("pool {:?} cannot be looked through: {}", config.name, error.chain())
        })?;
        let on_pool = |leftover| Finding::OnPool(OnPool { pool: Arc::clone(&pool), leftover });
        found.extend(leftovers.into_iter().map(on_pool));
    }
    Ok(found)
}

impl OnPool {
    pub(super) fn row(&self) -> Row {
        let Leftover { what, place, bytes, since, fate } = &self.leftover;
        let reason = match fate {
            Fate::Purge => None,
            Fate::Leave(reason) => Some(reason.clone()),
        };
        let store = Store::Pool(self.pool.name().to_owned());
        Row::new(store, describe(what), place, *bytes, *since, reason)
    }

    /// Why it stays; `None`: it is gone.
    pub(super) fn purge(&self, files: &mut dyn FnMut(u64)) -> crate::error::Result<Option<String>> {
        Ok(match self.pool.purge_leftover(&self.leftover, files)? {
            Purged::Gone => None,
            Purged::Left(reason) => Some(reason),
        })
    }
}

fn describe(what: &What) -> String {
    match what {
        What::Unfinished(kind, _) => format!("unfinished {kind}"),
        What::Trash(_) => "removed, not purged".to_owned(),
        What::Temporary(kind, _) => format!("half-written record of a {kind}"),
        What::Damaged(Kind::Snapshot, _) => "snapshot without a readable record".to_owned(),
        What::Damaged(..) => "volume without a readable record".to_owned(),
        What::Stranger => "stranger".to_owned(),
        What::Loop(number) => format!("stray /dev/loop{number}"),
        What::Qgroups(ids) => {
            let first: Vec<_> = ids.iter().take(5).map(|id| format!("0/{id}")).collect();
            let more = if ids.len() > first.len() { ", …" } else { "" };
            format!("{} without a subvolume ({}{more})", print::count(ids.len(), "qgroup"), first.join(", "))
        }
    }
}
