//! Whether a server answers, before mount(2) is asked to find out.

use super::rpc::{self, MOUNTD, NFS, PORTMAP_PORT, Program};
use crate::os::{At as _, Error, Result};
use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Where NFSv4 listens unless told otherwise.
const NFS_PORT: u16 = 2049;

/// The major version, which decides who has to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// NFS alone.
    V4,
    /// NFS, the mount daemon, and the port mapper where one of their ports is not given.
    V3,
}

/// The ports that mount options give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// `port=`; 0 is as if not given, like in the kernel.
    pub nfs: Option<u16>,
    /// `mountport=`.
    pub mountd: Option<u16>,
}

/// The first of several addresses of a server at which everything answers that a mount will call. Each address
/// gets its part of `limit`, so that one that drops packets leaves time for the others.
pub fn answering(
    addresses: &[SocketAddr],
    dialect: Dialect,
    ports: Ports,
    limit: Duration,
) -> Result<SocketAddr> {
    let deadline = Instant::now() + limit;
    let mut failure = None;
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match answers(*address, dialect, ports, Instant::now() + share) {
            Ok(()) => return Ok(*address),
            // What a server said is more than that another address does not answer.
            Err(error) if failure.as_ref().is_none_or(|before: &Error| !before.is_not_offered()) => {
                failure = Some(error);
            }
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_else(|| Error::Unexpected("the server has no address".into())))
}

fn answers(address: SocketAddr, dialect: Dialect, ports: Ports, deadline: Instant) -> Result<()> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let at = |port| {
        let mut address = address;
        address.set_port(port);
        address
    };
    let given = |port: Option<u16>| port.filter(|port| *port != 0);
    if dialect == Dialect::V4 {
        return rpc::ping(
            at(given(ports.nfs).unwrap_or(NFS_PORT)),
            Program { number: NFS, version: 4 },
            left(),
        );
    }
    for (program, port) in [(NFS, ports.nfs), (MOUNTD, ports.mountd)] {
        let program = Program { number: program, version: 3 };
        let port = match given(port) {
            Some(port) => port,
            None => registered(at(PORTMAP_PORT), program, left())?,
        };
        rpc::ping(at(port), program, left())?;
    }
    Ok(())
}

fn registered(mapper: SocketAddr, program: Program, limit: Duration) -> Result<u16> {
    rpc::port_of(mapper, program, limit)?
        .ok_or_else(|| {
            let text = format!("program {} version {} is not registered", program.number, program.version);
            io::Error::new(io::ErrorKind::Unsupported, text)
        })
        .at("ask the port mapper at", mapper.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::os::nfs::rpc::tests::{Server, accepted, dropped_by};

    const LIMIT: Duration = Duration::from_secs(1);

    #[test]
    fn version_4_needs_nfs_alone() {
        let server = Server::start(|id| accepted(id, &[]));
        let ports = Ports { nfs: Some(server.address.port()), mountd: None };
        let found = answering(&[server.address], Dialect::V4, ports, LIMIT).unwrap();
        assert_eq!(found, server.address);
        assert_eq!(server.calls(), [(NFS, 4, 0)]);
    }

    #[test]
    fn version_3_with_ports_needs_no_port_mapper() {
        let server = Server::start(|id| accepted(id, &[]));
        let port = Some(server.address.port());
        answering(&[server.address], Dialect::V3, Ports { nfs: port, mountd: port }, LIMIT).unwrap();
        assert_eq!(server.calls(), [(NFS, 3, 0), (MOUNTD, 3, 0)]);
    }

    #[test]
    fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        let server = Server::start(|id| accepted(id, &[]));
        let silent = dropped_by();
        let port = server.address.port();
        let begin = Instant::now();
        // The same port at an address where nothing answers at all.
        let mut dead = silent;
        dead.set_port(port);
        let ports = Ports { nfs: Some(port), mountd: None };
        let found = answering(&[dead, server.address], Dialect::V4, ports, LIMIT).unwrap();
        assert_eq!(found, server.address);
        assert!(begin.elapsed() < Duration::from_secs(5));
        let error = answering(&[dead], Dialect::V4, ports, LIMIT).unwrap_err();
        assert!(!error.is_not_offered(), "{error}");
        assert!(answering(&[], Dialect::V4, ports, LIMIT).is_err());
    }
}
