//! One helper as the driver sees it, and the thread that keeps it: starts it, hears it, ends it.
//!
//! The thread stays until the process is gone. Those that wait for answers go away at their deadlines by themselves.

use super::{
    Failure,
    client::{Limits, Purpose, Registry},
    server::{Held, Server},
    wire::{self, Done, Received, Receiver, Reply, Request, Role},
};
use crate::{
    error::{Doing as _, Error, Result},
    os::child::{self, Launcher, Process},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

/// How long a message to a helper may take. Its first thread only reads, so it never takes long.
const WRITING: Duration = Duration::from_secs(2);

/// How long a process may take to be gone after SIGKILL, before it counts as lost.
const DYING: Duration = Duration::from_secs(1);

/// How long the second child may take to be inside the helper's namespace.
const ENTERING: Duration = Duration::from_secs(5);

/// How long a helper may take to leave on its own.
const LEAVING: Duration = Duration::from_secs(5);

/// How long one may take that has not mounted anything.
const REFUSED: Duration = Duration::from_millis(200);

/// How often a lost helper is forced anew.
const AGAIN: Duration = Duration::from_secs(10);

/// The keeper needs little.
const STACK: usize = 512 << 10;

/// An operation that failed, and what that says about the server.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub(super) blame: Blame,
    pub(super) error: Failure,
}

/// What a failure says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// Nothing: it was not asked.
    Nobody,
    /// It answered, or could not be reached: the error tells.
    Server,
    /// It did not answer within the limit.
    Hung,
}

impl Trouble {
    pub(super) fn nobody(error: &Error) -> Self {
        Self { blame: Blame::Nobody, error: Failure::from(error) }
    }

    fn server(error: Failure) -> Self {
        Self { blame: Blame::Server, error }
    }
}

/// A helper process, from before its start until after its end.
#[derive(Debug)]
pub(super) struct Helper<A> {
    pub(super) purpose: Purpose,
    server: Arc<Server>,
    state: Mutex<State<A>>,
    changed: Condvar,
    /// Writers take turns; none holds the state meanwhile.
    output: Mutex<Option<UnixStream>>,
}

#[derive(Debug)]
struct State<A> {
    phase: Phase,
    calls: HashMap<u64, Pending<A>>,
    next: u64,
    used: Instant,
    /// A copy, by which others wake the keeper.
    socket: Option<UnixStream>,
}

#[derive(Clone, Debug)]
enum Phase {
    Starting,
    Ready,
    Over { failure: Failure, hung: bool },
}

#[derive(Debug)]
enum Pending<A> {
    /// Since its begin or its last progress.
    Waiting(Instant),
    /// `None`: it was a look.
    Ended(Result<Option<A>, Failure>),
}

impl<A> Helper<A> {
    pub(super) fn new(purpose: Purpose, server: Arc<Server>) -> Self {
        let state = State {
            phase: Phase::Starting,
            calls: HashMap::new(),
            next: 0,
            used: Instant::now(),
            socket: None,
        };
        Self { purpose, server, state: Mutex::new(state), changed: Condvar::new(), output: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state().phase, Phase::Over { .. })
    }

    /// Ends it if it has nothing to do.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state();
        let idle = matches!(state.phase, Phase::Ready) && state.calls.is_empty();
        if idle {
            self.finish(&mut state, &ended_idle(), false);
        }
        idle
    }

    /// Ends it; all that waits gets this.
    pub(super) fn end(&self, failure: &Failure) {
        self.finish(&mut self.state(), failure, false);
    }

    fn finish(&self, state: &mut State<A>, failure: &Failure, hung: bool) {
        if matches!(state.phase, Phase::Over { .. }) {
            return;
        }
        state.phase = Phase::Over { failure: failure.clone(), hung };
        for pending in state.calls.values_mut().filter(|pending| matches!(pending, Pending::Waiting(_))) {
            *pending = Pending::Ended(Err(failure.clone()));
        }
        if let Some(socket) = state.socket.take() {
            // Only this side's reading: the keeper wakes, the helper does not notice yet.
            let _ended_already = socket.shutdown(Shutdown::Read);
        }
        self.changed.notify_all();
    }

    /// Waits until it is mounted and answers.
    pub(super) fn ready(&self, deadline: Instant) -> Result<(), Trouble> {
        let mut state = self.state();
        loop {
            match &state.phase {
                Phase::Ready => return Ok(()),
                Phase::Over { failure, .. } => return Err(Trouble::server(failure.clone())),
                Phase::Starting => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The keeper's own limit will say what it was.
                return Err(Trouble::nobody(&Error::Unavailable(format!(
                    "{} was not mounted in time; repeat the request",
                    self.purpose.share.name()
                ))));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn sender(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stop(&self) {
        if let Some(socket) = &*self.sender() {
            let _it_has_ended = wire::send(socket, &Request::<()>::Stop);
        }
    }

    /// Waits for an answer; at the deadline the helper is given up with all that it does.
    pub(super) fn wait_any(&self, id: u64, limit: Duration) -> Result<Option<A>, Trouble> {
        let mut state = self.state();
        while let Some(Pending::Waiting(since)) = state.calls.get(&id) {
            let begun = *since;
            let left = (begun + limit).saturating_duration_since(Instant::now());
            if left.is_zero() {
                let failure = unknown(&self.purpose.share.name(), limit);
                self.finish(&mut state, &failure, true);
                continue;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.used = Instant::now();
        let hung = matches!(state.phase, Phase::Over { hung: true, .. });
        let blame = if hung { Blame::Hung } else { Blame::Server };
        match state.calls.remove(&id) {
            Some(Pending::Ended(result)) => result.map_err(|error| Trouble { blame, error }),
            _ => Err(Trouble::nobody(&Error::Internal("an operation was lost; repeat the request".into()))),
        }
    }

    /// Notes an answer; one that nobody waits for any more is dropped.
    fn ended(&self, id: u64, result: Result<Option<A>, Failure>) {
        if let Some(pending @ Pending::Waiting(_)) = self.state().calls.get_mut(&id) {
            *pending = Pending::Ended(result);
            self.changed.notify_all();
        }
    }

    fn moved(&self, id: u64) {
        if let Some(Pending::Waiting(since)) = self.state().calls.get_mut(&id) {
            *since = Instant::now();
        }
    }

    /// Sends a request. `None`: the helper is over, and did not get it.
    fn request<O: Serialize>(&self, request: impl FnOnce(u64) -> Request<O>) -> Result<Option<u64>, Trouble> {
        let id = {
            let mut state = self.state();
            if !matches!(state.phase, Phase::Ready) {
                return Ok(None);
            }
            state.next += 1;
            let id = state.next;
            state.calls.insert(id, Pending::Waiting(Instant::now()));
            id
        };
        let sent = match &*self.sender() {
            Some(socket) => wire::send(socket, &request(id)),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let Err(error) = sent else { return Ok(Some(id)) };
        let mut state = self.state();
        state.calls.remove(&id);
        if error.kind() == io::ErrorKind::InvalidInput {
            return Err(Trouble::nobody(&Error::Internal(format!("an operation cannot be sent: {error}"))));
        }
        // A part of it may be there, so nothing else can be sent; but it was not understood.
        let text =
            format!("the helper of {} was lost: {error}; repeat the request", self.purpose.share.name());
        let failure = Failure::from(&Error::Unavailable(text));
        self.finish(&mut state, &failure, false);
        Ok(None)
    }
}

impl<A> Helper<A> {
    /// Sends an operation. `None`: the helper has ended, and the operation is still the caller's.
    pub(super) fn begin<O: Serialize>(&self, operation: &mut Option<O>) -> Result<Option<u64>, Trouble> {
        if !matches!(self.state().phase, Phase::Ready) {
            return Ok(None);
        }
        let Some(taken) = operation.take() else {
            return Err(Trouble::nobody(&Error::Internal("an operation was begun twice".into())));
        };
        let mut kept = Some(taken);
        let begun = self.request(|id| Request::Call { id, operation: &kept });
        if matches!(begun, Ok(None)) {
            *operation = kept.take();
        }
        begun
    }

    pub(super) fn wait(&self, id: u64, limit: Duration) -> Result<A, Trouble> {
        let odd = || Trouble::nobody(&Error::Internal("a helper answered something else".into()));
        self.wait_any(id, limit)?.ok_or_else(odd)
    }

    /// Asks for the root's attributes.
    pub(super) fn look(&self, limit: Duration) -> Result<(), Trouble> {
        match self.request(|id| Request::<()>::Look { id })? {
            Some(id) => self.wait_any(id, limit).map(drop),
            None => Err(Trouble { blame: Blame::Nobody, error: ended_idle() }),
        }
    }
}

fn ended_idle() -> Failure {
    Failure::from(&Error::Unavailable("the share's helper has ended; repeat the request".into()))
}

fn unknown(share: &str, limit: Duration) -> Failure {
    let text = format!(
        "{share} did not answer within {limit:?}: whether the operation took effect is unknown; \
         the same request again finds out"
    );
    Failure::from(&Error::Unavailable(text))
}

/// Starts the thread that starts the helper.
pub(super) fn keep<A: DeserializeOwned + Send + 'static>(
    helper: &Arc<Helper<A>>,
    held: Held,
    launcher: Launcher,
    limits: Limits,
    registry: Weak<Mutex<Registry<A>>>,
) {
    let kept = Arc::clone(helper);
    let work = move || {
        let keeper = Keeper { helper: &kept, launcher: &launcher, limits: &limits };
        let failure = keeper.run(&registry);
        kept.end(&failure);
        if let Some(registry) = registry.upgrade() {
            registry.lock().unwrap_or_else(PoisonError::into_inner).forget(&kept);
        }
        drop(held);
    };
    if let Err(error) = thread::Builder::new().name("keeper".into()).stack_size(STACK).spawn(work) {
        let text = format!(
            "no thread for the helper of {}: {error}; repeat the request",
            helper.purpose.share.name()
        );
        helper.end(&Failure::from(&Error::Unavailable(text)));
    }
}

struct Keeper<'a, A> {
    helper: &'a Arc<Helper<A>>,
    launcher: &'a Launcher,
    limits: &'a Limits,
}

impl<A: DeserializeOwned + Send + 'static> Keeper<'_, A> {
    /// From start to end. What it returns is for those that still wait for the start.
    fn run(&self, registry: &Weak<Mutex<Registry<A>>>) -> Failure {
        let (mut process, socket, mut receiver) = match self.start() {
            Ok(started) => started,
            Err(error) => return Failure::from(&error),
        };
        let ready = self.mounted(&socket, &mut receiver);
        let (failure, leaving) = match ready.and_then(|()| self.announce(&socket)) {
            Ok(()) => (self.listen(&socket, &mut receiver), LEAVING),
            Err(error) => (Failure::from(&error), REFUSED),
        };
        self.helper.end(&failure);
        if let Some(registry) = registry.upgrade() {
            let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
            registry.forget(self.helper);
        }
        self.helper.sender().take();
        self.finish(&mut process, socket, leaving);
        failure
    }

    fn start(&self) -> Result<(Process, UnixStream, Receiver)> {
        let purpose = &self.helper.purpose;
        let what = purpose.locate(self.limits)?;
        let doing = || format!("starting the helper of {}", purpose.share.name());
        let (process, socket) = child::start(self.launcher).doing(doing)?;
        let configured = socket
            .set_write_timeout(Some(WRITING))
            .and_then(|()| socket.set_read_timeout(Some(self.limits.mounting)))
            .and_then(|()| wire::send(&socket, &Role::Serve { what }));
        configured
            .map_err(|error| Error::Unavailable(format!("{}: {error}; repeat the request", doing())))?;
        Ok((process, socket, Receiver::default()))
    }

    fn mounted(&self, socket: &UnixStream, receiver: &mut Receiver) -> Result<()> {
        let name = self.helper.purpose.share.name();
        match receiver.receive::<Reply<A>>(socket) {
            Ok(Received::Message(Reply::Ready(Ok(version)))) => {
                let version = version.map(|version| version.to_string());
                tracing::info!(share = name, version, "a helper has mounted a share");
                Ok(())
            }
            Ok(Received::Message(Reply::Ready(Err(failure)))) => Err(failure.into()),
            Ok(Received::Nothing) => Err(Error::Unavailable(format!(
                "mounting {name} did not end within {:?}; repeat the request once the server answers",
                self.limits.mounting
            ))),
            Ok(_) => Err(Error::Unavailable(format!("the helper of {name} ended early; repeat the request"))),
            Err(error) => Err(Error::Internal(format!("the helper of {name} is not understood: {error}"))),
        }
    }

    /// Those that wait for the start go on.
    fn announce(&self, socket: &UnixStream) -> Result<()> {
        let copy =
            || socket.try_clone().map_err(|error| Error::Unavailable(format!("no descriptor: {error}")));
        let tick = (self.limits.idle / 4).clamp(Duration::from_millis(5), Duration::from_secs(5));
        socket.set_read_timeout(Some(tick)).map_err(|error| Error::Internal(error.to_string()))?;
        *self.helper.sender() = Some(copy()?);
        let mut state = self.helper.state();
        if matches!(state.phase, Phase::Starting) {
            (state.phase, state.used, state.socket) = (Phase::Ready, Instant::now(), Some(copy()?));
            self.helper.changed.notify_all();
        }
        Ok(())
    }

    /// Until it ends, is given up, or has been idle for long.
    fn listen(&self, socket: &UnixStream, receiver: &mut Receiver) -> Failure {
        let name = self.helper.purpose.share.name();
        loop {
            if self.helper.is_over() {
                return ended_idle();
            }
            match receiver.receive::<Reply<A>>(socket) {
                Ok(Received::Message(Reply::Ended { id, result })) => self.helper.ended(id, result.map(Some)),
                Ok(Received::Message(Reply::Looked { id, result })) => {
                    self.helper.ended(id, result.map(|()| None));
                }
                Ok(Received::Message(Reply::Progress { id, done, total })) => {
                    tracing::debug!(share = name, id, done, total, "an operation on a share moves");
                    self.helper.moved(id);
                }
                Ok(Received::Message(Reply::Ready(_))) => {}
                Ok(Received::Nothing) => {
                    if self.helper.state().used.elapsed() >= self.limits.idle && self.helper.close() {
                        return ended_idle();
                    }
                }
                Ok(Received::End) => {
                    return Failure::from(&Error::Unavailable(format!(
                        "the helper of {name} has ended: whether the operation took effect is unknown; \
                         the same request again finds out"
                    )));
                }
                Err(error) => {
                    return Failure::from(&Error::Unavailable(format!(
                        "the helper of {name} is not understood ({error}): whether the operation took effect \
                         is unknown; the same request again finds out"
                    )));
                }
            }
        }
    }

    /// Until the process is gone, however long that takes.
    fn finish(&self, process: &mut Process, socket: UnixStream, leaving: Duration) {
        let hung = matches!(self.helper.state().phase, Phase::Over { hung: true, .. });
        if !hung {
            // It hears that and leaves by itself.
            drop(socket);
            if matches!(process.wait(leaving), Ok(true)) {
                return;
            }
        }
        let name = self.helper.purpose.share.name();
        tracing::warn!(share = name, "a share does not answer: it is forced off and its helper killed");
        if force_and_kill(self.launcher, process) {
            return;
        }
        let _lost = self.helper.server.lost();
        tracing::error!(
            share = name,
            process = process.id(),
            "a helper outlives SIGKILL: its server has to answer"
        );
        while !matches!(process.wait(AGAIN), Ok(true)) {
            force_and_kill(self.launcher, process);
        }
        tracing::info!(share = name, "the helper that outlived SIGKILL is gone");
    }
}

/// The second child enters the helper's namespace first, because that goes with the process; then the process is
/// killed, and forced until it is gone. `false`: it is not.
pub(super) fn force_and_kill(launcher: &Launcher, process: &mut Process) -> bool {
    let forcer = enter(launcher, process.id());
    if let Err(error) = &forcer {
        tracing::warn!(error = error.chain(), "a share cannot be forced");
    }
    process.kill();
    let gone = matches!(process.wait(DYING), Ok(true));
    if let Ok((mut forcer, socket)) = forcer {
        // With the process gone the mount is no longer busy, and the forcer ends with it.
        if gone && matches!(forcer.wait(DYING), Ok(true)) {
            return true;
        }
        drop(socket);
        if !matches!(forcer.wait(DYING), Ok(true)) {
            forcer.kill();
            return matches!(forcer.wait(DYING), Ok(true)) && gone;
        }
    }
    gone
}

/// Releases helpers of drivers that were killed together with them, and gives how many there were. They have
/// nobody to force them, and while one hangs its container does not end.
pub(super) fn release_orphans(launcher: &Launcher) -> Result<usize> {
    let orphans = child::dying(launcher).doing(|| "looking for helpers that hang".into())?;
    for process in &orphans {
        tracing::warn!(process, "a helper of an earlier driver hangs: its share is forced off");
        match enter(launcher, *process) {
            // It forces until the mount is gone, and ends with that.
            Ok((mut forcer, _socket)) => drop(forcer.wait(AGAIN)),
            Err(error) => tracing::warn!(process, error = error.chain(), "it cannot be forced"),
        }
    }
    Ok(orphans.len())
}

fn enter(launcher: &Launcher, process: i32) -> Result<(Process, UnixStream)> {
    let doing = || format!("entering the namespace of helper {process}");
    let (forcer, socket) = child::start(launcher).doing(doing)?;
    let odd = |error: io::Error| Error::Unavailable(format!("{}: {error}", doing()));
    socket.set_read_timeout(Some(ENTERING)).map_err(odd)?;
    wire::send(&socket, &Role::Force { process }).map_err(odd)?;
    match Receiver::default().receive::<Result<Done, Failure>>(&socket).map_err(odd)? {
        Received::Message(Ok(Done::Inside(_))) => Ok((forcer, socket)),
        Received::Message(Err(failure)) => Err(failure.into()),
        _ => Err(Error::Unavailable(format!("{}: no answer", doing()))),
    }
}
