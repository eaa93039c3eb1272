//! The kernel's NFS client and what has to be known before it is asked: names, ports, whether a server answers.
//!
//! mount(2) of a dead server holds up other mounts, so a server is asked over TCP first, within a second.
//! Nothing here calls `mount.nfs`, and nothing but `mount` touches a share.

mod examine;
mod mount;
mod probe;
mod resolve;
mod rpc;
mod versions;

pub use examine::{Powers, examine};
pub(super) use mount::number_of_living;
pub use mount::{Attempt, FILESYSTEMS, Version, ask, mount, try_next_version};
pub use probe::{Dialect, Ports, answering};
pub use resolve::resolve;
pub use rpc::{MOUNTD, NFS, PORTMAP_PORT, Program, ping, port_of};
pub use versions::mountable;
