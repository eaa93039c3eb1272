//! Values: ids, sizes, capabilities, class parameters, records. No input or output happens here.

pub mod capability;
pub mod id;
pub mod nfs;
pub mod parameters;
pub mod record;
pub mod size;
pub mod topology;

pub use capability::{Access, AccessMode, Capability};
pub use id::{Key, Name, SnapshotId, VolumeId};
pub use parameters::{Class, Layout, LimitMode, Owner, Provisioning};
pub use record::{Shape, SnapshotRecord, Source, VolumeRecord};
pub use size::CapacityRange;
pub use topology::NodeName;
