//! Mounts on this node's paths: made, asked and taken away by children that may hang, so that nothing else does.
//!
//! A child does one thing and is killed at its deadline. On a mount that pods use it asks for figures or
//! unmounts, and never anything else: a child that writes there could not be ended.

use super::{
    Failure,
    server::{Counter, Held},
    wire::{self, Done, Found, Received, Receiver, Role, Way, What},
};
use crate::{
    error::{Doing as _, Error, Result},
    os::{
        child::{self, Launcher, Process},
        mount::Attributes,
        mountinfo,
        nfs::{FILESYSTEMS, Version},
        space::Space,
    },
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Children of one server at a time, those that hang included: more than requests that run at a time
/// (`rpc/run.rs`).
const MOST: usize = 32;

/// Of these, for unmounts alone: they are never refused because other things hang.
const MOST_UNMOUNTS: usize = 128;

/// How many servers are remembered.
const MOST_SERVERS: usize = 1024;

/// How long a child may take to be gone after SIGKILL.
const DYING: Duration = Duration::from_millis(500);

/// Deadlines of the children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a mount. A first mount of a healthy server waits for another server's that hangs.
    pub mounting: Duration,
    /// For figures.
    pub asking: Duration,
    /// For each way of unmounting.
    pub unmounting: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            mounting: Duration::from_secs(5),
            asking: Duration::from_secs(3),
            unmounting: Duration::from_secs(5),
        }
    }
}

/// A mount that is wanted.
#[derive(Clone, Debug)]
pub struct Staging {
    /// What: see [`super::client::find`].
    pub what: What,
    /// The directory of it that is wanted; empty: its root. Resolved beneath it, through no symlink.
    pub below: PathBuf,
    /// An existing directory.
    pub target: PathBuf,
    /// Restrictions.
    pub attributes: Attributes,
    /// What the inode number of its root has to be, if that is known.
    pub fileid: Option<u64>,
    /// The id of the mount there that it replaces. Its users keep that.
    pub instead_of: Option<u64>,
}

/// A second place that is wanted for what is mounted.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Where it is mounted.
    pub source: PathBuf,
    /// An existing directory.
    pub target: PathBuf,
    /// Restrictions of the new mount.
    pub attributes: Attributes,
    /// What the inode number of its root has to be, if that is known.
    pub fileid: Option<u64>,
}

/// A mount that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Of a share.
    pub version: Option<Version>,
    /// The inode number of its root.
    pub fileid: u64,
    /// The mount's id, as mountinfo shows it.
    pub id: u64,
}

/// What asking a mount came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked<T> {
    /// It answered.
    Answer(T),
    /// It did not within the limit: the mount is stuck.
    Stuck,
}

/// A mount that is to go.
#[derive(Clone, Debug)]
pub struct Unmounting {
    /// Where it is.
    pub target: PathBuf,
    /// Begin with force, where that may be used: the server is known not to answer, and a plain unmount that waits for
    /// it could not be released any more.
    pub silent: bool,
    /// Force may be used if the server does not answer: the mount alone has its superblock, and no other volume is on it.
    pub force: bool,
    /// Where nothing else helps, take the path away and leave the mount to its users.
    pub lazy: bool,
    /// The types on which force and lazy are allowed; [`FILESYSTEMS`] but in tests.
    pub filesystems: Vec<String>,
}

impl Unmounting {
    /// Of a share. First the plain way; where the server does not answer by force, if that is allowed; then lazily.
    pub fn of(target: &Path, force: bool) -> Self {
        let filesystems = FILESYSTEMS.map(str::to_owned).to_vec();
        Self { target: target.to_owned(), silent: false, force, lazy: true, filesystems }
    }
}

/// How a mount went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// There was none.
    Absent,
    /// As always.
    Plainly,
    /// No path leads there any more, but the kernel still waits for the server.
    Lingering,
    /// What waited for the server was given up.
    ByForce,
    /// Its users keep it.
    Lazily,
}

/// Starts children and counts them.
#[derive(Debug)]
pub struct Children {
    launcher: Launcher,
    patience: Patience,
    servers: Mutex<HashMap<String, Arc<Crowd>>>,
}

/// The children of one server.
#[derive(Debug, Default)]
struct Crowd {
    some: Arc<Counter>,
    unmounts: Arc<Counter>,
    /// Killed, but not gone: reaped when another one is started.
    lost: Mutex<Vec<(Process, Held)>>,
}

impl Children {
    /// None yet. `launcher` starts this binary so that it calls [`super::helper::run`].
    pub fn new(launcher: Launcher, patience: Patience) -> Self {
        Self { launcher, patience, servers: Mutex::default() }
    }

    /// Mounts. An error leaves no mount behind, but for one: when the limit passes in the moment in which the
    /// mount is put on its place, it may be there. The caller looks before it repeats.
    pub fn mount(&self, server: &str, staging: Staging) -> Result<Staged> {
        let Staging { what, below, target, attributes, fileid, instead_of } = staging;
        let limit = self.patience.mounting;
        let late = || {
            Error::Unavailable(format!(
                "mounting on {} did not end within {limit:?}: see whether server {server} answers, then repeat",
                target.display()
            ))
        };
        let role = Role::Mount { what, below, target: target.clone(), attributes, fileid, instead_of };
        match self.ask(server, &role, limit)? {
            Some(Done::Mounted { version, fileid, id }) => Ok(Staged { version, fileid, id }),
            Some(_) => Err(odd()),
            None => Err(late()),
        }
    }

    /// What mounts of this are of: in the superblock that the kernel keeps for it, or in a new one.
    pub fn find(&self, server: &str, what: What) -> Result<Looked<Found>> {
        match self.ask(server, &Role::Find { what }, self.patience.mounting)? {
            Some(Done::Found(found)) => Ok(Looked::Answer(found)),
            Some(_) => Err(odd()),
            None => Ok(Looked::Stuck),
        }
    }

    /// Binds what is mounted at one path on another one, and gives the inode number of its root, which the server has
    /// told: one that is silent gets no new user. As with [`Self::mount`] the caller looks before it repeats.
    pub fn bind(&self, server: &str, binding: Binding) -> Result<u64> {
        let Binding { source, target, attributes, fileid } = binding;
        let limit = self.patience.asking;
        let late = || {
            Error::Unavailable(format!(
                "server {server} did not answer within {limit:?}, so nothing was mounted on {}: see whether it answers, then \
                 repeat",
                target.display()
            ))
        };
        let role = Role::Bind { source, target: target.clone(), attributes, fileid };
        match self.ask(server, &role, limit)? {
            Some(Done::Root(fileid)) => Ok(fileid),
            Some(_) => Err(odd()),
            None => Err(late()),
        }
    }

    /// The inode number of a mount's root, asked of the server and not of a cache.
    pub fn root(&self, server: &str, path: &Path) -> Result<Looked<u64>> {
        match self.ask(server, &Role::Ask { path: path.to_owned() }, self.patience.asking)? {
            Some(Done::Root(fileid)) => Ok(Looked::Answer(fileid)),
            Some(_) => Err(odd()),
            None => Ok(Looked::Stuck),
        }
    }

    /// The figures of a mounted filesystem (statfs(2)).
    pub fn figures(&self, server: &str, path: &Path) -> Result<Looked<Space>> {
        match self.ask(server, &Role::Figures { path: path.to_owned() }, self.patience.asking)? {
            Some(Done::Figures(space)) => Ok(Looked::Answer(space)),
            Some(_) => Err(odd()),
            None => Ok(Looked::Stuck),
        }
    }

    /// Takes what is on top at a path away, in the mildest way that works. An error: it is still there.
    pub fn unmount(&self, server: &str, unmounting: &Unmounting) -> Result<Unmounted> {
        let Some(before) = mounted(&unmounting.target)? else { return Ok(Unmounted::Absent) };
        // A server that answers writes what it was sent: to force its mount would lose that.
        let (mut failure, mut silent) = (None, unmounting.silent);
        for (way, name) in [
            (Way::Plain, Unmounted::Plainly),
            (Way::Force, Unmounted::ByForce),
            (Way::Lazy, Unmounted::Lazily),
        ] {
            let allowed = match way {
                Way::Plain => !(silent && unmounting.force),
                Way::Force => silent && unmounting.force,
                Way::Lazy => unmounting.lazy,
            };
            if !allowed {
                continue;
            }
            let Unmounting { target, filesystems, .. } = unmounting.clone();
            let outcome =
                self.ask(server, &Role::Unmount { target, way, filesystems }, self.patience.unmounting);
            let gone = mounted(&unmounting.target)? != Some(before);
            match outcome {
                Ok(Some(_)) if gone => return Ok(name),
                Ok(None) if gone => return Ok(Unmounted::Lingering),
                // Somebody else was quicker.
                Err(_) if gone => return Ok(Unmounted::Absent),
                Ok(None) => silent = true,
                Ok(Some(_)) => {}
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| {
            Error::Unavailable(format!(
                "the mount on {} does not go away; see whether server {server} answers, then repeat",
                unmounting.target.display()
            ))
        }))
    }

    /// Processes of a server that outlive SIGKILL until it answers.
    pub fn lost(&self, server: &str) -> usize {
        let crowd = self.servers().get(server).cloned();
        crowd.map_or(0, |crowd| crowd.reap().len())
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<String, Arc<Crowd>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crowd(&self, server: &str) -> Result<Arc<Crowd>> {
        let mut servers = self.servers();
        if let Some(crowd) = servers.get(server) {
            return Ok(Arc::clone(crowd));
        }
        if servers.len() >= MOST_SERVERS {
            servers.retain(|_, crowd| Arc::strong_count(crowd) > 1 || !crowd.reap().is_empty());
        }
        if servers.len() >= MOST_SERVERS {
            return Err(crowded(server));
        }
        let crowd = Arc::new(Crowd::default());
        servers.insert(server.to_owned(), Arc::clone(&crowd));
        Ok(crowd)
    }

    /// `None`: no answer within the limit, and the child is killed.
    fn ask(&self, server: &str, role: &Role, limit: Duration) -> Result<Option<Done>> {
        let crowd = self.crowd(server)?;
        drop(crowd.reap());
        let held = match role {
            Role::Unmount { .. } => Counter::hold(&crowd.unmounts, MOST_UNMOUNTS),
            _ => Counter::hold(&crowd.some, MOST),
        };
        let held = held.ok_or_else(|| crowded(server))?;
        let doing = || format!("starting a child for server {server}");
        let (mut process, socket) = child::start(&self.launcher).doing(doing)?;
        let lost =
            |error| Error::Unavailable(format!("a child for server {server} was lost: {error}; repeat"));
        socket.set_read_timeout(Some(limit)).and_then(|()| wire::send(&socket, role)).map_err(lost)?;
        let answer = Receiver::default().receive::<Result<Done, Failure>>(&socket);
        if matches!(answer, Ok(Received::Nothing)) {
            process.kill();
        }
        // One that has answered ends by itself, unless closing what it had opened hangs.
        if !matches!(process.wait(DYING), Ok(true)) {
            process.kill();
            if !matches!(process.wait(DYING), Ok(true)) {
                tracing::warn!(server, process = process.id(), "a child hangs until its server answers");
                crowd.lost().push((process, held));
            }
        }
        match answer.map_err(lost)? {
            Received::Message(outcome) => Ok(Some(outcome?)),
            Received::Nothing => Ok(None),
            Received::End => Err(lost(std::io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl Crowd {
    fn lost(&self) -> MutexGuard<'_, Vec<(Process, Held)>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are still not gone.
    fn reap(&self) -> MutexGuard<'_, Vec<(Process, Held)>> {
        let mut lost = self.lost();
        lost.retain_mut(|(process, _)| !matches!(process.wait(Duration::ZERO), Ok(true)));
        lost
    }
}

/// The id of the mount at a path. Never waits for a server.
fn mounted(target: &Path) -> Result<Option<u64>> {
    let mount =
        mountinfo::named(target).doing(|| format!("looking for the mount on {}", target.display()))?;
    Ok(mount.map(|mount| mount.id))
}

fn crowded(server: &str) -> Error {
    Error::Unavailable(format!("too many children hang on server {server}; repeat once it answers"))
}

fn odd() -> Error {
    Error::Internal("a child answered something else than it was asked".into())
}
