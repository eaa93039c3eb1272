//! The one path that every RPC takes: parse, work on a thread that may block, answer, measure, log once.
//!
//! A client that goes away drops the handler's future, never the work: that runs to its end on its own
//! thread and holds its locks until then. The same CreateVolume or CreateSnapshot again joins it.

use super::{
    metrics::{InFlight, Metrics},
    status,
    subject::Subject,
};
use crate::{
    error::{Error, Result, panic_text},
    service::Service,
    share::COPIES,
};
use std::{
    any::Any,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Semaphore, watch},
    task, time,
};
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

/// Answers come this long before the caller's deadline, so that it sees ABORTED and not its own timeout.
const MARGIN: Duration = Duration::from_secs(1);

/// How many local volumes and snapshots are made at a time: copies may take minutes, and the rest of the threads
/// stays for requests that must not wait for them (Probe, Unpublish, Unstage).
const SLOTS: usize = 32;

/// The same for a controller, whose nodes do the work: the requests only wait. The sidecars send a hundred each.
const SLOTS_OF_NODES: usize = 256;

/// How many requests may wait for one NFS server at a time, each on a thread. A server that is silent holds up
/// its own requests alone. Copies, which may take hours, have [`COPIES`] slots beside these.
const SLOTS_OF_SERVER: usize = 24;

type Outcome = Option<Arc<dyn Any + Send + Sync>>;

/// Runs requests against the service.
#[derive(Clone)]
pub struct Runner {
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    running: Arc<Mutex<HashMap<Uuid, watch::Receiver<Outcome>>>>,
    requests: Arc<AtomicU64>,
    slots: Arc<Slots>,
}

impl Runner {
    /// One for a process: joining works across connections.
    pub fn new(service: Arc<Service>, metrics: Arc<Metrics>) -> Self {
        let slots = Arc::new(Slots::new(if service.has_nodes() { SLOTS_OF_NODES } else { SLOTS }));
        Self { service, metrics, running: Arc::default(), requests: Arc::default(), slots }
    }

    /// The service behind.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }
}

/// One RPC: `method` as in the proto, `work` one call into the service.
pub async fn run<Q, C, O, R>(
    runner: &Runner,
    method: &'static str,
    request: Request<Q>,
    work: impl FnOnce(&Service, &C) -> Result<O> + Send + 'static,
) -> Result<Response<R>, Status>
where
    Q: Subject,
    C: TryFrom<Q, Error = Error> + Send + 'static,
    O: 'static,
    R: From<O> + Clone + Send + Sync + 'static,
{
    let deadline = deadline(&request);
    let request = request.into_inner();
    let mut report = Report::new(runner, method, request.subject().to_owned());
    let line = Line {
        join: request.joins(),
        place: request.server().map(|server| Place { server, copies: request.copies() }),
    };
    // Parsing proves the fields; a request that is wrong never reaches the pool of threads.
    let outcome = match C::try_from(request) {
        Ok(command) => {
            let receiver = runner.start(method, &line, move |service| work(service, &command).map(R::from));
            wait::<R>(receiver, deadline).await
        }
        Err(error) => Some(Arc::new(Err(error))),
    };
    let Some(outcome) = outcome else {
        report.end(Code::Aborted, Some("still running at the caller's deadline"));
        return Err(status::still_running());
    };
    match &*outcome {
        Ok(response) => {
            report.end(Code::Ok, None);
            Ok(Response::new(response.clone()))
        }
        Err(error) => {
            report.end(status::code(error), Some(&error.chain()));
            Err(status::of(error))
        }
    }
}

impl Runner {
    /// Starts the work on a thread of its own, or finds the same work already running.
    fn start<R: Send + Sync + 'static>(
        &self,
        method: &'static str,
        line: &Line,
        work: impl FnOnce(&Service) -> Result<R> + Send + 'static,
    ) -> watch::Receiver<Outcome> {
        let slots = self.slots.of(line);
        let join = line.join;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receiver) = join.and_then(|key| running.get(&key)) {
            return receiver.clone();
        }
        let (sender, receiver) = watch::channel(None);
        if let Some(key) = join {
            running.insert(key, receiver.clone());
        }
        drop(running);
        let (service, all) = (Arc::clone(&self.service), Arc::clone(&self.running));
        let work = move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(&service))).unwrap_or_else(|panic| {
                tracing::error!(method, panic = panic_text(&*panic), "a request panicked");
                Err(Error::Internal("the request hit a bug in the driver; see its log".into()))
            });
            if let Some(key) = join {
                all.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            }
            if sender.is_closed()
                && let Err(error) = &result
            {
                tracing::warn!(method, error = error.chain(), "work failed after its caller had gone");
            }
            let _ = sender.send(Some(Arc::new(result)));
        };
        task::spawn(async move {
            // The semaphore is never closed; and without a slot the work would be as right.
            let _slot = match slots {
                Some(slots) => slots.acquire_owned().await.ok(),
                None => None,
            };
            let _ended = task::spawn_blocking(work).await;
        });
        receiver
    }
}

/// What work has to take before it gets a thread.
struct Slots {
    local: Arc<Semaphore>,
    servers: Mutex<HashMap<Place, Arc<Semaphore>>>,
}

impl Slots {
    fn new(local: usize) -> Self {
        Self { local: Arc::new(Semaphore::new(local)), servers: Mutex::default() }
    }

    /// `None`: it never waits in line.
    fn of(&self, line: &Line) -> Option<Arc<Semaphore>> {
        let Some(place) = &line.place else { return line.join.map(|_| Arc::clone(&self.local)) };
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for are made anew when they are needed.
        servers.retain(|_, slots| Arc::strong_count(slots) > 1);
        let new = || Arc::new(Semaphore::new(if place.copies { COPIES } else { SLOTS_OF_SERVER }));
        Some(Arc::clone(servers.entry(place.clone()).or_insert_with(new)))
    }
}

/// Where a request stands in line: with the same request, and with those for the same server.
struct Line {
    join: Option<Uuid>,
    place: Option<Place>,
}

/// A server's line: of its copies, or of all else.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    server: String,
    copies: bool,
}

/// `None`: the deadline came first.
async fn wait<R: Send + Sync + 'static>(
    mut receiver: watch::Receiver<Outcome>,
    deadline: Option<Duration>,
) -> Option<Arc<Result<R>>> {
    let ended = async {
        let outcome = receiver.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        let lost = || Arc::new(Err(Error::Internal("the work of this request was lost; repeat it".into())));
        outcome.and_then(|outcome| outcome.downcast::<Result<R>>().ok()).unwrap_or_else(lost)
    };
    match deadline {
        Some(limit) => time::timeout(limit, ended).await.ok(),
        None => Some(ended.await),
    }
}

/// What the caller's `grpc-timeout` leaves (gRPC over HTTP/2: at most eight digits and a unit).
fn deadline<Q>(request: &Request<Q>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    let limit = match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(limit.checked_sub(MARGIN).unwrap_or_default().max(limit / 2))
}

/// One log line and one observation for each RPC, also when its caller went away.
struct Report<'a> {
    runner: &'a Runner,
    method: &'static str,
    subject: String,
    id: u64,
    began: Instant,
    ended: bool,
    _in_flight: InFlight,
}

impl<'a> Report<'a> {
    fn new(runner: &'a Runner, method: &'static str, subject: String) -> Self {
        let id = runner.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let in_flight = runner.metrics.start(method);
        Self { runner, method, subject, id, began: Instant::now(), ended: false, _in_flight: in_flight }
    }

    fn end(&mut self, code: Code, error: Option<&str>) {
        self.ended = true;
        let elapsed = self.began.elapsed();
        self.runner.metrics.observe(self.method, code, elapsed);
        let (method, object, id) = (self.method, self.subject.as_str(), self.id);
        let ms = elapsed.as_micros() as f64 / 1000.0;
        match error {
            Some(error) => tracing::warn!(id, method, object, code = name(code), ms, error, "rpc"),
            None if is_poll(method) => tracing::debug!(id, method, object, code = name(code), ms, "rpc"),
            None => tracing::info!(id, method, object, code = name(code), ms, "rpc"),
        }
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled, Some("the caller went away; the work goes on"));
        }
    }
}

/// What COs ask all the time is only logged when it fails or when debugging.
fn is_poll(method: &str) -> bool {
    ["Get", "List", "Probe", "NodeGet", "ControllerGet", "ControllerList", "Validate"]
        .iter()
        .any(|prefix| method.starts_with(prefix))
}

/// As gRPC writes it: `NOT_FOUND`.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn copies_do_not_hold_up_what_else_a_server_is_asked() {
        let slots = Slots::new(SLOTS);
        let of = |server: &str, copies| {
            let place = Some(Place { server: server.into(), copies });
            slots.of(&Line { join: Some(Uuid::nil()), place }).unwrap()
        };
        let take = |server: &str, copies| of(server, copies).try_acquire_owned().ok();
        let copying: Vec<_> = (0..2 * SLOTS_OF_SERVER).map_while(|_| take("nas", true)).collect();
        assert_eq!(copying.len(), COPIES);
        let others: Vec<_> = (0..2 * SLOTS_OF_SERVER).map_while(|_| take("nas", false)).collect();
        assert_eq!(others.len(), SLOTS_OF_SERVER);
        assert!(take("other", true).is_some() && take("other", false).is_some());
        drop(copying);
        assert!(take("nas", true).is_some() && take("nas", false).is_none());
        let line = |join| slots.of(&Line { join, place: None }).map(|slots| slots.available_permits());
        assert_eq!((line(Some(Uuid::nil())), line(None)), (Some(SLOTS), None));
    }

    #[test]
    fn deadlines_leave_a_margin() {
        let of = |text: &str| {
            let mut request = Request::new(());
            request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
            deadline(&request)
        };
        assert_eq!(of("60S"), Some(Duration::from_secs(59)));
        assert_eq!(of("1500m"), Some(Duration::from_millis(750)));
        assert_eq!(of("2M"), Some(Duration::from_secs(119)));
        for odd in ["", "S", "123456789S", "-1S", "5x", "ü"] {
            let mut request = Request::new(());
            if let Ok(value) = odd.parse() {
                request.metadata_mut().insert("grpc-timeout", value);
            }
            assert_eq!(deadline(&request), None, "{odd}");
        }
    }
}
