//! What the server of a share answers, and what this host may do there.

use super::{Item, State, optional, required};
use crate::{
    commands::{
        print,
        shares::{each, reach, reason, remote},
    },
    os::nfs::{Powers, Version},
    service::nfs::At,
    share::Examined,
};

/// What can be done on each.
pub(super) fn items(shares: &[At]) -> Result<Vec<Item>, String> {
    if shares.is_empty() {
        return Ok(Vec::new());
    }
    // Whose volumes are there does not matter.
    let remote = remote(None)?;
    let looked = each(shares, |at| match remote.examine(&reach(at)) {
        Ok(examined) => of_share(at, &examined),
        Err(error) => vec![required(name(at, ""), Err(reason(at, &error)))],
    });
    Ok(looked.into_iter().flatten().collect())
}

/// One share may be asked about with several options.
fn name(at: &At, what: &str) -> String {
    match at.connection.to_string().as_str() {
        "" => format!("share {at}{what}"),
        options => format!("share {at},{options}{what}"),
    }
}

fn of_share(at: &At, examined: &Examined) -> Vec<Item> {
    let mut items = vec![
        required(name(at, ""), usable(examined)),
        optional(name(at, ": version"), State::Limited, version(examined.version)),
    ];
    if let Powers::Writable { squashed, reflink } = examined.powers {
        items.push(optional(name(at, ": root"), State::Limited, root(squashed)));
        items.push(optional(name(at, ": reflink"), State::Limited, copies(examined.version, reflink)));
    }
    items.push(optional(name(at, ": space"), State::Limited, space(examined)));
    items
}

fn usable(examined: &Examined) -> Result<String, String> {
    match examined.powers {
        Powers::ReadOnly => {
            Err("the server exports it read-only: no volume can be made there; export it `rw`".into())
        }
        Powers::Denied => Err("this host's root may not write there (root_squash): export it with \
                               `no_root_squash`, or let the user that root is turned into write to it"
            .into()),
        Powers::Writable { .. } => Ok(match examined.store {
            Some(store) => format!("volumes can be made there, store {store}"),
            None => "volumes can be made there; the first one makes a store".into(),
        }),
    }
}

fn version(version: Option<Version>) -> Result<String, String> {
    match version {
        Some(Version::V3) => {
            Err("NFS 3 was mounted: locks are this host's own (`nolock`), so no file may be \
                                  locked from two hosts"
                .into())
        }
        Some(version) => Ok(format!("NFS {version} was mounted")),
        None => Err("it is no NFS".into()),
    }
}

fn root(squashed: bool) -> Result<String, String> {
    match squashed {
        false => Ok("root stays root (no_root_squash)".into()),
        true => Err(
            "root is turned into another user (root_squash): no uid, gid or fsGroup, and files that this \
                     user may not read or remove cannot be copied or purged"
                .into(),
        ),
    }
}

fn copies(version: Option<Version>, reflink: Option<bool>) -> Result<String, String> {
    match (version, reflink) {
        (_, Some(true)) => Ok("snapshots and clones share blocks".into()),
        (_, None) => Err("unknown: there is no room to try it".into()),
        (Some(Version::V4_2), Some(false)) => {
            Err("the export cannot share blocks: snapshots and clones are copies \
                                                   that the server makes; XFS and btrfs can"
                .into())
        }
        (_, Some(false)) => {
            Err("only NFS 4.2 can share blocks: snapshots and clones are copies that go through this \
                                 host"
                .into())
        }
    }
}

fn space(examined: &Examined) -> Result<String, String> {
    let (total, available) = (examined.space.total, examined.space.available);
    let figures = format!("{} of {} are free", print::bytes(available), print::bytes(total));
    match available {
        0 => Err(format!("{figures}: delete volumes, or enlarge the export's filesystem")),
        _ => Ok(figures),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        os::space::Space,
        volume::nfs::{self, Settings},
    };

    fn examined(version: Version, powers: Powers) -> Examined {
        let space =
            Space { total: 1 << 30, available: 0, free: 0, inodes: 0, inodes_free: 0, read_only: false };
        Examined { version: Some(version), powers, store: None, space }
    }

    fn states(version: Version, powers: Powers) -> Vec<(String, State, bool)> {
        let settings = Settings::parse_list("vers=3").unwrap();
        let at = At {
            share: nfs::Share::parse("nas:/a").unwrap(),
            connection: settings.resolve().unwrap().connection().clone(),
        };
        let items = of_share(&at, &examined(version, powers));
        items.into_iter().map(|item| (item.item, item.state, item.required)).collect()
    }

    #[test]
    fn what_is_missing_and_what_is_only_less() {
        let good = states(Version::V4_2, Powers::Writable { squashed: false, reflink: Some(true) });
        let names: Vec<_> =
            good.iter().map(|(name, ..)| name.strip_prefix("share nas:/a,vers=3").unwrap()).collect();
        assert_eq!(names, ["", ": version", ": root", ": reflink", ": space"]);
        let of = |all: &[(String, State, bool)]| all.iter().map(|(_, state, _)| *state).collect::<Vec<_>>();
        use State::{Limited, Missing, Ok};
        assert_eq!(of(&good), [Ok, Ok, Ok, Ok, Limited]);
        let less = states(Version::V3, Powers::Writable { squashed: true, reflink: Some(false) });
        assert_eq!(of(&less), [Ok, Limited, Limited, Limited, Limited]);
        for powers in [Powers::ReadOnly, Powers::Denied] {
            let none = states(Version::V4_1, powers);
            assert_eq!((none.len(), none[0].1, none[0].2), (3, Missing, true));
        }
    }
}
