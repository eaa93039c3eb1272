//! One pool: a directory on a disk that holds volumes and snapshots.

use super::{
    Kind,
    durability::Durability,
    format::{self, DIRECTORIES},
    janitor::Janitor,
    ledger::{Free, Ledger, Reservation},
    sealed,
};
use crate::{
    error::{Doing, Error, Result},
    os::{
        self, btrfs, file,
        lock::{self, Guard, Mode},
        mountinfo::{self, Mount},
        reflink, space,
    },
    volume::{Key, SnapshotRecord, VolumeRecord, record::VERSION},
};
use serde::de::DeserializeOwned;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How long a request waits for what was deleted to become free.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// `NAME=PATH[,mounted]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// What a StorageClass's `pool` says.
    pub name: String,
    /// Absolute path of the directory.
    pub path: PathBuf,
    /// Refuse a path that is no mountpoint.
    pub mounted: bool,
}

/// What the pool's filesystem can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It is btrfs: subvolumes, atomic snapshots, copy on write everywhere.
    pub btrfs: bool,
    /// Files can share blocks.
    pub reflink: bool,
}

/// An open pool.
#[derive(Debug)]
pub struct Pool {
    name: String,
    home: PathBuf,
    inode: file::Inode,
    store: Uuid,
    abilities: Abilities,
    durability: Durability,
    ledger: Arc<Ledger>,
    janitor: Janitor,
    /// A rename was made and could not be made durable: what is found or missing is not yet certain.
    unsettled: AtomicBool,
}

impl Pool {
    /// Opens the store at the configured path, making a new one in an empty directory; sweeps what a
    /// killed driver left in tmp, and starts the purge of trash.
    pub fn open(config: &PoolConfig) -> Result<Arc<Self>> {
        let home = checked_home(config)?;
        let (identity, abilities) = identify(&home)?;
        let pool = Arc::new_cyclic(|weak| Self {
            name: config.name.clone(),
            inode: identity.0,
            store: identity.1,
            durability: Durability::new(&home, abilities.btrfs),
            home,
            abilities,
            ledger: Arc::default(),
            janitor: Janitor::new(weak.clone()),
            unsettled: AtomicBool::new(false),
        });
        pool.load_ledger()?;
        pool.sweep()?;
        // A rename that a killed driver made may not be durable yet, but what it made will be found, and
        // answered for.
        file::sync_filesystem(&pool.home).doing(|| format!("making pool {:?} durable", pool.name))?;
        pool.janitor.kick();
        Ok(pool)
    }

    /// Opens an existing store to look at it: nothing is made, swept or purged.
    pub fn inspect(config: &PoolConfig) -> Result<Arc<Self>> {
        let home = checked_home(config)?;
        if format::read(&home)?.is_none() {
            return Err(Error::NotFound(format!("{} holds no store of this driver", home.display())));
        }
        let (identity, abilities) = identify(&home)?;
        let pool = Arc::new_cyclic(|weak| Self {
            name: config.name.clone(),
            inode: identity.0,
            store: identity.1,
            durability: Durability::new(&home, abilities.btrfs),
            home,
            abilities,
            ledger: Arc::default(),
            janitor: Janitor::new(weak.clone()),
            unsettled: AtomicBool::new(false),
        });
        pool.load_ledger()?;
        Ok(pool)
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The store's identity.
    pub fn store(&self) -> Uuid {
        self.store
    }

    /// What the filesystem can do.
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// Makes changes survive a power cut.
    pub fn durability(&self) -> &Durability {
        &self.durability
    }

    /// Promised space.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The worker that empties trash.
    pub fn janitor(&self) -> &Janitor {
        &self.janitor
    }

    /// `volumes/<key>` or `snapshots/<key>`.
    pub fn directory(&self, kind: Kind, key: Key) -> PathBuf {
        self.home.join(kind.directory()).join(key.to_string())
    }

    /// The content below [`Pool::directory`].
    pub fn data(&self, kind: Kind, key: Key) -> PathBuf {
        self.directory(kind, key).join(super::DATA)
    }

    /// The image below [`Pool::data`], for layout image.
    pub fn image(&self, kind: Kind, key: Key) -> PathBuf {
        self.data(kind, key).join(super::IMAGE)
    }

    /// Reads a volume's record; `None`: no such volume here.
    pub fn volume(&self, key: Key) -> Result<Option<VolumeRecord>> {
        match self.record::<VolumeRecord>(Kind::Volume, key)? {
            Some(record) if record.key != key => Err(self.misplaced(Kind::Volume, key)),
            record => Ok(record),
        }
    }

    /// Reads a snapshot's record; `None`: no such snapshot here.
    pub fn snapshot(&self, key: Key) -> Result<Option<SnapshotRecord>> {
        match self.record::<SnapshotRecord>(Kind::Snapshot, key)? {
            Some(record) if record.key != key => Err(self.misplaced(Kind::Snapshot, key)),
            record => Ok(record),
        }
    }

    /// A directory without a record is damage, not absence: the directory exists ⇔ the object exists.
    fn record<R: DeserializeOwned>(&self, kind: Kind, key: Key) -> Result<Option<R>> {
        let directory = self.directory(kind, key);
        // Who looks without the lock may see an object come to be between the two questions.
        for _ in 0..3 {
            let record = sealed::read(&directory.join(super::RECORD), VERSION)?;
            let exists = || file::stat(&directory).doing(|| format!("looking for {}", directory.display()));
            if record.is_some() || exists()?.is_none() {
                return Ok(record);
            }
        }
        Err(Error::Damaged(format!(
            "{} has lost its {}; it was left alone: restore the record from a backup, or move the directory \
             out of the pool",
            directory.display(),
            super::RECORD
        )))
    }

    fn misplaced(&self, kind: Kind, key: Key) -> Error {
        Error::Damaged(format!(
            "{} belongs to another object than its directory; it was left alone",
            self.directory(kind, key).join(super::RECORD).display()
        ))
    }

    /// Replaces a volume's record durably.
    pub fn rewrite(&self, record: &VolumeRecord) -> Result<()> {
        let path = self.directory(Kind::Volume, record.key).join(super::RECORD);
        file::replace(&path, &sealed::seal(record)?).doing(|| format!("rewriting {}", path.display()))
    }

    /// The keys that exist, in order. Names that are no keys are strangers, which `wharf gc` reports.
    pub fn keys(&self, kind: Kind) -> Result<Vec<Key>> {
        let directory = self.home.join(kind.directory());
        let names = file::list(&directory).doing(|| format!("listing {}", directory.display()))?;
        Ok(names.iter().filter_map(|name| Key::parse(name.to_str()?)).collect())
    }

    /// Whether this very store is there again, but not where it was: a disk that was unplugged, or a btrfs
    /// that was mounted again, has another device number.
    pub(super) fn is_back_elsewhere(&self) -> bool {
        let moved =
            file::stat(&self.home).is_ok_and(|stat| stat.is_some_and(|stat| stat.inode != self.inode));
        moved
            && format::read(&self.home).is_ok_and(|found| found.is_some_and(|found| found.uuid == self.store))
    }

    /// Fails unless the pool still is what it was at start. A disk that went away leaves an empty
    /// directory of the root filesystem behind, in which nothing must be created.
    pub fn verify(&self) -> Result<()> {
        let gone = |what: &str| {
            Error::Unavailable(format!(
                "pool {:?} at {} {what}: mount its disk there again, the driver then goes on by itself",
                self.name,
                self.home.display()
            ))
        };
        match file::stat(&self.home) {
            Ok(Some(stat)) if stat.inode == self.inode => {}
            Ok(Some(_)) => return Err(gone("is another directory than at start")),
            Ok(None) => return Err(gone("has vanished")),
            Err(e) if e.is_filesystem_down() => return Err(gone("lies on a filesystem that has shut down")),
            Err(e) => return Err(e).doing(|| format!("looking at pool {:?}", self.name)),
        }
        match format::read(&self.home)? {
            Some(found) if found.uuid == self.store => self.settle_renames(),
            Some(_) => Err(gone("carries another store than at start")),
            None => Err(gone("carries no store any more")),
        }
    }

    /// Makes the renames in `volumes` or `snapshots` durable. After a failure the next look at the pool
    /// tries again before it answers for anything.
    pub(super) fn commit_renames(&self, kind: Kind) -> os::Result<()> {
        let parent = self.home.join(kind.directory());
        let settled = self.durability.settle(&[&parent]);
        if settled.is_err() {
            self.unsettled.store(true, Ordering::SeqCst);
        }
        settled
    }

    fn settle_renames(&self) -> Result<()> {
        if self.unsettled.swap(false, Ordering::SeqCst)
            && let Err(error) = file::sync_filesystem(&self.home)
        {
            self.unsettled.store(true, Ordering::SeqCst);
            return Err(error)
                .doing(|| format!("making pool {:?} durable", self.name))
                .map_err(Error::after_commit);
        }
        Ok(())
    }

    /// Locks one object in this pool; `None`: somebody has it.
    pub fn try_lock(&self, kind: Kind, key: Key, mode: Mode) -> Result<Option<Guard>> {
        let path = self.home.join(format::LOCK);
        lock::try_lock(&path, kind.offset(key), mode)
            .doing(|| format!("locking {kind} {key} in pool {:?}", self.name))
    }

    /// Excludes other processes that make a cluster's objects true; `None`: somebody does.
    pub fn lock_agent(&self) -> Result<Option<Guard>> {
        let path = self.home.join(format::LOCK);
        lock::try_lock(&path, Kind::AGENT, Mode::Exclusive)
            .doing(|| format!("locking pool {:?} for the node's agent", self.name))
    }

    /// Excludes others who look for a free project id.
    pub fn lock_projects(&self) -> Result<Guard> {
        let path = self.home.join(format::LOCK);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let taken = lock::try_lock(&path, Kind::PROJECTS, Mode::Exclusive)
                .doing(|| format!("locking the project ids of pool {:?}", self.name))?;
            match taken {
                Some(guard) => return Ok(guard),
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                None => {
                    return Err(Error::Busy(format!(
                        "another request is choosing a project id in pool {:?}; try again",
                        self.name
                    )));
                }
            }
        }
    }

    /// statfs of the pool.
    pub fn space(&self) -> Result<space::Space> {
        space::of(&self.home).doing(|| format!("reading the free space of pool {:?}", self.name))
    }

    /// Whether its filesystem refuses to be written, as asked or after an error.
    pub fn is_read_only(&self) -> Result<bool> {
        let mount = mountinfo::of(&self.home).doing(|| format!("looking at pool {:?}", self.name))?;
        Ok(mount.is_some_and(|mount| mount.is_read_only()))
    }

    /// What new volumes may claim.
    pub fn room(&self) -> Result<u64> {
        if self.is_read_only()? {
            return Ok(0);
        }
        let space = self.space()?;
        Ok(Free { total: space.total, available: space.available }.beyond(self.ledger.promised()))
    }

    /// Sets room aside for a new volume. Trash counts as used, so its purge is waited for before
    /// the answer is no.
    pub fn reserve(&self, bytes: u64, purpose: &str) -> Result<Reservation> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let space = self.space()?;
            let free = Free { total: space.total, available: space.available };
            match self.ledger.reserve(bytes, free) {
                Ok(reservation) => return Ok(reservation),
                Err(_) if Instant::now() < deadline && self.janitor.is_freeing() => {
                    self.wait_for_room(deadline)?
                }
                Err(room) => {
                    return Err(Error::NoSpace(format!(
                        "pool {:?} has room for {room} bytes more ({} available, {} of them promised to existing \
                         volumes), but {purpose} needs {bytes}",
                        self.name,
                        space.available,
                        self.ledger.promised()
                    )));
                }
            }
        }
    }

    fn wait_for_room(&self, deadline: Instant) -> Result<()> {
        self.janitor.wait_until_idle(deadline.saturating_duration_since(Instant::now()));
        self.refresh_promises()?;
        if self.abilities.btrfs {
            // Left alone, the kernel frees deleted subvolumes half a minute later.
            btrfs::free_deleted(&self.home).doing(|| format!("freeing space of pool {:?}", self.name))?;
        }
        thread::sleep(Duration::from_millis(50));
        Ok(())
    }
}

pub(super) fn checked_home(config: &PoolConfig) -> Result<PathBuf> {
    let refuse =
        |why: &str| Err(Error::Invalid(format!("pool {:?}: {} {why}", config.name, config.path.display())));
    if !config.path.is_absolute() {
        return refuse("is not an absolute path");
    }
    let stat = file::stat(&config.path).doing(|| format!("looking at pool {:?}", config.name))?;
    match stat {
        None => return refuse("does not exist: create the directory, or mount the pool's disk"),
        Some(stat) if stat.is_symlink() => return refuse("is a symlink: give the directory itself"),
        Some(stat) if !stat.is_dir => return refuse("is no directory"),
        Some(_) => {}
    }
    if config.mounted {
        let doing = || format!("looking at pool {:?}", config.name);
        match mountinfo::at(&config.path).doing(doing)? {
            None => {
                return refuse(
                    "is no mountpoint, but the pool is declared as `mounted`: mount its disk first",
                );
            }
            Some(mount) if !is_whole(&mount).doing(doing)? => {
                return refuse(
                    "is a directory of another filesystem that was bound there, but the pool is declared as \
                     `mounted`: mount its disk first",
                );
            }
            Some(_) => {}
        }
    }
    file::canonical(&config.path).doing(|| format!("resolving pool {:?}", config.name))
}

/// Whether a whole filesystem, or a subvolume of btrfs, is mounted. A container's runtime binds every directory that it
/// is given, so a mountpoint says nothing there: without its disk it is one, too.
fn is_whole(mount: &Mount) -> os::Result<bool> {
    Ok(mount.root == Path::new("/") || mount.fstype == "btrfs" && btrfs::is_subvolume(&mount.point)?)
}

fn identify(home: &Path) -> Result<((file::Inode, Uuid), Abilities)> {
    let format = match format::read(home)? {
        Some(format) => format,
        None => format::create(home)?,
    };
    let doing = || format!("looking at {}", home.display());
    for name in DIRECTORIES.iter().map(|name| home.join(name)).chain([home.to_owned()]) {
        if file::inherits_project(&name).doing(doing)? {
            return Err(Error::Invalid(format!(
                "{} carries the project-inherit attribute, so files could not be renamed into it: remove it with \
                 `chattr -P`",
                name.display()
            )));
        }
    }
    let stat = file::stat(home).doing(doing)?;
    let Some(stat) = stat else { return Err(Error::Unavailable(format!("{} has vanished", home.display()))) };
    let abilities = Abilities {
        btrfs: btrfs::is_btrfs(home).doing(doing)?,
        reflink: reflink::supported(&home.join("tmp")).doing(doing)?,
    };
    Ok(((stat.inode, format.uuid), abilities))
}
