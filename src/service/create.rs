//! CreateVolume: a new volume, a restored snapshot or a clone.

use super::{Service, Volume, nfs::CreateOnShare};
use crate::{
    backend::{
        content::{self, Origin, Way},
        directory, image, limits,
    },
    error::{Error, Result},
    failpoint,
    os::{file, format::Filesystem, lock::Mode},
    store::{Draft, Kind, Lock, Pool, Reservation},
    volume::{
        Access, Capability, CapacityRange, Class, Key, Layout, LimitMode, Name, Owner, Provisioning, Shape,
        SnapshotId, Source, VolumeId, VolumeRecord,
        record::{Timestamp, VERSION},
        size::{BLOCK, round_up},
        topology::Requirement,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A CreateVolume request, by where the volume is to lie.
pub enum CreateVolume {
    /// On this node.
    Local(CreateLocal),
    /// On an NFS share.
    OnShare(CreateOnShare),
}

/// A request for a volume on this node. It has no `Debug`: capabilities hold mount flags.
pub struct CreateLocal {
    /// The CO's name.
    pub name: Name,
    /// How large.
    pub range: CapacityRange,
    /// At least one.
    pub capabilities: Vec<Capability>,
    /// The StorageClass's parameters.
    pub class: Class,
    /// First content.
    pub source: Option<SourceRequest>,
    /// Where.
    pub topology: Requirement,
    /// The claim that it is for, where the orchestrator tells (`--extra-create-metadata` of csi-provisioner).
    pub claim: Option<Claim>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Ids as the CO sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceRequest {
    /// Of a snapshot.
    Snapshot(String),
    /// Of a volume.
    Volume(String),
}

/// A source that exists and cannot change while the lock is held.
struct FoundSource {
    origin: Origin,
    source: Source,
    asked_bytes: u64,
    _lock: Lock,
}

impl Service {
    /// Makes the volume, or finds the one that an earlier call of the same name made.
    pub fn create_volume(&self, request: &CreateVolume) -> Result<Volume> {
        match request {
            CreateVolume::Local(request) => match self.nodes() {
                Some(nodes) => nodes.create_volume(request),
                None => self.create_local(request).map(Volume::from),
            },
            CreateVolume::OnShare(request) => {
                self.refuse_local(&request.name)?;
                self.shares.create_volume(request)
            }
        }
    }

    /// One name is one volume, wherever it lies.
    fn refuse_local(&self, name: &Name) -> Result<()> {
        let found = match self.nodes() {
            Some(nodes) => nodes.volume_of(Key::of(name))?,
            // A pool that cannot be looked at is no reason to make no volume elsewhere.
            None => self.store.volume_in_reach(Key::of(name)).ok().flatten().map(|(_, record)| record.id()),
        };
        match found {
            Some(id) => Err(Error::Incompatible(format!(
                "a local volume of this name exists: delete {id} first, or use another name"
            ))),
            None => Ok(()),
        }
    }

    fn create_local(&self, request: &CreateLocal) -> Result<VolumeRecord> {
        let key = Key::of(&request.name);
        let wish = Wish::new(request)?;
        let _lock = self.lock_volume(key, Mode::Exclusive)?;
        if let Some((pool, record)) = self.store.volume_in_reach(key)? {
            wish.check_same(request, &Existing::of(&pool, &record))?;
            return Ok(record);
        }
        if !request.topology.allows(&self.node) {
            return Err(Error::NoSpace(format!(
                "a local volume of this driver lies on node {}, which the topology requirement leaves out",
                self.node
            )));
        }
        let pool = self.store.pool(request.class.pool())?;
        pool.verify()?;
        if let Some(limit) = wish.limit {
            limits::check(&pool, limit)?;
        }
        let source = request.source.as_ref().map(|source| self.find_source(source)).transpose()?;
        let record = wish.record(request, key, self, source.as_ref())?;
        self.make(&pool, record, source.as_ref())
    }

    /// Returns the record as it was written down.
    fn make(
        &self,
        pool: &Arc<Pool>,
        record: VolumeRecord,
        source: Option<&FoundSource>,
    ) -> Result<VolumeRecord> {
        let way = source.map(|source| Way::of(&source.origin, pool, record.provisioning));
        let purpose = format!("volume {}", record.key);
        let _room = reserve(pool, record.size_bytes, source.map(|s| &s.origin).zip(way), &purpose)?;
        let draft = pool.draft(Kind::Volume, record.key)?;
        let record = &VolumeRecord { project_id: limits::claim(pool, &draft, &record)?, ..record };
        match source.zip(way) {
            None => fill_fresh(pool, &draft, record),
            Some((source, way)) => {
                let mut progress = self.progress(&purpose, source.origin.size_bytes);
                content::transfer(&source.origin, way, &draft, Some((pool, record)), &mut progress)
                    .inspect(|()| promise_again(pool, &source.origin, way))
                    .and_then(|()| finish(&draft, record))
            }
        }
        .map_err(|error| no_space(error, pool, record))?;
        // Promised before it exists: a reservation ends with this function.
        pool.ledger().set(record.key, record.size_bytes);
        failpoint!("create.filled");
        if let Err(error) = draft.commit(record) {
            // Where it may exist all the same it keeps its promise.
            if !matches!(error, Error::Unavailable(_)) {
                pool.ledger().remove(record.key);
            }
            return Err(no_space(error, pool, record));
        }
        // What it owns already need not be kept free as well.
        match pool.promise(record) {
            Ok(owed) => pool.ledger().set(record.key, owed),
            Err(error) => {
                tracing::warn!(volume = %record.key, error = error.chain(), "cannot tell what it owns")
            }
        }
        Ok(record.clone())
    }

    fn find_source(&self, source: &SourceRequest) -> Result<FoundSource> {
        match source {
            SourceRequest::Snapshot(id) => {
                let unknown = || Error::NotFound(format!("source snapshot {id:?} does not exist"));
                let key = SnapshotId::parse(id).ok_or_else(unknown)?.key;
                let lock = self.store.lock(Kind::Snapshot, key, Mode::Shared)?;
                let (pool, record) = self.store.snapshot(key)?.ok_or_else(unknown)?;
                let origin = Origin {
                    pool,
                    kind: Kind::Snapshot,
                    key,
                    shape: record.shape,
                    provisioning: record.provisioning,
                    size_bytes: record.size_bytes,
                };
                let source = Source::Snapshot(key);
                Ok(FoundSource { origin, source, asked_bytes: record.asked_bytes, _lock: lock })
            }
            SourceRequest::Volume(id) => {
                let unknown = || Error::NotFound(format!("source volume {id:?} does not exist"));
                let key = VolumeId::parse(id).ok_or_else(unknown)?.key;
                let lock = self.lock_volume(key, Mode::Shared)?;
                let (pool, record) = self.store.volume(key)?.ok_or_else(unknown)?;
                let asked_bytes = record.asked_size();
                let origin = Origin::of_volume(pool, &record);
                Ok(FoundSource { origin, source: Source::Volume(key), asked_bytes, _lock: lock })
            }
        }
    }

    /// Logs a long copy every ten seconds, and ends it when the driver is asked to stop.
    pub(super) fn progress<'a>(&'a self, what: &'a str, total: u64) -> impl FnMut(u64) -> bool + 'a {
        let mut last = Instant::now();
        move |done| {
            if last.elapsed() >= Duration::from_secs(10) {
                last = Instant::now();
                tracing::info!(what, done_bytes = done, total_bytes = total, "copying");
            }
            !self.is_stopping()
        }
    }
}

impl Origin {
    /// A volume as the origin of a copy.
    pub fn of_volume(pool: Arc<Pool>, record: &VolumeRecord) -> Self {
        Self {
            pool,
            kind: Kind::Volume,
            key: record.key,
            shape: record.shape,
            provisioning: record.provisioning,
            size_bytes: record.size_bytes,
        }
    }
}

/// Sets room aside for `bytes` more. Where blocks will be shared, a source volume no longer owns what
/// it holds: the difference must be there too, and is promised before anything is shared.
pub(super) fn reserve(
    pool: &Arc<Pool>,
    bytes: u64,
    origin: Option<(&Origin, Way)>,
    purpose: &str,
) -> Result<Reservation> {
    let shared =
        origin.filter(|(origin, way)| way.shares() && origin.kind == Kind::Volume).map(|(origin, _)| origin);
    let Some(origin) = shared else { return pool.reserve(bytes, purpose) };
    let owned = origin.size_bytes.saturating_sub(pool.ledger().of(origin.key).bytes);
    let reservation = pool.reserve(bytes.saturating_add(owned), purpose)?;
    pool.ledger().set(origin.key, origin.size_bytes);
    Ok(reservation)
}

/// A look at the disk between [`reserve`] and the cut still saw the origin own its blocks.
pub(super) fn promise_again(pool: &Pool, origin: &Origin, way: Way) {
    if way.shares() && origin.kind == Kind::Volume {
        pool.ledger().set(origin.key, origin.size_bytes);
    }
}

fn fill_fresh(pool: &Pool, draft: &Draft<'_>, record: &VolumeRecord) -> Result<()> {
    match record.shape.layout {
        Layout::Image => image::create(pool, draft, record),
        Layout::Directory => directory::create(draft, record),
    }
}

fn finish(draft: &Draft<'_>, record: &VolumeRecord) -> Result<()> {
    match record.shape.layout {
        Layout::Image => image::finish(&draft.image(), record),
        Layout::Directory => directory::finish(draft, record),
    }
}

fn no_space(error: Error, pool: &Pool, record: &VolumeRecord) -> Error {
    if !error.is_no_space() || matches!(error, Error::NoSpace(_)) {
        return error;
    }
    Error::NoSpace(format!(
        "pool {:?} ran full while volume {} ({} bytes) was being made: {}",
        pool.name(),
        record.key,
        record.size_bytes,
        error.chain()
    ))
}

/// The request, normalised: what decides whether two calls of one name mean the same volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Layout, access type, filesystem.
    pub shape: Shape,
    /// Only for images.
    pub provisioning: Option<Provisioning>,
    /// Only for directories.
    pub limit: Option<LimitMode>,
    /// First content.
    pub source: Option<Source>,
}

/// The volume that an earlier call of the same name made, or began to make.
#[derive(Debug)]
pub struct Existing<'a> {
    /// As the orchestrator knows it.
    pub id: VolumeId,
    /// What it was made by.
    pub wish: Wish,
    /// Where.
    pub pool: &'a str,
    /// Asked for at creation.
    pub owner: Owner,
    /// The size it has; `None`: not known yet.
    pub size_bytes: Option<u64>,
}

impl<'a> Existing<'a> {
    fn of(pool: &'a Pool, record: &VolumeRecord) -> Self {
        Self {
            id: record.id(),
            wish: Wish {
                shape: record.shape,
                provisioning: record.provisioning,
                limit: record.limit,
                source: record.source,
            },
            pool: pool.name(),
            owner: record.owner,
            size_bytes: Some(record.size_bytes),
        }
    }
}

impl Wish {
    /// Refuses what no local volume can be.
    pub fn new(request: &CreateLocal) -> Result<Self> {
        let layout = request.class.layout;
        let access = common_access(&request.capabilities)?;
        let filesystem = chosen_filesystem(request, access)?;
        if layout == Layout::Directory && access == Access::Block {
            return Err(Error::Invalid(
                "layout directory cannot serve raw block volumes: use layout image".into(),
            ));
        }
        Ok(Self {
            shape: Shape { layout, access, filesystem },
            provisioning: (layout == Layout::Image).then(|| request.class.provisioning.unwrap_or_default()),
            limit: (layout == Layout::Directory).then(|| request.class.limit.unwrap_or(LimitMode::Enforced)),
            source: match &request.source {
                None => None,
                Some(SourceRequest::Snapshot(id)) => SnapshotId::parse(id).map(|id| Source::Snapshot(id.key)),
                Some(SourceRequest::Volume(id)) => VolumeId::parse(id).map(|id| Source::Volume(id.key)),
            },
        })
    }

    /// Refuses a request that does not mean the volume which exists.
    ///
    /// CSI: ALREADY_EXISTS only for what is incompatible. Mount flags, secrets, the orchestrator's keys
    /// and the rest of the topology lists change between retries and do not count.
    pub fn check_same(&self, request: &CreateLocal, existing: &Existing<'_>) -> Result<()> {
        let Existing { id, wish, pool, owner, size_bytes } = existing;
        let differs = |what: &str| {
            Err(Error::Incompatible(format!(
                "a volume of this name exists with another {what}: delete {id} first, or use another name"
            )))
        };
        if self.shape != wish.shape {
            return differs(&format!("layout, access type or filesystem (it is a {})", wish.shape));
        }
        if request.class.pool() != *pool {
            return differs(&format!("pool ({pool:?})"));
        }
        if self.provisioning != wish.provisioning || self.limit != wish.limit {
            return differs("provisioning or limit");
        }
        if request.class.owner != *owner {
            return differs("uid, gid or mode");
        }
        if self.source != wish.source || request.source.is_some() != wish.source.is_some() {
            return differs("content source");
        }
        if let Some(size) = size_bytes.filter(|size| !request.range.admits(*size)) {
            return differs(&format!("size ({size} bytes)"));
        }
        if !request.topology.allows(&id.node) {
            return differs(&format!("node ({})", id.node));
        }
        Ok(())
    }

    fn record(
        &self,
        request: &CreateLocal,
        key: Key,
        service: &Service,
        source: Option<&FoundSource>,
    ) -> Result<VolumeRecord> {
        let floor = source.map_or(0, |source| source.origin.size_bytes);
        let size_bytes = request.range.choose(self.shape.filesystem, floor)?;
        if let Some(source) = source {
            self.check_source(source, size_bytes)?;
        }
        Ok(VolumeRecord {
            version: VERSION,
            name: request.name.as_str().to_owned(),
            key,
            node: service.node.clone(),
            shape: self.shape,
            provisioning: self.provisioning,
            limit: self.limit,
            owner: request.class.owner,
            required_bytes: match request.range.required {
                0 => source.map_or(0, |source| source.asked_bytes),
                required => required,
            },
            size_bytes,
            block_size: u32::try_from(BLOCK).unwrap_or(4096),
            source: source.map(|source| source.source),
            project_id: None,
            created: Timestamp::now(),
        })
    }

    fn check_source(&self, source: &FoundSource, size_bytes: u64) -> Result<()> {
        let origin = &source.origin;
        if origin.shape != self.shape {
            return Err(Error::Invalid(format!(
                "source {} {} is a {}, and cannot become a {}: use a class with the same layout, filesystem and \
                 volume mode",
                origin.kind, origin.key, origin.shape, self.shape
            )));
        }
        if size_bytes < round_up(origin.size_bytes) {
            return Err(Error::OutOfRange(format!(
                "source {} {} has {} bytes, and a copy cannot be smaller: ask for at least {}",
                origin.kind,
                origin.key,
                origin.size_bytes,
                source.asked_bytes.max(1)
            )));
        }
        Ok(())
    }
}

/// A volume is a device or a directory, not both.
fn common_access(capabilities: &[Capability]) -> Result<Access> {
    let Some(first) = capabilities.first() else {
        return Err(Error::Invalid("volume_capabilities is missing".into()));
    };
    for capability in capabilities {
        capability.check_local()?;
        if capability.access() != first.access() {
            return Err(Error::Invalid(
                "one volume cannot be both a raw block device and a mounted filesystem".into(),
            ));
        }
    }
    Ok(first.access())
}

/// The class and every capability may name the filesystem; two different names are a mistake.
fn chosen_filesystem(request: &CreateLocal, access: Access) -> Result<Option<Filesystem>> {
    if access == Access::Block {
        return Ok(None);
    }
    let mut chosen = request.class.filesystem;
    for capability in &request.capabilities {
        let named = capability.filesystem()?;
        if let (Some(a), Some(b)) = (chosen, named)
            && a != b
        {
            return Err(Error::Invalid(format!(
                "csi.storage.k8s.io/fstype and the capability's fs_type name different filesystems ({} and {})",
                image::name(a),
                image::name(b)
            )));
        }
        chosen = chosen.or(named);
    }
    match (request.class.layout, chosen) {
        (Layout::Image, chosen) => Ok(Some(chosen.unwrap_or(Filesystem::Ext4))),
        (Layout::Directory, None) => Ok(None),
        (Layout::Directory, Some(named)) => Err(Error::Invalid(format!(
            "filesystem {} can only be chosen for layout image; a directory has its pool's",
            image::name(named)
        ))),
    }
}

/// Whether the image of a volume is there and long enough; for those who are about to use it.
pub(super) fn check_image(pool: &Pool, record: &VolumeRecord) -> Result<()> {
    use crate::error::Doing;
    let path = pool.image(Kind::Volume, record.key);
    let stat = file::stat(&path).doing(|| format!("looking at {}", path.display()))?;
    match stat {
        Some(stat) if stat.is_file && stat.size >= record.size_bytes => Ok(()),
        Some(stat) if stat.is_file => Err(Error::Damaged(format!(
            "the image of volume {} is truncated ({} of {} bytes): restore it from a snapshot or backup",
            record.key, stat.size, record.size_bytes
        ))),
        _ => Err(Error::Damaged(format!(
            "the image of volume {} is lost ({} is missing): restore it from a snapshot or backup",
            record.key,
            path.display()
        ))),
    }
}
