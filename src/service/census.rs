//! Pools and volumes counted, for metrics.

use super::{Service, health};
use crate::store::{Kind, Pool};
use std::collections::BTreeMap;

/// What a scrape shows.
#[derive(Debug, Default)]
pub struct Census {
    /// Every configured pool.
    pub pools: Vec<PoolCensus>,
    /// (pool, layout, health) to number of volumes.
    pub volumes: BTreeMap<(String, &'static str, &'static str), u64>,
}

/// One pool, in bytes.
#[derive(Debug, Default)]
pub struct PoolCensus {
    /// Its name.
    pub name: String,
    /// It can be used.
    pub up: bool,
    /// Size of its filesystem.
    pub total: u64,
    /// Available there.
    pub available: u64,
    /// Promised to volumes that do not own it yet.
    pub promised: u64,
    /// Entries in trash.
    pub trash: u64,
}

impl Service {
    /// Looks at everything once.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for (name, pool) in self.store.pools() {
            let pool = pool.and_then(|pool| pool.verify().map(|()| pool));
            let Ok(pool) = pool else {
                census.pools.push(PoolCensus { name: name.to_owned(), ..PoolCensus::default() });
                continue;
            };
            let space = pool.space().ok();
            census.pools.push(PoolCensus {
                name: name.to_owned(),
                up: space.is_some() && pool.is_read_only().is_ok_and(|read_only| !read_only),
                total: space.map_or(0, |space| space.total),
                available: space.map_or(0, |space| space.available),
                promised: pool.ledger().promised(),
                trash: pool.trash_entries(),
            });
            self.count(&pool, &mut census);
        }
        census
    }

    fn count(&self, pool: &Pool, census: &mut Census) {
        let Ok(keys) = pool.keys(Kind::Volume) else { return };
        for key in keys {
            let layout = match pool.volume(key) {
                Ok(Some(record)) => record.shape.layout.as_str(),
                Ok(None) => continue,
                Err(_) => "unknown",
            };
            let health = health::at_rest(pool, key, &self.node, health::Look::Glance).map_or(
                "unknown",
                |(_, ailments)| {
                    ailments
                        .iter()
                        .map(|ailment| ailment.severity)
                        .max()
                        .map_or("healthy", health::Severity::as_str)
                },
            );
            *census.volumes.entry((pool.name().to_owned(), layout, health)).or_default() += 1;
        }
    }
}
