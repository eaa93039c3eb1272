//! A pool, or a directory that is to be one.

use super::{Item, State, optional, required};
use crate::{
    commands::print,
    store::{Pool, PoolConfig, Survey, survey},
};

/// What it can do.
pub(super) fn items(config: &PoolConfig) -> Vec<Item> {
    let name = |what: &str| format!("pool {}{what}", config.name);
    let survey = match survey(config) {
        Ok(survey) => survey,
        Err(error) => return vec![required(name(""), Err(error.chain()))],
    };
    vec![
        required(name(""), usable(&survey)),
        optional(name(": mount"), State::Limited, mounted(config, &survey)),
        optional(name(": reflink"), State::Limited, reflink(&survey)),
        optional(name(": directory limits"), State::Limited, limits(&survey)),
        optional(name(": direct I/O"), State::Limited, direct_io(&survey)),
        optional(name(": space"), State::Limited, space(config, &survey)),
    ]
}

fn usable(survey: &Survey) -> Result<String, String> {
    let place = format!("{} on {}", survey.home.display(), survey.mount.fstype);
    if survey.space.read_only {
        return Err(format!(
            "{place} is read-only: mount it writable; the kernel's log may say why it is not"
        ));
    }
    Ok(match survey.store {
        Some(store) => format!("{place}, store {store}"),
        None => format!("{place}, empty: the driver's first start makes a store there"),
    })
}

fn mounted(config: &PoolConfig, survey: &Survey) -> Result<String, String> {
    match (survey.is_mountpoint(), config.mounted) {
        (true, true) => Ok("a filesystem of its own, and refused when it is not mounted".into()),
        (true, false) => Ok(format!(
            "a filesystem of its own; `--pool {}={},mounted` would refuse it when it is not mounted",
            config.name,
            config.path.display()
        )),
        (false, _) => Err(format!(
            "it shares the filesystem at {}: whoever else writes there can use up the room that volumes were \
             promised; give it a disk or partition of its own",
            survey.mount.point.display()
        )),
    }
}

fn reflink(survey: &Survey) -> Result<String, String> {
    match survey.reflink {
        true => Ok("snapshots and clones share blocks, also of volumes in use".into()),
        false => Err(format!(
            "{} cannot share blocks: snapshots and clones are copies, and only of volumes that are not in use; XFS \
             and btrfs can",
            survey.mount.fstype
        )),
    }
}

fn limits(survey: &Survey) -> Result<String, String> {
    match survey.qgroups {
        Some(true) => Ok("enforced by btrfs qgroups".into()),
        Some(false) => Err(format!(
            "qgroups are off: `layout: directory` needs `limit: advisory`, or `btrfs quota enable {}`; images are \
             always limited",
            survey.home.display()
        )),
        None if survey.project_quota => Ok("enforced by project quota".into()),
        None => Err("`layout: directory` needs `limit: advisory` here (XFS or ext4 mounted with `prjquota`, or btrfs \
                     with qgroups, could enforce one); images are always limited"
            .into()),
    }
}

fn direct_io(survey: &Survey) -> Result<String, String> {
    match survey.direct_io {
        Some(true) => Ok("images bypass the pool's page cache".into()),
        Some(false) => {
            Err(format!("{} refuses it: what is in an image is cached twice", survey.mount.fstype))
        }
        None => Err("unknown: nothing can be written there now".into()),
    }
}

fn space(config: &PoolConfig, survey: &Survey) -> Result<String, String> {
    let (total, available) = (print::bytes(survey.space.total), print::bytes(survey.space.available));
    if survey.store.is_none() {
        return Ok(format!("{available} of {total} are free"));
    }
    let pool = Pool::inspect(config).map_err(|error| error.chain())?;
    let promised = pool.ledger().promised();
    let room = pool.room().map_err(|error| error.chain())?;
    let figures = format!(
        "{available} of {total} are free, {} of it promised to existing volumes, {} left for new ones",
        print::bytes(promised),
        print::bytes(room)
    );
    match room {
        0 => Err(format!("{figures}: delete volumes, or enlarge the pool")),
        _ => Ok(figures),
    }
}
