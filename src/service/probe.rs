//! Probe: whether the process can serve any volume at all.

use super::Service;
use crate::error::{Error, Result};

impl Service {
    /// It is the livenessProbe: one bad pool of several is no reason to restart, and nothing is written.
    pub fn probe(&self) -> Result<()> {
        if let Some(nodes) = self.nodes() {
            return nodes.probe();
        }
        // Then there are shares at least, and a server that is away comes back without a restart.
        if self.without_pools {
            return Ok(());
        }
        let mut first = None;
        for (_, pool) in self.store.pools() {
            match pool.and_then(|pool| pool.verify()) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        Err(match first {
            Some(error) => Error::Refused(format!("no pool can be used: {}", error.chain())),
            None => Error::Refused("no pool is configured".into()),
        })
    }
}
