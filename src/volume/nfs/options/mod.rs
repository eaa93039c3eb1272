//! Mount options of NFS volumes: an allow-list with typed values.
//!
//! `Settings` are what somebody wrote, in a class, a PV, a secret or an id; they are merged with
//! `overridden_by` and become `Options` by `resolve`, which proves that they go together. `Connection` is the
//! part that decides how the server is reached: it stands in ids and may be printed; nothing else may.

mod connection;
mod rules;
mod settings;
#[cfg(test)]
mod tests;

pub use connection::{Connection, Family, Flavor, MountProto, Proto, Tls, Version};
pub use settings::Settings;

use crate::{error::Result, os::mount::Attributes};
use rules::Slot;
use std::net::IpAddr;

/// Tenths of seconds (NFS_MAX_TCP_TIMEOUT of linux/nfs_fs.h).
const LONGEST_TIMEO: u64 = 6000;

/// Options that go together, ready for mount(2).
///
/// It has no `Debug`: mount flags may be sensitive.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    connection: Connection,
    settings: Settings,
}

impl Options {
    /// How the server is reached.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Restrictions of the mount: nosuid unless `suid` was asked for, nodev always (design invariant 9).
    pub fn attributes(&self, read_only: bool) -> Attributes {
        Attributes {
            read_only: read_only || self.is_read_only(),
            nosuid: self.settings.word(Slot::Suid) != Some("suid"),
            nodev: true,
            noexec: self.settings.word(Slot::Exec) == Some("noexec"),
            noatime: self.settings.word(Slot::AccessTime) == Some("noatime"),
        }
    }

    /// `ro` was asked for.
    pub fn is_read_only(&self) -> bool {
        self.settings.word(Slot::ReadOnly) == Some("ro")
    }

    /// Whether a mount with this data of its superblock, as mountinfo shows it, is one that these options ask for. Where
    /// it is not: an option that differs. What the server or an earlier mount has decided is no difference.
    pub fn differ_from(&self, shown: &str, own_superblock: bool) -> Option<&'static str> {
        // The kernel knows one of these by another name and caps the other one.
        let is = |wanted: &str| {
            let long = wanted
                .strip_prefix("timeo=")
                .and_then(|text| text.parse().ok())
                .is_some_and(|it: u64| it > LONGEST_TIMEO);
            let name = if long {
                "timeo=6000"
            } else if wanted == "sec=none" {
                "sec=null"
            } else {
                wanted
            };
            shown.split(',').any(|option| option == name || option == wanted)
        };
        let differs = |slot: &Slot| match slot {
            Slot::Version => self.connection.version.is_some_and(|version| !is(&format!("vers={version}"))),
            // Of several flavours one was chosen.
            Slot::Security if self.connection.security.len() == 1 => {
                !self.settings.texts(|each| each == *slot).all(|text| is(&text))
            }
            Slot::Recovery => !self.settings.texts(|each| each == *slot).all(|text| is(&text)),
            Slot::Timeo | Slot::Retrans if own_superblock => {
                !self.settings.texts(|each| each == *slot).all(|text| is(&text))
            }
            _ => false,
        };
        let slots = [Slot::Version, Slot::Security, Slot::Recovery, Slot::Timeo, Slot::Retrans];
        let slot = slots.into_iter().find(differs)?;
        Some(self.settings.name(slot).unwrap_or("vers"))
    }

    /// mount(2)'s data for one version and one address of the server. With `own_superblock` the mount shares
    /// no cache with another one, and can be forced alone; otherwise as the options say.
    pub fn data(&self, version: Version, address: IpAddr, own_superblock: bool) -> Result<String> {
        let mut data = vec![self.connection.data(version, address)?];
        let said = |slot: Slot| match slot {
            // Only version 3 knows these.
            Slot::Acl => version == Version::V3,
            Slot::Sharecache => !own_superblock,
            _ => slot.is_kernels_text(),
        };
        data.extend(self.settings.texts(said));
        data.extend(own_superblock.then(|| "nosharecache".to_owned()));
        Ok(data.join(","))
    }
}
