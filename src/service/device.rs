//! Raw block volumes: the loop's own node, bound below the staging path and at each target.
//!
//! A bind does not keep a loop attached, so the loop goes without AUTOCLEAR from before its first bind
//! until Unstage clears it (docs/adr/0009-autoclear.md). Device and inode are compared before every use.

use super::{
    create,
    publish::refuse_second,
    stage::{occupied, own_blocks_again, undo},
    target::{ensure_file, is_mounted, staged_device},
};
use crate::{
    backend::attachment::{self, Found, Located},
    error::{Doing, Error, Result},
    failpoint,
    os::{
        file,
        loopdev::{self, Held},
        mount::{self, Attributes},
        mountinfo,
    },
    store::Kind,
    volume::{AccessMode, VolumeRecord},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A device bind can be opened (nodev would forbid that) and nothing can be run from it.
const DEVICE: Attributes =
    Attributes { read_only: false, nosuid: true, nodev: false, noexec: true, noatime: false };

/// Binds the loop's node below the staging path. AUTOCLEAR is taken off before: a loop without a bind
/// is found by its image, by the next attempt or by Unstage. A bind whose loop had gone would show
/// whatever gets the number next, and nothing could tell that it was ours.
pub(super) fn stage_device(located: Located<'_>, staging: &Path, read_only: bool) -> Result<()> {
    let Located { pool, record } = located;
    let place = staged_device(staging);
    if is_mounted(staging)? {
        return Err(occupied(staging));
    }
    if is_mounted(&place)? {
        match located.compare(&place)? {
            Found::Device(number) if keeps(number)? => return check_writability(number, read_only, &place),
            Found::Device(_) | Found::Dead(_) => {}
            _ => return Err(occupied(&place)),
        }
        mount::unmount(&place).doing(|| format!("removing the stale bind at {}", place.display()))?;
        failpoint!("stage.stale-unbound");
    }
    create::check_image(pool, record)?;
    let path = pool.image(Kind::Volume, record.key);
    let held = match attachment::only_loop_of(&path)? {
        Some(number) => {
            refuse_other_writability(record, number, read_only)?;
            attachment::attach(&path)?
        }
        None => {
            own_blocks_again(record, &path);
            attachment::attach(&path)?
        }
    };
    failpoint!("stage.device-attached");
    let doing = || format!("staging the device of volume {}", record.key);
    loopdev::set_read_only(&held, read_only).doing(doing)?;
    failpoint!("stage.device-writability-set");
    ensure_file(&place)?;
    failpoint!("stage.device-place-made");
    let proven = || match located.compare(&place)? {
        Found::Device(number) if number == held.number && keeps(number)? => Ok(()),
        _ => {
            Err(Error::Busy(format!("{} is not the device that was just bound; try again", place.display())))
        }
    };
    let bound = keep_and_bind(&held, &place).doing(doing).and_then(|()| proven());
    bound.or_else(|error| let_go(&held, undo(&place, error)))
}

fn keep_and_bind(held: &Held, place: &Path) -> crate::os::Result<()> {
    loopdev::set_autoclear(held, false)?;
    failpoint!("stage.device-kept");
    mount::bind(&held.path(), place, DEVICE)?;
    failpoint!("stage.device-bound");
    Ok(())
}

/// Making a device read-only or writable that is bound elsewhere would do so to its user, too.
fn refuse_other_writability(record: &VolumeRecord, number: u32, read_only: bool) -> Result<()> {
    let doing = || format!("looking at loop device {number}");
    let Some(held) = loopdev::open(number).doing(doing)? else { return Ok(()) };
    if loopdev::is_read_only(&held).doing(doing)? == read_only || !device_is_bound(number)? {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "volume {} is already staged or published with another access mode: end that first",
        record.id()
    )))
}

fn check_writability(number: u32, read_only: bool, place: &Path) -> Result<()> {
    let doing = || format!("looking at loop device {number}");
    let Some(held) = loopdev::open(number).doing(doing)? else { return Err(occupied(place)) };
    if loopdev::is_read_only(&held).doing(doing)? == read_only {
        return Ok(());
    }
    Err(Error::Incompatible(format!(
        "the volume is already staged at {} with another access mode: unstage it first",
        place.display()
    )))
}

/// Without AUTOCLEAR it stays attached under its bind.
fn keeps(number: u32) -> Result<bool> {
    Ok(attachment::status(number)?.is_some_and(|status| !status.autoclear))
}

pub(super) fn publish_device(
    located: Located<'_>,
    number: u32,
    source: &Path,
    target: &Path,
    read_only: bool,
    mode: AccessMode,
) -> Result<()> {
    let key = located.record.key;
    let doing = || format!("publishing volume {key} at {}", target.display());
    if is_mounted(target)? {
        let found = located.compare(target)?;
        if found == Found::Device(number) || matches!(found, Found::ReadOnlyDevice { .. }) {
            if is_read_only(found)? == read_only {
                return Ok(());
            }
            return Err(Error::Incompatible(format!(
                "volume {key} is already published at {} with another `readonly`: unpublish it there first",
                target.display()
            )));
        }
        if !matches!(found, Found::Dead(_)) {
            return Err(occupied(target));
        }
        mount::unmount(target).doing(|| format!("removing the stale bind at {}", target.display()))?;
        failpoint!("publish.stale-unbound");
    }
    if !mode.allows_many_targets() {
        refuse_second(located, source, target, &device_binds(located, number)?)?;
    }
    let base = loopdev::open(number).doing(doing)?.ok_or_else(|| not_there(number))?;
    // Somebody's `losetup -d` of a device in use arms AUTOCLEAR; then the bind would outlive the loop.
    loopdev::set_autoclear(&base, false).doing(doing)?;
    if located.compare(source)? != Found::Device(number) {
        return Err(not_there(number));
    }
    let base_is_read_only = loopdev::is_read_only(&base).doing(doing)?;
    if base_is_read_only && !read_only {
        return Err(Error::Refused(format!(
            "volume {key} is staged read-only: publish it read-only, or stage it again"
        )));
    }
    ensure_file(target)?;
    failpoint!("publish.device-place-made");
    bind_device(located, &base, target, read_only && !base_is_read_only).or_else(|error| undo(target, error))
}

fn bind_device(located: Located<'_>, base: &Held, target: &Path, stacked: bool) -> Result<()> {
    let doing = || format!("publishing volume {} at {}", located.record.key, target.display());
    let proven = || match located.compare(target)? {
        Found::Device(_) | Found::ReadOnlyDevice { .. } => Ok(()),
        _ => {
            Err(Error::Busy(format!("{} is not the device that was just bound; try again", target.display())))
        }
    };
    if !stacked {
        mount::bind(&base.path(), target, DEVICE).doing(doing)?;
        failpoint!("publish.device-bound");
        return proven();
    }
    let held = stacked_to_publish(base.number)?;
    failpoint!("publish.stacked-attached");
    let bound = publish_stacked(&held, target).doing(doing).and_then(|()| proven());
    bound.or_else(|error| let_go(&held, undo(target, error)))
}

/// A read-only bind of a device node is still writable, so a read-only loop goes in between. One that
/// an interrupted Publish has left is used.
fn stacked_to_publish(base: u32) -> Result<Held> {
    let doing = || format!("attaching a read-only device to loop device {base}");
    for number in loopdev::stacked_on(base).doing(doing)? {
        if !device_is_bound(number)?
            && let Some(held) = loopdev::open(number).doing(doing)?
            && loopdev::is_read_only(&held).doing(doing)?
        {
            return Ok(held);
        }
    }
    loopdev::attach_read_only_on(base).doing(doing)
}

/// AUTOCLEAR is taken off before the bind, as in Stage.
fn publish_stacked(held: &Held, target: &Path) -> crate::os::Result<()> {
    loopdev::set_autoclear(held, false)?;
    failpoint!("publish.stacked-kept");
    mount::bind(&held.path(), target, DEVICE)?;
    failpoint!("publish.stacked-bound");
    Ok(())
}

/// After a bind that failed: a device that nothing shows is detached when it is closed.
fn let_go(held: &Held, failed: Result<()>) -> Result<()> {
    if !device_is_bound(held.number)? {
        loopdev::set_autoclear(held, true).doing(|| format!("letting go of loop device {}", held.number))?;
    }
    failed
}

fn is_read_only(found: Found) -> Result<bool> {
    let (Found::Device(number) | Found::ReadOnlyDevice { number, .. }) = found else { return Ok(false) };
    let doing = || format!("looking at loop device {number}");
    let held = loopdev::open(number).doing(doing)?.ok_or_else(|| not_there(number))?;
    loopdev::is_read_only(&held).doing(doing)
}

fn not_there(number: u32) -> Error {
    Error::Refused(format!("loop device {number} has vanished: stage the volume again"))
}

/// Where the volume's device, or a read-only one on top of it, is bound. Only loops that are bound somewhere
/// are looked at.
fn device_binds(located: Located<'_>, number: u32) -> Result<Vec<PathBuf>> {
    let doing = || format!("looking for binds of volume {}", located.record.key);
    let base = loopdev::device_number(number);
    let mut ours = BTreeMap::from([(number, true)]);
    let mut points = Vec::new();
    for mount in mountinfo::read().doing(doing)? {
        let Some(bound) = loop_in(&mount.root) else { continue };
        let is_ours = match ours.get(&bound) {
            Some(known) => *known,
            None => attachment::status(bound)?.is_some_and(|status| status.backing_rdev == base),
        };
        ours.insert(bound, is_ours);
        if is_ours
            && matches!(located.compare(&mount.point)?, Found::Device(_) | Found::ReadOnlyDevice { .. })
        {
            points.push(mount.point);
        }
    }
    Ok(points)
}

/// N of the root `/loopN`, which a bind of a loop's node has.
fn loop_in(root: &Path) -> Option<u32> {
    root.to_str()?.strip_prefix("/loop")?.parse().ok()
}

/// Whether mountinfo shows a bind of /dev/loopN anywhere.
pub(super) fn device_is_bound(number: u32) -> Result<bool> {
    let doing = || format!("looking for binds of loop device {number}");
    let device = loopdev::device_number(number);
    for mount in mountinfo::read().doing(doing)? {
        if loop_in(&mount.root) != Some(number) {
            continue;
        }
        let stat = file::stat(&mount.point).doing(doing)?;
        if stat.is_none_or(|stat| stat.is_block && stat.rdev == device) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn is_dead_device(place: &Path) -> Result<bool> {
    let stat = file::stat(place).doing(|| format!("looking at {}", place.display()))?;
    match stat.filter(|stat| stat.is_block).and_then(|stat| loopdev::number_of(stat.rdev)) {
        Some(number) => Ok(attachment::status(number)?.is_none()),
        None => Ok(false),
    }
}
