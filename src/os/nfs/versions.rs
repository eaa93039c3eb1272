//! Which versions of NFS this host's kernel can mount.
//!
//! Nothing says so but mount(2) itself: whether it gives up before or after it has called the server.

use super::{Version, try_next_version};
use crate::os::{At as _, Result, mount};
use rustix::net::{AddressFamily, SocketAddrV4, SocketFlags, SocketType, bind, getsockname, socket_with};
use std::{net::Ipv4Addr, os::fd::OwnedFd, path::Path};

const ALL: [Version; 4] = [Version::V4_2, Version::V4_1, Version::V4_0, Version::V3];

/// All that it can, newest first. Modules are loaded where there are any; nothing is mounted.
pub fn mountable() -> Result<Vec<Version>> {
    let (_refusing, port) = refusing()?;
    let mut known = Vec::new();
    for version in ALL {
        if knows(version, port)? {
            known.push(version);
        }
    }
    Ok(known)
}

/// A port of this host at which nobody answers, for as long as the socket is held: it is bound and does not listen.
fn refusing() -> Result<(OwnedFd, u16)> {
    let bound = || {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let address = SocketAddrV4::try_from(getsockname(&socket)?)?;
        Ok::<_, rustix::io::Errno>((socket, address.port()))
    };
    bound().at("bind", "a port of this host")
}

fn knows(version: Version, port: u16) -> Result<bool> {
    let (version, port) = (version.to_string(), port.to_string());
    let options = [
        ("vers", Some(version.as_str())),
        ("addr", Some("127.0.0.1")),
        ("proto", Some("tcp")),
        ("port", Some(&port)),
        ("mountproto", Some("tcp")),
        ("mountport", Some(&port)),
        ("soft", None),
        ("timeo", Some("1")),
        ("retrans", Some("0")),
    ];
    // Version 4 knows nothing of a mount protocol.
    let options = options.iter().filter(|(key, _)| version == "3" || !key.starts_with("mount"));
    match mount::mount_detached(Path::new("127.0.0.1:/"), "nfs", &options.copied().collect::<Vec<_>>()) {
        Ok(_) => Ok(true),
        Err(error) => match error.errno() {
            Some(libc::ENODEV) => Ok(false),
            Some(errno) if try_next_version(errno) => Ok(false),
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) | None => Err(error),
            // It has tried to call the server.
            Some(_) => Ok(true),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{net::TcpStream, time::Instant};

    #[test]
    fn a_refusing_port_refuses() {
        let (_held, port) = refusing().unwrap();
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn asking_takes_no_time_and_agrees_with_the_kernels_list() {
        let begun = Instant::now();
        let known = mountable().unwrap();
        assert!(begun.elapsed().as_secs() < 10);
        let nfs = crate::os::host::knows_filesystem("nfs").unwrap();
        assert_eq!(!known.is_empty(), nfs, "{known:?}");
    }
}
