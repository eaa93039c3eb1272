//! A server's life: who may connect, how it ends, and that it outlives a lack of descriptors.

#![allow(clippy::disallowed_methods, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod identity;

use identity::{client, csi};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use std::{
    env,
    fs::{self, File, Permissions},
    io::{ErrorKind, Read},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::sleep};
use tonic::{Code, service::Routes};
use tower_http::catch_panic::CatchPanicLayer;
use wharf::server::{self, End, Endpoint, Shutdown, shutdown::Trigger};

const LONG: Duration = Duration::from_secs(60);

/// A server in this process.
struct Server {
    directory: TempDir,
    trigger: Trigger,
    task: JoinHandle<End>,
}

impl Server {
    fn start(routes: Routes, grace: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = server::listen(&endpoint(directory.path())).unwrap();
        let (trigger, shutdown) = Shutdown::new();
        let task =
            tokio::spawn(async move { server::serve(listener, routes, shutdown, grace).await.unwrap() });
        Self { directory, trigger, task }
    }

    fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    /// Calls Probe and returns once the call is running.
    async fn running_probe(&self) -> JoinHandle<Result<bool, Code>> {
        let mut client = client(&self.socket());
        client.get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap();
        let call = tokio::spawn(async move {
            let answer = client.probe(csi::ProbeRequest {}).await;
            answer.map(|answer| answer.into_inner().ready == Some(true)).map_err(|status| status.code())
        });
        sleep(Duration::from_millis(100)).await;
        call
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("csi.sock")
}

fn endpoint(directory: &Path) -> Endpoint {
    socket(directory).to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn running_calls_are_finished_and_new_ones_are_refused() {
    let server = Server::start(identity::routes(Some(Duration::from_millis(400))), LONG);
    let _idle = server.running_probe().await.await.unwrap().unwrap();
    let call = server.running_probe().await;
    server.trigger.advance();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(UnixStream::connect(server.socket()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(call.await.unwrap(), Ok(true));
    assert_eq!(server.task.await.unwrap(), End::Drained);
    assert!(socket(server.directory.path()).exists(), "the socket file must stay");
}

#[tokio::test]
async fn the_grace_period_bounds_the_wait() {
    let server = Server::start(identity::routes(Some(LONG)), Duration::from_millis(300));
    let call = server.running_probe().await;
    let start = Instant::now();
    server.trigger.advance();
    assert_eq!(server.task.await.unwrap(), End::Abandoned);
    assert!((250..5_000).contains(&start.elapsed().as_millis()));
    call.abort();
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_waited_for_no_longer_than_a_call() {
    let server = Server::start(identity::routes(None), Duration::from_millis(300));
    let _silent = UnixStream::connect(server.socket()).unwrap();
    sleep(Duration::from_millis(50)).await;
    server.trigger.advance();
    assert_eq!(server.task.await.unwrap(), End::Abandoned);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let server = Server::start(identity::routes(Some(LONG)), LONG);
    let call = server.running_probe().await;
    let start = Instant::now();
    server.trigger.advance();
    sleep(Duration::from_millis(50)).await;
    assert!(!server.task.is_finished());
    server.trigger.advance();
    assert_eq!(server.task.await.unwrap(), End::Abandoned);
    assert!(start.elapsed() < Duration::from_secs(5));
    call.abort();
}

#[tokio::test]
async fn a_layer_goes_around_the_routes() {
    let panicking = identity::routes(None).into_axum_router();
    let layer = CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
        tonic::Status::internal("a panic").into_http::<tonic::body::Body>()
    });
    let server = Server::start(Routes::from(panicking.layer(layer)), LONG);
    assert_eq!(server.running_probe().await.await.unwrap(), Err(Code::Internal));
}

/// Calls a function as another user: the kernel keeps credentials per thread.
#[allow(unsafe_code)]
fn as_user<T: Send + 'static>(uid: u32, call: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        // SAFETY: the raw call takes three numbers and changes this thread alone, which ends below.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1i64, i64::from(uid), -1i64) };
        assert_eq!(changed, 0);
        call()
    });
    thread.join().unwrap()
}

/// Whether the server, which speaks first in neither case, closes a new connection.
fn is_closed(socket: &Path) -> bool {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.set_nonblocking(false).unwrap();
    // A server that keeps the connection sends its settings.
    matches!(stream.read(&mut [0; 9]), Ok(0) | Err(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_root_and_the_own_user_may_connect() {
    const NOBODY: u32 = 65_534;
    let server = Server::start(identity::routes(None), LONG);
    let path = server.socket();
    fs::set_permissions(server.directory.path(), Permissions::from_mode(0o755)).unwrap();
    let (refused, denied) = (
        path.clone(),
        as_user(NOBODY, {
            let path = path.clone();
            move || UnixStream::connect(path).unwrap_err().kind()
        }),
    );
    assert_eq!(denied, ErrorKind::PermissionDenied, "the socket's mode keeps others out");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert!(as_user(NOBODY, move || is_closed(&refused)));
    assert!(!is_closed(&path));
    client(&path).get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap();
}

/// This test binary again, in a process of its own, for what concerns a whole process.
struct Process {
    child: Child,
    directory: TempDir,
}

impl Process {
    const DIRECTORY: &str = "WHARF_TEST_DIRECTORY";

    /// Runs the named test again, which then finds [`Process::is_this`], and waits for its socket.
    async fn start(test: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(Self::DIRECTORY, directory.path())
            .spawn()
            .unwrap();
        let process = Self { child, directory };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(process.socket()).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            sleep(Duration::from_millis(10)).await;
        }
        process
    }

    /// The directory to serve in, when this is the process that another has started.
    fn is_this() -> Option<PathBuf> {
        env::var_os(Self::DIRECTORY).map(PathBuf::from)
    }

    fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Time on a processor so far, in hundredths of a second.
    fn processor_time(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until a signal, then exits with what came of it.
async fn serve_until_a_signal(directory: &Path, probe: Duration) -> ! {
    let shutdown = server::shutdown_signal().unwrap();
    let listener = server::listen(&endpoint(directory)).unwrap();
    let end = server::serve(listener, identity::routes(Some(probe)), shutdown, server::GRACE).await.unwrap();
    std::process::exit(if end == End::Drained { 10 } else { 11 });
}

#[tokio::test]
async fn sigterm_finishes_what_is_running() {
    if let Some(directory) = Process::is_this() {
        serve_until_a_signal(&directory, Duration::from_millis(500)).await;
    }
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start("sigterm_finishes_what_is_running").await;
        let path = process.socket();
        let call = tokio::spawn(async move { client(&path).probe(csi::ProbeRequest {}).await });
        sleep(Duration::from_millis(200)).await;
        process.signal(signal);
        assert_eq!(call.await.unwrap().unwrap().into_inner().ready, Some(true));
        assert_eq!(process.exit().await.code(), Some(10));
        assert!(process.socket().exists());
    }
}

#[tokio::test]
async fn a_second_sigterm_does_not_wait() {
    if let Some(directory) = Process::is_this() {
        serve_until_a_signal(&directory, LONG).await;
    }
    let mut process = Process::start("a_second_sigterm_does_not_wait").await;
    let path = process.socket();
    let call = tokio::spawn(async move { client(&path).probe(csi::ProbeRequest {}).await });
    sleep(Duration::from_millis(200)).await;
    process.signal(Signal::TERM);
    sleep(Duration::from_millis(200)).await;
    assert!(process.child.try_wait().unwrap().is_none());
    process.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(process.exit().await.code(), Some(11));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(call.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lack_of_descriptors_neither_ends_nor_spins() {
    const SHORTAGE: Duration = Duration::from_millis(1_500);
    if let Some(directory) = Process::is_this() {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(64);
        setrlimit(Resource::Nofile, limit).unwrap();
        tokio::spawn(async move {
            sleep(Duration::from_millis(300)).await;
            let hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
            sleep(SHORTAGE).await;
            drop(hoard);
        });
        serve_until_a_signal(&directory, Duration::ZERO).await;
    }
    let process = Process::start("a_lack_of_descriptors_neither_ends_nor_spins").await;
    sleep(Duration::from_millis(500)).await;
    let before = process.processor_time();
    let start = Instant::now();
    let mut client = client(&process.socket());
    client.get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap();
    assert!(start.elapsed() > SHORTAGE / 2, "there was no shortage");
    assert!(start.elapsed() < SHORTAGE * 3);
    let spent = process.processor_time() - before;
    assert!(spent < 20, "{spent} hundredths of a second on the processor");
}
