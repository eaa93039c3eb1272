//! CreateVolume on a share.

use super::{At, OnShare, Shares, SnapshotOnShare};
use crate::{
    error::{Error, Result},
    service::{SourceRequest, Volume},
    share::store::{NewVolume, OnDelete, Place, VolumeRecord},
    volume::{
        Access, Capability, CapacityRange, Key, Name, Source,
        capability::AccessType,
        nfs::{self, Class, Context, Settings, VolumeId, Wish},
    },
};

/// A CreateVolume request for a class with server and share. It has no `Debug`: it holds mount options.
pub struct CreateOnShare {
    /// The CO's name.
    pub name: Name,
    /// How large.
    pub range: CapacityRange,
    /// At least one.
    pub capabilities: Vec<Capability>,
    /// The StorageClass's parameters.
    pub class: Class,
    /// First content.
    pub source: Option<SourceRequest>,
    /// The mount options in the secrets.
    pub secrets: Settings,
}

/// What a new volume is made of.
struct Origin {
    source: Source,
    size_bytes: u64,
    asked_bytes: u64,
}

impl Shares {
    /// Makes the volume, or finds the one that an earlier call of the same name made.
    pub fn create_volume(&self, request: &CreateOnShare) -> Result<Volume> {
        let key = Key::of(&request.name);
        check_capabilities(&request.capabilities)?;
        let wish = request.class.wish(key)?;
        let settings = settings(request)?;
        let connection = settings.clone().resolve()?.connection().clone();
        connection.check_server(&wish.share.server)?;
        let id = VolumeId { key, share: wish.share.clone(), connection: connection.clone() };
        id.check_length()?;
        let at = At { share: wish.share.clone(), connection }.with(&request.secrets)?;
        let origin =
            request.source.as_ref().map(|source| self.origin(request, key, source, &at)).transpose()?;
        let wanted = new_volume(request, &wish, &id, origin.as_ref())?;
        let made = self.remote.create_volume(&self.uses(&at), wanted);
        let record = self.janitor.made(&at, made)?;
        check_size(request, &record)?;
        Ok(Volume { source: request.source.clone(), ..answer(record) })
    }

    /// Whatever has become of its source since, a volume that exists is the answer; the store compares the rest.
    fn origin(&self, request: &CreateOnShare, key: Key, asked: &SourceRequest, at: &At) -> Result<Origin> {
        let source = source_on_share(asked, at)?;
        match self.remote.volume(&self.uses(at), key)? {
            Some(made) => {
                check_size(request, &made)?;
                Ok(Origin { source, size_bytes: made.size_bytes, asked_bytes: 0 })
            }
            None => self.find_source(source, asked, at),
        }
    }

    fn find_source(&self, source: Source, asked: &SourceRequest, at: &At) -> Result<Origin> {
        match source {
            Source::Volume(key) => {
                let record = self.remote.volume(&self.uses(at), key)?.ok_or_else(|| unknown(asked))?;
                Ok(Origin { source, asked_bytes: record.asked_size(), size_bytes: record.size_bytes })
            }
            Source::Snapshot(key) => {
                let record = self.remote.snapshot(&self.uses(at), key)?.ok_or_else(|| unknown(asked))?;
                Ok(Origin { source, asked_bytes: record.asked_bytes, size_bytes: record.asked_bytes })
            }
        }
    }
}

fn check_size(request: &CreateOnShare, record: &VolumeRecord) -> Result<()> {
    if request.range.admits(record.size_bytes) {
        return Ok(());
    }
    Err(Error::Incompatible(format!(
        "a volume of this name exists with another size ({} bytes): delete {} first, or use another name",
        record.size_bytes, record.id
    )))
}

fn unknown(source: &SourceRequest) -> Error {
    let (what, id) = match source {
        SourceRequest::Volume(id) => ("volume", id),
        SourceRequest::Snapshot(id) => ("snapshot", id),
    };
    Error::NotFound(format!("source {what} {id:?} does not exist"))
}

/// A source lies on the share of the new volume: nothing is copied from one server to another.
fn source_on_share(source: &SourceRequest, at: &At) -> Result<Source> {
    match source {
        SourceRequest::Volume(id) => match OnShare::parse(id) {
            Some(OnShare::Volume(found)) => {
                check_share("volume", id, &found.share, at)?;
                Ok(Source::Volume(found.key))
            }
            Some(OnShare::Legacy(_)) => Err(refuse_legacy("volume", id)),
            None => Err(elsewhere_or("volume", id, || unknown(source))),
        },
        SourceRequest::Snapshot(id) => match SnapshotOnShare::parse(id) {
            Some(SnapshotOnShare::Snapshot(found)) => {
                check_share("snapshot", id, &found.share, at)?;
                Ok(Source::Snapshot(found.key))
            }
            Some(SnapshotOnShare::Legacy(_)) => Err(refuse_legacy("snapshot", id)),
            None => Err(elsewhere_or("snapshot", id, || unknown(source))),
        },
    }
}

/// Local ones are refused by name; anything else exists nowhere.
fn elsewhere_or(what: &str, id: &str, unknown: impl Fn() -> Error) -> Error {
    match super::key_of(id).is_some() || crate::volume::SnapshotId::parse(id).is_some() {
        true => Error::Invalid(format!(
            "source {what} {id:?} is a local one, and its content cannot become an NFS volume: use its own class"
        )),
        false => unknown(),
    }
}

fn refuse_legacy(what: &str, id: &str) -> Error {
    Error::Refused(format!(
        "source {what} {id:?} was made by csi-driver-nfs and has no record on its share: only volumes and snapshots \
         of this driver can be copied"
    ))
}

fn check_share(what: &str, id: &str, found: &nfs::Share, at: &At) -> Result<()> {
    if *found == at.share {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "source {what} {id:?} lies on {found}, and the class asks for {at}: a copy stays on its share"
    )))
}

/// Any mode; the filesystem that a capability names is the provisioner's default for all classes.
fn check_capabilities(capabilities: &[Capability]) -> Result<()> {
    if capabilities.is_empty() {
        return Err(Error::Invalid("volume_capabilities is missing".into()));
    }
    capabilities.iter().try_for_each(check_capability)
}

/// Refuses what no share can do.
pub fn check_capability(capability: &Capability) -> Result<()> {
    if capability.access() == Access::Block {
        return Err(Error::Invalid(
            "an NFS volume is a directory and cannot be a raw block device: use volumeMode Filesystem, or a local class"
                .into(),
        ));
    }
    flags(capability)?.resolve().map(drop)
}

pub(super) fn flags(capability: &Capability) -> Result<Settings> {
    match &capability.access {
        AccessType::Mount { flags, .. } => Settings::parse(flags),
        AccessType::Block => Ok(Settings::default()),
    }
}

/// The class's mountOptions come with every capability; its parameter of that name is stronger.
fn settings(request: &CreateOnShare) -> Result<Settings> {
    let mut settings = Settings::default();
    for capability in &request.capabilities {
        settings = settings.overridden_by(flags(capability)?);
    }
    Ok(settings.overridden_by(request.class.options.clone()))
}

fn new_volume(
    request: &CreateOnShare,
    wish: &Wish,
    id: &VolumeId,
    origin: Option<&Origin>,
) -> Result<NewVolume> {
    let size_bytes = request.range.choose(None, origin.map_or(0, |origin| origin.size_bytes))?;
    if let Some(origin) = origin.filter(|origin| size_bytes < origin.asked_bytes) {
        return Err(Error::OutOfRange(format!(
            "the source has {} bytes, and a copy cannot be smaller: ask for at least that",
            origin.asked_bytes
        )));
    }
    let context = Context {
        share: wish.share.clone(),
        directory: Some(wish.directory.clone()),
        options: request.class.options.clone(),
        fileid: None,
        // With `retain` several volumes may have one directory.
        exclusive: wish.on_delete != nfs::OnDelete::Retain,
    };
    Ok(NewVolume {
        name: request.name.as_str().to_owned(),
        key: id.key,
        id: id.to_string(),
        root: Place::new(wish.directory.components().map(str::to_owned).collect())?,
        on_delete: on_delete(wish.on_delete),
        owner: wish.owner,
        source: origin.map(|origin| origin.source),
        required_bytes: match request.range.required {
            0 => origin.map_or(0, |origin| origin.asked_bytes),
            required => required,
        },
        size_bytes,
        context: context.entries(),
    })
}

pub(super) fn on_delete(class: nfs::OnDelete) -> OnDelete {
    match class {
        nfs::OnDelete::Delete => OnDelete::Delete,
        nfs::OnDelete::Retain => OnDelete::Retain,
        nfs::OnDelete::Archive => OnDelete::Archive,
    }
}

fn answer(record: VolumeRecord) -> Volume {
    record.into()
}
