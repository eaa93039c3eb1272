//! What is mounted at a path, from mountinfo alone.

use crate::{
    error::{Doing as _, Result},
    os::{
        mountinfo::{self, Mount},
        nfs::{FILESYSTEMS, resolve},
    },
    volume::nfs::{AnyVolumeId, Server, Share},
};
use std::{net::IpAddr, path::Path, time::Duration};

/// For a server's name, when the kernel calls the server by another one.
const RESOLVING: Duration = Duration::from_secs(2);

/// What is at a path.
pub(super) enum At {
    /// No mount.
    Nothing,
    /// A share, or a directory of one.
    Share(Box<Place>),
    /// Another filesystem.
    Other,
}

/// Whether a place is what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    Same,
    Other,
    /// The kernel calls it otherwise, and it may still be the same.
    Unclear,
}

/// A share that is mounted at a path.
pub(super) struct Place {
    pub(super) mount: Mount,
    /// What is mounted; `None`: a source that no mount of this driver has.
    share: Option<Share>,
}

impl Place {
    pub(super) fn at(path: &Path) -> Result<At> {
        let mount = mountinfo::named(path).doing(|| format!("looking at {}", path.display()))?;
        Ok(match mount {
            None => At::Nothing,
            Some(mount) => Self::of(mount).map_or(At::Other, |place| At::Share(Box::new(place))),
        })
    }

    /// `None`: no share.
    pub(super) fn of(mount: Mount) -> Option<Self> {
        let share = Share::parse(&mount.source).ok();
        FILESYSTEMS.contains(&mount.fstype.as_str()).then_some(Self { mount, share })
    }

    /// Children are counted by this name.
    pub(super) fn server(&self) -> String {
        match &self.share {
            Some(share) => share.server.to_string(),
            None => self.mount.source.clone(),
        }
    }

    /// Whether it is the same directory of the same server.
    pub(super) fn identity(&self, wanted: &Share) -> Identity {
        let named = |share: &Share| {
            share.path == wanted.path
                && (share.server == wanted.server || self.has_address_of(&wanted.server))
        };
        if self.share.as_ref().is_some_and(named) {
            Identity::Same
        } else if self.may_be_called_otherwise() {
            Identity::Unclear
        } else {
            Identity::Other
        }
    }

    /// Where the kernel shares a superblock, it goes on calling server and path as they were called first: a server of
    /// version 4 that is reached by two addresses is one for it (RFC 8881, 2.10.5: trunking), and so is a filesystem
    /// that is exported twice.
    fn may_be_called_otherwise(&self) -> bool {
        self.mount.fstype == "nfs4" && !self.has_own_superblock()
    }

    fn has_address_of(&self, server: &Server) -> bool {
        let Some(mine) = self.address() else { return false };
        let found = resolve(&server.to_string(), 0, RESOLVING);
        found.is_ok_and(|all| all.iter().any(|address| address.ip() == mine))
    }

    fn address(&self) -> Option<IpAddr> {
        let mut options = self.mount.super_options.split(',');
        options.find_map(|option| option.strip_prefix("addr="))?.parse().ok()
    }

    /// What this driver's own ids say about a volume must be true of this mount, as far as the kernel tells. Handles of
    /// people say nothing, nor do those of csi-driver-nfs, of which only volume attributes count on a node; and a name
    /// is not looked up, for a volume has to go also when nobody answers.
    pub(super) fn may_be(&self, id: &str) -> bool {
        let share = match AnyVolumeId::parse(id) {
            None | Some(AnyVolumeId::Legacy(_)) => return true,
            Some(AnyVolumeId::Local(_)) => return false,
            Some(AnyVolumeId::Nfs(id)) => id.share,
        };
        if self.may_be_called_otherwise() {
            return true;
        }
        let Some(mine) = &self.share else { return false };
        let same_server = share
            .server
            .address()
            .is_none_or(|address| mine.server == share.server || self.address() == Some(address));
        let below = mine.path.as_str().strip_prefix(share.path.as_str().trim_end_matches('/'));
        same_server && below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// It shares no cache with another mount, and can be forced without harm to another volume.
    pub(super) fn has_own_superblock(&self) -> bool {
        self.mount.super_options.split(',').any(|option| option == "nosharecache")
    }

    /// The other mounts of the same directory that came from the same one.
    pub(super) fn copies(&self) -> Result<Vec<Mount>> {
        let doing = || format!("looking for other mounts of {}", self.mount.source);
        let mut all = mountinfo::of_device(self.mount.device).doing(doing)?;
        // Two volumes of one directory may share a superblock; binds are in their source's group where mounts are
        // propagated.
        let group = group_of(&self.mount).filter(|_| !self.has_own_superblock());
        all.retain(|mount| {
            mount.id != self.mount.id
                && mount.source == self.mount.source
                && group.is_none_or(|group| group_of(mount) == Some(group))
        });
        Ok(all)
    }

    /// No other mount in this namespace has its superblock.
    pub(super) fn is_alone(&self) -> Result<bool> {
        let doing = || format!("looking for other mounts of {}", self.mount.source);
        Ok(mountinfo::of_device(self.mount.device).doing(doing)?.len() == 1)
    }
}

/// The group among which mounts are propagated.
fn group_of(mount: &Mount) -> Option<&str> {
    mount.propagation.split(' ').find_map(|field| field.strip_prefix("shared:"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::path::PathBuf;

    fn place(source: &str, super_options: &str) -> Place {
        Place::of(Mount {
            id: 1,
            device: 2,
            root: PathBuf::from("/"),
            point: PathBuf::from("/p"),
            options: "rw".into(),
            fstype: "nfs4".into(),
            source: source.into(),
            super_options: super_options.into(),
            propagation: "shared:7 master:3".into(),
        })
        .unwrap()
    }

    fn of_version_3(mut place: Place) -> Place {
        place.mount.fstype = "nfs".into();
        place
    }

    #[test]
    fn a_mount_is_recognised_by_its_source() {
        let mounted = || place("192.0.2.1:/data/a", "rw,addr=192.0.2.1");
        let own = place("192.0.2.1:/data/a", "rw,nosharecache,addr=192.0.2.1");
        assert!(own.has_own_superblock() && !mounted().has_own_superblock());
        for (wanted, same) in [
            ("192.0.2.1:/data/a", true),
            ("192.0.2.1:/data/b", false),
            ("192.0.2.2:/data/a", false),
            ("[fd00::1]:/data/a", false),
        ] {
            let wanted = Share::parse(wanted).unwrap();
            let exactly = if same { Identity::Same } else { Identity::Other };
            assert_eq!(own.identity(&wanted), exactly, "{wanted}");
            assert_eq!(of_version_3(mounted()).identity(&wanted), exactly, "{wanted}");
            let roughly = if same { Identity::Same } else { Identity::Unclear };
            assert_eq!(mounted().identity(&wanted), roughly, "{wanted}");
        }
        assert_eq!(group_of(&own.mount), Some("7"));
        let named = place("nas:/data/a", "rw,addr=192.0.2.1");
        let address = Share::parse("192.0.2.1:/data/a").unwrap();
        assert_eq!(named.identity(&address), Identity::Same, "the kernel has heard the name first");
        assert_eq!(place("[fd00::1]:/data", "rw").server(), "fd00::1");
        assert_eq!(place("odd", "rw").server(), "odd");
    }

    #[test]
    fn an_id_must_not_say_otherwise() {
        let shared = || place("nas:/data/pvc-1", "rw,addr=192.0.2.1");
        let own = place("nas:/data/pvc-1", "rw,nosharecache,addr=192.0.2.1");
        let ours = |share: &str| format!("nfs-b5YZ_4uG0BG0LQDAT8lk_w#{share}");
        for (id, exactly) in [
            (ours("nas#/data"), true),
            (ours("other#/data"), true),
            (ours("192.0.2.1#/data"), true),
            (ours("192.0.2.2#/data"), false),
            (ours("nas#/"), true),
            (ours("nas#/dat"), false),
            (ours("nas#/else"), false),
            ("a handle".into(), true),
            ("nas#data#pvc-1#x#".into(), true),
            ("old-nas#olddata#pvc-1#x#".into(), true),
            ("local-6f9619ff-8b86-d011-b42d-00c04fc964ff.n".into(), false),
        ] {
            assert_eq!(own.may_be(&id), exactly, "{id}");
            assert_eq!(of_version_3(shared()).may_be(&id), exactly, "{id}");
            assert_eq!(
                shared().may_be(&id),
                !id.starts_with("local"),
                "{id}: the kernel may call it otherwise"
            );
        }
    }
}
