//! A share: a directory that a server exports, and what is mounted of it.

use super::{server::Server, subdir::Directory};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// The mount protocol of version 3 carries this many bytes (MNTPATHLEN); version 4 would take 4096. One
/// bound for all, so that a path that works does not depend on the version that was negotiated.
pub(super) const MAX_PATH: usize = 1024;
/// Linux: a name of a directory.
pub(super) const MAX_COMPONENT: usize = 255;

/// What keeps `name` from being the name of a directory.
pub(super) fn flaw_of_component(name: &str) -> Option<&'static str> {
    match name {
        "." | ".." => Some("holds the component . or .., which leads elsewhere"),
        // NUL ends the kernel's strings; a newline and its like only make two paths look alike in logs.
        _ if name.chars().any(char::is_control) => Some("holds a control character"),
        _ if name.len() > MAX_COMPONENT => Some("has a component of more than 255 bytes"),
        _ => None,
    }
}

/// The path of an export: absolute, without empty components, `.`, `..` or control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExportPath(String);

impl ExportPath {
    /// Slashes that say nothing are dropped: `//a/b/` is `/a/b`.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::Invalid(format!("share {text:?} {why}")));
        if !text.starts_with('/') {
            return refuse("is no absolute path; it must begin with a slash");
        }
        let components: Vec<_> = text.split('/').filter(|part| !part.is_empty()).collect();
        if let Some(why) = components.iter().find_map(|part| flaw_of_component(part)) {
            return refuse(why);
        }
        let path = format!("/{}", components.join("/"));
        if path.len() > MAX_PATH {
            return refuse("is longer than 1024 bytes, the most that the mount protocol carries");
        }
        Ok(Self(path))
    }

    /// Also what csi-driver-nfs writes into ids, and mounts: the path without its first slash.
    pub(super) fn parse_relative(text: &str) -> Result<Self> {
        if text.starts_with('/') { Self::parse(text) } else { Self::parse(&format!("/{text}")) }
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExportPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ExportPath {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<ExportPath> for String {
    fn from(path: ExportPath) -> Self {
        path.0
    }
}

/// A server and what it exports. `Display` is the source of mount(2), `server:/path`, with brackets around
/// an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share {
    /// Where.
    pub server: Server,
    /// What.
    pub path: ExportPath,
}

impl Share {
    /// Reads `server:/path`.
    pub fn parse(text: &str) -> Result<Self> {
        // Not the first colon, which may be inside an address; a server holds no slash.
        let Some((server, path)) = text.find(":/").map(|at| (&text[..at], &text[at + 1..])) else {
            return Err(Error::Invalid(format!("share {text:?} is not of the form SERVER:/PATH")));
        };
        Ok(Self { server: Server::parse(server)?, path: ExportPath::parse(path)? })
    }

    /// The directory below the share, as something that can be mounted itself.
    pub fn below(&self, directory: &Directory) -> Result<Self> {
        let path = ExportPath::parse(&format!("{}/{directory}", self.path))?;
        Ok(Self { server: self.server.clone(), path })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server.address() {
            // The kernel takes what stands before the first colon for the server, unless it is in brackets.
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.path),
            _ => write!(f, "{}:{}", self.server, self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_normalised() {
        for (text, read) in [
            ("/", "/"),
            ("//", "/"),
            ("/data", "/data"),
            ("/data//a/", "/data/a"),
            ("/with space/#1,2:3=4/ü", "/with space/#1,2:3=4/ü"),
            ("/...", "/..."),
        ] {
            assert_eq!(ExportPath::parse(text).unwrap().as_str(), read);
        }
        assert_eq!(ExportPath::parse_relative("data/").unwrap().as_str(), "/data");
        assert_eq!(ExportPath::parse_relative("").unwrap().as_str(), "/");
    }

    #[test]
    fn paths_that_are_refused_and_why() {
        for (text, why) in [
            ("", "absolute"),
            ("data", "absolute"),
            ("./data", "absolute"),
            ("/a/../b", ".."),
            ("/a/./b", ".."),
            ("/..", ".."),
            ("/a\0b", "control"),
            ("/a\nb", "control"),
            ("/a\u{85}b", "control"),
            (&format!("/{}", "a".repeat(256)), "255"),
            (&"/aaa".repeat(257), "1024"),
        ] {
            let error = ExportPath::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!(ExportPath::parse(&"/aaa".repeat(256)).is_ok());
        assert!(ExportPath::parse_relative("../b").is_err());
    }

    #[test]
    fn shares_show_what_the_kernel_reads() {
        for (text, shown) in [
            ("nas:/a", "nas:/a"),
            ("10.0.0.1:/", "10.0.0.1:/"),
            ("[fd00::1]:/a/b/", "[fd00::1]:/a/b"),
            ("fd00::1:/a", "[fd00::1]:/a"),
            ("nas:/a:/b", "nas:/a:/b"),
        ] {
            assert_eq!(Share::parse(text).unwrap().to_string(), shown);
        }
        for bad in ["", "nas", "nas:", "nas:a", ":/a", "/a", "a/b:/c", "nas:2049:/a", "nas:/../a", "::/a"] {
            assert!(matches!(Share::parse(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn a_directory_below_a_share() {
        let directory = Directory::parse("a/b").unwrap();
        assert_eq!(Share::parse("nas:/x").unwrap().below(&directory).unwrap().to_string(), "nas:/x/a/b");
        assert_eq!(Share::parse("nas:/").unwrap().below(&directory).unwrap().to_string(), "nas:/a/b");
        let long = Share::parse(&format!("nas:{}", "/aaa".repeat(256))).unwrap();
        assert!(long.below(&directory).is_err());
    }

    proptest! {
        #[test]
        fn a_share_reads_back_the_same(text in "(nas|10\\.0\\.0\\.1|\\[?fd00::1\\]?|[a-z:.\\[\\]]{0,9}):?/[a-c./: #\\x00-\\x20]{0,30}|\\PC*") {
            if let Ok(share) = Share::parse(&text) {
                prop_assert_eq!(&Share::parse(&share.to_string()).unwrap(), &share);
                let json = serde_json::to_string(&share).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Share>(&json).unwrap(), &share);
                let part_is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
                let plain = share.path.as_str() == "/" || share.path.as_str()[1..].split('/').all(part_is_plain);
                prop_assert!(plain, "{}", share);
            }
        }
    }
}
