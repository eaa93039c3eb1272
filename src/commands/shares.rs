//! Shares as commands use them: by helper processes with deadlines, as the driver does.

use super::{chain, share_helper, standalone};
use crate::{
    error::Error,
    os::{child::Launcher, host},
    service::nfs::At,
    share::{Limits, Owner, Remote, Share},
};
use std::{collections::BTreeMap, panic::resume_unwind, thread};

/// The way to shares, for volumes of this owner.
pub fn remote(owner: Option<&str>) -> Result<Remote, String> {
    let owner = match owner {
        Some(owner) => Owner::new(owner),
        None => standalone::default_owner(&host::name().map_err(|error| chain(&error))?),
    };
    // What a helper has to tell comes back as its answer; more of it would stand between the command's lines.
    let launcher = Launcher::new([share_helper::NAME, "--log-level", "error"]);
    Ok(Remote::new(launcher, Limits::default(), owner))
}

/// What is mounted.
pub fn reach(at: &At) -> Share {
    Share::nfs(&at.share, &at.connection)
}

/// Carries work out on every share and gives what came of it, in their order. A server that does not answer holds
/// up its own shares only.
pub fn each<T: Send>(shares: &[At], work: impl Fn(&At) -> T + Sync) -> Vec<T> {
    let mut servers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (number, at) in shares.iter().enumerate() {
        servers.entry(&at.share.server).or_default().push((number, at));
    }
    let work = &work;
    let mut outcomes: Vec<(usize, T)> =
        thread::scope(|scope| {
            let mut running = Vec::new();
            for own in servers.into_values() {
                running.push(scope.spawn(move || {
                    own.into_iter().map(|(number, at)| (number, work(at))).collect::<Vec<_>>()
                }));
            }
            let ended =
                running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            ended.flatten().collect()
        });
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What went wrong, for a line that names the share itself.
pub fn reason(at: &At, error: &Error) -> String {
    let text = error.chain();
    text.strip_prefix(&format!("{at}: ")).map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::nfs::{self, Connection};
    use std::time::{Duration, Instant};

    fn at(share: &str) -> At {
        At { share: nfs::Share::parse(share).unwrap(), connection: Connection::default() }
    }

    #[test]
    fn servers_do_not_wait_for_each_other_and_the_order_stays() {
        let shares = ["c:/1", "a:/1", "c:/2", "b:/1"].map(at);
        let begun = Instant::now();
        let shown = each(&shares, |at| {
            thread::sleep(Duration::from_millis(200));
            at.to_string()
        });
        assert_eq!(shown, ["c:/1", "a:/1", "c:/2", "b:/1"]);
        assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_share_is_named_once() {
        let error = Error::NotFound("nas:/a: there is no store".into());
        assert_eq!(reason(&at("nas:/a"), &error), "there is no store");
        assert_eq!(reason(&at("nas:/b"), &error), "nas:/a: there is no store");
    }
}
