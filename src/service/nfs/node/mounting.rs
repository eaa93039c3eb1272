//! What a node is asked to mount, and the mounting of it.

use super::{
    Node,
    place::{Identity, Place},
};
use crate::{
    error::{Error, Result},
    os::mount::Attributes,
    share::{Looked, Staged, Staging, client::find, wire::What},
    volume::{
        Access, Capability,
        capability::AccessType,
        nfs::{Context, Directory, Options, Settings, Share, Version},
    },
};
use std::path::{Path, PathBuf};

/// A volume as Stage and Publish are told of it.
///
/// It has no `Debug`: mount options may be sensitive.
pub(super) struct Wanted {
    /// The directory itself, as mountinfo will show it.
    pub(super) source: Share,
    share: Share,
    directory: Option<Directory>,
    pub(super) options: Options,
    pub(super) fileid: Option<u64>,
    pub(super) exclusive: bool,
}

impl Wanted {
    /// Of a capability's options, those of the context and those of the secrets the later ones are stronger.
    pub(super) fn new(context: &Context, capability: &Capability, secrets: &Settings) -> Result<Self> {
        let options = context.settings(flags(capability)?)?.overridden_by(secrets.clone()).resolve()?;
        options.connection().check_server(&context.share.server)?;
        Ok(Self {
            source: context.source()?,
            share: context.share.clone(),
            directory: context.directory.clone(),
            options,
            fileid: context.fileid,
            exclusive: context.exclusive,
        })
    }
}

/// The mount options of a capability. Its filesystem says nothing: what a share lies on is the server's matter, and
/// PVs of other drivers name anything there.
pub(super) fn flags(capability: &Capability) -> Result<&[String]> {
    match &capability.access {
        AccessType::Mount { flags, .. } => Ok(flags),
        AccessType::Block => Err(Error::Refused(format!(
            "a volume on an NFS share is a directory, never {}: use volumeMode Filesystem",
            Access::Block
        ))),
    }
}

/// What two mounts of one volume may differ in.
pub(super) fn check_attributes(place: &Place, wanted: Attributes) -> Result<()> {
    let mount = &place.mount;
    let same = [
        ("ro", wanted.read_only),
        ("nosuid", wanted.nosuid),
        ("noexec", wanted.noexec),
        ("noatime", wanted.noatime),
    ]
    .into_iter()
    .find(|(option, wanted)| mount.has(option) != *wanted);
    same.map_or(Ok(()), |(option, _)| Err(differs(place, option)))
}

/// CSI: mounted incompatibly at that path is ALREADY_EXISTS.
pub(super) fn differs(place: &Place, option: &str) -> Error {
    Error::Incompatible(format!(
        "the volume is already mounted at {} with another value of the mount option {option}: unmount it there first",
        place.mount.point.display()
    ))
}

impl Node {
    /// Mounts on an existing directory. An error leaves there what was, unless it is that no answer came in time.
    pub(super) fn mount(
        &self,
        wanted: &Wanted,
        target: &Path,
        attributes: Attributes,
        instead_of: Option<u64>,
    ) -> Result<Staged> {
        let staging = |what, below: Option<&Directory>| Staging {
            what,
            below: below.map(|directory| PathBuf::from(directory.as_str())).unwrap_or_default(),
            target: target.to_owned(),
            attributes,
            fileid: wanted.fileid,
            instead_of,
        };
        let from = |source: &Share, below| {
            let what = self.what(wanted, source)?;
            self.children.mount(&source.server.to_string(), staging(what, below))
        };
        let refused = match from(&wanted.source, None) {
            // Servers of version 3 may export the share and nothing below it.
            Err(error @ (Error::Forbidden(_) | Error::NotFound(_)))
                if wanted.options.connection().version == Some(Version::V3) =>
            {
                error
            }
            outcome => return outcome,
        };
        let Some(directory) = &wanted.directory else { return Err(refused) };
        from(&wanted.share, Some(directory)).map_err(|error| match &error {
            // It is the directory that is missing, which the first answer names.
            Error::Os { source, .. } if source.is_not_found() => refused,
            Error::Os { source, .. } if source.is_symlink() || source.is_elsewhere() => {
                Error::Refused(format!(
                    "{} leads through a symlink or out of its filesystem: {}",
                    wanted.source,
                    error.chain()
                ))
            }
            _ => error,
        })
    }

    fn what(&self, wanted: &Wanted, source: &Share) -> Result<What> {
        let data = |version, address| wanted.options.data(version, address, wanted.exclusive);
        find(source, wanted.options.connection(), &self.limits, data)
    }

    /// Whether what is mounted at a place is what is wanted. Where names do not tell, the kernel does: it gives the same
    /// filesystem of the same server the same superblock, and there the same inode is the same directory.
    pub(super) fn is_of(&self, place: &Place, wanted: &Wanted) -> Result<bool> {
        match place.identity(&wanted.source) {
            Identity::Same => return Ok(true),
            Identity::Other => return Ok(false),
            Identity::Unclear => {}
        }
        let what = self.what(wanted, &wanted.source)?;
        let found = match self.children.find(&wanted.source.server.to_string(), what)? {
            Looked::Answer(found) if found.device == place.mount.device => found,
            Looked::Answer(_) => return Ok(false),
            Looked::Stuck => return Err(super::silent(place)),
        };
        match self.children.root(&place.server(), &place.mount.point)? {
            Looked::Answer(fileid) => Ok(fileid == found.fileid),
            Looked::Stuck => Err(super::silent(place)),
        }
    }
}
