//! Where wharf listens: the endpoint's name, its socket, and who may connect.

use super::authority::Mended;
use crate::os::{
    self,
    socket::{self as unix, Occupant},
};
use std::{
    convert::Infallible,
    fmt, io,
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;

/// The path of a unix socket, as `--endpoint` names it: `unix:///path`, `unix:/path` or `/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

/// What is wrong with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme, or none.
    #[error("endpoint {0:?} is no unix socket: write unix:///path/to/csi.sock")]
    NotUnix(String),
    /// `unix://path` or `unix:path`.
    #[error("endpoint {0:?} is not absolute: write unix:///{1}")]
    Relative(String, String),
    /// A path that cannot be a socket's name.
    #[error("endpoint {0:?} does not name a socket: write unix:///path/to/csi.sock")]
    NoName(String),
    /// More than the kernel takes.
    #[error("the path of endpoint {0:?} has {1} bytes, a unix socket's may have {max}: choose a shorter one", max = unix::PATH_MAX)]
    TooLong(String, usize),
}

impl Endpoint {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory that holds the socket.
    fn directory(&self) -> &Path {
        self.0.parent().unwrap_or(Path::new("/"))
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let given = || text.to_owned();
        let path = match text.split_once(':') {
            _ if text.starts_with('/') => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("unix") => {
                rest.strip_prefix("//").unwrap_or(rest)
            }
            _ => return Err(EndpointError::NotUnix(given())),
        };
        if path.is_empty()
            || path.ends_with('/')
            || path.ends_with("/.")
            || path.ends_with("/..")
            || path.contains('\0')
        {
            return Err(EndpointError::NoName(given()));
        }
        if !path.starts_with('/') {
            return Err(EndpointError::Relative(given(), path.to_owned()));
        }
        if path.len() > unix::PATH_MAX {
            return Err(EndpointError::TooLong(given(), path.len()));
        }
        Ok(Self(path.into()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// Makes the endpoint's socket, for this user alone, and listens.
///
/// A socket on which nobody listens any more is replaced; whatever else is in the way stays, and the
/// error says what to do. Nothing else is ever made in the directory (the CSI specification forbids
/// it), so two drivers that start at once are kept apart by a lock on the directory itself. Needs a
/// running tokio runtime. The socket is not removed when the listener ends: see [`super::serve`].
pub fn listen(endpoint: &Endpoint) -> os::Result<UnixListener> {
    let path = endpoint.path();
    let _alone = lock(endpoint)?;
    match unix::occupant(path)? {
        Occupant::Nothing => {}
        Occupant::DeadSocket => {
            unix::remove(path)?;
            tracing::debug!(?path, "replaced a dead socket");
        }
        Occupant::LiveSocket => {
            return Err(refusal(path, "another process listens there: stop it or choose another path"));
        }
        Occupant::Other(what) => {
            return Err(refusal(path, &format!("it is {what}: remove it or choose another path")));
        }
    }
    let listener = unix::listen(path)?;
    UnixListener::from_std(listener).map_err(|source| os::Error::Path {
        op: "listen on".into(),
        path: path.into(),
        source,
    })
}

/// Excludes other drivers from the endpoint's directory while one looks, removes and binds, which
/// takes them less than a millisecond.
fn lock(endpoint: &Endpoint) -> os::Result<std::fs::File> {
    const TRIES: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(20);
    let directory = endpoint.directory();
    for _ in 0..TRIES {
        match unix::try_lock_directory(directory) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) => thread::sleep(PAUSE),
            Err(error) if error.is_not_found() => {
                let advice = format!(
                    "directory {directory:?} does not exist: make it (or mount it into the container)"
                );
                return Err(refusal(endpoint.path(), &advice));
            }
            Err(error) => return Err(error),
        }
    }
    let advice = format!("another process keeps directory {directory:?} locked (flock): end it");
    Err(refusal(endpoint.path(), &advice))
}

fn refusal(path: &Path, reason: &str) -> os::Error {
    os::Error::Unexpected(format!("cannot listen on {path:?}: {reason}"))
}

/// The connections of a listener. It never ends and never yields an error.
pub(super) struct Incoming {
    listener: UnixListener,
    own_uid: u32,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
}

impl Incoming {
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    /// Below the second that the kubelet grants a driver for its first answer.
    const LONGEST_PAUSE: Duration = Duration::from_millis(500);

    pub(super) fn new(listener: UnixListener) -> Self {
        Self { listener, own_uid: unix::own_uid(), pause: None, next_pause: Self::FIRST_PAUSE }
    }

    /// Waits a little longer each time: with no descriptors left (EMFILE) accept(2) fails at once,
    /// and the connection stays in the queue.
    fn stall(&mut self, error: &io::Error) {
        tracing::warn!("cannot accept a connection, trying again in {:?}: {error}", self.next_pause);
        self.pause = Some(Box::pin(sleep(self.next_pause)));
        self.next_pause = (self.next_pause * 2).min(Self::LONGEST_PAUSE);
    }
}

impl Stream for Incoming {
    type Item = Result<Mended<UnixStream>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let me = self.get_mut();
        loop {
            if let Some(pause) = &mut me.pause {
                ready!(pause.as_mut().poll(context));
                me.pause = None;
            }
            match ready!(me.listener.poll_accept(context)) {
                Ok((stream, _)) => {
                    me.next_pause = Self::FIRST_PAUSE;
                    if is_welcome(&stream, me.own_uid) {
                        return Poll::Ready(Some(Ok(Mended::new(stream))));
                    }
                }
                Err(error) => me.stall(&error),
            }
        }
    }
}

/// Whether the peer runs as root or as this process does: who may speak to a CSI driver can mount.
///
/// The socket's mode says the same; this holds also when somebody has loosened it.
fn is_welcome(stream: &UnixStream, own_uid: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == own_uid => true,
        Ok(peer) => {
            let pid = peer.pid();
            tracing::warn!(
                uid = peer.uid(),
                pid,
                "closed a connection: only root and uid {own_uid} may connect"
            );
            false
        }
        Err(error) => {
            tracing::warn!("closed a connection: its user cannot be told: {error}");
            false
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn every_form_of_an_endpoint_is_understood() {
        for text in ["unix:///csi/csi.sock", "unix:/csi/csi.sock", "/csi/csi.sock", "UNIX:///csi/csi.sock"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.path(), Path::new("/csi/csi.sock"), "{text}");
            assert_eq!(endpoint.to_string(), "unix:///csi/csi.sock");
        }
        let colon: Endpoint = "/a:b/csi.sock".parse().unwrap();
        assert_eq!(colon.path(), Path::new("/a:b/csi.sock"));
    }

    #[test]
    fn the_error_of_an_endpoint_says_what_to_write() {
        let long = format!("/{}", "a".repeat(107));
        for (text, wanted) in [
            ("", r#"endpoint "" is no unix socket: write unix:///path/to/csi.sock"#),
            ("csi.sock", r#"endpoint "csi.sock" is no unix socket: write unix:///path/to/csi.sock"#),
            ("tcp://a:1", r#"endpoint "tcp://a:1" is no unix socket: write unix:///path/to/csi.sock"#),
            (
                "unix://csi/csi.sock",
                r#"endpoint "unix://csi/csi.sock" is not absolute: write unix:///csi/csi.sock"#,
            ),
            ("unix:csi.sock", r#"endpoint "unix:csi.sock" is not absolute: write unix:///csi.sock"#),
            ("unix://", r#"endpoint "unix://" does not name a socket: write unix:///path/to/csi.sock"#),
            ("/csi/", r#"endpoint "/csi/" does not name a socket: write unix:///path/to/csi.sock"#),
            ("/csi/..", r#"endpoint "/csi/.." does not name a socket: write unix:///path/to/csi.sock"#),
            ("/a\0b", r#"endpoint "/a\0b" does not name a socket: write unix:///path/to/csi.sock"#),
            (
                &long,
                &format!(
                    "the path of endpoint {long:?} has 108 bytes, a unix socket's may have 107: choose a shorter one"
                ),
            ),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap_err().to_string(), wanted);
        }
        assert!(long[..107].parse::<Endpoint>().is_ok());
    }

    fn endpoint(directory: &tempfile::TempDir) -> Endpoint {
        Endpoint(directory.path().join("csi.sock"))
    }

    /// Another test's child, between its fork and its exec, has a dropped listener for a moment too.
    fn eventually<T>(attempt: impl Fn() -> Option<T>) -> T {
        let waited = (0..500).find_map(|_| {
            let done = attempt();
            done.is_none().then(|| thread::sleep(Duration::from_millis(10)));
            done
        });
        waited.unwrap()
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = endpoint(&directory);
        let first = listen(&endpoint).unwrap();
        assert_eq!(
            listen(&endpoint).unwrap_err().to_string(),
            format!(
                "cannot listen on {:?}: another process listens there: stop it or choose another path",
                endpoint.path()
            )
        );
        drop(first);
        let _second = eventually(|| listen(&endpoint).ok());
        UnixStream::connect(endpoint.path()).await.unwrap();
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["csi.sock"]);
        assert_eq!(fs::metadata(endpoint.path()).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = endpoint(&directory);
        fs::write(endpoint.path(), "precious").unwrap();
        let error = listen(&endpoint).unwrap_err().to_string();
        assert!(error.ends_with(": it is a file: remove it or choose another path"), "{error}");
        assert_eq!(fs::read_to_string(endpoint.path()).unwrap(), "precious");
        // A symlink, too, even one to a dead socket.
        fs::remove_file(endpoint.path()).unwrap();
        let elsewhere = directory.path().join("elsewhere");
        drop(std::os::unix::net::UnixListener::bind(&elsewhere).unwrap());
        std::os::unix::fs::symlink(&elsewhere, endpoint.path()).unwrap();
        let error = listen(&endpoint).unwrap_err().to_string();
        assert!(error.ends_with(": it is a symlink: remove it or choose another path"), "{error}");
        assert!(fs::symlink_metadata(endpoint.path()).unwrap().is_symlink());
        assert!(fs::symlink_metadata(elsewhere).is_ok());
    }

    #[tokio::test]
    async fn a_missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let error = listen(&Endpoint(missing.join("csi.sock"))).unwrap_err().to_string();
        assert!(error.contains(&format!("directory {missing:?} does not exist: make it")), "{error}");
        assert!(!missing.exists());
    }

    #[tokio::test]
    async fn drivers_that_start_at_once_are_kept_apart() {
        const DRIVERS: usize = 8;
        let directory = tempfile::tempdir().unwrap();
        let endpoint = endpoint(&directory);
        let runtime = tokio::runtime::Handle::current();
        for _ in 0..100 {
            let race = || -> Vec<_> {
                let gate = std::sync::Barrier::new(DRIVERS);
                let start = || {
                    let _inside = runtime.enter();
                    gate.wait();
                    listen(&endpoint).ok()
                };
                thread::scope(|scope| {
                    let started: Vec<_> = (0..DRIVERS).map(|_| scope.spawn(start)).collect();
                    started.into_iter().filter_map(|driver| driver.join().unwrap()).collect()
                })
            };
            let listeners = eventually(|| Some(race()).filter(|listeners| !listeners.is_empty()));
            assert_eq!(listeners.len(), 1);
            UnixStream::connect(endpoint.path()).await.unwrap();
        }
    }
}
