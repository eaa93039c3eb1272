//! The way from the share's root to a volume's directory: no symlink, no other filesystem.

use super::{
    Share,
    fault::OnShare,
    record::{Place, VolumeRecord},
};
use crate::{
    error::{Error, Result},
    failpoint,
    os::{directory::Directory, file::Stat},
};
use std::ffi::OsStr;

/// Of directories above a volume's, which stay when it goes.
const MODE: u32 = 0o755;

/// What a path that leads elsewhere means to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// It was asked for: the request is wrong.
    Wanted,
    /// It was not so when the volume was made.
    Existing,
}

impl Share {
    /// The directory that holds `place`; `None`: it is not there, and is not to be made.
    pub(super) fn above(&self, place: &Place, aim: Aim, make: bool) -> Result<Option<Directory>> {
        let mut at: Option<Directory> = None;
        for name in place.split().0 {
            let here = at.as_ref().unwrap_or(&self.root);
            let mut next = step(here, name, place, aim)?;
            if next.is_none() && make {
                let doing = || format!("making the directories above {place:?}");
                match here.create_dir(OsStr::new(name), MODE) {
                    Err(e) if e.is_already_there() => {}
                    result => result.and_then(|()| here.sync()).on_share(doing)?,
                }
                failpoint!("share.parent-made");
                next = step(here, name, place, aim)?;
            }
            match next {
                Some(next) => at = Some(next),
                None => return Ok(None),
            }
        }
        match at {
            Some(above) => Ok(Some(above)),
            None => self.root.again().map(Some).on_share(|| "opening the share's root".into()),
        }
    }

    /// What stands at `place`.
    pub(super) fn standing(&self, place: &Place, aim: Aim) -> Result<Option<(Directory, Stat)>> {
        let Some(above) = self.above(place, aim, false)? else { return Ok(None) };
        let stat = above.stat(place.split().1).on_share(|| format!("looking at directory {place}"))?;
        Ok(stat.map(|stat| (above, stat)))
    }

    /// Opens a volume's directory, which must be the one that was made or adopted.
    pub fn open_root_of(&self, record: &VolumeRecord) -> Result<Directory> {
        let place = &record.root;
        let gone = |what: &str| {
            Error::Refused(format!(
                "directory {:?} of volume {:?} {what}: put the volume's own back into its place",
                place.to_string(),
                record.name
            ))
        };
        let Some(above) = self.above(place, Aim::Existing, false)? else { return Err(gone("is gone")) };
        let text = place.split().1.to_string_lossy();
        let Some(root) = step(&above, &text, place, Aim::Existing)? else { return Err(gone("is gone")) };
        let stat = root.own_stat().on_share(|| format!("looking at directory {place}"))?;
        if stat.inode.number != record.fileid {
            return Err(gone("was replaced by another"));
        }
        Ok(root)
    }
}

fn step(here: &Directory, name: &str, place: &Place, aim: Aim) -> Result<Option<Directory>> {
    let meant: fn(String) -> Error = match aim {
        Aim::Wanted => Error::Invalid,
        Aim::Existing => Error::Refused,
    };
    let refuse =
        |why: &str| Err(meant(format!("directory {:?} of the share {why} at {name:?}", place.to_string())));
    match here.enter(OsStr::new(name)) {
        Err(e) if e.is_symlink() => refuse("goes through a symlink"),
        Err(e) if e.is_no_directory() => refuse("goes through what is no directory"),
        Err(e) if e.is_elsewhere() => refuse("leaves the filesystem"),
        found => found.on_share(|| format!("looking for directory {:?}", place.to_string())),
    }
}
