//! NodePublishVolume and NodeUnpublishVolume of volumes on shares.

use super::{
    At, Node, Place, is_stale,
    mounting::{Wanted, check_attributes, flags},
};
use crate::{
    error::{Error, Result},
    failpoint,
    os::mount::Attributes,
    service::{
        publish::{Publish, Unpublish, is_subpath, remove_target},
        stage::occupied,
        target::{ensure_dir, remove_place},
    },
    share::{Binding, Looked, Unmounting},
    volume::nfs::{Context, Settings},
};
use std::path::Path;

/// How often a mount that the server has dropped is made anew in one request.
const REPAIRS: usize = 1;

/// A request, with its fields proven.
struct Order<'a> {
    request: &'a Publish,
    staging: &'a Path,
    target: &'a Path,
    attributes: Attributes,
    /// `None`: the request had no context.
    wanted: Option<Wanted>,
}

impl Node {
    /// Binds the staged volume at the target, or finds it there as asked. It never stages: after a reboot the answer
    /// is FAILED_PRECONDITION. Only what the server has dropped since is mounted anew.
    pub(in crate::service) fn publish(&self, request: &Publish, context: Option<&Context>) -> Result<()> {
        let target = request.target.required_absolute("target_path")?;
        let read_only = request.read_only || request.capability.mode.is_read_only();
        let wanted = context
            .map(|context| Wanted::new(context, &request.capability, &request.secret_options))
            .transpose()?;
        let attributes = match &wanted {
            Some(wanted) => wanted.options.attributes(read_only),
            None => Settings::parse(flags(&request.capability)?)?.resolve()?.attributes(read_only),
        };
        let staging = request.staging.as_ref().ok_or_else(|| not_staged(request))?;
        let staging = staging.required_absolute("staging_target_path")?;
        let order = Order { request, staging, target, attributes, wanted };
        let _busy = self.busy(&request.id)?;
        for _ in 0..REPAIRS {
            match self.publish_once(&order) {
                Err(error) if is_stale(&error) => self.repair(&order)?,
                outcome => return outcome,
            }
        }
        self.publish_once(&order)
    }

    fn publish_once(&self, order: &Order<'_>) -> Result<()> {
        let Order { request, staging, target, attributes, wanted } = order;
        let staged = self.staged(order)?;
        // Secrets of Stage and of Publish are different ones: what was asked for there holds here, too.
        let attributes = Attributes {
            noexec: attributes.noexec || staged.mount.has("noexec"),
            noatime: attributes.noatime || staged.mount.has("noatime"),
            ..*attributes
        };
        if staged.mount.has("ro") && !attributes.read_only {
            return Err(Error::Refused(format!(
                "the volume is staged read-only at {}: publish it read-only, or stage it again",
                staging.display()
            )));
        }
        match Place::at(target)? {
            At::Nothing => {}
            At::Share(place) if place.mount.source == staged.mount.source => {
                check_attributes(&place, attributes)?;
                return match self.children.root(&place.server(), target)? {
                    Looked::Answer(_) => Ok(()),
                    Looked::Stuck => Err(super::silent(&place)),
                };
            }
            At::Share(_) | At::Other => return Err(occupied(target)),
        }
        if !request.capability.mode.allows_many_targets() {
            refuse_second(&request.id, &staged, target)?;
        }
        ensure_dir(target)?;
        failpoint!("share-node.place-made");
        let binding = Binding {
            source: (*staging).to_owned(),
            target: (*target).to_owned(),
            attributes,
            fileid: wanted.as_ref().and_then(|wanted| wanted.fileid),
        };
        let bound = self.children.bind(&staged.server(), binding);
        failpoint!("share-node.bound");
        let proven = bound.and_then(|_| match Place::at(target)? {
            At::Share(place) if place.mount.source == staged.mount.source => {
                check_attributes(&place, attributes)
            }
            _ => Err(Error::Busy(format!(
                "{} is not the mount that was just made; try again",
                target.display()
            ))),
        });
        proven.or_else(|error| self.undo(&staged, target, error))
    }

    /// What is mounted at the staging path, if it is this volume.
    fn staged(&self, order: &Order<'_>) -> Result<Box<Place>> {
        let At::Share(place) = Place::at(order.staging)? else { return Err(not_staged(order.request)) };
        let ours = match &order.wanted {
            Some(wanted) => self.is_of(&place, wanted)?,
            None => place.may_be(&order.request.id),
        };
        if ours { Ok(place) } else { Err(not_staged(order.request)) }
    }

    /// A target that the server has dropped goes, and a staging mount is made anew. Other pods keep what they have.
    fn repair(&self, order: &Order<'_>) -> Result<()> {
        let id = &order.request.id;
        if let At::Share(place) = Place::at(order.target)? {
            self.take_stale_away(id, &place)?;
        }
        let staged = self.staged(order)?;
        match self.children.root(&staged.server(), order.staging) {
            Ok(Looked::Answer(_)) => return Ok(()),
            Ok(Looked::Stuck) => return Err(super::silent(&staged)),
            Err(error) if is_stale(&error) => {}
            Err(error) => return Err(error),
        }
        let Some(wanted) = &order.wanted else {
            return Err(Error::Refused(format!(
                "the server no longer has what is staged at {}: stage volume {id:?} again",
                order.staging.display()
            )));
        };
        // It is staged read-only only where the access mode says so.
        let attributes = wanted.options.attributes(order.request.capability.mode.is_read_only());
        self.mount_and_prove(id, wanted, order.staging, attributes, Some(&staged))
    }

    /// A final error is only given when nothing of the attempt is left (design invariant 6).
    fn undo<T>(&self, staged: &Place, target: &Path, error: Error) -> Result<T> {
        let undone = match Place::at(target) {
            Ok(At::Share(place)) if place.mount.source == staged.mount.source => {
                self.children.unmount(&place.server(), &Unmounting::of(target, false)).map(drop)
            }
            other => other.map(drop),
        };
        match undone.and_then(|()| remove_place(target)) {
            Ok(()) => Err(error),
            Err(left) => {
                Err(Error::Busy(format!("{}; and it could not be undone: {}", error.chain(), left.chain())))
            }
        }
    }

    /// Undoes Publish: every mount of this volume at the target, then what was made to mount on.
    pub(in crate::service) fn unpublish(&self, request: &Unpublish) -> Result<()> {
        let stranger =
            || Error::NotFound(format!("volume {:?} is not published at {}", request.id, request.target));
        let target = request.target.absolute().ok_or_else(stranger)?;
        let _busy = self.busy(&request.id)?;
        let mut was_ours = false;
        while let Some(place) = self.ours(&request.id, &request.target, stranger)? {
            // Never by force: the staged mount has the same superblock.
            let way = self.children.unmount(&place.server(), &Unmounting::of(target, false))?;
            self.notes.unmounted(&request.id, &place, way);
            was_ours = true;
            failpoint!("share-node.unpublished");
        }
        remove_target(target, was_ours)?;
        failpoint!("share-node.place-removed");
        Ok(())
    }
}

fn not_staged(request: &Publish) -> Error {
    Error::Refused(format!("volume {:?} is not staged on this node: stage it first", request.id))
}

/// CSI 1.13, NodePublishVolume: modes that allow one publication refuse a second target path. Nothing is mounted at the
/// target.
fn refuse_second(id: &str, staged: &Place, target: &Path) -> Result<()> {
    let elsewhere = staged.copies()?.into_iter().find(|mount| !is_subpath(&mount.point));
    match elsewhere {
        Some(mount) => Err(Error::Refused(format!(
            "volume {id:?} is already published at {} and its access mode allows one target, which cannot be {} too: \
             unpublish it there first, or use a MULTI_NODE or SINGLE_NODE_MULTI_WRITER mode",
            mount.point.display(),
            target.display()
        ))),
        None => Ok(()),
    }
}
