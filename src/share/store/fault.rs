//! Failed calls on a share, in the domain's words.

use crate::{
    error::{Error, Result},
    os,
};

/// Says what a failed call on a share was for, and what its failure means.
pub trait OnShare<T> {
    /// `doing` names the work and the object.
    fn on_share(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> OnShare<T> for os::Result<T> {
    fn on_share(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| meaning(source, doing()))
    }
}

/// A call without an answer may still happen: that is never final.
fn meaning(source: os::Error, doing: String) -> Error {
    let meant: fn(String) -> Error = if source.is_outcome_unknown() {
        Error::Unavailable
    } else if source.is_read_only() {
        Error::Refused
    } else if source.is_denied() {
        Error::Forbidden
    } else {
        return Error::Os { doing, source };
    };
    let way_out = if source.is_outcome_unknown() {
        "the server gave no answer, so it may still happen: the same request again finds out"
    } else if source.is_read_only() {
        "the server exports the share read-only: export it `rw`"
    } else {
        "the server does not let this host's root do that (root_squash): export with `no_root_squash`, or see to it \
         that the user it is turned into may, and ask for no uid and gid"
    };
    meant(format!("{}; {way_out}", Error::Os { doing, source }.chain()))
}

/// Whether nobody knows how it ended, or the caller has stopped it: then nothing is undone now.
pub fn is_open(error: &Error) -> bool {
    match error {
        Error::Unavailable(_) => true,
        Error::Os { source, .. } => source.is_cancelled(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(number: i32) -> Error {
        let source = os::Error::Path {
            op: "rename".into(),
            path: "/share/x".into(),
            source: std::io::Error::from_raw_os_error(number),
        };
        meaning(source, "creating volume v".into())
    }

    #[test]
    fn errors_mean_what_the_caller_can_do() {
        for number in [libc::ETIMEDOUT, libc::EIO, libc::ESTALE, libc::EHOSTUNREACH, libc::ECONNRESET] {
            assert!(matches!(meant(number), Error::Unavailable(_)), "{number}");
            assert!(is_open(&meant(number)));
        }
        for number in [libc::EACCES, libc::EPERM] {
            assert!(matches!(meant(number), Error::Forbidden(_)), "{number}");
        }
        assert!(matches!(meant(libc::EROFS), Error::Refused(_)));
        assert!(meant(libc::ENOSPC).is_no_space() && meant(libc::EDQUOT).is_no_space());
        assert!(!is_open(&meant(libc::ENOSPC)));
        let text = meant(libc::ETIMEDOUT).chain();
        assert!(text.contains("creating volume v: cannot rename \"/share/x\""), "{text}");
    }
}
