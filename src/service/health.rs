//! Health of volumes and pools: what the CSI 1.13 health RPCs report.

use super::{
    Service, TargetPath,
    list::{Listed, Page, both, parse_token, token_after},
    nfs::OnShare,
    target::mounted_place,
};
use crate::{
    backend::{
        attachment::{self, Found, Located},
        image, limits,
    },
    error::{Doing, Error, Result},
    os::{btrfs, file, loopdev, mountinfo},
    store::{Kind, Pool},
    volume::{Key, Layout, LimitMode, NodeName, VolumeId, VolumeRecord},
};
use std::path::Path;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, not as it should.
    Degraded,
    /// It cannot be used.
    Inaccessible,
    /// Data is gone.
    DataLoss,
}

impl Severity {
    /// As metrics and tables show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Degraded => "degraded",
            Self::Inaccessible => "inaccessible",
            Self::DataLoss => "data-loss",
        }
    }
}

/// One thing that is wrong with a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ailment {
    /// How bad.
    pub severity: Severity,
    /// CamelCase, for machines.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// One thing that is wrong with a pool: `unreachable` or degraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolAilment {
    /// Which pool.
    pub pool: String,
    /// No volume on it can be used.
    pub unreachable: bool,
    /// CamelCase, for machines.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// A volume and what is wrong with it; nothing if the list is empty.
#[derive(Clone, Debug)]
pub struct Health {
    /// The volume's id.
    pub id: String,
    /// What is wrong.
    pub ailments: Vec<Ailment>,
}

/// A ControllerGetVolumeHealth request.
#[derive(Clone, Debug)]
pub struct GetVolumeHealth {
    /// As the CO sent it.
    pub id: String,
}

/// A ControllerListVolumeHealth request.
#[derive(Clone, Debug, Default)]
pub struct ListHealth {
    /// Which part.
    pub page: Page,
}

/// A NodeGetVolumeHealth request.
#[derive(Clone, Debug)]
pub struct NodeHealth {
    /// As the CO sent it.
    pub id: String,
    /// Where it is, or should be, published.
    pub published: Option<TargetPath>,
    /// Where it is, or should be, staged.
    pub staged: Option<TargetPath>,
}

/// Below this share of free space a pool is nearly full.
const NEARLY_FULL: u64 = 50;

impl Service {
    /// What is wrong with a volume at rest.
    pub fn volume_health(&self, request: &GetVolumeHealth) -> Result<Health> {
        if let Some(id) = OnShare::parse(&request.id) {
            return self.shares.volume_health(&id);
        }
        let unknown = || Error::NotFound(format!("volume {:?} does not exist", request.id));
        let id = VolumeId::parse(&request.id).ok_or_else(unknown)?;
        if let Some(nodes) = self.nodes() {
            return nodes.volume_health(&id);
        }
        let ailments = self.ailments_of(id.key)?.ok_or_else(unknown)?;
        Ok(Health { id: request.id.clone(), ailments })
    }

    /// Only volumes with something wrong.
    pub fn list_health(&self, request: &ListHealth) -> Result<Listed<Health>> {
        let local = |page: &Page| match self.nodes() {
            Some(nodes) => nodes.list_health(page),
            None => self.list_local_health(page),
        };
        both(&request.page, local, |from, most| self.shares.list_health(from, most))
    }

    fn list_local_health(&self, page: &Page) -> Result<Listed<Health>> {
        let after = parse_token(&page.token)?;
        let most = if page.max_entries == 0 { usize::MAX } else { page.max_entries };
        let (mut entries, mut last): (Vec<Health>, Option<Key>) = (Vec::new(), None);
        for (key, pool) in self.keys_after(Kind::Volume, after)? {
            let (node, ailments) = at_rest(&pool, key, &self.node, Look::Thorough)?;
            if ailments.is_empty() {
                continue;
            }
            if entries.len() == most {
                return Ok((entries, last.map_or(String::new(), token_after)));
            }
            entries.push(Health { id: VolumeId { key, node }.to_string(), ailments });
            last = Some(key);
        }
        Ok((entries, String::new()))
    }

    /// What is wrong with a volume in use on this node.
    pub fn node_volume_health(&self, request: &NodeHealth) -> Result<Health> {
        let paths =
            [&request.staged, &request.published].map(|path| path.as_ref().and_then(TargetPath::absolute));
        if paths.into_iter().any(|path| self.is_on_share(&request.id, path)) {
            return self.nfs_node.health(request);
        }
        let unknown = || Error::NotFound(format!("volume {:?} does not exist", request.id));
        let id = VolumeId::parse(&request.id).ok_or_else(unknown)?;
        let mut ailments = self.ailments_of(id.key)?.ok_or_else(unknown)?;
        if let Ok(Some((pool, record))) = self.store.volume(id.key) {
            let located = Located { pool: &pool, record: &record };
            for path in [&request.staged, &request.published].into_iter().flatten() {
                if let Some(place) = path.absolute() {
                    ailments.extend(confirmed(|| {
                        let mut found = Vec::new();
                        in_use(located, place, &mut found).map(|()| found)
                    })?);
                }
            }
        }
        ailments.dedup();
        Ok(Health { id: request.id.clone(), ailments })
    }

    fn ailments_of(&self, key: Key) -> Result<Option<Vec<Ailment>>> {
        match self.store.volume(key) {
            Ok(Some((pool, _))) => Ok(Some(at_rest(&pool, key, &self.node, Look::Thorough)?.1)),
            Ok(None) => Ok(None),
            Err(error @ (Error::Damaged(_) | Error::Unavailable(_))) => Ok(Some(vec![out_of_reach(&error)])),
            Err(error) => Err(error),
        }
    }

    /// What is wrong with the pools of this node.
    pub fn storage_health(&self) -> Vec<PoolAilment> {
        let mut ailments = Vec::new();
        for (name, pool) in self.store.pools() {
            if let Err((unreachable, reason, message)) = pool
                .map_err(|error| (true, "PoolUnavailable", error.chain()))
                .and_then(|pool| pool_health(&pool))
            {
                ailments.push(PoolAilment { pool: name.to_owned(), unreachable, reason, message });
            }
        }
        ailments
    }
}

fn pool_health(pool: &Pool) -> Result<(), (bool, &'static str, String)> {
    pool.verify().map_err(|error| (true, "PoolUnavailable", error.chain()))?;
    let space = pool.space().map_err(|error| (true, "PoolUnavailable", error.chain()))?;
    let name = pool.name();
    if pool.is_read_only().map_err(|error| (true, "PoolUnavailable", error.chain()))? {
        return Err((
            true,
            "PoolReadOnly",
            format!("the filesystem of pool {name:?} is read-only: see the kernel's log"),
        ));
    }
    if space.available < space.total / NEARLY_FULL {
        let message = format!(
            "pool {name:?} is nearly full: {} of {} bytes are available",
            space.available, space.total
        );
        return Err((false, "PoolFull", message));
    }
    if pool.ledger().promised() > space.available {
        let message = format!(
            "pool {name:?} has promised {} bytes more than it has available: other data was written to its disk",
            pool.ledger().promised() - space.available
        );
        return Err((false, "PoolOvercommitted", message));
    }
    Ok(())
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Records and what stat(2) tells: cheap enough for every scrape of ten thousand volumes.
    Glance,
    /// Superblocks and subvolumes too.
    Thorough,
}

/// What two looks in a row agree on: during one the volume may be deleted, made anew or unmounted.
fn confirmed(look: impl Fn() -> Result<Vec<Ailment>>) -> Result<Vec<Ailment>> {
    let first = look();
    if first.as_ref().is_ok_and(Vec::is_empty) {
        return first;
    }
    let second = look()?;
    Ok(match first {
        Ok(first) => {
            second.into_iter().filter(|it| first.iter().any(|same| same.reason == it.reason)).collect()
        }
        Err(_) => second,
    })
}

/// What a glance at a volume that is there tells: the worst of what makes it useless.
pub fn useless(pool: &Pool, record: &VolumeRecord) -> Option<Ailment> {
    let ailments = confirmed(|| record_at_rest(pool, record, Look::Glance));
    let ailments = ailments.unwrap_or_else(|error| vec![unreadable(&error)]);
    ailments.into_iter().filter(|one| one.severity > Severity::Degraded).max_by_key(|one| one.severity)
}

/// Why a volume cannot be looked at.
pub fn out_of_reach(error: &Error) -> Ailment {
    match error {
        Error::Damaged(message) => damaged(message.clone()),
        Error::Unavailable(_) => {
            Ailment { severity: Severity::Inaccessible, reason: "PoolUnavailable", message: error.chain() }
        }
        error => unreadable(error),
    }
}

/// What a look at the files tells. `node` stands in where the record cannot be read.
pub fn at_rest(pool: &Pool, key: Key, node: &NodeName, look: Look) -> Result<(NodeName, Vec<Ailment>)> {
    let ailments = confirmed(|| match pool.volume(key) {
        Ok(Some(record)) => record_at_rest(pool, &record, look),
        Ok(None) => Ok(Vec::new()),
        Err(Error::Damaged(message)) => Ok(vec![damaged(message)]),
        // One volume that cannot be looked at must not hide the others.
        Err(error) => Ok(vec![unreadable(&error)]),
    })?;
    let node = pool.volume(key).ok().flatten().map_or_else(|| node.clone(), |record| record.node);
    Ok((node, ailments))
}

fn record_at_rest(pool: &Pool, record: &VolumeRecord, look: Look) -> Result<Vec<Ailment>> {
    let mut ailments = Vec::new();
    let looked = match record.shape.layout {
        Layout::Image => image_at_rest(pool, record, look, &mut ailments),
        Layout::Directory => directory_at_rest(pool, record, look, &mut ailments),
    };
    ailments.extend(looked.err().map(|error| unreadable(&error)));
    Ok(ailments)
}

fn unreadable(error: &Error) -> Ailment {
    Ailment { severity: Severity::Inaccessible, reason: "Unreadable", message: error.chain() }
}

fn damaged(message: String) -> Ailment {
    Ailment { severity: Severity::Inaccessible, reason: "RecordDamaged", message }
}

fn image_at_rest(pool: &Pool, record: &VolumeRecord, look: Look, ailments: &mut Vec<Ailment>) -> Result<()> {
    let path = pool.image(Kind::Volume, record.key);
    let stat = file::stat(&path).doing(|| format!("looking at {}", path.display()))?;
    match stat {
        None => ailments.push(Ailment {
            severity: Severity::DataLoss,
            reason: "ImageMissing",
            message: format!("{} is missing", path.display()),
        }),
        Some(stat) if stat.size < record.size_bytes => ailments.push(Ailment {
            severity: Severity::DataLoss,
            reason: "ImageTruncated",
            message: format!("{} has {} of {} bytes", path.display(), stat.size, record.size_bytes),
        }),
        Some(_) => {
            if let Some(filesystem) = record.shape.filesystem.filter(|_| look == Look::Thorough) {
                match image::check_content(&path, filesystem, record) {
                    Err(Error::Damaged(message)) => {
                        ailments.push(Ailment {
                            severity: Severity::DataLoss,
                            reason: "ForeignContent",
                            message,
                        });
                    }
                    looked => drop(looked?),
                }
            }
        }
    }
    Ok(())
}

fn directory_at_rest(
    pool: &Pool,
    record: &VolumeRecord,
    look: Look,
    ailments: &mut Vec<Ailment>,
) -> Result<()> {
    let data = pool.data(Kind::Volume, record.key);
    let doing = || format!("looking at {}", data.display());
    if file::stat(&data).doing(doing)?.is_none() {
        ailments.push(Ailment {
            severity: Severity::DataLoss,
            reason: "DirectoryMissing",
            message: format!("{} is missing", data.display()),
        });
        return Ok(());
    }
    if look == Look::Glance {
        return Ok(());
    }
    if pool.abilities().btrfs {
        counted_by_btrfs(pool, record, &data, ailments)?;
    }
    if record.limit == Some(LimitMode::Enforced) && limits::now(record, &data)? != Some(record.size_bytes) {
        ailments.push(Ailment {
            severity: Severity::Degraded,
            reason: "LimitMissing",
            message: "the volume's limit is not set: switch qgroups or project quota on, then stage the volume again"
                .into(),
        });
    }
    Ok(())
}

/// What makes the count of a qgroup say less than is there.
fn counted_by_btrfs(
    pool: &Pool,
    record: &VolumeRecord,
    data: &Path,
    ailments: &mut Vec<Ailment>,
) -> Result<()> {
    let doing = || format!("looking at {}", data.display());
    let nested = btrfs::nested_subvolumes(data).doing(doing)?;
    if let Some(first) = nested.first() {
        ailments.push(Ailment {
            severity: Severity::Degraded,
            reason: "LimitEscaped",
            message: format!(
                "{} nested subvolumes (the first is {}) are outside the volume's limit and its snapshots",
                nested.len(),
                first.display()
            ),
        });
    }
    if record.limit == Some(LimitMode::Enforced) && !btrfs::quota_consistent(data).doing(doing)? {
        ailments.push(Ailment {
            severity: Severity::Degraded,
            reason: "LimitInconsistent",
            message: format!(
                "the kernel has lost count of qgroups: run `btrfs quota rescan {}`",
                pool.home().display()
            ),
        });
    }
    Ok(())
}

/// What a look at the mount tells.
fn in_use(located: Located<'_>, place: &Path, ailments: &mut Vec<Ailment>) -> Result<()> {
    let doing = || format!("looking at {}", place.display());
    let mut found = |severity, reason, message| ailments.push(Ailment { severity, reason, message });
    let Some(place) = mounted_place(place, located.record.shape.access)? else {
        if file::stat(place).doing(doing)?.is_some() {
            let message =
                format!("{} is no mount: the volume has to be staged and published again", place.display());
            found(Severity::Inaccessible, "NotMounted", message);
        }
        return Ok(());
    };
    match located.compare(&place)? {
        Found::Root(number) => {
            if let Err(error) = file::stat(&place) {
                let message = format!("the filesystem at {} has shut down: {error}", place.display());
                found(Severity::Inaccessible, "FilesystemDown", message);
            } else if is_read_only_by_error(&place)? {
                let message = format!("the filesystem at {} went read-only after an error", place.display());
                found(Severity::Inaccessible, "FilesystemReadOnly", message);
            }
            if let Some(number) = number {
                loop_health(number, &place, &mut found)?;
            }
        }
        Found::Device(number) | Found::ReadOnlyDevice { base: number, .. } => {
            loop_health(number, &place, &mut found)?;
        }
        Found::Dead(_) => {
            let message = format!("the device at {} has nothing behind it", place.display());
            found(Severity::Inaccessible, "DeviceDetached", message);
        }
        Found::Other if image_is_deleted(&place)? => {
            let message =
                format!("the image behind {} was deleted: its data ends with the mount", place.display());
            found(Severity::DataLoss, "ImageDeleted", message);
        }
        Found::Other => {
            let message = format!("what is mounted at {} is not this volume's image", place.display());
            found(Severity::Inaccessible, "MountForeign", message);
        }
    }
    Ok(())
}

/// The superblock is read-only though the mount was asked to be writable.
fn is_read_only_by_error(place: &Path) -> Result<bool> {
    let doing = || format!("looking at {}", place.display());
    let mount = mountinfo::at(place).doing(doing)?;
    Ok(mount.is_some_and(|mount| mount.is_read_only() && !mount.has("ro")))
}

/// Such an image has no inode below the pool any more that the loop could be compared with.
fn image_is_deleted(place: &Path) -> Result<bool> {
    let doing = || format!("looking at {}", place.display());
    let Ok(Some(stat)) = file::stat(place) else { return Ok(false) };
    let device = if stat.is_block { stat.rdev } else { stat.inode.device };
    let Some(number) = loopdev::number_of(device) else { return Ok(false) };
    Ok(loopdev::backing_path(number).doing(doing)?.is_some_and(|backing| backing.deleted))
}

fn loop_health(
    number: u32,
    place: &Path,
    found: &mut impl FnMut(Severity, &'static str, String),
) -> Result<()> {
    match attachment::status(number)? {
        Some(status) if !status.direct_io => {
            let message =
                format!("{} is not attached with direct I/O: pages are cached twice", place.display());
            found(Severity::Degraded, "NoDirectIo", message);
        }
        _ => {}
    }
    Ok(())
}
