//! The one place that decides what a pool can enforce on a directory.

use crate::{
    error::{Doing, Error, Result},
    os::btrfs,
    store::Pool,
    volume::LimitMode,
};

/// How a directory's size is kept on this pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// A limit on the referenced bytes of the subvolume's qgroup.
    Qgroup,
    /// Nothing here can.
    None,
}

/// What the pool offers now: the admin may switch qgroups on at any time.
pub fn of(pool: &Pool) -> Result<Enforcement> {
    if !pool.abilities().btrfs {
        return Ok(Enforcement::None);
    }
    let on = btrfs::quota_enabled(pool.home())
        .doing(|| format!("looking for qgroups on pool {:?}", pool.name()))?;
    Ok(if on { Enforcement::Qgroup } else { Enforcement::None })
}

/// Refuses a class that wants what the pool cannot give, and says what would work.
pub fn check(pool: &Pool, wanted: LimitMode) -> Result<()> {
    if wanted == LimitMode::Advisory || of(pool)? == Enforcement::Qgroup {
        return Ok(());
    }
    let way = if pool.abilities().btrfs {
        format!("`btrfs quota enable {}`", pool.home().display())
    } else {
        "a btrfs pool with qgroups".to_owned()
    };
    Err(Error::Invalid(format!(
        "pool {:?} cannot limit directories: use layout image (a hard limit on any filesystem), {way}, or \
         limit: advisory (no limit at all)",
        pool.name()
    )))
}
