//! The child's side: a process that mounts one share where nobody else sees it, and carries operations out.

use super::{
    Failure, refusal, roles,
    wire::{self, Received, Receiver, Reply, Request, Role, What},
};
use crate::{
    error::{Doing as _, Error, Result, panic_text},
    os::{
        self, child,
        mount::Attributes,
        namespace,
        nfs::{self, Version},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    net::Shutdown,
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How many operations may run at a time, each on a thread of its own. The driver asks for fewer.
const MOST_OPERATIONS: usize = 128;

/// How often an operation's progress is told at most.
const PROGRESS: Duration = Duration::from_millis(500);

/// How long operations have to end after the driver has.
const LEAVING: Duration = Duration::from_secs(10);

/// How long between two attempts to release what hangs.
const PAUSE: Duration = Duration::from_millis(20);

/// What an operation knows of its surroundings.
#[derive(Debug)]
pub struct Context {
    id: u64,
    output: Arc<Output>,
    told: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Output {
    share: String,
    version: Option<Version>,
    socket: Mutex<UnixStream>,
    stopping: AtomicBool,
    running: AtomicUsize,
}

impl Output {
    /// A driver that has ended hears nothing: the main thread notices by itself.
    fn send<A: Serialize>(&self, reply: &Reply<A>) -> std::io::Result<()> {
        wire::send(&*self.socket.lock().unwrap_or_else(PoisonError::into_inner), reply)
    }
}

impl Context {
    /// What is mounted, for messages.
    pub fn share(&self) -> &str {
        &self.output.share
    }

    /// The version with which a share was mounted; `None`: it is no NFS.
    pub fn version(&self) -> Option<Version> {
        self.output.version
    }

    /// This mount is of no use any more: the helper ends, and the next operation gets a new one.
    pub fn give_up(&self) {
        let socket = self.output.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // The first thread takes that for the driver's end; answers still go out.
        let _ended_already = socket.shutdown(Shutdown::Read);
    }

    /// Whether the driver is ending: a long copy stops here and cleans up.
    pub fn is_stopping(&self) -> bool {
        self.output.stopping.load(Ordering::Acquire)
    }

    /// Tells that the operation moves, which renews its deadline. `total` 0: unknown. May be called often.
    pub fn progress(&self, done: u64, total: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= PROGRESS) {
            *told = Some(Instant::now());
            let _driver_gone = self.output.send(&Reply::<()>::Progress { id: self.id, done, total });
        }
    }
}

/// Runs a child to its end. `handler` gets the root of the mounted share; only helpers ever call it.
///
/// Has to be called in the first thread, before there is another.
pub fn run<O, A, H>(handler: H) -> Result<()>
where
    O: DeserializeOwned + Send + 'static,
    A: Serialize + 'static,
    H: Fn(&Path, O, &Context) -> Result<A> + Send + Sync + 'static,
{
    #[cfg(feature = "failpoints")]
    crate::failpoint::prepare();
    let socket = child::parent().doing(|| "looking for the driver".into())?;
    let mut receiver = Receiver::default();
    match receiver.receive(&socket).map_err(lost)? {
        Received::Message(Role::Serve { what }) => serve(&socket, receiver, &what, &Arc::new(handler)),
        Received::Message(role) => roles::play(role, &socket),
        Received::Nothing | Received::End => Ok(()),
    }
}

/// The driver is gone or talks nonsense.
#[expect(clippy::needless_pass_by_value, reason = "map_err gives it away")]
pub(super) fn lost(error: std::io::Error) -> Error {
    Error::Unavailable(format!("the driver's socket failed: {error}"))
}

fn serve<O, A, H>(socket: &UnixStream, mut receiver: Receiver, what: &What, handler: &Arc<H>) -> Result<()>
where
    O: DeserializeOwned + Send + 'static,
    A: Serialize + 'static,
    H: Fn(&Path, O, &Context) -> Result<A> + Send + Sync + 'static,
{
    let name = what.name();
    let ready = isolated(what).and_then(|version| match look() {
        Ok(()) => Ok(version),
        Err(error) => Err(refusal::of_look(&name, error)),
    });
    let version = ready.as_ref().ok().copied();
    let reply = Reply::<A>::Ready(ready.map_err(|error| Failure::from(&error)));
    // A driver that has given this helper up is on its way to kill it.
    let (Ok(()), Some(version)) = (wire::send(socket, &reply), version) else { return Ok(()) };
    // From here on the end of the socket tells that the driver has ended, and then there is something to do.
    child::outlive_parent().doing(|| "waiting for requests".into())?;
    let output = Arc::new(Output {
        share: name,
        version,
        socket: Mutex::new(socket.try_clone().map_err(lost)?),
        stopping: AtomicBool::new(false),
        running: AtomicUsize::new(0),
    });
    loop {
        match receiver.receive::<Request<O>>(socket) {
            Ok(Received::Message(Request::Call { id, operation })) => {
                let handler = Arc::clone(handler);
                start(&output, id, move |context| {
                    let result = handler(Path::new(namespace::PLACE), operation, context);
                    Reply::Ended { id, result: result.map_err(|error| Failure::from(&error)) }
                });
            }
            Ok(Received::Message(Request::Look { id })) => start(&output, id, move |context| {
                let result = look().map_err(|error| {
                    if error.is_stale() {
                        // Whoever looks next would hear the same from this mount for ever.
                        context.give_up();
                    }
                    Failure::from(&refusal::of_look(context.share(), error))
                });
                Reply::<A>::Looked { id, result }
            }),
            Ok(Received::Message(Request::Stop)) => output.stopping.store(true, Ordering::Release),
            Ok(Received::Nothing) => {}
            Ok(Received::End) => break,
            Err(error) => {
                tracing::error!(%error, "a share's helper does not understand the driver");
                break;
            }
        }
    }
    leave(&output);
    Ok(())
}

fn isolated(what: &What) -> Result<Option<Version>> {
    namespace::isolate().doing(|| "making a place for the share".into())?;
    roles::mount(
        what,
        Path::new(namespace::PLACE),
        Attributes { nosuid: true, nodev: true, noexec: true, ..Attributes::default() },
    )
}

/// Asks the server, not the cache.
fn look() -> os::Result<()> {
    nfs::ask(Path::new(namespace::PLACE)).map(drop)
}

/// Carries work out on a thread of its own.
fn start<A: Serialize + 'static>(
    output: &Arc<Output>,
    id: u64,
    work: impl FnOnce(&Context) -> Reply<A> + Send + 'static,
) {
    let refuse = |error: &Error| {
        let _driver_gone = output.send(&Reply::<A>::Ended { id, result: Err(Failure::from(error)) });
    };
    if output.running.fetch_add(1, Ordering::AcqRel) >= MOST_OPERATIONS {
        output.running.fetch_sub(1, Ordering::AcqRel);
        return refuse(&Error::Busy("too many operations run on this share; repeat the request".into()));
    }
    let theirs = Arc::clone(output);
    let work = move || {
        let context = Context { id, output: Arc::clone(&theirs), told: Mutex::default() };
        let reply = catch_unwind(AssertUnwindSafe(|| work(&context))).unwrap_or_else(|panic| {
            tracing::error!(panic = panic_text(&*panic), "an operation on a share panicked");
            let error = Error::Internal("the operation hit a bug in the driver; see its log".into());
            Reply::Ended { id, result: Err(Failure::from(&error)) }
        });
        if let Err(error) = theirs.send(&reply)
            && error.kind() == std::io::ErrorKind::InvalidInput
        {
            let error = Error::Internal(format!("the answer of an operation cannot be sent: {error}"));
            let _driver_gone = theirs.send(&Reply::<A>::Ended { id, result: Err(Failure::from(&error)) });
        }
        theirs.running.fetch_sub(1, Ordering::AcqRel);
    };
    if let Err(error) = thread::Builder::new().name("operation".into()).spawn(work) {
        output.running.fetch_sub(1, Ordering::AcqRel);
        refuse(&Error::Unavailable(format!("no thread for an operation: {error}; repeat the request")));
    }
}

/// The driver has ended. What hangs on the server would outlive this process, so it is released first: this
/// thread never touches the share, and can.
fn leave(output: &Output) {
    output.stopping.store(true, Ordering::Release);
    let deadline = Instant::now() + LEAVING;
    loop {
        if let Err(error) = namespace::force() {
            tracing::warn!(error = %error, "a share could not be forced");
        }
        if output.running.load(Ordering::Acquire) == 0 || Instant::now() >= deadline {
            return;
        }
        thread::sleep(PAUSE);
    }
}
