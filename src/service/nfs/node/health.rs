//! NodeGetVolumeHealth of volumes on shares.

use super::{At, Node, Place, is_stale, silent};
use crate::{
    error::{Doing as _, Error, Result},
    os::file,
    service::health::{Ailment, Health, NodeHealth, Severity},
    share::Looked,
    volume::nfs::AnyVolumeId,
};
use std::path::Path;

impl Node {
    /// What is wrong with a volume in use on this node. A handle that a person has chosen is known by its mounts alone.
    pub(in crate::service) fn health(&self, request: &NodeHealth) -> Result<Health> {
        let mut ailments: Vec<_> = self.notes.of(&request.id).into_iter().collect();
        let mut known = !ailments.is_empty() || AnyVolumeId::parse(&request.id).is_some();
        for path in [&request.staged, &request.published].into_iter().flatten() {
            let Some(path) = path.absolute() else { continue };
            let at = Place::at(path)?;
            known |= matches!(&at, At::Share(place) if place.may_be(&request.id));
            ailments.extend(self.ailment_at(&request.id, path, &at)?);
        }
        if !known {
            return Err(Error::NotFound(format!("volume {:?} does not exist", request.id)));
        }
        ailments.dedup_by(|a, b| a.reason == b.reason);
        Ok(Health { id: request.id.clone(), ailments })
    }

    fn ailment_at(&self, id: &str, path: &Path, at: &At) -> Result<Option<Ailment>> {
        let inaccessible =
            |reason, message| Ok(Some(Ailment { severity: Severity::Inaccessible, reason, message }));
        let place = match at {
            At::Share(place) if place.may_be(id) => place,
            At::Nothing => {
                return match file::stat(path).doing(|| format!("looking at {}", path.display()))? {
                    None => Ok(None),
                    Some(_) => inaccessible(
                        "NotMounted",
                        format!(
                            "{} is no mount: the volume has to be staged and published again",
                            path.display()
                        ),
                    ),
                };
            }
            At::Share(_) | At::Other => {
                return inaccessible(
                    "MountForeign",
                    format!("what is mounted at {} is not this volume's directory", path.display()),
                );
            }
        };
        match self.children.root(&place.server(), &place.mount.point) {
            Ok(Looked::Answer(_)) => Ok(None),
            Ok(Looked::Stuck) => inaccessible("ServerSilent", silent(place).to_string()),
            Err(error) if is_stale(&error) => inaccessible(
                "HandleStale",
                format!(
                    "server {} no longer has what is mounted at {}: end the pods that use it, and it is mounted anew",
                    place.server(),
                    path.display()
                ),
            ),
            // It hangs so much there that no more children are started.
            Err(error @ Error::Unavailable(_)) => inaccessible("ServerSilent", error.chain()),
            Err(error) => inaccessible("Unreadable", error.chain()),
        }
    }
}
