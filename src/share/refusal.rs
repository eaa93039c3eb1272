//! Why a share cannot be mounted, in words: each names server and share, and the way out.

use crate::{
    error::Error,
    os::{
        self,
        error::is_unreachable,
        nfs::{Attempt, Dialect, try_next_version},
    },
    volume::nfs::{self, options::Family},
};

fn chain(error: &os::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The server's name leads nowhere. It may be the name server that fails, so the same request may succeed later.
pub(super) fn of_name(share: &nfs::Share, error: &os::Error) -> Error {
    Error::Unavailable(format!(
        "server {} of share {share} is not found: {}; correct the name, or see whether the node's name server answers",
        share.server,
        chain(error)
    ))
}

/// The server has addresses, but none that the options allow.
pub(super) fn of_family(share: &nfs::Share, family: Family) -> Error {
    Error::Refused(format!(
        "server {} of share {share} has no {family} address, which the mount options proto and mountproto ask for",
        share.server
    ))
}

/// Nobody answers as an NFS server does.
pub(super) fn of_answer(share: &nfs::Share, dialect: Dialect, error: &os::Error) -> Error {
    let (server, why) = (&share.server, chain(error));
    if error.is_not_offered() {
        let (this, other) = match dialect {
            Dialect::V4 => ("4", "vers=3"),
            Dialect::V3 => ("3", "vers=4"),
        };
        return Error::NotOffered(format!(
            "server {server} of share {share} does not offer NFS {this}: {why}; switch it on there, or use the mount option \
             {other}"
        ));
    }
    Error::Unavailable(format!(
        "server {server} of share {share} does not answer: {why}; see whether it runs and a firewall lets this node through"
    ))
}

/// mount(2) of `server:/path` has failed. Where it was to be mounted is of no interest: it is a place that nobody sees.
pub(super) fn of_mount(source: &str, attempts: &[Attempt], error: os::Error) -> Error {
    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    let number = error.errno();
    if error.is_not_found() {
        return Error::NotFound(format!(
            "{source} does not exist, or is not exported to this node: {why}; see the server's list of exports"
        ));
    }
    if error.is_denied() {
        return Error::Forbidden(format!(
            "the server does not let this node mount {source}: {why}; see its list of exports, and the mount option sec"
        ));
    }
    if error.is_no_directory() {
        return Error::Refused(format!("{source} is no directory: {why}"));
    }
    if error.is_unknown_filesystem() {
        return Error::Refused(format!(
            "the kernel of this node has no NFS client, so {source} cannot be mounted: load its modules nfs and nfsv4"
        ));
    }
    if error.is_stale() || number.is_some_and(is_unreachable) {
        return Error::Unavailable(format!(
            "{source} cannot be mounted now: {why}; see whether its server answers"
        ));
    }
    if number.is_some_and(try_next_version) {
        let tried: Vec<_> = attempts.iter().map(|attempt| attempt.version.to_string()).collect();
        return Error::NotOffered(format!(
            "{source} cannot be mounted with NFS {}: {why}; either the server and this node's kernel have no such version in \
             common, or the kernel does not know one of the mount options",
            tried.join(", ")
        ));
    }
    Error::Os { doing: format!("mounting {source}"), source: error }
}

/// The root of a share that is mounted does not tell its attributes. Without an answer nothing is known of the server,
/// which may come back: that is never final.
pub(super) fn of_look(share: &str, error: os::Error) -> Error {
    let doing = format!("looking at the root of {share}");
    if error.is_outcome_unknown() {
        let why = chain(&error);
        return Error::Unavailable(format!("{doing}: {why}; repeat the request once its server answers"));
    }
    if error.is_denied() {
        return Error::Forbidden(format!(
            "{doing}: {}; the server does not let this node's root look at it: see its list of exports",
            chain(&error)
        ));
    }
    Error::Os { doing, source: error }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::os::nfs::Version;
    use std::io;

    fn of(number: i32) -> Error {
        let attempts = [Version::V4_2, Version::V3].map(|version| Attempt { version, data: "secret".into() });
        let source = io::Error::from_raw_os_error(number);
        let error = os::Error::Path { op: "mount".into(), path: "/share".into(), source };
        of_mount("nas:/data", &attempts, error)
    }

    #[test]
    fn what_the_kernel_says_has_a_meaning() {
        assert!(matches!(of(libc::ENOENT), Error::NotFound(_)));
        assert!(matches!(of(libc::EACCES), Error::Forbidden(_)));
        assert!(matches!(of(libc::EPERM), Error::Forbidden(_)));
        assert!(matches!(of(libc::ENODEV), Error::Refused(_)));
        assert!(matches!(of(libc::ENOTDIR), Error::Refused(_)));
        for number in [libc::ETIMEDOUT, libc::ESTALE, libc::ECONNREFUSED, libc::EIO] {
            assert!(matches!(of(number), Error::Unavailable(_)));
        }
        assert!(matches!(of(libc::ENOMEM), Error::Os { .. }));
        let Error::NotOffered(text) = of(libc::EPROTONOSUPPORT) else { panic!() };
        assert!(
            text.contains("NFS 4.2, 3:") && text.contains("nas:/data") && !text.contains("secret"),
            "{text}"
        );
    }

    #[test]
    fn a_root_that_gives_no_answer_is_never_final() {
        let of = |number| {
            let source = io::Error::from_raw_os_error(number);
            let error =
                os::Error::Path { op: "ask for the attributes of".into(), path: "/share".into(), source };
            of_look("nas:/data", error)
        };
        for number in [libc::ETIMEDOUT, libc::EIO, libc::ESTALE, libc::ECONNREFUSED, libc::EHOSTUNREACH] {
            let Error::Unavailable(text) = of(number) else { panic!("{number}: {:?}", of(number)) };
            assert!(text.contains("looking at the root of nas:/data: cannot ask"), "{text}");
        }
        assert!(matches!(of(libc::EACCES), Error::Forbidden(_)));
        assert!(matches!(of(libc::ENOMEM), Error::Os { .. }));
    }

    #[test]
    fn servers_that_are_not_there_are_named() {
        let share = nfs::Share::parse("nas:/data").unwrap();
        let silent = os::Error::Path {
            op: "connect to".into(),
            path: "192.0.2.1:2049".into(),
            source: io::Error::from_raw_os_error(libc::ECONNREFUSED),
        };
        let old = os::Error::Path {
            op: "call".into(),
            path: "192.0.2.1:2049".into(),
            source: io::Error::new(io::ErrorKind::Unsupported, "the server offers versions 2 to 3"),
        };
        assert!(matches!(of_answer(&share, Dialect::V4, &old), Error::NotOffered(_)));
        for (error, unavailable) in [
            (of_name(&share, &silent), true),
            (of_answer(&share, Dialect::V4, &silent), true),
            (of_answer(&share, Dialect::V4, &old), false),
            (of_family(&share, Family::V6), false),
        ] {
            assert_eq!(matches!(error, Error::Unavailable(_)), unavailable, "{error}");
            assert!(error.to_string().contains("server nas of share nas:/data"), "{error}");
        }
    }
}
