//! Health of volumes: what their agents have told, and whether these are alive.

use super::{
    Controller,
    agents::Liveness,
    list::{key_of, paged},
};
use crate::{
    cluster::api::{Desired, HEALTHY, LocalObject, LocalVolume, Phase},
    error::Result,
    service::{Ailment, Health, Listed, Page, Severity},
    volume::VolumeId,
};

/// The condition that agents set `False` with a reason, of what was there once.
const READY: &str = "Ready";

/// What an agent may name, and how bad that is: the words of the service's own health.
const REASONS: &[(&str, Severity)] = &[
    ("ImageMissing", Severity::DataLoss),
    ("ImageTruncated", Severity::DataLoss),
    ("DirectoryMissing", Severity::DataLoss),
    ("PoolUnavailable", Severity::Inaccessible),
    ("RecordDamaged", Severity::Inaccessible),
    ("Damaged", Severity::Inaccessible),
    ("Unavailable", Severity::Inaccessible),
];

impl Controller {
    pub(super) async fn health_of(&self, id: &VolumeId) -> Result<Health> {
        let object = self.known_volume(id).await?;
        Ok(Health { id: id.to_string(), ailments: self.ailments(&object) })
    }

    pub(super) fn unhealthy(&self, page: &Page) -> Result<Listed<Health>> {
        let volumes = self.volumes.mirror.all();
        let there = volumes.iter().filter(|object| object.desired() == Desired::Present);
        let ill = there.filter_map(|object| {
            // What is not made yet cannot be ill.
            let id =
                object.id().ok().filter(|_| object.status.as_ref().is_some_and(|s| s.volume_id.is_some()))?;
            let ailments = self.ailments(object);
            let health = Health { id: id.to_string(), ailments };
            (!health.ailments.is_empty()).then_some((key_of(object.as_ref())?, health))
        });
        paged(page, ill)
    }

    fn ailments(&self, object: &LocalVolume) -> Vec<Ailment> {
        let mut ailments = told(object);
        if self.agents.glance(object.node_name()) == Liveness::Dead {
            ailments.push(Ailment {
                severity: Severity::Inaccessible,
                reason: "NodeUnavailable",
                message: format!("the agent on node {} does not show that it is alive", object.node_name()),
            });
        }
        ailments
    }
}

/// What its agent says.
fn told(object: &LocalVolume) -> Vec<Ailment> {
    let mut ailments = Vec::new();
    let failure = object.failure().map(|failure| failure.message.clone());
    if object.phase() == Some(Phase::Lost) {
        ailments.push(Ailment {
            severity: Severity::DataLoss,
            reason: "Lost",
            message: failure.unwrap_or_else(|| "its node has it no more".to_owned()),
        });
    }
    let is_there = matches!(object.phase(), Some(Phase::Ready | Phase::Orphaned));
    // Without a look at its health, as by an older agent, what it says of the whole has to do.
    let ill = object.condition(HEALTHY).or_else(|| object.condition(READY));
    let ill = ill.filter(|condition| is_there && condition.status == "False");
    ailments.extend(ill.map(|condition| {
        let known = REASONS.iter().find(|(reason, _)| *reason == condition.reason);
        let (reason, severity) = known.copied().unwrap_or(("Unreadable", Severity::Inaccessible));
        Ailment { severity, reason, message: condition.message.clone() }
    }));
    ailments
}
