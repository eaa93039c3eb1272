//! The host itself.

use super::{At, Result};

/// The host's name (uname(2)).
pub fn name() -> Result<String> {
    let name = nix::sys::utsname::uname().at("read the name of", "the host")?;
    Ok(name.nodename().to_string_lossy().into_owned())
}
