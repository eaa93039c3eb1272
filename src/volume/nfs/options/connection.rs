//! How a server is reached: what a mount needs beside server and share, and therefore what an id carries.

use super::{super::server::Server, settings::Settings};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// Defines an enum whose members have the names that mount options give them.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $member:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$inner])* $member,)* }

        impl $name {
            /// As mount options spell it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$member => $text,)* }
            }

            pub(super) fn named(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$member),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named! {
    /// A version of the protocol.
    Version {
        /// Without locks of the server.
        V3 = "3",
        /// The first with a state.
        V40 = "4.0",
        /// With sessions.
        V41 = "4.1",
        /// With reflinks, copies by the server, holes and extended attributes.
        V42 = "4.2",
    }
}

named! {
    /// The transport of the data. As in nfs(5), a name without a 6 stands for IPv4.
    Proto {
        /// TCP over IPv4.
        Tcp = "tcp",
        /// TCP over IPv6.
        Tcp6 = "tcp6",
        /// RDMA, addressed by IPv4.
        Rdma = "rdma",
        /// RDMA, addressed by IPv6.
        Rdma6 = "rdma6",
    }
}

named! {
    /// The transport of version 3's mount protocol.
    MountProto {
        /// TCP over IPv4.
        Tcp = "tcp",
        /// TCP over IPv6.
        Tcp6 = "tcp6",
        /// UDP over IPv4.
        Udp = "udp",
        /// UDP over IPv6.
        Udp6 = "udp6",
    }
}

named! {
    /// How requests prove who they are from.
    Flavor {
        /// By numbers that the client tells.
        Sys = "sys",
        /// By Kerberos.
        Krb5 = "krb5",
        /// By Kerberos, with checksums.
        Krb5i = "krb5i",
        /// By Kerberos, encrypted.
        Krb5p = "krb5p",
        /// Not at all.
        None = "none",
    }
}

named! {
    /// RPC with TLS (Linux 6.5 and later).
    Tls {
        /// In the clear.
        None = "none",
        /// The server proves itself.
        Tls = "tls",
        /// Both do.
        Mtls = "mtls",
    }
}

/// Internet protocol, version 4 or 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Proto {
    pub(super) fn family(self) -> Family {
        if matches!(self, Self::Tcp6 | Self::Rdma6) { Family::V6 } else { Family::V4 }
    }
}

impl MountProto {
    pub(super) fn family(self) -> Family {
        if matches!(self, Self::Tcp6 | Self::Udp6) { Family::V6 } else { Family::V4 }
    }
}

impl Version {
    /// As mountinfo calls the filesystem; mount(2) takes it too.
    pub fn filesystem(self) -> &'static str {
        if self == Self::V3 { "nfs" } else { "nfs4" }
    }

    pub(super) fn of_minor(minor: u32) -> Option<Self> {
        [Self::V40, Self::V41, Self::V42].into_iter().nth(usize::try_from(minor).ok()?)
    }
}

/// Tried in this order where nobody asks for one. Never 3: it would lose locks without a word.
const NEGOTIATED: [Version; 3] = [Version::V42, Version::V41, Version::V40];

/// The options without which a share may not be reached. Two mounts with the same of these and the same
/// share see the same. `Display` is the form that ids carry, with defaults left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Connection {
    /// `None`: the best of 4.x.
    pub version: Option<Version>,
    /// `None`: TCP over what the server's address is.
    pub proto: Option<Proto>,
    /// `None`: 2049, and for version 3 what the server's rpcbind says.
    pub port: Option<u16>,
    /// `None`: what the server's rpcbind says. Only with version 3.
    pub mount_port: Option<u16>,
    /// `None`: TCP. Only with version 3.
    pub mount_proto: Option<MountProto>,
    /// Empty: what the server offers first.
    pub security: Vec<Flavor>,
    /// `None`: the kernel is not asked.
    pub tls: Option<Tls>,
}

/// Registered for NFS, and for NFS over RDMA.
const PORT: u16 = 2049;
const RDMA_PORT: u16 = 20049;

impl Connection {
    /// Reads the form that ids carry, and no other way to say the same.
    pub fn parse(text: &str) -> Option<Self> {
        let connection = Settings::parse_list(text).ok()?.resolve().ok()?.connection;
        (connection.to_string() == text).then_some(connection)
    }

    /// Which versions to try, the best first.
    pub fn versions(&self) -> Vec<Version> {
        self.version.map_or_else(|| NEGOTIATED.to_vec(), |version| vec![version])
    }

    /// The port on which the server serves files; `None`: its rpcbind has to be asked.
    pub fn port(&self) -> Option<u16> {
        let usual = if self.is_rdma() { RDMA_PORT } else { PORT };
        self.port.or((self.version != Some(Version::V3)).then_some(usual))
    }

    /// The only family of addresses that the kernel would take; `None`: either.
    pub fn family(&self) -> Option<Family> {
        self.proto.map(Proto::family).or(self.mount_proto.map(MountProto::family))
    }

    /// Refuses a server whose address is of the other family.
    pub fn check_server(&self, server: &Server) -> Result<()> {
        server.address().map_or(Ok(()), |address| self.check_address(address))
    }

    fn check_address(&self, address: IpAddr) -> Result<()> {
        match self.family() {
            Some(family) if family != Family::of(address) => Err(Error::Invalid(format!(
                "mount options ask for {family}, but the server's address is {address}; proto and mountproto \
                 are tcp for IPv4 and tcp6 for IPv6"
            ))),
            _ => Ok(()),
        }
    }

    /// The text for mount(2) that this connection needs in this version: all of it for a mount by the driver
    /// itself. The kernel finds `clientaddr` and, without `mountaddr`, asks the same host; it compares the
    /// families of `proto` and `mountproto` with the address and refuses a mount where they differ.
    pub fn data(&self, version: Version, address: IpAddr) -> Result<String> {
        self.check_address(address)?;
        let six = Family::of(address) == Family::V6;
        let mut data = vec![format!("vers={version}")];
        if version == Version::V3 {
            let proto = self.proto.unwrap_or(if six { Proto::Tcp6 } else { Proto::Tcp });
            let mount = self.mount_proto.unwrap_or(if six { MountProto::Tcp6 } else { MountProto::Tcp });
            data.extend(["nolock".into(), format!("proto={proto}"), format!("mountproto={mount}")]);
            data.extend(self.mount_port.map(|port| format!("mountport={port}")));
        } else {
            data.extend(self.proto.map(|proto| format!("proto={proto}")));
        }
        data.extend(self.port.map(|port| format!("port={port}")));
        data.extend(self.sec().map(|flavors| format!("sec={flavors}")));
        data.extend(self.tls.map(|tls| format!("xprtsec={tls}")));
        data.push(format!("addr={address}"));
        Ok(data.join(","))
    }

    /// Over RDMA: nothing listens on its port over TCP.
    pub fn is_rdma(&self) -> bool {
        matches!(self.proto, Some(Proto::Rdma | Proto::Rdma6))
    }

    pub(super) fn needs_tls(&self) -> bool {
        matches!(self.tls, Some(Tls::Tls | Tls::Mtls))
    }

    /// Without what says no more than its absence.
    pub(super) fn normalised(self) -> Self {
        let usual = Self { port: None, ..self.clone() }.port();
        Self {
            port: self.port.filter(|port| Some(*port) != usual),
            tls: self.tls.filter(|tls| *tls != Tls::None),
            ..self
        }
    }

    fn sec(&self) -> Option<String> {
        let flavors: Vec<_> = self.security.iter().map(|flavor| flavor.as_str()).collect();
        (!flavors.is_empty()).then(|| flavors.join(":"))
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = [
            self.version.map(|version| format!("vers={version}")),
            self.proto.map(|proto| format!("proto={proto}")),
            self.port.map(|port| format!("port={port}")),
            self.mount_port.map(|port| format!("mountport={port}")),
            self.mount_proto.map(|proto| format!("mountproto={proto}")),
            self.sec().map(|flavors| format!("sec={flavors}")),
            self.tls.map(|tls| format!("xprtsec={tls}")),
        ];
        f.write_str(&options.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

impl TryFrom<String> for Connection {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| "these are not the options of a connection".into())
    }
}

impl From<Connection> for String {
    fn from(connection: Connection) -> Self {
        connection.to_string()
    }
}
