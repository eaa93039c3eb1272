//! NodePublishVolume and NodeUnpublishVolume: binds of what is staged.

use super::{
    Service, TargetPath,
    detach::Shown,
    device::publish_device,
    known_key,
    stage::{self, check_attributes, occupied},
    target::{ensure_dir, is_mounted, remove_place, staged_device},
};
use crate::{
    backend::{
        attachment::{Found, Located},
        directory,
    },
    error::{Doing, Error, Result},
    failpoint,
    os::{
        file,
        lock::Mode,
        mount::{self, Attributes},
        mountinfo,
    },
    volume::{Access, AccessMode, Capability, Layout, VolumeId, nfs},
};
use std::path::{Path, PathBuf};

/// A NodePublishVolume request. It has no `Debug`: the capability holds mount flags.
pub struct Publish {
    /// As the CO sent it.
    pub id: String,
    /// `None`: the request had none.
    pub staging: Option<TargetPath>,
    /// Where.
    pub target: TargetPath,
    /// How.
    pub capability: Capability,
    /// The `readonly` field.
    pub read_only: bool,
    /// Of a volume on a share; `None`: the request names none.
    pub context: Option<nfs::Context>,
    /// Mount options from the secrets, which are stronger than all others.
    pub secret_options: nfs::Settings,
}

/// A NodeUnpublishVolume request.
#[derive(Clone, Debug)]
pub struct Unpublish {
    /// As the CO sent it.
    pub id: String,
    /// Where.
    pub target: TargetPath,
}

impl Service {
    /// Binds the staged volume at the target, or finds it there as asked. It never stages: after a
    /// reboot the answer is FAILED_PRECONDITION.
    pub fn publish(&self, request: &Publish) -> Result<()> {
        let staging = request.staging.as_ref().and_then(TargetPath::absolute);
        let local = VolumeId::parse(&request.id).is_some();
        if request.context.is_some() || (!local && self.nfs_node.has_staged(&request.id, staging)) {
            return self.nfs_node.publish(request, request.context.as_ref());
        }
        let target = request.target.required_absolute("target_path")?;
        let _lock = self.lock_volume(known_key(&request.id)?, Mode::Exclusive)?;
        let (pool, record) = self.known_volume(&request.id)?;
        stage::check_capability(&request.capability, &record)?;
        let not_staged = || {
            Error::Refused(format!(
                "volume {:?} is not staged on node {}: stage it first",
                request.id, self.node
            ))
        };
        let staging = request.staging.as_ref().ok_or_else(not_staged)?;
        let staging = staging.required_absolute("staging_target_path")?;
        let located = Located { pool: &pool, record: &record };
        let source = match record.shape.access {
            Access::Block => staged_device(staging),
            Access::Mount => staging.to_owned(),
        };
        let staged = if is_mounted(&source)? { located.compare(&source)? } else { Found::Other };
        let read_only = request.read_only || request.capability.mode.is_read_only();
        match staged {
            Found::Root(_) => {
                let attributes = request.capability.options()?.attributes(read_only);
                publish_mount(located, &source, target, attributes, request.capability.mode)
            }
            Found::Device(number) => {
                publish_device(located, number, &source, target, read_only, request.capability.mode)
            }
            _ => Err(not_staged()),
        }
    }

    /// Undoes Publish: every mount of this volume at the target, then what was made to mount on.
    pub fn unpublish(&self, request: &Unpublish) -> Result<()> {
        if self.is_on_share(&request.id, request.target.absolute()) {
            return self.nfs_node.unpublish(request);
        }
        let stranger =
            || Error::NotFound(format!("volume {:?} is not published at {}", request.id, request.target));
        let target = request.target.absolute().ok_or_else(stranger)?;
        let id = VolumeId::parse(&request.id);
        let _lock = id.as_ref().map(|id| self.lock_volume(id.key, Mode::Exclusive)).transpose()?;
        let (mut was_ours, mut shown) = (false, Vec::new());
        while let Some(mount) = self.our_mount(target, id.as_ref(), stranger)? {
            shown.extend(Shown::at(&mount)?);
            stage::unmount(&mount)?;
            was_ours = true;
            failpoint!("unpublish.unmounted");
        }
        remove_target(target, was_ours)?;
        failpoint!("unpublish.removed");
        match id {
            Some(id) => self.clear_published(id.key, &shown),
            None => Ok(()),
        }
    }
}

/// The CO expects the target to be gone. A directory that was no mount of ours and holds something is
/// not ours to remove.
pub(super) fn remove_target(target: &Path, was_ours: bool) -> Result<()> {
    match remove_place(target) {
        Err(Error::Os { source, .. }) if !was_ours && source.is_not_empty() => Err(Error::NotFound(format!(
            "{} is no mount and not empty: nothing of this driver is there",
            target.display()
        ))),
        result => result,
    }
}

fn publish_mount(
    located: Located<'_>,
    source: &Path,
    target: &Path,
    attributes: Attributes,
    mode: AccessMode,
) -> Result<()> {
    refuse_wider(source, attributes)?;
    if is_mounted(target)? {
        return match located.compare(target)? {
            Found::Root(_) => check_attributes(target, attributes),
            _ => Err(occupied(target)),
        };
    }
    if !mode.allows_many_targets() {
        refuse_second(located, source, target, &mounts_of(located, source)?)?;
    }
    ensure_dir(target)?;
    failpoint!("publish.place-made");
    mount::bind(source, target, attributes)
        .doing(|| format!("publishing volume {} at {}", located.record.key, target.display()))
        .or_else(|error| stage::undo(target, error))?;
    failpoint!("publish.bound");
    let proven = located.compare(target).and_then(|found| match found {
        Found::Root(_) => check_attributes(target, attributes),
        _ => Err(Error::Busy(format!("{} is not the mount that was just made; try again", target.display()))),
    });
    proven.or_else(|error| stage::undo(target, error))
}

/// A volume that is staged read-only cannot be published for writing.
fn refuse_wider(source: &Path, wanted: Attributes) -> Result<()> {
    let staged = mountinfo::at(source).doing(|| format!("looking at {}", source.display()))?;
    if staged.is_some_and(|mount| mount.has("ro")) && !wanted.read_only {
        return Err(Error::Refused(format!(
            "the volume is staged read-only at {}: publish it read-only, or stage it again",
            source.display()
        )));
    }
    Ok(())
}

/// CSI 1.13, NodePublishVolume: modes that allow one publication refuse a second target path.
pub(super) fn refuse_second(
    located: Located<'_>,
    staging: &Path,
    target: &Path,
    points: &[PathBuf],
) -> Result<()> {
    // mountinfo shows places with every symlink above them resolved.
    let resolve = |path: &Path| file::canonical(path).unwrap_or_else(|_| path.to_owned());
    let (staging, target) = (resolve(staging), resolve(target));
    let elsewhere = points.iter().find(|point| **point != staging && **point != target && !is_subpath(point));
    match elsewhere {
        Some(point) => Err(Error::Refused(format!(
            "volume {} is already published at {} and its access mode allows one target: unpublish it there first, \
             or use SINGLE_NODE_MULTI_WRITER",
            located.record.id(),
            point.display()
        ))),
        None => Ok(()),
    }
}

/// The kubelet's own binds of `subPath` are no publications.
pub(super) fn is_subpath(point: &Path) -> bool {
    point.components().any(|part| part.as_os_str() == "volume-subpaths")
}

/// Where the volume's root is mounted.
fn mounts_of(located: Located<'_>, source: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("looking for mounts of volume {}", located.record.key);
    if located.record.shape.layout == Layout::Directory {
        let mounts = directory::mounts(located.pool, located.record.key)?;
        return Ok(mounts.into_iter().map(|mount| mount.point).collect());
    }
    let Some(staged) = file::stat(source).doing(doing)? else { return Ok(Vec::new()) };
    let mounts = mountinfo::of_device(staged.inode.device).doing(doing)?;
    Ok(mounts.into_iter().filter(|mount| mount.root == Path::new("/")).map(|mount| mount.point).collect())
}
