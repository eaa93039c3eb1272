//! Errors on their way from one process to another: their meaning, and what it is based on, survive.

use super::Error;
use crate::os;
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// An [`Error`] that can be sent and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    meaning: Meaning,
    message: String,
    cause: Option<Cause>,
}

/// The variants of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Meaning {
    Invalid,
    NotFound,
    Incompatible,
    Busy,
    Refused,
    NotOffered,
    Forbidden,
    NoSpace,
    OutOfRange,
    Unavailable,
    BadToken,
    Damaged,
    Os,
    Internal,
}

/// What of an [`os::Error`] decides anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Cause {
    /// With the kernel's number, from which its text is made anew.
    Path { op: String, path: String, errno: i32 },
    /// The work was told to stop.
    Cancelled,
    /// Anything else, as text.
    Text(String),
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let (meaning, message) = match error {
            Error::Invalid(text) => (Meaning::Invalid, text),
            Error::NotFound(text) => (Meaning::NotFound, text),
            Error::Incompatible(text) => (Meaning::Incompatible, text),
            Error::Busy(text) => (Meaning::Busy, text),
            Error::Refused(text) => (Meaning::Refused, text),
            Error::NotOffered(text) => (Meaning::NotOffered, text),
            Error::Forbidden(text) => (Meaning::Forbidden, text),
            Error::NoSpace(text) => (Meaning::NoSpace, text),
            Error::OutOfRange(text) => (Meaning::OutOfRange, text),
            Error::Unavailable(text) => (Meaning::Unavailable, text),
            Error::BadToken(text) => (Meaning::BadToken, text),
            Error::Damaged(text) => (Meaning::Damaged, text),
            Error::Internal(text) => (Meaning::Internal, text),
            Error::Os { doing, .. } => (Meaning::Os, doing),
        };
        let cause = match error {
            Error::Os { source, .. } => Some(Cause::from(source)),
            _ => None,
        };
        Self { meaning, message: message.clone(), cause }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { meaning, message, cause } = failure;
        match meaning {
            Meaning::Invalid => Self::Invalid(message),
            Meaning::NotFound => Self::NotFound(message),
            Meaning::Incompatible => Self::Incompatible(message),
            Meaning::Busy => Self::Busy(message),
            Meaning::Refused => Self::Refused(message),
            Meaning::NotOffered => Self::NotOffered(message),
            Meaning::Forbidden => Self::Forbidden(message),
            Meaning::NoSpace => Self::NoSpace(message),
            Meaning::OutOfRange => Self::OutOfRange(message),
            Meaning::Unavailable => Self::Unavailable(message),
            Meaning::BadToken => Self::BadToken(message),
            Meaning::Damaged => Self::Damaged(message),
            Meaning::Internal => Self::Internal(message),
            Meaning::Os => match cause {
                Some(cause) => Self::Os { doing: message, source: cause.into() },
                None => Self::Internal(message),
            },
        }
    }
}

impl From<&os::Error> for Cause {
    fn from(error: &os::Error) -> Self {
        match error {
            os::Error::Path { op, path, source } => match source.raw_os_error() {
                Some(errno) => {
                    Self::Path { op: op.clone(), path: path.to_string_lossy().into_owned(), errno }
                }
                None => Self::Text(format!("{error}: {source}")),
            },
            os::Error::Cancelled(_) => Self::Cancelled,
            os::Error::Command { .. } | os::Error::Timeout { .. } | os::Error::Unexpected(_) => {
                Self::Text(error.to_string())
            }
        }
    }
}

impl From<Cause> for os::Error {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Path { op, path, errno } => {
                Self::Path { op, path: PathBuf::from(path), source: io::Error::from_raw_os_error(errno) }
            }
            Cause::Cancelled => Self::Cancelled("the work on the share"),
            Cause::Text(text) => Self::Unexpected(text),
        }
    }
}

impl Failure {
    /// Whether this says that the server cannot be reached, or does not answer in time: what makes a breaker open.
    pub fn is_unreachable(&self) -> bool {
        match &self.cause {
            Some(Cause::Path { errno, .. }) => os::error::is_unreachable(*errno),
            _ => self.meaning == Meaning::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use std::time::Duration;

    fn there_and_back(error: &Error) -> Error {
        let text = serde_json::to_string(&Failure::from(error)).unwrap();
        serde_json::from_str::<Failure>(&text).unwrap().into()
    }

    #[test]
    fn every_variant_survives() {
        let text = || "volume \"x\" … \u{1}".to_owned();
        for error in [
            Error::Invalid(text()),
            Error::NotFound(text()),
            Error::Incompatible(text()),
            Error::Busy(text()),
            Error::Refused(text()),
            Error::NotOffered(text()),
            Error::Forbidden(text()),
            Error::NoSpace(text()),
            Error::OutOfRange(text()),
            Error::Unavailable(text()),
            Error::BadToken(text()),
            Error::Damaged(text()),
            Error::Internal(text()),
        ] {
            let back = there_and_back(&error);
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
        }
    }

    #[test]
    fn the_kernels_number_survives() {
        let of = |errno| Error::Os {
            doing: "making volume v".into(),
            source: os::Error::Path {
                op: "create".into(),
                path: "/share/a".into(),
                source: io::Error::from_raw_os_error(errno),
            },
        };
        let back = there_and_back(&of(28));
        assert!(back.is_no_space());
        assert_eq!(back.chain(), of(28).chain());
        assert!(Failure::from(&of(110)).is_unreachable() && Failure::from(&of(5)).is_unreachable());
        assert!(!Failure::from(&of(28)).is_unreachable());
        assert!(Failure::from(&Error::Unavailable("x".into())).is_unreachable());
    }

    #[test]
    fn other_causes_keep_their_text() {
        for (source, cancelled) in [
            (os::Error::Cancelled("the copy"), true),
            (os::Error::Unexpected("odd".into()), false),
            (os::Error::Timeout { program: "x", limit: Duration::from_secs(1) }, false),
            (
                os::Error::Path {
                    op: "copy".into(),
                    path: "/a".into(),
                    source: io::Error::other("no number"),
                },
                false,
            ),
        ] {
            let error = Error::Os { doing: "copying".into(), source };
            let text = error.chain();
            let back = there_and_back(&error);
            let Error::Os { source, .. } = &back else { panic!("{back:?}") };
            assert_eq!(source.is_cancelled(), cancelled);
            assert!(cancelled || back.chain() == text, "{}", back.chain());
        }
    }
}
