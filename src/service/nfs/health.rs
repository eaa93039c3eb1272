//! Health of volumes on shares, at rest.

use super::{OnShare, Part, Position, Shares, at_of, unknown};
use crate::{
    error::Result,
    service::{Ailment, Health, Severity},
    share::store::{Flaw, VolumeRecord},
};

impl Shares {
    /// What is wrong with a volume. A server that gives no answer is reported, and is no error.
    pub(in crate::service) fn volume_health(&self, id: &OnShare) -> Result<Health> {
        let id = match id {
            OnShare::Volume(id) => id,
            OnShare::Legacy(id) => return Err(unknown(id)),
        };
        let share = self.uses(&at_of(&id.share, &id.connection));
        let flaw = self.remote.volume_health(&share, id.key)?;
        if flaw.is_none() && self.remote.volume(&share, id.key)?.is_none() {
            return Err(unknown(id));
        }
        Ok(Health { id: id.to_string(), ailments: flaw.map(ailment).into_iter().collect() })
    }

    /// Only volumes with something wrong.
    pub(in crate::service) fn list_health(&self, from: Position, most: usize) -> Result<Part<Health>> {
        self.part(
            from,
            most,
            |share, after| self.remote.volumes(share, after, super::list::CHUNK),
            |share, record: VolumeRecord| {
                let flaw = self.remote.volume_health(share, record.key).ok().flatten()?;
                Some((record.key, Health { id: record.id, ailments: vec![ailment(flaw)] }))
            },
        )
    }
}

/// What a flaw means to those who use the volume.
pub fn ailment(flaw: Flaw) -> Ailment {
    let (severity, reason, message) = match flaw {
        Flaw::Gone => {
            (Severity::DataLoss, "DirectoryMissing", "the volume's directory is gone from its share".into())
        }
        Flaw::Replaced => (
            Severity::DataLoss,
            "DirectoryReplaced",
            "another directory, or something else, stands where the volume's own was".into(),
        ),
        Flaw::Damaged(why) => (Severity::Inaccessible, "RecordDamaged", why),
        Flaw::Silent(why) => (Severity::Inaccessible, "ServerSilent", why),
    };
    Ailment { severity, reason, message }
}
