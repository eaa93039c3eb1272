//! The loops of raw block volumes when their binds are gone: which were the volume's, and letting go of them.
//!
//! Only Unstage ends a volume's own loop. The read-only ones on top of it end with their publication.

use super::{Service, device::device_is_bound};
use crate::{
    backend::attachment,
    error::{Doing, Error, Result},
    failpoint,
    os::{
        file,
        loopdev::{self, Status},
        mountinfo::Mount,
    },
    store::Kind,
    volume::{Access, Key},
};

/// The loops of a raw block volume as one look at all loops has found them: with a thousand of them each
/// look takes milliseconds.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// On its image, on one that was deleted, or on a pool that has shut down.
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
            Err(error @ Error::Unavailable(_)) if attachment::is_named_among(&all, key)? => {
                return Err(error);
            }
            Err(Error::Unavailable(_)) => attachment::dead_loops_of(key)?,
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
        Ok(attachment::status_if_told(number)?.map(|status| Self { number, status }))
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
