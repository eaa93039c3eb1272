//! Whether a volume can do what it is asked for; ValidateVolumeCapabilities.

use super::Controller;
use crate::{
    cluster::api::LocalVolume,
    error::{Error, Result},
    service::{ValidateVolume, Wish, check_shape},
    volume::{Access, Capability, Class, Layout, LimitMode, VolumeId, parameters},
};

impl Controller {
    pub(super) async fn validate_volume(
        &self,
        id: &VolumeId,
        request: &ValidateVolume,
    ) -> Result<Option<String>> {
        let object = self.known_volume(id).await?;
        Ok(objection(request, &object).err().map(|error| error.to_string()))
    }
}

/// As its object tells.
pub(super) fn check(capability: &Capability, object: &LocalVolume) -> Result<()> {
    let wish = Wish::new(&object.spec.request()?)?;
    check_shape(capability, wish.shape, &object.id()?)
}

fn objection(request: &ValidateVolume, object: &LocalVolume) -> Result<()> {
    if let Some(key) = request.context.keys().find(|key| !parameters::is_orchestrators(key)) {
        return Err(Error::Invalid(format!("volume_context key {key:?} is not of this volume")));
    }
    if !request.mutable_parameters.is_empty() {
        return Err(Error::Invalid("no parameter of a volume can be modified".into()));
    }
    for capability in &request.capabilities {
        check(capability, object)?;
        capability.options()?;
    }
    if request.parameters.is_empty() {
        return Ok(());
    }
    let (made, asked) = (object.spec.request()?.class, Class::parse(&request.parameters)?);
    let wish = Wish::new(&object.spec.request()?)?;
    let image = wish.shape.layout == Layout::Image;
    let same = asked.layout == made.layout
        && asked.pool() == object.spec.pool
        && (!image || asked.provisioning.unwrap_or_default() == made.provisioning.unwrap_or_default())
        && (image || asked.limit.unwrap_or(LimitMode::Enforced) == made.limit.unwrap_or(LimitMode::Enforced))
        && asked.owner == made.owner
        && (wish.shape.access == Access::Block
            || asked.filesystem.is_none_or(|wanted| wish.shape.filesystem == Some(wanted)));
    match same {
        true => Ok(()),
        false => Err(Error::Invalid(format!("the volume, a {}, was made with other parameters", wish.shape))),
    }
}
