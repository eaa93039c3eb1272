//! What can go wrong below: a path, a program, or a kernel that did not do what it said.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// A failed operation on the host. `Display` never repeats its source (walk the chain for that).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path.
    #[error("cannot {op} {path:?}")]
    Path {
        /// What was tried, in words: `create`, `rename to …`.
        op: String,
        /// The object.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("{program} failed ({status}): {stderr}")]
    Command {
        /// Its name, without arguments (they may hold paths of tenants).
        program: &'static str,
        /// `exit status: 1` or the signal.
        status: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// A program did not end in time and was killed.
    #[error("{program} did not end within {limit:?} and was killed")]
    Timeout {
        /// Its name.
        program: &'static str,
        /// The deadline that passed.
        limit: Duration,
    },
    /// The caller's progress function said stop.
    #[error("{0} was cancelled")]
    Cancelled(&'static str),
    /// The call succeeded but its postcondition does not hold, or the object is not what it must be.
    #[error("{0}")]
    Unexpected(String),
}

/// Shorthand of this layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Path { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(libc::ENOENT)
    }

    /// Somebody uses it.
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// The object exists already.
    pub fn is_already_there(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// A directory holds something.
    pub fn is_not_empty(&self) -> bool {
        self.errno() == Some(libc::ENOTEMPTY)
    }

    /// A directory on the way, or what was opened, was removed behind the caller's back (NFS).
    pub fn is_stale(&self) -> bool {
        self.errno() == Some(libc::ESTALE)
    }

    /// A name leads out of the filesystem, or through a mount.
    pub fn is_elsewhere(&self) -> bool {
        self.errno() == Some(libc::EXDEV)
    }

    /// A directory is needed, and something else stands there.
    pub fn is_no_directory(&self) -> bool {
        self.errno() == Some(libc::ENOTDIR)
    }

    /// The permission to do this is missing (EACCES, EPERM).
    pub fn is_denied(&self) -> bool {
        matches!(self.errno(), Some(libc::EACCES | libc::EPERM))
    }

    /// The filesystem is read-only.
    pub fn is_read_only(&self) -> bool {
        self.errno() == Some(libc::EROFS)
    }

    /// A call to a server of which nobody knows whether it took effect: no answer came, a connection
    /// broke, or the server itself did not know.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(
            self.errno(),
            Some(
                libc::ETIMEDOUT
                    | libc::EIO
                    | libc::EREMOTEIO
                    | libc::ESTALE
                    | libc::EINTR
                    | libc::EAGAIN
                    | libc::EPIPE
                    | libc::ENOTCONN
                    | libc::ESHUTDOWN
                    | libc::ECONNREFUSED
                    | libc::ECONNRESET
                    | libc::ECONNABORTED
                    | libc::EHOSTDOWN
                    | libc::EHOSTUNREACH
                    | libc::ENETDOWN
                    | libc::ENETUNREACH
                    | libc::ENETRESET
            )
        )
    }

    /// A symlink stands where none is followed.
    pub fn is_symlink(&self) -> bool {
        self.errno() == Some(libc::ELOOP)
    }

    /// A privilege is missing, such as CAP_SYS_RESOURCE.
    pub fn is_not_permitted(&self) -> bool {
        self.errno() == Some(libc::EPERM)
    }

    /// The filesystem cannot do this.
    pub fn is_unsupported(&self) -> bool {
        self.errno() == Some(libc::EOPNOTSUPP)
    }

    /// No space, or a quota is used up.
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// The caller's progress function said stop, which it does when the driver ends.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled(_))
    }

    /// The filesystem there has shut down after an error, or its device is gone: every look at it fails.
    pub fn is_filesystem_down(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EIO | libc::ESTALE | libc::EUCLEAN | libc::ENOTCONN | libc::ESHUTDOWN | libc::ENXIO)
        )
    }

    /// The filesystem's own structures are not what they must be (ext4: EFSBADCRC, EFSCORRUPTED).
    pub fn is_corrupt(&self) -> bool {
        matches!(self.errno(), Some(libc::EBADMSG | libc::EUCLEAN))
    }

    /// A server that answers, but has not the program or the version that it was asked for.
    pub fn is_not_offered(&self) -> bool {
        matches!(self, Self::Path { source, .. }
            if source.kind() == io::ErrorKind::Unsupported && source.raw_os_error().is_none())
    }

    /// The kernel does not know the type of filesystem, and could not load it.
    pub fn is_unknown_filesystem(&self) -> bool {
        self.errno() == Some(libc::ENODEV)
    }

    /// Somebody else is in the way for now (EAGAIN), such as a program with a lease on an image.
    pub fn is_in_the_way(&self) -> bool {
        self.errno() == Some(libc::EAGAIN)
    }
}

/// Whether a kernel's number says that a server cannot be reached or has not answered in time.
pub fn is_unreachable(errno: i32) -> bool {
    matches!(
        errno,
        libc::ETIMEDOUT
            | libc::EIO
            | libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::ENOTCONN
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENETUNREACH
    )
}

/// Gives an [`io::Error`] (or a [`rustix`], [`nix`] one) its operation and path.
pub trait At<T> {
    /// `op` in words, as it stands after "cannot".
    fn at(self, op: impl Into<String>, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, op: impl Into<String>, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::Path { op: op.into(), path: path.as_ref().to_owned(), source: e.into() })
    }
}
