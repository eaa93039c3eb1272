//! NodeExpandVolume of volumes on shares: there is nothing to grow on a node.

use super::{Node, mounting::flags};
use crate::{
    error::{Error, Result},
    service::expand::ExpandNode,
};

impl Node {
    /// The size that was asked for.
    pub(in crate::service) fn expand(&self, request: &ExpandNode) -> Result<u64> {
        self.volume_at(&request.id, &request.path)?;
        if let Some(capability) = &request.capability {
            // CSI: here a capability that the volume does not have is INVALID_ARGUMENT.
            flags(capability).map_err(|error| Error::Invalid(error.to_string()))?;
        }
        Ok(request.range.required)
    }
}
