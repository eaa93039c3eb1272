//! Where one filesystem, or one directory, is mounted: the answer to "who else has this volume?", among
//! thousands of mounts.
//!
//! Reading all of /proc/self/mountinfo takes a microsecond for each mount, several times in a life. The ids of
//! all mounts are had in a twentieth of that, and what is kept here about an id can never change while
//! the mount exists: ids are not given twice, a mount's superblock and the inode of its root stay. So
//! this is no list of what was mounted that could be wrong: the kernel says each time which mounts there are.

use super::{
    MNT_ID_UNIQUE, Mount, look_for, read,
    statmount::{self, Answer},
};
use crate::os::{Result, file};
use rustix::fs::StatxFlags;
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

#[derive(Clone, Copy, Debug)]
struct Known {
    id: u64,
    device: u64,
    /// `None`: not asked yet, or hidden below another mount and so not to be asked.
    root: Option<file::Inode>,
}

/// Ascending by id.
static TABLE: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// The mounts of the filesystem with this device number.
pub fn of_device(device: u64) -> Result<Vec<Mount>> {
    let found = match known(|known| known.device == device)? {
        Some(known) => details(known.iter().map(|known| known.id))?,
        None => None,
    };
    match found {
        Some(mounts) => Ok(mounts),
        None => Ok(read()?.into_iter().filter(|mount| mount.device == device).collect()),
    }
}

/// The mounts whose root is this directory or file itself; those of what is below it are not. Nothing when
/// the path is absent.
pub fn of_root(path: &Path) -> Result<Vec<Mount>> {
    Ok(match Root::look(path)? {
        None => Vec::new(),
        Some(root) => match root.mounts()? {
            Some(mounts) => mounts,
            None => root.mounts_by_reading()?,
        },
    })
}

/// What a mount has to show to be one of this directory.
struct Root {
    device: u64,
    inode: file::Inode,
    /// As mountinfo would show it: a mount that is hidden below another one can only be told by this.
    path: Option<PathBuf>,
}

impl Root {
    fn look(path: &Path) -> Result<Option<Self>> {
        let (Some(stat), Some(lies_in)) = (file::stat(path)?, super::of(path)?) else { return Ok(None) };
        let shown = path.strip_prefix(&lies_in.point).ok().map(|below| lies_in.root.join(below));
        Ok(Some(Self { device: lies_in.device, inode: stat.inode, path: shown }))
    }

    /// `None` where the kernel has not the calls, or does not tell everything.
    fn mounts(&self) -> Result<Option<Vec<Mount>>> {
        let possible =
            |known: &Known| known.device == self.device && known.root.is_none_or(|root| root == self.inode);
        let Some(candidates) = known(possible)? else { return Ok(None) };
        let (mut found, mut hidden) = (Vec::new(), Vec::new());
        for mut each in candidates {
            if each.root.is_none() {
                each.root = root_of_id(each.id)?;
                remember(each);
            }
            match each.root {
                Some(inode) if inode == self.inode => found.push(each.id),
                Some(_) => {}
                None => hidden.push(each.id),
            }
        }
        let (Some(mut mounts), Some(hidden)) = (details(found.into_iter())?, details(hidden.into_iter())?)
        else {
            return Ok(None);
        };
        mounts.extend(hidden.into_iter().filter(|mount| self.is_shown_by(mount)));
        Ok(Some(mounts))
    }

    fn mounts_by_reading(&self) -> Result<Vec<Mount>> {
        let mut found = Vec::new();
        for mount in read()?.into_iter().filter(|mount| mount.device == self.device) {
            let ours = match root_at(&mount.point, StatxFlags::MNT_ID, mount.id)? {
                Some(inode) => inode == self.inode,
                None => self.is_shown_by(&mount),
            };
            if ours {
                found.push(mount);
            }
        }
        Ok(found)
    }

    fn is_shown_by(&self, mount: &Mount) -> bool {
        self.path.as_ref().is_some_and(|path| mount.root == *path)
    }
}

/// What is known of those mounts that are `wanted`; `None` where the kernel has no listmount(2) or
/// statmount(2).
fn known(wanted: impl Fn(&Known) -> bool) -> Result<Option<Vec<Known>>> {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    // Asked with the table locked: an older list must not overwrite a newer one's additions.
    let Some(mut ids) = statmount::ids()? else { return Ok(None) };
    ids.sort_unstable();
    table.retain(|known| ids.binary_search(&known.id).is_ok());
    let before = table.len();
    for id in ids {
        // A mount gets its id when it is made, which may be before others that were attached earlier.
        if table[..before].binary_search_by_key(&id, |known| known.id).is_ok() {
            continue;
        }
        match statmount::device(id)? {
            Answer::Found(device) => table.push(Known { id, device, root: None }),
            Answer::Gone => {}
            Answer::Unknown => {
                table.truncate(before);
                return Ok(None);
            }
        }
    }
    table.sort_unstable_by_key(|known| known.id);
    Ok(Some(table.iter().filter(|known| wanted(known)).copied().collect()))
}

fn remember(known: Known) {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(at) = table.binary_search_by_key(&known.id, |each| each.id) {
        table[at] = known;
    }
}

fn root_of_id(id: u64) -> Result<Option<file::Inode>> {
    match statmount::point(id)? {
        Answer::Found(point) => root_at(&point, MNT_ID_UNIQUE, id),
        Answer::Gone | Answer::Unknown => Ok(None),
    }
}

/// The inode at the root of a mount, by the path where it is mounted: only if that path leads to this very mount.
fn root_at(point: &Path, kind: StatxFlags, id: u64) -> Result<Option<file::Inode>> {
    let place = look_for(point, kind)?.filter(|place| place.mount_root && place.mount_id == id);
    Ok(place.map(|place| place.inode))
}

/// What is still there of these mounts; `None`: not to be had (Linux 6.8 to 6.12 tells less).
fn details(ids: impl Iterator<Item = u64>) -> Result<Option<Vec<Mount>>> {
    let mut mounts = Vec::new();
    for id in ids {
        match statmount::mount(id)? {
            Answer::Found(mount) => mounts.push(mount),
            Answer::Gone => {}
            Answer::Unknown => return Ok(None),
        }
    }
    Ok(Some(mounts))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::os::{
        loopdev::scratch::{Mounted, Scratch, unmounted},
        mount::{self, Attributes},
    };
    use rustix::{
        fs::CWD,
        mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    };
    use std::os::unix::fs::MetadataExt;

    /// Where the directory is mounted, by both ways.
    fn mounts_of(directory: &Path) -> Vec<PathBuf> {
        let found = points(of_root(directory).unwrap());
        if let Some(root) = Root::look(directory).unwrap() {
            assert_eq!(points(root.mounts_by_reading().unwrap()), found, "on an older kernel");
        }
        found
    }

    fn points(mounts: Vec<Mount>) -> Vec<PathBuf> {
        let mut points: Vec<_> = mounts.into_iter().map(|mount| mount.point).collect();
        points.sort();
        points
    }

    #[test]
    fn mounts_of_a_directory_come_and_go() {
        let scratch = Scratch::new();
        let [root, other, a, b, c] = ["root", "other", "a", "b", "c"].map(|name| scratch.directory(name));
        let inside = scratch.directory("root/inside");
        assert_eq!(mounts_of(&root), [] as [PathBuf; 0]);
        let _guards = [&a, &b, &c].map(|point| Mounted::guard(point));
        mount::bind(&root, &a, Attributes::default()).unwrap();
        mount::bind(&root, &b, Attributes { read_only: true, ..Attributes::default() }).unwrap();
        mount::bind(&other, &c, Attributes::default()).unwrap();
        assert_eq!(mounts_of(&root), [a.clone(), b.clone()]);
        unmounted(&c);
        mount::bind(&inside, &c, Attributes::default()).unwrap();
        assert_eq!(mounts_of(&root), [a.clone(), b.clone()], "not what lies below");
        assert_eq!(mounts_of(&a.join("inside")), std::slice::from_ref(&c), "named through another mount");
        unmounted(&a);
        assert_eq!(mounts_of(&root), std::slice::from_ref(&b));
        // The same point, another mount.
        unmounted(&b);
        mount::bind(&other, &b, Attributes::default()).unwrap();
        assert_eq!(mounts_of(&root), [] as [PathBuf; 0]);
        assert_eq!(mounts_of(&scratch.path("absent")), [] as [PathBuf; 0]);
    }

    #[test]
    fn a_directory_that_was_renamed_is_still_mounted() {
        let scratch = Scratch::new();
        let [before, point] = ["before", "point"].map(|name| scratch.directory(name));
        let _guard = Mounted::guard(&point);
        mount::bind(&before, &point, Attributes::default()).unwrap();
        assert_eq!(mounts_of(&before), std::slice::from_ref(&point));
        let after = scratch.path("after");
        std::fs::rename(&before, &after).unwrap();
        let again = scratch.directory("before");
        assert_eq!(mounts_of(&after), [point]);
        assert_eq!(mounts_of(&again), [] as [PathBuf; 0], "another directory of the same name");
    }

    #[test]
    fn a_mount_may_be_older_than_those_that_were_attached_before_it() {
        let scratch = Scratch::new();
        let [root, first, second] = ["root", "first", "second"].map(|name| scratch.directory(name));
        let _guards = [&first, &second].map(|point| Mounted::guard(point));
        let older = open_tree(CWD, &root, OpenTreeFlags::OPEN_TREE_CLONE).unwrap();
        mount::bind(&root, &first, Attributes::default()).unwrap();
        assert_eq!(mounts_of(&root), std::slice::from_ref(&first));
        move_mount(older, "", CWD, &second, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
        assert_eq!(mounts_of(&root), [first.clone(), second.clone()]);
    }

    #[test]
    fn hidden_mounts_count() {
        let scratch = Scratch::new();
        let [root, other, point] = ["root", "other", "point"].map(|name| scratch.directory(name));
        let _guard = Mounted::guard(&point);
        mount::bind(&root, &point, Attributes::default()).unwrap();
        mount::bind(&other, &point, Attributes::default()).unwrap();
        assert_eq!(mounts_of(&root), std::slice::from_ref(&point));
        assert_eq!(mounts_of(&other), std::slice::from_ref(&point));
        unmounted(&point);
        assert_eq!(mounts_of(&root), std::slice::from_ref(&point));
        assert_eq!(mounts_of(&other), [] as [PathBuf; 0]);
    }

    #[test]
    fn mounts_of_a_device_are_those_that_mountinfo_shows() {
        let scratch = Scratch::new();
        let [root, point] = ["root", "point"].map(|name| scratch.directory(name));
        let device = root.metadata().unwrap().dev();
        let _guard = Mounted::guard(&point);
        mount::bind(&root, &point, Attributes::default()).unwrap();
        let found = of_device(device).unwrap();
        assert!(found.iter().any(|mount| mount.point == point));
        assert!(found.iter().all(|mount| mount.device == device));
    }
}
