//! Unix stream sockets that have a path.

use super::{At, Result};
use rustix::{
    fs::{self, FileType, FlockOperation, Mode, OFlags},
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
};

/// The longest path that a socket's address can hold: `sun_path` without its final zero (unix(7)).
pub const PATH_MAX: usize = 107;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// What stands where a socket is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Nothing,
    /// A socket that nobody listens on: its process has ended.
    DeadSocket,
    /// A socket that is in use.
    LiveSocket,
    /// Anything that is no socket, in words; a symlink is not followed.
    Other(&'static str),
}

/// Looks at `path` and, if it is a socket, tries whether somebody answers.
pub fn occupant(path: &Path) -> Result<Occupant> {
    let kind = match fs::lstat(path) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(Occupant::Nothing),
        Err(error) => return Err(error).at("look at", path),
    };
    match kind {
        FileType::Socket => connect(path),
        FileType::Directory => Ok(Occupant::Other("a directory")),
        FileType::RegularFile => Ok(Occupant::Other("a file")),
        FileType::Symlink => Ok(Occupant::Other("a symlink")),
        _ => Ok(Occupant::Other("a device or pipe")),
    }
}

/// Connects without waiting: a blocking connect(2) waits while the listener's backlog is full.
fn connect(path: &Path) -> Result<Occupant> {
    let socket = stream_socket().at("make a socket to try", path)?;
    match address(path).and_then(|address| net::connect(&socket, &address)) {
        Ok(()) | Err(Errno::AGAIN) => Ok(Occupant::LiveSocket),
        Err(Errno::CONNREFUSED) => Ok(Occupant::DeadSocket),
        // A socket of another type, for datagrams: alive, since a dead one refuses.
        Err(Errno::PROTOTYPE) => Ok(Occupant::LiveSocket),
        Err(Errno::NOENT) => Ok(Occupant::Nothing),
        Err(error) => Err(error).at("connect to the socket", path),
    }
}

/// Makes a socket at `path`, where nothing may be, with mode 0600, and listens.
///
/// The mode is set before the socket has a name: bind(2) gives the inode the mode that fchmod(2)
/// gave the socket, less the umask. So there is no moment at which others could connect, and the
/// umask, which belongs to all threads, is left alone. The listener does not block.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let bound = || {
        let socket = stream_socket()?;
        fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        net::bind(&socket, &address(path)?)?;
        net::listen(&socket, BACKLOG)?;
        Ok::<_, Errno>(socket.into())
    };
    bound().at("listen on", path)
}

/// Removes the name of a socket.
pub fn remove(path: &Path) -> Result<()> {
    fs::unlink(path).at("remove the dead socket", path)
}

/// Locks a directory against others who do the same, without making a file in it: flock(2), freed
/// when the handle is dropped. `None` when somebody holds it.
pub fn try_lock_directory(path: &Path) -> Result<Option<File>> {
    let directory: File = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .at("open the directory", path)?
        .into();
    match fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(directory)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).at("lock the directory", path),
    }
}

/// The user that this process acts as.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

fn address(path: &Path) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io;
    use std::os::unix::{fs::MetadataExt, fs::PermissionsExt, net::UnixDatagram, net::UnixStream};

    #[test]
    fn a_socket_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), own_uid());
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn every_occupant_is_recognised() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        assert_eq!(occupant(&path("a")).unwrap(), Occupant::Nothing);
        let listener = listen(&path("a")).unwrap();
        assert_eq!(occupant(&path("a")).unwrap(), Occupant::LiveSocket);
        let waiting: Vec<_> = std::iter::from_fn(|| {
            let socket = stream_socket().unwrap();
            net::connect(&socket, &address(&path("a")).unwrap()).ok().map(|()| socket)
        })
        .collect();
        assert!(!waiting.is_empty());
        assert_eq!(occupant(&path("a")).unwrap(), Occupant::LiveSocket, "with a full backlog");
        drop(listener);
        // Another test's child, between its fork and its exec, has the listener for a moment too.
        let dead = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            occupant(&path("a")).unwrap() == Occupant::DeadSocket
        });
        assert!(dead, "nobody listens any more");
        let _datagrams = UnixDatagram::bind(path("b")).unwrap();
        assert_eq!(occupant(&path("b")).unwrap(), Occupant::LiveSocket);
        std::os::unix::fs::symlink(path("a"), path("c")).unwrap();
        assert_eq!(occupant(&path("c")).unwrap(), Occupant::Other("a symlink"));
        assert_eq!(occupant(directory.path()).unwrap(), Occupant::Other("a directory"));
        std::fs::write(path("d"), "").unwrap();
        assert_eq!(occupant(&path("d")).unwrap(), Occupant::Other("a file"));
    }

    #[test]
    fn nothing_is_bound_over_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        drop(listen(&path).unwrap());
        assert_eq!(listen(&path).unwrap_err().errno(), Some(libc::EADDRINUSE));
        remove(&path).unwrap();
        listen(&path).unwrap();
    }

    #[test]
    fn a_directory_is_locked_once_and_nothing_is_made_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let held = try_lock_directory(directory.path()).unwrap();
        assert!(held.is_some());
        assert!(try_lock_directory(directory.path()).unwrap().is_none());
        drop(held);
        assert!(try_lock_directory(directory.path()).unwrap().is_some());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
