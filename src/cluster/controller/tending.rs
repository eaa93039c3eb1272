//! What is done now and then, whether anybody asks or not: shares are looked after, what agents have found on their
//! disks is taken up where somebody still names it, and what nobody names is said.

use super::Controller;
use crate::{cluster::api::LocalObject, error::Result, service::Service};
use kube::ResourceExt;
use std::{sync::Arc, time::Duration};
use tokio::time;

/// How often what agents have found is looked at, and how many of these beats later all PersistentVolumes are.
const BEAT: Duration = Duration::from_secs(60);
const BEATS: usize = 5;
/// After a failure.
const SOON: Duration = Duration::from_secs(10);

impl Controller {
    /// Until it is dropped.
    pub async fn tend(self: Arc<Self>, service: Arc<Service>) {
        let pause = BEAT.min(self.settings.unclaimed_after);
        let mut beat = 0;
        loop {
            let tended = self.tend_once(&service, beat % BEATS == 0).await;
            if let Err(error) = &tended {
                tracing::warn!(
                    error = error.chain(),
                    "classes and PersistentVolumes cannot be looked through"
                );
            }
            beat += usize::from(tended.is_ok());
            time::sleep(if tended.is_ok() { pause } else { SOON }).await;
        }
    }

    async fn tend_once(&self, service: &Service, with_all: bool) -> Result<()> {
        self.listed().await?;
        self.machines.notice_returns();
        self.take_up().await?;
        if with_all {
            let (shares, handles) = self.shares_and_handles().await?;
            shares.iter().for_each(|share| service.look_after(share));
            self.tell_unclaimed(&handles).await?;
        }
        Ok(())
    }

    /// After a reinstallation the objects are lost, and the PersistentVolumes are not.
    async fn take_up(&self) -> Result<()> {
        let orphans: Vec<_> = self.volumes.mirror.all().into_iter().filter(|one| one.is_orphaned()).collect();
        if orphans.is_empty() {
            return Ok(());
        }
        let handles = self.handles().await?;
        for orphan in orphans.iter().filter(|one| !one.is_leaving() && one.was_there()) {
            match orphan.id() {
                Ok(id) if handles.contains(&id.to_string()) => self.adopt(orphan).await?,
                Ok(_) => {}
                Err(error) => tracing::warn!(object = orphan.name_any(), error = error.chain(), "left alone"),
            }
        }
        Ok(())
    }
}
