//! GetCapacity: from what nodes have told, less what is on its way to them.

use super::{Controller, agents::Liveness, placement::within};
use crate::{
    error::Error,
    service::{Capacity, GetCapacity, filesystem_for},
    volume::{
        Class,
        size::{self, BLOCK},
    },
};

impl Controller {
    pub(super) fn capacity_of(&self, class: &Class, request: &GetCapacity) -> Capacity {
        let Some(filesystem) = filesystem_for(class, &request.capabilities) else {
            return Capacity::default();
        };
        let (known, alive) = (self.view(), |node: &str| self.agents.glance(node) != Liveness::Dead);
        let view = known.with(&alive);
        if matches!(self.check_class(&view, class), Err(Error::Invalid(_))) {
            return Capacity::OF_NO_CLASS;
        }
        let sites = within(view.sites(class, ""), request.topology.as_ref());
        let Some(most) = sites.iter().map(|site| site.room).max() else { return Capacity::default() };
        Capacity {
            available: sites.iter().fold(0u64, |sum, site| sum.saturating_add(site.room)),
            largest: most / BLOCK * BLOCK,
            smallest: size::minimum(filesystem),
        }
    }
}
