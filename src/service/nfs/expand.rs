//! ControllerExpandVolume on a share: nothing there has a limit, so only the wish is written down.

use super::{OnShare, Shares, at_of, unknown};
use crate::{
    error::{Error, Result},
    service::Expanded,
    volume::{CapacityRange, nfs::Settings, size::round_up},
};

impl Shares {
    /// The size from now on. What the server gives is the server's to decide, so there is nothing to grow.
    pub(in crate::service) fn expand_volume(
        &self,
        id: &OnShare,
        range: CapacityRange,
        secrets: &Settings,
    ) -> Result<Expanded> {
        let size_bytes = match id {
            OnShare::Legacy(_) => range.required,
            OnShare::Volume(id) => {
                let at = at_of(&id.share, &id.connection).with(secrets)?;
                let share = self.uses(&at);
                let record = self.remote.volume(&share, id.key)?.ok_or_else(|| unknown(id))?;
                let size = round_up(range.required).max(record.size_bytes);
                if range.limit.is_some_and(|limit| size > limit) {
                    return Err(Error::OutOfRange(format!(
                        "volume {:?} has {} bytes and does not shrink; limit_bytes is too small",
                        record.id, record.size_bytes
                    )));
                }
                let required = range.required.max(record.required_bytes);
                if (size, required) != (record.size_bytes, record.required_bytes) {
                    let resized = self.remote.resize_volume(&share, id.key, required, size);
                    self.janitor.made(&at, resized)?;
                }
                size
            }
        };
        Ok(Expanded { size_bytes, node_expansion_required: false })
    }
}
