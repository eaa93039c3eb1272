//! GetCapacity: what a class could still get here.

use super::Service;
use crate::{
    backend::limits,
    error::{Error, Result},
    os::format::Filesystem,
    volume::{
        Access, Capability, Class, Layout, LimitMode, nfs,
        size::{self, BLOCK},
        topology::{Segments, covers},
    },
};

/// A GetCapacity request. It has no `Debug`: capabilities hold mount flags.
pub struct GetCapacity {
    /// What the volumes must be able to do.
    pub capabilities: Vec<Capability>,
    /// The class's parameters; an error: the class is impossible here.
    pub class: Result<AnyClass>,
    /// `None`: anywhere, which is here.
    pub topology: Option<Segments>,
}

/// A class, by where its volumes lie.
pub enum AnyClass {
    /// On this node.
    Local(Class),
    /// On an NFS share.
    OnShare(nfs::Class),
}

/// Its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes that new volumes may claim together.
    pub available: u64,
    /// The largest single one.
    pub largest: u64,
    /// The smallest one.
    pub smallest: u64,
}

impl Capacity {
    /// Of a class that cannot be. kube-scheduler asks for room before anybody asks for the volume, and with none the pod
    /// waits for "free storage" that no disk brings; CreateVolume refuses the class, and says at the claim what is wrong.
    pub const OF_NO_CLASS: Self = Self { available: 1 << 60, largest: 1 << 60, smallest: 0 };
}

impl Service {
    /// Never fails: what is unsupported or out of reach has no capacity, and a class that cannot be has
    /// [`Capacity::OF_NO_CLASS`].
    pub fn capacity(&self, request: &GetCapacity) -> Capacity {
        let class = match &request.class {
            Ok(AnyClass::Local(class)) => class,
            Ok(AnyClass::OnShare(class)) => return self.shares.capacity(class, &request.capabilities),
            Err(_) => return Capacity::OF_NO_CLASS,
        };
        if let Some(nodes) = self.nodes() {
            return nodes.capacity(class, request);
        }
        if request.topology.as_ref().is_some_and(|segments| !covers(segments, &self.node)) {
            return Capacity::default();
        }
        let Some(filesystem) = filesystem_for(class, &request.capabilities) else {
            return Capacity::default();
        };
        let room = self.store.pool(class.pool()).and_then(|pool| {
            // First: what is not there says nothing of the pool.
            pool.verify()?;
            if class.layout == Layout::Directory {
                limits::check(&pool, class.limit.unwrap_or(LimitMode::Enforced))?;
            }
            pool.room()
        });
        match room {
            Ok(room) => Capacity {
                available: room,
                largest: room / BLOCK * BLOCK,
                smallest: size::minimum(filesystem),
            },
            Err(Error::Invalid(_)) => Capacity::OF_NO_CLASS,
            Err(error) => {
                tracing::debug!(error = error.chain(), "no capacity for this class");
                Capacity::default()
            }
        }
    }
}

/// What is inside the volumes that a class would give for these capabilities (`Some(None)`: nothing is);
/// `None`: it gives none.
pub fn filesystem_for(class: &Class, capabilities: &[Capability]) -> Option<Option<Filesystem>> {
    let mut filesystem = class.filesystem;
    let mut block = false;
    for capability in capabilities {
        capability.check_local().ok()?;
        block |= capability.access() == Access::Block;
        filesystem = filesystem.or(capability.filesystem().ok()?);
    }
    match class.layout {
        Layout::Directory if block || filesystem.is_some() => None,
        Layout::Directory => Some(None),
        Layout::Image if block => Some(None),
        Layout::Image => Some(Some(filesystem.unwrap_or(Filesystem::Ext4))),
    }
}
