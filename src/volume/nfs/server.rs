//! The server of a share: a host name or an address.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// DNS: a name has at most this many characters. The kernel takes 255 of them (NFS4_MAXNAMLEN).
const MAX_NAME: usize = 253;
/// DNS: so many between two dots.
const MAX_LABEL: usize = 63;

/// A host name in lower case, or an address. `Display` is without brackets, as resolvers want it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server(Host);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Server {
    /// Reads a host name, an IPv4 address, or an IPv6 address with or without brackets.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::Invalid(format!("server {text:?} {why}")));
        if text.is_empty() {
            return Err(Error::Invalid("server is empty; it must be a host name or an address".into()));
        }
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if bracketed.is_some() || text.contains(':') {
            let literal = bracketed.unwrap_or(text);
            return match literal.parse::<Ipv6Addr>() {
                Ok(address) => Self::of_address(address.to_canonical()),
                // The scope is an interface of one host.
                Err(_) if literal.contains('%') => refuse(
                    "is bound to an interface, which means another \
                    server on each node; give an address that all nodes reach",
                ),
                Err(_) if bracketed.is_none() && literal.matches(':').count() == 1 => {
                    refuse("carries a port or a path; the port is the mount option port, the path is share")
                }
                Err(_) => refuse("is no IPv6 address"),
            };
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Self::of_address(address.into());
        }
        match flaw(text) {
            Some(why) => refuse(why),
            None => Ok(Self(Host::Name(text.to_ascii_lowercase()))),
        }
    }

    /// What no server can have as its address is refused, some of it by the kernel too.
    fn of_address(address: IpAddr) -> Result<Self> {
        let why = match address {
            _ if address.is_unspecified() => "names no host",
            _ if address.is_multicast() => "is a multicast address",
            IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                "is link-local, which means another server on each node"
            }
            _ => return Ok(Self(Host::Address(address))),
        };
        Err(Error::Invalid(format!(
            "server {address} {why}; give a host name or an address that all nodes reach"
        )))
    }

    /// The address, where the server is given by one: nothing needs to be resolved then.
    pub fn address(&self) -> Option<IpAddr> {
        match self.0 {
            Host::Address(address) => Some(address),
            Host::Name(_) => None,
        }
    }
}

/// What keeps `text` from being a host name.
fn flaw(text: &str) -> Option<&'static str> {
    // One dot at the end says that the name is complete: it changes how it is resolved, so it stays.
    let labels = || text.strip_suffix('.').unwrap_or(text).split('.');
    // Underscores are no letters of a host name, but of names that container engines give.
    let known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    // inet_aton, and so every resolver, reads 127.1, 010.0.0.1 and 0x7f000001 as addresses.
    let number = |label: &str| {
        let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
        hexadecimal.is_some_and(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()))
            || label.bytes().all(|c| c.is_ascii_digit())
    };
    if text.len() > MAX_NAME {
        Some("is longer than 253 characters")
    } else if labels().any(|label| !label.bytes().all(known)) {
        Some("holds a character that no host name has; known are letters, digits, -, _ and dots between them")
    } else if labels().any(str::is_empty) {
        Some("has an empty part between its dots")
    } else if labels().any(|label| label.len() > MAX_LABEL) {
        Some("has a part of more than 63 characters between its dots")
    } else if labels().any(|label| label.starts_with('-') || label.ends_with('-')) {
        Some("has a part that begins or ends with a hyphen")
    } else if labels().next_back().is_some_and(number) {
        Some("ends with a number, as addresses do, but is no IPv4 address of four decimal numbers")
    } else {
        None
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for Server {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Server> for String {
    fn from(server: Server) -> Self {
        server.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn servers_that_people_write() {
        for (text, read) in [
            ("nfs.example.com", "nfs.example.com"),
            ("NFS-Server.Default.svc.cluster.local.", "nfs-server.default.svc.cluster.local."),
            ("nas", "nas"),
            ("my_nas", "my_nas"),
            ("fs-0123.efs.eu-1.example", "fs-0123.efs.eu-1.example"),
            ("3com", "3com"),
            ("10.0.0.1", "10.0.0.1"),
            ("169.254.1.2", "169.254.1.2"),
            ("127.0.0.1", "127.0.0.1"),
            ("fd00::1", "fd00::1"),
            ("[FD00:0:0::1]", "fd00::1"),
            ("[::1]", "::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            let server = Server::parse(text).unwrap();
            assert_eq!(server.to_string(), read);
            assert_eq!(server.address().is_some(), read.parse::<IpAddr>().is_ok(), "{text}");
        }
    }

    #[test]
    fn servers_that_are_refused_and_why() {
        for (text, why) in [
            ("", "empty"),
            ("a b", "character"),
            ("a,b", "character"),
            ("a\0", "character"),
            ("a\n", "character"),
            ("a/b", "character"),
            ("a#b", "character"),
            ("nfs://a", "port or a path"),
            ("bücher.example", "character"),
            ("a..b", "empty part"),
            (".", "empty part"),
            (".a", "empty part"),
            ("-a", "hyphen"),
            ("a-.b", "hyphen"),
            ("a:2049", "port"),
            ("10.0.0.1:2049", "port"),
            ("[fd00::1]:2049", "no IPv6"),
            ("[10.0.0.1]", "no IPv6"),
            ("[fd00::1", "no IPv6"),
            ("[a]", "no IPv6"),
            ("[]", "no IPv6"),
            ("fe80::1%eth0", "interface"),
            ("[fe80::1]", "link-local"),
            ("::", "no host"),
            ("0.0.0.0", "no host"),
            ("::ffff:0.0.0.0", "no host"),
            ("255.255.255.255", "broadcast"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("127.1", "number"),
            ("2130706433", "number"),
            ("0x7f000001", "number"),
            ("a.0X7F", "number"),
            ("010.0.0.1", "number"),
            ("1.2.3.4.", "number"),
            ("256.0.0.1", "number"),
            (&"a".repeat(64), "63"),
            (&"a.".repeat(127), "253"),
        ] {
            let error = Server::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_reads_back_the_same(text in "[a-zA-Z0-9.:_\\[\\]-]{0,40}|\\PC*") {
            if let Ok(server) = Server::parse(&text) {
                let shown = server.to_string();
                prop_assert!(!shown.contains(['#', '/', ',', ' ', '%', '[']), "{shown}");
                let json = serde_json::to_string(&server).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Server>(&json).unwrap(), &server);
                prop_assert_eq!(Server::parse(&shown).unwrap(), server);
            }
        }

        #[test]
        fn every_address_is_its_own_text(bits in any::<u128>(), small in any::<u32>()) {
            for address in [IpAddr::V6(bits.into()), IpAddr::V4(small.into())] {
                if let Ok(server) = Server::parse(&address.to_string()) {
                    prop_assert_eq!(server.address(), Some(address.to_canonical()));
                }
            }
        }
    }
}
