//! Paths that the CO gives: where to stage, where to publish.

use crate::{
    error::{Doing, Error, Result},
    os::{file, mountinfo},
    volume::Access,
};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// A staging, target or volume path. Checked for what no path may be; absolute only where it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPath(PathBuf);

/// Linux: PATH_MAX, which CSI asks drivers to accept.
const LONGEST: usize = 4096;
/// Linux: NAME_MAX.
const LONGEST_NAME: usize = 255;

impl TargetPath {
    /// `field` names the request's field.
    pub fn new(field: &str, text: String) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::Invalid(format!("{field} is missing")));
        }
        if text.len() >= LONGEST || text.contains('\0') {
            return Err(Error::Invalid(format!("{field} is no path: it is too long or holds a NUL")));
        }
        if text.split('/').any(|name| name.len() > LONGEST_NAME) {
            return Err(Error::Invalid(format!(
                "{field} is no path: a name in it has more than {LONGEST_NAME} bytes"
            )));
        }
        Ok(Self(text.into()))
    }

    /// As given.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// `None` when it is relative, or goes through `..`: nothing of ours is there.
    pub fn absolute(&self) -> Option<&Path> {
        let climbs = self.0.components().any(|part| part == std::path::Component::ParentDir);
        (self.0.is_absolute() && !climbs).then_some(&self.0)
    }

    /// For Stage and Publish, which make something there.
    pub fn required_absolute(&self, field: &str) -> Result<&Path> {
        self.absolute()
            .ok_or_else(|| Error::Invalid(format!("{field} {self} must be an absolute path without `..`")))
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The file below the staging path that a raw block volume's device is bound to.
pub fn staged_device(staging: &Path) -> PathBuf {
    staging.join("device")
}

/// The mountpoint that `place` means: itself, or for a raw block volume the device below a staging path.
pub fn mounted_place(place: &Path, access: Access) -> Result<Option<PathBuf>> {
    if is_mounted(place)? {
        return Ok(Some(place.to_owned()));
    }
    let device = staged_device(place);
    if access == Access::Block && is_mounted(&device)? {
        return Ok(Some(device));
    }
    Ok(None)
}

/// Whether something is mounted at exactly this path.
pub fn is_mounted(path: &Path) -> Result<bool> {
    let root = mountinfo::is_mount_root(path).doing(|| format!("looking at {}", path.display()))?;
    Ok(root == Some(true))
}

/// Makes the directory to mount on; its parent is the CO's.
pub fn ensure_dir(path: &Path) -> Result<()> {
    let doing = || format!("making {}", path.display());
    match file::stat(path).doing(doing)? {
        Some(stat) if stat.is_dir => Ok(()),
        Some(_) => Err(Error::Refused(format!("{} exists and is no directory: remove it", path.display()))),
        None => match file::create_dir(path) {
            Err(e) if e.is_not_found() => Err(no_parent(path)),
            result => result.doing(doing),
        },
    }
}

/// Makes the file to bind a device on; its parent is the CO's.
pub fn ensure_file(path: &Path) -> Result<()> {
    let doing = || format!("making {}", path.display());
    match file::stat(path).doing(doing)? {
        Some(stat) if stat.is_file => Ok(()),
        Some(_) => {
            Err(Error::Refused(format!("{} exists and is no regular file: remove it", path.display())))
        }
        None => match file::create_new(path) {
            Err(e) if e.is_not_found() => Err(no_parent(path)),
            result => result.map(drop).doing(doing),
        },
    }
}

fn no_parent(path: &Path) -> Error {
    Error::Refused(format!(
        "the parent of {} does not exist; the orchestrator has to create it",
        path.display()
    ))
}

/// Removes what was made to mount on: only by rmdir or unlink, and only when it is no mount
/// (design invariant 2). Absent is fine. The driver made it, or the CO did for this very purpose; a
/// mount of another namespace on it would end with it (linux 4.x and later).
pub fn remove_place(path: &Path) -> Result<()> {
    let doing = || format!("removing {}", path.display());
    if is_mounted(path)? {
        return Err(Error::Busy(format!("{} is a mount again; try again", path.display())));
    }
    match file::stat(path).doing(doing)? {
        None => Ok(()),
        Some(stat) if stat.is_dir => file::remove_dir(path).doing(doing),
        // The file that a device was bound to is empty. Anything else was put there by somebody else.
        Some(stat) if stat.is_file && stat.size == 0 => file::remove_file(path).doing(doing),
        Some(_) => Err(Error::NotFound(format!("{} is not what this driver made there", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn odd_paths() {
        assert!(TargetPath::new("target_path", String::new()).is_err());
        assert!(TargetPath::new("target_path", "/a\0b".into()).is_err());
        assert!(TargetPath::new("target_path", "/".repeat(4096)).is_err());
        assert!(TargetPath::new("target_path", format!("/{}", "a".repeat(256))).is_err());
        assert!(TargetPath::new("target_path", format!("/{}", "a".repeat(255)).repeat(15)).is_ok());
        for relative in ["some/path", "/a/../b", ".."] {
            assert_eq!(TargetPath::new("target_path", relative.into()).unwrap().absolute(), None);
        }
    }
}
