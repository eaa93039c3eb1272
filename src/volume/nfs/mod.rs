//! Values of NFS volumes: servers, shares, directories, mount options, ids. No input or output happens here.

pub mod class;
pub mod context;
pub mod dispatch;
pub mod id;
pub mod legacy;
pub mod options;
pub mod server;
pub mod share;
pub mod subdir;

pub use class::{Class, OnDelete, Wish, is_nfs};
pub use context::Context;
pub use dispatch::{AnySnapshotId, AnyVolumeId};
pub use id::{SnapshotId, VolumeId};
pub use legacy::{LegacySnapshotId, LegacyVolumeId};
pub use options::{Connection, Options, Settings, Version};
pub use server::Server;
pub use share::{ExportPath, Share};
pub use subdir::{Directory, Metadata, Template};
