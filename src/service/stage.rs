//! NodeStageVolume and NodeUnstageVolume: a volume is attached once per node.
//!
//! Nothing here formats. What is mounted is proven by device and inode before and after.

use super::{
    Service, TargetPath, create,
    detach::Shown,
    device::{is_dead_device, stage_device},
    known_key,
    target::{is_mounted, remove_place, staged_device},
};
use crate::{
    backend::{
        attachment::{self, Found, Located},
        directory, image,
    },
    error::{Doing, Error, Result},
    failpoint,
    os::{
        file,
        format::Filesystem,
        lock::Mode,
        loopdev::{self, Held},
        mount::{self, Attributes},
        mountinfo::{self, Mount},
    },
    store::Kind,
    volume::{
        Access, Capability, Key, Layout, Provisioning, Shape, VolumeId, VolumeRecord,
        capability::MountOptions, nfs,
    },
};
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// A NodeStageVolume request. It has no `Debug`: the capability holds mount flags.
pub struct Stage {
    /// As the CO sent it.
    pub id: String,
    /// Where.
    pub staging: TargetPath,
    /// How it will be used.
    pub capability: Capability,
    /// Of a volume on a share; `None`: it is on this node.
    pub context: Option<nfs::Context>,
    /// Mount options from the secrets, which are stronger than all others.
    pub secret_options: nfs::Settings,
}

/// A NodeUnstageVolume request.
#[derive(Clone, Debug)]
pub struct Unstage {
    /// As the CO sent it.
    pub id: String,
    /// Where.
    pub staging: TargetPath,
}

impl Service {
    /// Attaches and mounts the volume, or finds it mounted there as asked.
    pub fn stage(&self, request: &Stage) -> Result<()> {
        if let Some(context) = &request.context {
            return self.nfs_node.stage(request, context);
        }
        let staging = request.staging.required_absolute("staging_target_path")?;
        let _lock = self.lock_volume(known_key(&request.id)?, Mode::Exclusive)?;
        let (pool, record) = self.known_volume(&request.id)?;
        check_capability(&request.capability, &record)?;
        let located = Located { pool: &pool, record: &record };
        let options = request.capability.options()?;
        let read_only = request.capability.mode.is_read_only();
        if !file::stat(staging)
            .doing(|| format!("looking at {}", staging.display()))?
            .is_some_and(|s| s.is_dir)
        {
            return Err(Error::Refused(format!(
                "staging_target_path {} is no directory; the orchestrator has to create it",
                staging.display()
            )));
        }
        match (record.shape.access, record.shape.filesystem) {
            (Access::Block, _) => stage_device(located, staging, read_only),
            (Access::Mount, Some(filesystem)) => {
                stage_image(located, staging, filesystem, &options, options.attributes(read_only))
            }
            (Access::Mount, None) => stage_directory(located, staging, options.attributes(read_only)),
        }
    }

    /// Undoes Stage. What is absent or no mount is done; what is not ours is NOT_FOUND.
    pub fn unstage(&self, request: &Unstage) -> Result<()> {
        if self.is_on_share(&request.id, request.staging.absolute()) {
            return self.nfs_node.unstage(request);
        }
        let stranger =
            || Error::NotFound(format!("volume {:?} is not staged at {}", request.id, request.staging));
        let staging = request.staging.absolute().ok_or_else(stranger)?;
        let id = VolumeId::parse(&request.id);
        let _lock = id.as_ref().map(|id| self.lock_volume(id.key, Mode::Exclusive)).transpose()?;
        let (device, mut shown) = (staged_device(staging), Vec::new());
        for place in [device.as_path(), staging] {
            while let Some(mount) = self.our_mount(place, id.as_ref(), stranger)? {
                shown.extend(Shown::at(&mount)?);
                unmount(&mount)?;
                failpoint!("unstage.unmounted");
            }
        }
        if let Some(stat) = file::stat(&device).doing(|| format!("looking at {}", device.display()))?
            && stat.is_file
        {
            remove_place(&device)?;
            failpoint!("unstage.device-removed");
        }
        match id {
            Some(id) => self.release(id.key, &shown),
            None => Ok(()),
        }
    }

    /// The mount on top at `place` if it is of this volume: by device and inode, or by the name of what
    /// backs it when its files or its pool are gone. An error if it is somebody else's.
    pub(super) fn our_mount(
        &self,
        place: &Path,
        id: Option<&VolumeId>,
        stranger: impl Fn() -> Error,
    ) -> Result<Option<Mount>> {
        if !is_mounted(place)? {
            return Ok(None);
        }
        let doing = || format!("looking at {}", place.display());
        let Some(mount) = mountinfo::at(place).doing(doing)? else { return Ok(None) };
        let id = id.ok_or_else(&stranger)?;
        if let Ok(Some((pool, record))) = self.store.volume(id.key) {
            let located = Located { pool: &pool, record: &record };
            if !matches!(located.compare(place)?, Found::Other | Found::Dead(_)) {
                return Ok(Some(mount));
            }
        }
        let owner = attachment::key_of(&mount)?;
        // A device with nothing behind it is what an interrupted attempt of ours leaves at such a place.
        let dead = owner.is_none() && is_dead_device(place)?;
        if owner == Some(id.key) || dead { Ok(Some(mount)) } else { Err(stranger()) }
    }

    /// What is left of an image after its mounts are gone. Without a readable record there is nothing
    /// to prove an image's loop by; health reports that.
    fn release(&self, key: Key, shown: &[Shown]) -> Result<()> {
        if let Ok(Some((pool, record))) = self.store.volume(key)
            && record.shape.access == Access::Mount
        {
            return match record.shape.layout {
                Layout::Directory => Ok(()),
                Layout::Image => wait_detached(key, &pool.image(Kind::Volume, key)),
            };
        }
        if self.clear_staged(key, shown)? {
            return Ok(());
        }
        let devices = self.clear_stacked(key)?;
        self.clear_device(key, &devices)
    }
}

/// AUTOCLEAR detaches with the last unmount, unless the filesystem is mounted elsewhere too.
fn wait_detached(key: Key, image: &Path) -> Result<()> {
    let doing = || format!("looking whether volume {key} is detached");
    if file::stat(image).doing(doing)?.is_none() || attachment::loops_of(image)?.is_empty() {
        return Ok(());
    }
    if loopdev::wait_unused(image, Duration::from_secs(2)).doing(doing)? {
        return Ok(());
    }
    Err(Error::Busy(format!(
        "volume {key} is still attached: it is published, or mounted in another mount namespace; end that first"
    )))
}

pub(super) fn check_capability(capability: &Capability, record: &VolumeRecord) -> Result<()> {
    check_shape(capability, record.shape, &record.id())
}

/// Whether a volume of this shape can do what is asked of it.
pub fn check_shape(capability: &Capability, shape: Shape, id: &VolumeId) -> Result<()> {
    let exceeds = |what: String| Err(Error::Refused(format!("volume {id} {what}")));
    if capability.access() != shape.access {
        return exceeds(format!("is {}, not {}", shape.access, capability.access()));
    }
    if !capability.mode.is_possible_locally() {
        return exceeds("lies on one node: MULTI_NODE_*_WRITER is impossible".into());
    }
    match (capability.filesystem()?, shape.filesystem) {
        (Some(wanted), Some(has)) if wanted != has => {
            exceeds(format!("holds {}, not {}", image::name(has), image::name(wanted)))
        }
        (Some(wanted), None) => exceeds(format!("is a {shape}; it holds no {}", image::name(wanted))),
        _ => Ok(()),
    }
}

fn stage_image(
    located: Located<'_>,
    staging: &Path,
    filesystem: Filesystem,
    options: &MountOptions,
    attributes: Attributes,
) -> Result<()> {
    let Located { pool, record } = located;
    if is_mounted(staging)? {
        return match located.compare(staging)? {
            Found::Root(_) => check_attributes(staging, attributes),
            _ => Err(occupied(staging)),
        };
    }
    create::check_image(pool, record)?;
    let path = pool.image(Kind::Volume, record.key);
    match attachment::only_loop_of(&path)? {
        Some(number) => {
            refuse_second_place(record, number, staging)?;
            prepare_attached(record, number, &path, filesystem)?;
        }
        None => prepare_detached(record, &path, filesystem)?,
    }
    let held = attachment::attach(&path)?;
    failpoint!("stage.attached");
    // A loop that was found may be one of somebody else's making: under a mount it ends with the mount.
    loopdev::set_autoclear(&held, true).doing(|| format!("attaching volume {}", record.key))?;
    warn_without_direct_io(&held, record);
    let doing = || format!("mounting volume {} at {}", record.key, staging.display());
    let data = options.data(filesystem);
    match mount::mount(&held.path(), staging, image::name(filesystem), attributes, &data) {
        Err(error) if error.is_corrupt() => return Err(image::needs_decision(&path, record, &error)),
        result => result.doing(doing)?,
    }
    failpoint!("stage.mounted");
    drop(held);
    prove_staged(located, staging, attributes)
}

/// The postcondition; where it fails, the mount that was just made goes again.
fn prove_staged(located: Located<'_>, staging: &Path, attributes: Attributes) -> Result<()> {
    let proven = match located.compare(staging) {
        Ok(Found::Root(_)) => check_attributes(staging, attributes),
        Ok(_) => {
            return Err(Error::Busy(format!(
                "{} is not the mount that was just made; try again",
                staging.display()
            )));
        }
        Err(error) => Err(error),
    };
    proven.map_err(|error| match mount::unmount(staging) {
        Ok(()) => error,
        Err(left) => Error::Busy(format!("{}; and it could not be undone: {left}", error.chain())),
    })
}

/// A loop whose filesystem is mounted at no path: somebody else's, which is used as it is, or that of a driver that
/// was killed while it prepared the image. The latter ends in a moment, and what it was about to do is still due.
fn prepare_attached(record: &VolumeRecord, number: u32, path: &Path, filesystem: Filesystem) -> Result<()> {
    const PARTING: Duration = Duration::from_secs(1);
    let doing = || format!("looking whether volume {} is detached", record.key);
    if loopdev::wait_unused(path, PARTING).doing(doing)? {
        return prepare_detached(record, path, filesystem);
    }
    if image::fills(path, filesystem, record)? {
        return Ok(());
    }
    Err(Error::Busy(format!(
        "volume {} has to grow before it is handed out, and its image is attached to /dev/loop{number}, which this \
         driver does not use: detach it",
        record.id()
    )))
}

/// What a detached image needs before it is handed out: its own filesystem, free of known errors, room
/// for every write, the size that an expansion promised.
fn prepare_detached(record: &VolumeRecord, path: &Path, filesystem: Filesystem) -> Result<()> {
    image::check_content(path, filesystem, record)?;
    image::mend(path, record)?;
    own_blocks_again(record, path);
    image::grow(path, filesystem, record)
}

/// A trim inside punches holes; a thick volume owns its blocks again at the next stage. That the pool
/// is too full for it is a matter for health reports, not a reason to keep a pod from its data.
pub(super) fn own_blocks_again(record: &VolumeRecord, path: &Path) {
    if record.provisioning != Some(Provisioning::Thick) {
        return;
    }
    let owned = file::open_image(path).and_then(|file| file::allocate(&file, record.size_bytes));
    failpoint!("stage.blocks-owned");
    if let Err(error) = owned {
        tracing::warn!(volume = %record.key, %error, "a thick volume cannot own all its blocks again");
    }
}

/// The same filesystem at two staging paths would be one filesystem with two owners.
fn refuse_second_place(record: &VolumeRecord, number: u32, staging: &Path) -> Result<()> {
    let device = loopdev::device_number(number);
    let mounts =
        mountinfo::of_device(device).doing(|| format!("looking for mounts of volume {}", record.key))?;
    match mounts.iter().find(|mount| mount.point != staging) {
        Some(mount) => Err(Error::Refused(format!(
            "volume {} is already staged at {}: unstage it there first",
            record.id(),
            mount.point.display()
        ))),
        None => Ok(()),
    }
}

fn warn_without_direct_io(held: &Held, record: &VolumeRecord) {
    if let Ok(Some(status)) = loopdev::status(held)
        && !status.direct_io
    {
        tracing::warn!(
            volume = %record.key,
            loop_device = held.number,
            "the pool's filesystem refuses direct I/O: pages are cached twice"
        );
    }
}

fn stage_directory(located: Located<'_>, staging: &Path, attributes: Attributes) -> Result<()> {
    let Located { pool, record } = located;
    if is_mounted(staging)? {
        return match located.compare(staging)? {
            Found::Root(_) => check_attributes(staging, attributes),
            _ => Err(occupied(staging)),
        };
    }
    let data = pool.data(Kind::Volume, record.key);
    let doing = || format!("mounting volume {} at {}", record.key, staging.display());
    if file::stat(&data).doing(doing)?.is_none() {
        return Err(Error::Damaged(format!(
            "the directory of volume {} is lost ({} is missing): restore it from a snapshot or backup",
            record.key,
            data.display()
        )));
    }
    // The admin may have switched qgroups off and on again. That it cannot be limited is a matter for
    // health reports, not a reason to keep a pod from its data.
    if let Err(error) = directory::limit(&data, record) {
        tracing::warn!(volume = %record.key, error = error.chain(), "a directory is not limited");
    }
    mount::bind(&data, staging, attributes).doing(doing)?;
    failpoint!("stage.bound");
    prove_staged(located, staging, attributes)
}

/// A final error is only given when nothing of the attempt is left (design invariant 6).
pub(super) fn undo<T>(place: &Path, error: Error) -> Result<T> {
    let undone = match is_mounted(place) {
        Ok(true) => mount::unmount(place).doing(|| format!("unmounting {}", place.display())),
        other => other.map(drop),
    };
    match undone.and_then(|()| remove_place(place)) {
        Ok(()) => Err(error),
        Err(left) => {
            Err(Error::Busy(format!("{}; and it could not be undone: {}", error.chain(), left.chain())))
        }
    }
}

/// CSI: staged incompatibly at that path is ALREADY_EXISTS.
pub(super) fn check_attributes(place: &Path, wanted: Attributes) -> Result<()> {
    let doing = || format!("looking at {}", place.display());
    let Some(mount) = mountinfo::at(place).doing(doing)? else {
        return Err(Error::Busy(format!("{} is no mount any more; try again", place.display())));
    };
    let same = mount.is_read_only() == wanted.read_only
        && mount.has("nosuid") == wanted.nosuid
        && mount.has("noexec") == wanted.noexec;
    // A filesystem that the kernel made read-only after an error was mounted as asked.
    if same || (mount.is_read_only() && !mount.has("ro") && !wanted.read_only) {
        return Ok(());
    }
    Err(Error::Incompatible(format!(
        "the volume is already mounted at {} with other options: unmount it there first",
        place.display()
    )))
}

pub(super) fn occupied(place: &Path) -> Error {
    Error::Incompatible(format!(
        "something else is mounted at {}: it was left alone, unmount it first",
        place.display()
    ))
}

/// Unmounts what was just looked at; a volume in use stays mounted and says so. A program that is being
/// started holds every file of this process for a moment, so a busy answer is asked for again.
pub(super) fn unmount(seen: &Mount) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(300);
    loop {
        match mount::unmount(&seen.point) {
            Err(e) if e.is_busy() && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(e) if e.is_busy() => {
                return Err(Error::Busy(format!(
                    "{} is in use by a process on this node: stop it, then try again",
                    seen.point.display()
                )));
            }
            result => return result.doing(|| format!("unmounting {}", seen.point.display())),
        }
    }
}
