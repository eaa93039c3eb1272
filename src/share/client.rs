//! The driver's side: which helper carries an operation out, and what happens when it does not answer.

use super::{
    Failure,
    breaker::{Breaker, Pace, Pass},
    keeper::{Blame, Helper, Trouble, keep, release_orphans},
    refusal,
    server::{Server, ServerStatus},
    wire::What,
};
use crate::{
    error::{Error, Result},
    os::{
        child::Launcher,
        nfs::{Attempt, Dialect, Ports, Version, answering, resolve},
    },
    volume::nfs::{self, Connection, options::Family},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    marker::PhantomData,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A share with the options that it is mounted with: each has a helper of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    /// The server's name: limits and the breaker belong to it.
    pub server: String,
    /// What is mounted.
    pub mounted: Mounted,
}

/// What a share is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Mounted {
    /// On a server.
    Nfs {
        /// Which.
        share: nfs::Share,
        /// How the server is reached.
        connection: Connection,
    },
    /// A filesystem of this host, for tests where the kernel has no NFS.
    Local {
        /// As mount(2) takes it.
        source: PathBuf,
        /// Its type.
        fstype: String,
        /// Its options.
        data: String,
    },
}

impl Share {
    /// A share on a server.
    pub fn nfs(share: &nfs::Share, connection: &Connection) -> Self {
        let mounted = Mounted::Nfs { share: share.clone(), connection: connection.clone() };
        Self { server: share.server.to_string(), mounted }
    }

    /// For messages.
    pub fn name(&self) -> String {
        match &self.mounted {
            Mounted::Nfs { share, .. } => share.to_string(),
            Mounted::Local { source, .. } => source.display().to_string(),
        }
    }
}

/// What a helper is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Purpose {
    pub(super) share: Share,
    /// One copy alone, by its number; `None`: all that is done quickly.
    copy: Option<u64>,
}

impl Purpose {
    fn quick(share: &Share) -> Self {
        Self { share: share.clone(), copy: None }
    }

    /// What to mount, once the server is found and answers.
    pub(super) fn locate(&self, limits: &Limits) -> Result<What> {
        let own = if self.is_copy() { BULK } else { QUICK };
        match &self.share.mounted {
            Mounted::Nfs { share, connection } => find(share, connection, limits, |version, address| {
                Ok(format!("{},{own}", connection.data(version, address)?))
            }),
            Mounted::Local { source, fstype, data } => {
                Ok(What::Local { source: source.clone(), fstype: fstype.clone(), data: data.clone() })
            }
        }
    }

    fn is_copy(&self) -> bool {
        self.copy.is_some()
    }
}

/// The options of a helper's mount: errors instead of endless waiting, a superblock that can be forced, and no name
/// believed that another controller may have changed. Attributes are kept for the time of a request, or each call
/// would first ask for those of its directory; they come with every name that is looked up, and lists ask anew.
const QUICK: &str = "softerr,timeo=20,retrans=1,nosharecache,lookupcache=none,actimeo=3";

/// As [`QUICK`] for copies, where a minute without an answer says nothing, since the server is busy with them. Such a
/// mount is as old as its copy: what it keeps for a moment, or was lent by the server, is of use to no other.
const BULK: &str = "softerr,timeo=600,retrans=1,nosharecache,lookupcache=none,actimeo=3";

/// Finds an address at which a share's server answers, and how to mount the share from there. `data` gives the
/// options for one version and that address.
pub fn find(
    share: &nfs::Share,
    connection: &Connection,
    limits: &Limits,
    data: impl Fn(nfs::Version, IpAddr) -> Result<String>,
) -> Result<What> {
    let mut addresses = resolve(&share.server.to_string(), 0, limits.resolving)
        .map_err(|error| refusal::of_name(share, &error))?;
    let family = connection.family();
    addresses.retain(|address| family.is_none_or(|family| family == Family::of(address.ip())));
    if let Some(family) = family.filter(|_| addresses.is_empty()) {
        return Err(refusal::of_family(share, family));
    }
    let dialect = if connection.version == Some(nfs::Version::V3) { Dialect::V3 } else { Dialect::V4 };
    let ports = Ports { nfs: connection.port(), mountd: connection.mount_port };
    let address = match addresses.first() {
        // The mount finds out.
        Some(first) if connection.is_rdma() => first.ip(),
        _ => answering(&addresses, dialect, ports, limits.answering)
            .map_err(|error| refusal::of_answer(share, dialect, &error))?
            .ip(),
    };
    let attempt = |version| Ok(Attempt { version: on_wire(version), data: data(version, address)? });
    let attempts = connection.versions().into_iter().map(attempt).collect::<Result<_>>()?;
    Ok(What::Nfs { source: share.to_string(), attempts })
}

fn on_wire(version: nfs::Version) -> Version {
    match version {
        nfs::Version::V42 => Version::V4_2,
        nfs::Version::V41 => Version::V4_1,
        nfs::Version::V40 => Version::V4_0,
        nfs::Version::V3 => Version::V3,
    }
}

/// How many copies may run on one server at a time.
pub const COPIES: usize = 8;

/// How much, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Helpers of one server for what is done quickly, those that hang included.
    pub helpers: usize,
    /// Besides these, helpers of one server for copies: each copy has one.
    pub copies: usize,
    /// Helpers in all.
    pub all_helpers: usize,
    /// Those of them that are for copies: others always find room.
    pub all_copies: usize,
    /// Operations of one server at a time.
    pub operations: usize,
    /// A helper without work ends after this time.
    pub idle: Duration,
    /// For a name.
    pub resolving: Duration,
    /// For the server to answer a call that asks nothing.
    pub answering: Duration,
    /// For a child to mount.
    pub mounting: Duration,
    /// For the server to tell the attributes of the share's root.
    pub looking: Duration,
    /// The breakers' pace.
    pub pace: Pace,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            helpers: 4,
            copies: COPIES,
            all_helpers: 64,
            all_copies: 32,
            operations: 64,
            idle: Duration::from_secs(600),
            resolving: Duration::from_secs(2),
            answering: Duration::from_secs(1),
            mounting: Duration::from_secs(5),
            looking: Duration::from_secs(5),
            pace: Pace::default(),
        }
    }
}

impl Limits {
    /// With more or less time to mount; a fifth of it is for the server to answer at all.
    #[must_use]
    pub fn with_mounting(self, mounting: Duration) -> Self {
        Self { mounting, answering: mounting / 5, ..self }
    }
}

/// How many servers are remembered. One of which nothing is in use is forgotten for another.
const MOST_SERVERS: usize = 256;

/// How long a helper may take to end when another one is waiting for its room.
const ROOM: Duration = Duration::from_secs(2);

/// How many helpers are tried that end before they get the operation.
const ATTEMPTS: usize = 3;

/// How an operation is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// For the whole operation; each sign of progress begins it anew.
    pub limit: Duration,
    /// Try even where the breaker of the server is open.
    pub insist: bool,
}

impl Call {
    /// With a limit, and not where the server is known not to answer.
    pub fn within(limit: Duration) -> Self {
        Self { limit, insist: false }
    }
}

/// All shares that the driver works on: helpers are started when they are needed and end when they are not.
///
/// `O` is what they are asked, `A` what they answer.
#[derive(Debug)]
pub struct Shares<O, A> {
    launcher: Launcher,
    limits: Limits,
    stopping: AtomicBool,
    registry: Arc<Mutex<Registry<A>>>,
    /// How many copies there have been.
    copies: AtomicU64,
    operations: PhantomData<fn(O)>,
}

#[derive(Debug)]
pub(super) struct Registry<A> {
    servers: HashMap<String, Arc<Server>>,
    helpers: HashMap<Purpose, Arc<Helper<A>>>,
}

impl<A> Registry<A> {
    /// A helper that is over is not found again.
    pub(super) fn forget(&mut self, helper: &Arc<Helper<A>>) {
        if self.helpers.get(&helper.purpose).is_some_and(|known| Arc::ptr_eq(known, helper)) {
            self.helpers.remove(&helper.purpose);
        }
    }
}

impl<O: Serialize, A: DeserializeOwned + Send + 'static> Shares<O, A> {
    /// None yet. `launcher` starts this binary so that it calls [`super::helper::run`].
    pub fn new(launcher: Launcher, limits: Limits) -> Self {
        let registry = Registry { servers: HashMap::new(), helpers: HashMap::new() };
        Self {
            launcher,
            limits,
            stopping: AtomicBool::new(false),
            registry: Arc::new(Mutex::new(registry)),
            copies: AtomicU64::new(0),
            operations: PhantomData,
        }
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Carries an operation out on a share and waits for its answer. When that does not come within the limit,
    /// the share is forced off and every operation on it ends with [`Error::Unavailable`]: whether they took
    /// effect is then unknown.
    pub fn call(&self, share: &Share, operation: O, call: Call) -> Result<A> {
        self.carry_out(&Purpose::quick(share), operation, call)
    }

    /// As [`Self::call`], by a helper that does nothing else and ends with it. To a server all mounts of a host are one
    /// client, so it does not recall from one what another changes: a copy must not find in its mount's memory what was
    /// there before it began.
    pub fn copy(&self, share: &Share, operation: O, call: Call) -> Result<A> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let purpose = Purpose { share: share.clone(), copy: Some(number) };
        let result = self.carry_out(&purpose, operation, call);
        let helper = self.registry().helpers.remove(&purpose);
        if let Some(helper) = helper {
            helper.end(&Failure::from(&Error::Unavailable("the copy has ended; repeat the request".into())));
        }
        result
    }

    fn carry_out(&self, purpose: &Purpose, operation: O, call: Call) -> Result<A> {
        let share = &purpose.share;
        let server = self.server(&share.server)?;
        let busy = || busy(&server.name, "too many operations are running");
        let _operation = server.operation(self.limits.operations).ok_or_else(busy)?;
        let pass = match call.insist {
            true => Pass::Free,
            false => {
                server.breaker.enter(call.limit.min(self.limits.looking)).ok_or_else(|| refused(share))?
            }
        };
        if let Pass::Probe(probe) = pass {
            self.probe(purpose, &server)?;
            probe.succeeded();
        }
        let result = self.attempt(purpose, &server, operation, call.limit);
        judge(&server.breaker, &result);
        result.map_err(|trouble| trouble.error.into())
    }

    /// Asks the server of a share for its root's attributes, without regard to the breaker.
    pub fn look(&self, share: &Share) -> Result<()> {
        let server = self.server(&share.server)?;
        self.probe(&Purpose::quick(share), &server)?;
        server.breaker.succeeded();
        Ok(())
    }

    fn probe(&self, purpose: &Purpose, server: &Arc<Server>) -> Result<()> {
        let helper = self.helper(purpose, server, self.limits.looking).map_err(|trouble| trouble.error)?;
        let looked = helper.look(self.limits.looking);
        if looked.is_err() {
            self.forget_if_over(&helper);
        }
        looked.map_err(|trouble| trouble.error.into())
    }

    fn attempt(
        &self,
        purpose: &Purpose,
        server: &Arc<Server>,
        operation: O,
        limit: Duration,
    ) -> Result<A, Trouble> {
        let deadline = Instant::now() + limit;
        let mut operation = Some(operation);
        for _ in 0..ATTEMPTS {
            let left = deadline.saturating_duration_since(Instant::now());
            let helper = self.helper(purpose, server, left)?;
            // One that has just ended, idle, never saw the operation: then there is another.
            if let Some(id) = helper.begin(&mut operation)? {
                let result = helper.wait(id, limit);
                if result.is_err() {
                    self.forget_if_over(&helper);
                }
                return result;
            }
            self.forget_if_over(&helper);
        }
        Err(Trouble::nobody(&busy(&server.name, "its helpers end as soon as they have begun")))
    }

    /// Tells all helpers that the driver is ending; nothing new is begun.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let helpers: Vec<_> = self.registry().helpers.values().cloned().collect();
        helpers.iter().for_each(|helper| helper.stop());
    }

    /// Releases helpers that hang since a driver was killed with its whole container; gives how many. Takes
    /// seconds for each: meant for a thread of its own after start-up.
    pub fn release_orphans(&self) -> Result<usize> {
        release_orphans(&self.launcher)
    }

    /// What each server has in use, by name.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let mut all: Vec<_> = self.registry().servers.values().map(|server| server.status()).collect();
        all.sort_by(|a, b| a.server.cmp(&b.server));
        all
    }

    fn registry(&self) -> MutexGuard<'_, Registry<A>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self, name: &str) -> Result<Arc<Server>> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Error::Unavailable("the driver is ending; repeat the request".into()));
        }
        let servers = &mut self.registry().servers;
        if let Some(server) = servers.get(name) {
            return Ok(Arc::clone(server));
        }
        if servers.len() >= MOST_SERVERS {
            servers.retain(|_, server| Arc::strong_count(server) > 1 || !server.is_quiet());
        }
        if servers.len() >= MOST_SERVERS {
            return Err(busy(name, "too many servers are in use"));
        }
        let server = Arc::new(Server::new(name, self.limits.pace));
        servers.insert(name.to_owned(), Arc::clone(&server));
        Ok(server)
    }

    /// The helper for a purpose, ready; started if there is none.
    fn helper(
        &self,
        purpose: &Purpose,
        server: &Arc<Server>,
        limit: Duration,
    ) -> Result<Arc<Helper<A>>, Trouble> {
        let deadline = Instant::now() + limit;
        let helper = self.started(purpose, server, deadline).map_err(|error| Trouble::nobody(&error))?;
        match helper.ready(deadline) {
            Ok(()) => Ok(helper),
            Err(trouble) => {
                self.forget_if_over(&helper);
                Err(trouble)
            }
        }
    }

    fn started(&self, purpose: &Purpose, server: &Arc<Server>, deadline: Instant) -> Result<Arc<Helper<A>>> {
        let room = deadline.min(Instant::now() + ROOM);
        loop {
            let mut registry = self.registry();
            if let Some(helper) = registry.helpers.get(purpose).filter(|helper| !helper.is_over()) {
                return Ok(Arc::clone(helper));
            }
            let sum =
                |count: fn(&Server) -> usize| registry.servers.values().map(|s| count(s)).sum::<usize>();
            let (full, copies) = (sum(Server::helpers) >= self.limits.all_helpers, sum(Server::copies));
            let held = match purpose.is_copy() {
                _ if full => None,
                true if copies >= self.limits.all_copies => None,
                true => server.copy(self.limits.copies),
                false => server.helper(self.limits.helpers),
            };
            if let Some(held) = held {
                let helper = Arc::new(Helper::new(purpose.clone(), Arc::clone(server)));
                registry.helpers.insert(purpose.clone(), Arc::clone(&helper));
                drop(registry);
                keep(&helper, held, self.launcher.clone(), self.limits, Arc::downgrade(&self.registry));
                return Ok(helper);
            }
            // Another share's helper makes room if it has nothing to do. A copy's has, or ends by itself.
            let here = |other: &Purpose| full || !purpose.is_copy() && other.share.server == server.name;
            let idle =
                |other: &Purpose, helper: &Helper<A>| !other.is_copy() && here(other) && helper.close();
            let idle = registry.helpers.iter().find(|(other, helper)| idle(other, helper));
            let idle = idle.map(|(other, _)| other.clone());
            if let Some(other) = &idle {
                registry.helpers.remove(other);
            }
            drop(registry);
            if Instant::now() >= room {
                return Err(busy(&server.name, "too many helper processes are running or hang on it"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn forget_if_over(&self, helper: &Arc<Helper<A>>) {
        if helper.is_over() {
            self.registry().forget(helper);
        }
    }
}

impl<O, A> Drop for Shares<O, A> {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let helpers =
            std::mem::take(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner).helpers);
        helpers.values().for_each(|helper| {
            helper.end(&Failure::from(&Error::Unavailable("the driver is ending; repeat the request".into())))
        });
    }
}

fn busy(server: &str, what: &str) -> Error {
    Error::Unavailable(format!(
        "server {server}: {what}; repeat the request, and see whether the server answers"
    ))
}

fn refused(share: &Share) -> Error {
    Error::Unavailable(format!(
        "server {} has not answered lately, so nothing was tried on {}; repeat the request once it answers",
        share.server,
        share.name()
    ))
}

fn judge<A>(breaker: &Breaker, result: &Result<A, Trouble>) {
    match result {
        Err(Trouble { blame: Blame::Nobody, .. }) => {}
        Err(Trouble { blame: Blame::Hung, .. }) => breaker.hung(),
        Err(Trouble { error, .. }) if error.is_unreachable() => breaker.failed(),
        _ => breaker.succeeded(),
    }
}
