//! Whether a process of this host has ended: each has a name that only the living answer to.
//!
//! The name is an abstract Unix socket, which the kernel takes away with the process, however that ends. Such
//! sockets belong to a network namespace, so the first half of an instance's identity says which one of
//! which boot: only there does silence mean anything.

use super::{At as _, Result};
use rustix::{
    io::Errno,
    net::{self, AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
};
use uuid::Uuid;

const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const NETWORK: &str = "/proc/self/ns/net";

/// An instance that others can look for, as long as this is held.
#[derive(Debug)]
pub struct Presence {
    instance: Uuid,
    socket: OwnedFd,
}

/// What has become of another instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Its process has ended.
    Ended,
    /// Its process exists; whether it gets anywhere is another question.
    Present,
    /// It is, or was, where this process cannot look.
    Elsewhere,
}

impl Presence {
    /// A new instance.
    pub fn new() -> Result<Self> {
        Self::with(home()?)
    }

    /// One that looks as if it were another host's.
    #[cfg(test)]
    pub fn of_another_host() -> Result<Self> {
        Self::with(!home()?)
    }

    fn with(home: u64) -> Result<Self> {
        let instance = Uuid::from_u64_pair(home, Uuid::new_v4().as_u64_pair().1);
        let bound = || {
            let socket = socket()?;
            net::bind(&socket, &address(instance)?)?;
            // Nobody accepts: a connection that waits says enough, and so does one that may not even wait.
            net::listen(&socket, 1)?;
            Ok::<_, Errno>(socket)
        };
        let socket = bound().at("take the name of instance", instance.to_string())?;
        Ok(Self { instance, socket })
    }

    /// Its identity.
    pub fn instance(&self) -> Uuid {
        self.instance
    }

    /// Looks for another one. What cannot be found out is [`Other::Elsewhere`].
    pub fn look_for(&self, other: Uuid) -> Other {
        if other.as_u64_pair().0 != self.instance.as_u64_pair().0 {
            return Other::Elsewhere;
        }
        let connected = socket().and_then(|socket| net::connect(&socket, &address(other)?));
        match connected {
            Ok(()) | Err(Errno::AGAIN) => Other::Present,
            Err(Errno::CONNREFUSED) => Other::Ended,
            Err(_) => Other::Elsewhere,
        }
    }

    /// From now on it counts as ended, also where a child that was just forked still holds the socket.
    pub fn end(&self) {
        let _nobody_minds = net::shutdown(&self.socket, Shutdown::Both);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.end();
    }
}

/// This boot's network namespace.
fn home() -> Result<u64> {
    let boot = fs::read_to_string(BOOT).at("read", BOOT)?;
    let network = fs::metadata(NETWORK).at("look at", NETWORK)?;
    let text = format!("{} {} {}", boot.trim(), network.dev(), network.ino());
    Ok(Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_u64_pair().0)
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn address(instance: Uuid) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(format!("wharf-share-{}", instance.simple()).as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_living_are_found_and_the_dead_are_not() {
        let (one, two) = (Presence::new().unwrap(), Presence::new().unwrap());
        assert_ne!(one.instance(), two.instance());
        for _ in 0..5 {
            assert_eq!(one.look_for(two.instance()), Other::Present, "however often it is asked");
        }
        let gone = two.instance();
        drop(two);
        assert_eq!(one.look_for(gone), Other::Ended);
        let text = gone.simple().to_string();
        assert_eq!(Uuid::try_parse(&text).unwrap(), gone);
    }

    #[test]
    fn nothing_is_known_of_other_hosts() {
        let (one, far) = (Presence::new().unwrap(), Presence::of_another_host().unwrap());
        assert_eq!(one.look_for(far.instance()), Other::Elsewhere);
        assert_eq!(one.look_for(Uuid::new_v4()), Other::Elsewhere);
    }
}
