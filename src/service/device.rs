//! Raw block volumes: the loop's own node, bound below the staging path and at each target.
//!
//! A bind does not keep a loop attached, so the loop goes without AUTOCLEAR from before its first bind
//! until Unstage clears it (docs/adr/0009-autoclear.md). Device and inode are compared before every use.

use super::{
    Service, create,
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
        loopdev::{self, Held, Status},
        mount::{self, Attributes},
        mountinfo::{self, Mount},
    },
    store::Kind,
    volume::{Access, AccessMode, Key, VolumeRecord},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A device bind can be opened (nodev would forbid that) and nothing can be run from it.
const DEVICE: Attributes =
    Attributes { read_only: false, nosuid: true, nodev: false, noexec: true, noatime: false };

/// The loops of a raw block volume as one look at all loops has found them: with a thousand of them each
/// look takes milliseconds.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// On its image, or on one that was deleted.
    bases: Vec<u32>,
    /// On one of those.
    stacked: Vec<u32>,
}

impl Service {
    fn devices(&self, key: Key) -> Result<Devices> {
        let volume = self.store.volume(key);
        if matches!(&volume, Ok(Some((_, record))) if record.shape.access == Access::Mount) {
            return Ok(Devices::default());
        }
        let all = loopdev::all().doing(|| format!("looking for loop devices of volume {key}"))?;
        let mut bases = match volume {
            Ok(Some((pool, _))) => attachment::loops_among(&all, &pool.image(Kind::Volume, key))?,
            // Nothing to prove them by now: the same request finds them when the pool is back.
            Err(error @ Error::Unavailable(_)) if attachment::is_named_by_a_loop(key)? => return Err(error),
            _ => Vec::new(),
        };
        bases.extend(attachment::orphans_among(&all, key)?);
        let is_on_base = |rdev| bases.iter().any(|base| loopdev::device_number(*base) == rdev);
        let stacked = all.iter().filter(|(_, status)| is_on_base(status.backing_rdev));
        Ok(Devices { stacked: stacked.map(|(number, _)| *number).collect(), bases })
    }

    /// After the bind below a staging path is gone: its loop, found without a look at every loop. `false`:
    /// that was not all, or nobody knows.
    pub(super) fn clear_staged(&self, key: Key, shown: &[Shown]) -> Result<bool> {
        for each in shown {
            if device_is_bound(each.number)? {
                return Err(self.still_published(key));
            }
            // Another one on top keeps it open.
            if each.is_there()? && !clear_base(key, each.number)? {
                return Ok(false);
            }
        }
        match self.store.volume(key) {
            Ok(Some((pool, _))) if !shown.is_empty() => {
                Ok(attachment::loops_of(&pool.image(Kind::Volume, key))?.is_empty())
            }
            _ => Ok(false),
        }
    }

    /// After the binds at a target are gone: the read-only loops that they showed. Without any, an earlier
    /// attempt may have left some.
    pub(super) fn clear_published(&self, key: Key, shown: &[Shown]) -> Result<()> {
        if shown.is_empty() {
            return self.clear_stacked(key).map(drop);
        }
        for each in shown.iter().filter(|each| each.is_stacked()) {
            if each.is_there()? {
                clear_unbound(key, each.number)?;
            }
        }
        Ok(())
    }

    /// Clears the loop of a raw block volume: by Unstage alone, and only when nothing shows it any more.
    pub(super) fn clear_device(&self, key: Key, devices: &Devices) -> Result<()> {
        for number in devices.bases.iter().copied() {
            if device_is_bound(number)? || devices.still_stacked_on(number)? {
                return Err(self.still_published(key));
            }
            if !clear_base(key, number)? {
                return Err(Error::Busy(format!(
                    "the device of volume {key} is still open in another process; try again"
                )));
            }
        }
        Ok(())
    }

    fn still_published(&self, key: Key) -> Error {
        Error::Busy(format!("volume {key} is still published on node {}: unpublish it first", self.node))
    }

    /// Read-only loops on a raw block volume that no bind shows any more, also those that an
    /// interrupted Publish or Unpublish left. Gives what was found before.
    pub(super) fn clear_stacked(&self, key: Key) -> Result<Devices> {
        let devices = self.devices(key)?;
        devices.stacked.iter().try_for_each(|number| clear_unbound(key, *number))?;
        Ok(devices)
    }
}

/// `false`: somebody has it open.
fn clear_base(key: Key, number: u32) -> Result<bool> {
    let doing = || format!("detaching volume {key}");
    if let Some(held) = loopdev::open(number).doing(doing)?
        && !loopdev::clear(held).doing(doing)?
    {
        return Ok(false);
    }
    failpoint!("unstage.cleared");
    Ok(true)
}

fn clear_unbound(key: Key, number: u32) -> Result<()> {
    let doing = || format!("detaching a read-only device of volume {key}");
    if device_is_bound(number)? {
        return Ok(());
    }
    let Some(held) = loopdev::open(number).doing(doing)? else { return Ok(()) };
    if !loopdev::clear(held).doing(doing)? {
        return Err(Error::Busy(format!(
            "a read-only device of volume {key} is still open in another process; try again"
        )));
    }
    failpoint!("unpublish.stacked-cleared");
    Ok(())
}

/// A loop that a bind shows, to be recognised when the bind is gone: a number may be another's by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    number: u32,
    status: Status,
}

impl Shown {
    /// At a mountpoint; `None` when that is no device, or nothing is behind it.
    pub(super) fn at(mount: &Mount) -> Result<Option<Self>> {
        let doing = || format!("looking at {}", mount.point.display());
        // A filesystem that has shut down has no device to offer.
        let stat = match file::stat(&mount.point) {
            Err(e) if e.is_filesystem_down() => None,
            answer => answer.doing(doing)?,
        };
        let Some(number) = stat.filter(|s| s.is_block).and_then(|s| loopdev::number_of(s.rdev)) else {
            return Ok(None);
        };
        Ok(attachment::status(number)?.map(|status| Self { number, status }))
    }

    fn is_stacked(&self) -> bool {
        loopdev::number_of(self.status.backing_rdev).is_some()
    }

    fn is_there(&self) -> Result<bool> {
        let same =
            |now: Status| now.backing == self.status.backing && now.backing_rdev == self.status.backing_rdev;
        Ok(attachment::status(self.number)?.is_some_and(same))
    }
}

impl Devices {
    /// One that was stacked after the look keeps the base open, which [`loopdev::clear`] notices.
    fn still_stacked_on(&self, base: u32) -> Result<bool> {
        let rdev = loopdev::device_number(base);
        for number in &self.stacked {
            if attachment::status(*number)?.is_some_and(|status| status.backing_rdev == rdev) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

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
fn device_is_bound(number: u32) -> Result<bool> {
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
