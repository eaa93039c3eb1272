//! Finding loops by what they are attached to.

use super::{Held, Status, node, status};
use crate::os::{At as _, Result, file::Inode};
use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

const SYSFS: &str = "/sys/block";

/// The loop that is attached to this inode, by sysfs and verified with LOOP_GET_STATUS64. Opens every
/// attached loop for a moment: where the number can be known otherwise, [`super::open`] and [`status`] are cheaper.
pub fn find(backing: Inode) -> Result<Option<u32>> {
    Ok(find_named(backing, None)?.map(|held| held.number))
}

/// As [`find`]; loops whose backing file has this name are asked first.
pub(super) fn find_named(backing: Inode, name: Option<&Path>) -> Result<Option<Held>> {
    let mut found = None;
    examine(attached(name)?, |held, status| {
        if status.is_ok_and(|status| status.backing == backing) {
            found = Some(held);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Every loop that is attached to this inode: nobody can keep another program from making a second one.
pub fn find_all(backing: Inode) -> Result<Vec<u32>> {
    numbers(|status| status.backing == backing)
}

/// The loops that are stacked on loop `base`.
pub fn stacked_on(base: u32) -> Result<Vec<u32>> {
    let rdev = node::device_number(base);
    numbers(|status| status.backing_rdev == rdev)
}

fn numbers(wanted: impl Fn(&Status) -> bool) -> Result<Vec<u32>> {
    Ok(all()?.into_iter().filter(|(_, status)| wanted(status)).map(|(number, _)| number).collect())
}

/// Every attached loop, in order: its number and what it is attached to.
pub fn all() -> Result<Vec<(u32, Status)>> {
    let mut found = Vec::new();
    examine(attached(None)?, |held, status| {
        found.extend(status.ok().map(|status| (held.number, status)));
        true
    })?;
    found.sort_unstable_by_key(|(number, _)| *number);
    Ok(found)
}

/// Attached loops that [`all`] leaves out: the filesystem of their backing file has shut down, and only its name
/// is known.
pub fn untold() -> Result<Vec<u32>> {
    let mut found = Vec::new();
    examine(attached(None)?, |held, status| {
        found.extend(status.is_err_and(|e| e.is_filesystem_down()).then_some(held.number));
        true
    })?;
    Ok(found)
}

/// Shows each loop to `visit` until it says `false`. Loops may vanish and change meanwhile.
///
/// The kernel asks the backing file for its inode; that this fails on a dead filesystem of somebody else must not
/// stop a search, and an image that is attached nevertheless still fails the lease probe.
fn examine(numbers: Vec<u32>, mut visit: impl FnMut(Held, Result<Status>) -> bool) -> Result<()> {
    let mut failure = None;
    for number in numbers {
        let held = match node::open_listed(number) {
            Ok(Some(held)) => held,
            Ok(None) => continue,
            Err(e) => {
                failure.get_or_insert(e);
                continue;
            }
        };
        if let Some(status) = status(&held).transpose()
            && !visit(held, status)
        {
            return Ok(());
        }
    }
    // Not found is only said when every loop could be opened.
    failure.map_or(Ok(()), Err)
}

/// The numbers of all attached loops, those with the backing file `name` first. Names cannot be trusted to
/// leave anything out: they are those of another mount namespace, or the file was renamed, or `(deleted)`.
fn attached(name: Option<&Path>) -> Result<Vec<u32>> {
    let mut named = Vec::new();
    let mut others = Vec::new();
    for entry in fs::read_dir(SYSFS).at("list", SYSFS)? {
        let entry = entry.at("list", SYSFS)?;
        let Some(number) = number(entry.file_name().to_str()) else { continue };
        // The attribute exists only while something is attached.
        let attribute = entry.path().join("loop/backing_file");
        let is_named = match name {
            None if attribute.exists() => false,
            None => continue,
            Some(name) => match fs::read(attribute) {
                Ok(text) => text.strip_suffix(b"\n").unwrap_or(&text) == name.as_os_str().as_encoded_bytes(),
                Err(_) => continue,
            },
        };
        if is_named { named.push(number) } else { others.push(number) }
    }
    named.append(&mut others);
    Ok(named)
}

fn number(name: Option<&str>) -> Option<u32> {
    name?.strip_prefix("loop")?.parse().ok()
}

/// The backing file's path as the kernel shows it now; a hint, never proof. `None`: nothing is attached.
pub fn backing_path(number: u32) -> Result<Option<Backing>> {
    let attribute = Path::new(SYSFS).join(format!("loop{number}/loop/backing_file"));
    let text = match fs::read(&attribute) {
        Ok(text) => text,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)) => {
            return Ok(None);
        }
        Err(e) => return Err(e).at("read", &attribute),
    };
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    let whole = text.strip_suffix(b" (deleted)");
    Ok(Some(Backing {
        path: PathBuf::from(OsStr::from_bytes(whole.unwrap_or(text))),
        deleted: whole.is_some(),
    }))
}

/// What sysfs says of a backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Where it is, or was.
    pub path: PathBuf,
    /// It has been unlinked.
    pub deleted: bool,
}
