//! NodeStageVolume and NodeUnstageVolume of volumes on shares.

use super::{
    At, Node, Place, is_stale,
    mounting::{Wanted, check_attributes, differs},
    place::Identity,
    silent,
};
use crate::{
    error::{Doing as _, Error, Result},
    failpoint,
    os::{file, mount::Attributes, mountinfo},
    service::{
        stage::{Stage, Unstage, occupied},
        target::TargetPath,
    },
    share::{Looked, Staged, Unmounting},
    volume::nfs::Context,
};
use std::path::Path;

impl Node {
    /// Mounts the volume's own directory, or finds it mounted there as asked. What is mounted there and is gone from the
    /// server is mounted anew: nobody can use it.
    pub(in crate::service) fn stage(&self, request: &Stage, context: &Context) -> Result<()> {
        let staging = request.staging.required_absolute("staging_target_path")?;
        let wanted = Wanted::new(context, &request.capability, &request.secret_options)?;
        let attributes = wanted.options.attributes(request.capability.mode.is_read_only());
        let _busy = self.busy(&request.id)?;
        let stale = match Place::at(staging)? {
            At::Other => return Err(occupied(staging)),
            At::Share(place) if self.is_good(&place, &wanted, attributes)? => return Ok(()),
            At::Share(place) => Some(place),
            At::Nothing => {
                require_directory(staging)?;
                None
            }
        };
        self.refuse_second_place(&wanted, staging)?;
        self.mount_and_prove(&request.id, &wanted, staging, attributes, stale.as_deref())?;
        self.notes.forget(&request.id);
        Ok(())
    }

    /// What is stale goes only when the new mount is there to take its place: nobody stages what Publish finds missing.
    pub(super) fn mount_and_prove(
        &self,
        id: &str,
        wanted: &Wanted,
        staging: &Path,
        attributes: Attributes,
        stale: Option<&Place>,
    ) -> Result<()> {
        if stale.is_some() {
            tell_stale(id, staging);
        }
        let staged = self.mount(wanted, staging, attributes, stale.map(|place| place.mount.id))?;
        failpoint!("share-node.mounted");
        self.prove(id, staged, staging, attributes)
    }

    /// Whether what is mounted at the staging path will do; `false`: the server no longer has it.
    fn is_good(&self, place: &Place, wanted: &Wanted, attributes: Attributes) -> Result<bool> {
        let point = &place.mount.point;
        if !self.is_of(place, wanted)? {
            return Err(occupied(point));
        }
        check_attributes(place, attributes)?;
        let own = place.has_own_superblock();
        if let Some(option) = wanted.options.differ_from(&place.mount.super_options, own) {
            return Err(differs(place, option));
        }
        match self.children.root(&place.server(), point) {
            Ok(Looked::Answer(found)) if wanted.fileid.is_none_or(|fileid| fileid == found) => Ok(true),
            Ok(Looked::Answer(found)) => Err(Error::Refused(format!(
                "what is mounted at {} is not the volume (its root is inode {found}): unmount it there first",
                point.display()
            ))),
            Ok(Looked::Stuck) => Err(silent(place)),
            Err(error) if is_stale(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The server has no longer what is mounted there, so whatever uses it fails already.
    pub(super) fn take_stale_away(&self, id: &str, place: &Place) -> Result<()> {
        let point = &place.mount.point;
        tell_stale(id, point);
        let way = self.children.unmount(&place.server(), &Unmounting::of(point, false))?;
        self.notes.unmounted(id, place, way);
        failpoint!("share-node.stale-unmounted");
        Ok(())
    }

    /// Two caches of an exclusive volume's files would say different things.
    fn refuse_second_place(&self, wanted: &Wanted, staging: &Path) -> Result<()> {
        if !wanted.exclusive {
            return Ok(());
        }
        let all = mountinfo::read().doing(|| format!("looking for mounts of {}", wanted.source))?;
        let places = all.into_iter().filter_map(Place::of);
        let same =
            |place: &Place| place.has_own_superblock() && place.identity(&wanted.source) == Identity::Same;
        for place in places.filter(same) {
            let point = &place.mount.point;
            // What is left of a mount that was stale is nobody's.
            let gone = self.children.root(&place.server(), point).is_err_and(|error| is_stale(&error));
            if !gone {
                return Err(Error::Refused(format!(
                    "the volume is already mounted at {}, and cannot be staged at {}: end that first",
                    point.display(),
                    staging.display()
                )));
            }
        }
        Ok(())
    }

    /// The postcondition; where it fails, the mount that was just made goes again.
    fn prove(&self, id: &str, staged: Staged, staging: &Path, attributes: Attributes) -> Result<()> {
        let place = match Place::at(staging)? {
            At::Share(place) if place.mount.id == staged.id => place,
            _ => {
                return Err(Error::Busy(format!(
                    "{} is not the mount that was just made; try again",
                    staging.display()
                )));
            }
        };
        // Nobody could take it away again.
        let is_named = place.may_be(id).then_some(()).ok_or_else(|| {
            Error::Refused(format!(
                "volume {id:?} is not on {}, which its volume context names: correct the one or the other",
                place.mount.source
            ))
        });
        is_named.and_then(|()| check_attributes(&place, attributes)).map_err(|error| {
            match self.children.unmount(&place.server(), &Unmounting::of(staging, false)) {
                Ok(_) => error,
                Err(left) => {
                    Error::Busy(format!("{}; and it could not be undone: {}", error.chain(), left.chain()))
                }
            }
        })
    }

    /// Undoes Stage. What is absent or no mount is done; what is not ours is NOT_FOUND.
    pub(in crate::service) fn unstage(&self, request: &Unstage) -> Result<()> {
        let stranger =
            || Error::NotFound(format!("volume {:?} is not staged at {}", request.id, request.staging));
        let staging = request.staging.absolute().ok_or_else(stranger)?;
        let _busy = self.busy(&request.id)?;
        while let Some(place) = self.ours(&request.id, &request.staging, stranger)? {
            // Alone on its superblock: no other volume, and no pod of this node, loses anything.
            let force = place.has_own_superblock() && place.is_alone()?;
            let silent = force && self.is_silent(&place);
            let unmounting = Unmounting { silent, ..Unmounting::of(staging, force) };
            let way = self.children.unmount(&place.server(), &unmounting)?;
            failpoint!("share-node.unstaged");
            self.notes.unmounted(&request.id, &place, way);
        }
        self.last.forget(&request.id);
        Ok(())
    }

    fn is_silent(&self, place: &Place) -> bool {
        matches!(self.children.figures(&place.server(), &place.mount.point), Ok(Looked::Stuck))
    }

    /// The share on top at a path; an error if something else is there.
    pub(super) fn ours(
        &self,
        id: &str,
        path: &TargetPath,
        stranger: impl Fn() -> Error,
    ) -> Result<Option<Box<Place>>> {
        match Place::at(path.as_path())? {
            At::Nothing => Ok(None),
            At::Share(place) if place.may_be(id) => Ok(Some(place)),
            At::Share(_) | At::Other => Err(stranger()),
        }
    }
}

fn tell_stale(id: &str, path: &Path) {
    tracing::warn!(volume = id, path = %path.display(), "the server no longer has what is mounted: it is mounted anew");
}

fn require_directory(staging: &Path) -> Result<()> {
    let there = file::stat(staging).doing(|| format!("looking at {}", staging.display()))?;
    if there.is_some_and(|there| there.is_dir) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "staging_target_path {} is no directory; the orchestrator has to create it",
        staging.display()
    )))
}
