//! What can go wrong with a request, in the domain's words.
//!
//! Variants are meanings, not codes: `rpc/status.rs` alone knows which gRPC code each becomes and
//! docs/errors.md what a caller does with it. `Display` never repeats the source; the log walks the
//! chain once.

pub mod failure;

use crate::os;
use std::any::Any;

/// Why a request was not carried out. Messages are lower case, name the object and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong: somebody has to edit it.
    #[error("{0}")]
    Invalid(String),
    /// The volume, snapshot or mount that is named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It exists, but not as this request wants it.
    #[error("{0}")]
    Incompatible(String),
    /// Other work on the same object is running; the same request later goes through.
    #[error("{0}")]
    Busy(String),
    /// The state of the system forbids it: in use, not staged, a pool that cannot.
    #[error("{0}")]
    Refused(String),
    /// A server has no version of its protocol that was asked for.
    #[error("{0}")]
    NotOffered(String),
    /// A server denies it to this host.
    #[error("{0}")]
    Forbidden(String),
    /// No room.
    #[error("{0}")]
    NoSpace(String),
    /// The size asked for cannot be had.
    #[error("{0}")]
    OutOfRange(String),
    /// A pool cannot be reached now.
    #[error("{0}")]
    Unavailable(String),
    /// A page token that this driver did not hand out.
    #[error("{0}")]
    BadToken(String),
    /// A record or an image is not what it must be. Nothing was touched.
    #[error("{0}")]
    Damaged(String),
    /// The host failed.
    #[error("{doing}")]
    Os {
        /// What was being done, to which object.
        doing: String,
        /// The host's answer.
        source: os::Error,
    },
    /// A bug of the driver: a panic in one request.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// After the point of no return a failure is not final: the object may or may not survive a power
    /// cut, and the same request again finds out.
    pub fn after_commit(self) -> Self {
        Self::Unavailable(format!("{}; the same request again finds out how it ended", self.chain()))
    }
}

/// Shorthand of every layer above `os`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what a failed host operation was for.
pub trait Doing<T> {
    /// `doing` names the work and the object: `allocating the image of volume …`.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for os::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Os { doing: doing(), source })
    }
}

impl Error {
    /// Whether the cause is a full filesystem or a used-up quota.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace(_) => true,
            Self::Os { source, .. } => source.is_no_space(),
            _ => false,
        }
    }

    /// Whether an orchestrator takes it for final and forgets the attempt: nothing of it may be left then.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Busy(_) | Self::BadToken(_) | Self::Unavailable(_) => false,
            Self::Os { source, .. } => !source.is_in_the_way() && !source.is_cancelled(),
            _ => true,
        }
    }

    /// One word for what kind it is, as events and conditions of a cluster name it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::NotFound(_) => "NotFound",
            Self::Incompatible(_) => "Incompatible",
            Self::Busy(_) => "Busy",
            Self::Refused(_) => "Refused",
            Self::NotOffered(_) => "NotOffered",
            Self::Forbidden(_) => "Forbidden",
            Self::NoSpace(_) => "NoSpace",
            Self::OutOfRange(_) => "OutOfRange",
            Self::Unavailable(_) => "Unavailable",
            Self::BadToken(_) => "BadToken",
            Self::Damaged(_) => "Damaged",
            Self::Os { .. } => "HostFailed",
            Self::Internal(_) => "Internal",
        }
    }

    /// The message followed by every cause, for the log and the caller.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// What a panic said, as `std::panic::catch_unwind` hands it over.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn chain_names_every_cause_once() {
        let source = os::Error::Path {
            op: "create".into(),
            path: "/pool/x".into(),
            source: io::Error::from_raw_os_error(28),
        };
        let error = Error::Os { doing: "creating volume v".into(), source };
        assert!(error.is_no_space());
        let chain = error.chain();
        assert!(chain.starts_with("creating volume v: cannot create \"/pool/x\": No space left"), "{chain}");
        assert_eq!(chain.matches("No space left").count(), 1);
    }
}
