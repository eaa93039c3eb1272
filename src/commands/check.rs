//! `wharf check`: what this host can do for local volumes.

use super::{Outcome, exit_code, print};
use crate::{
    config::{CheckArgs, Output, check_pools},
    os::{
        self,
        command::Tool,
        host::{self, Capability},
        loopdev::{self, Attach},
        mountinfo,
    },
    store::{Pool, PoolConfig, Survey, survey},
};
use serde::Serialize;
use std::{path::Path, time::Duration};

/// mount_setattr(2) exists since 5.12; what is inside images is pinned to what 5.15 mounts (docs/formats.md).
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// How long the end of the scratch loop is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How an item does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Limited,
    Missing,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// One line.
#[derive(Debug, Serialize)]
struct Item {
    item: String,
    state: State,
    /// Without it no local volume can be served.
    required: bool,
    /// What it means, and what to do.
    meaning: String,
}

#[derive(Debug, Serialize)]
struct Report {
    ready: bool,
    items: Vec<Item>,
}

/// Looks, prints, and says by its exit code whether local volumes can be served.
pub fn run(arguments: &CheckArgs) -> Outcome {
    check_pools(&arguments.pools)?;
    let mut items = vec![kernel(), root(), resources(), mount_api(), loop_control(), loop_device()];
    items.extend(filesystems());
    items.extend(tools());
    items.push(propagation());
    for pool in &arguments.pools {
        items.extend(of_pool(pool));
    }
    let ready = items.iter().all(|item| !item.required || item.state != State::Missing);
    let report = Report { ready, items };
    match arguments.output {
        Output::Json => print::json(&report)?,
        Output::Table => show(&report),
    }
    Ok(exit_code(ready))
}

fn show(report: &Report) {
    let rows = report.items.iter().map(|item| {
        vec![print::plain(&item.item), item.state.as_str().to_owned(), print::plain(&item.meaning)]
    });
    print::table(&[("ITEM", false), ("STATE", false), ("MEANING", false)], rows.collect());
    let lacking: Vec<_> = report
        .items
        .iter()
        .filter(|item| item.required && item.state == State::Missing)
        .map(|item| item.item.as_str())
        .collect();
    if report.ready {
        print::line("\nthis host can serve local volumes");
    } else {
        print::line(format_args!(
            "\nthis host cannot serve local volumes; missing: {}",
            print::plain(&lacking.join(", "))
        ));
    }
}

/// An item that has to be there.
fn required(item: impl Into<String>, outcome: Result<String, String>) -> Item {
    Item { required: true, ..optional(item, State::Missing, outcome) }
}

/// An item whose absence takes something away.
fn optional(item: impl Into<String>, absent: State, outcome: Result<String, String>) -> Item {
    let (state, meaning) = match outcome {
        Ok(meaning) => (State::Ok, meaning),
        Err(meaning) => (absent, meaning),
    };
    Item { item: item.into(), state, required: false, meaning }
}

fn text(error: &os::Error) -> String {
    super::standalone::chain(error)
}

fn kernel() -> Item {
    let (major, minor) = OLDEST_KERNEL;
    required(
        "Linux kernel",
        host::kernel_release().map_err(|error| text(&error)).and_then(|release| match version(&release) {
            Some(found) if found < OLDEST_KERNEL => {
                Err(format!("{release} is too old: {major}.{minor} or newer is needed"))
            }
            _ => Ok(format!("{release} ({major}.{minor} or newer is needed)")),
        }),
    )
}

/// `6.12.0-1-amd64` is (6, 12).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn has(capability: Capability) -> bool {
    host::capabilities().is_ok_and(|all| all.have(capability))
}

fn root() -> Item {
    let advice = "run as root, in a container with `privileged: true` or CAP_SYS_ADMIN: mounting and attaching \
                  need it";
    let outcome = match (host::is_root(), has(Capability::SysAdmin)) {
        (true, true) => Ok("volumes can be mounted and attached".into()),
        (true, false) => Err(format!("root lacks CAP_SYS_ADMIN: {advice}")),
        (false, _) => Err(format!("this is not root: {advice}")),
    };
    required("root, CAP_SYS_ADMIN", outcome)
}

fn resources() -> Item {
    let outcome = match has(Capability::SysResource) {
        true => Ok("ext4 grows while it is mounted".into()),
        false => Err("ext4 grows at the volume's next stage instead of online (xfs grows online): add \
                      CAP_SYS_RESOURCE to change that"
            .into()),
    };
    optional("CAP_SYS_RESOURCE", State::Limited, outcome)
}

fn mount_api() -> Item {
    let outcome = host::try_mount_api().map(|()| "fsopen and mount_setattr work".to_owned());
    required(
        "mount API",
        outcome.map_err(|error| format!("{}: allow it (seccomp), or take a newer kernel", text(&error))),
    )
}

fn loop_control() -> Item {
    let outcome = match os::file::stat(Path::new("/dev/loop-control")) {
        Ok(Some(_)) => Ok("new loop devices can be asked for".into()),
        Ok(None) => {
            Err("load the kernel's loop module (`modprobe loop`); in a container, mount the host's /dev"
                .into())
        }
        Err(error) => Err(text(&error)),
    };
    required("/dev/loop-control", outcome)
}

/// A real attach, of an empty file that is gone afterwards with its loop.
fn loop_device() -> Item {
    let outcome = attach_scratch().map(|direct_io| {
        let how = if direct_io { "with" } else { "without" };
        format!("an image was attached {how} direct I/O in a temporary directory")
    });
    required("loop devices", outcome)
}

fn attach_scratch() -> Result<bool, String> {
    let path = scratch_file()?;
    let held = match loopdev::ensure_attached(&path).map_err(|error| text(&error))? {
        Attach::Held(held) => held,
        Attach::Elsewhere => return Err(format!("{} is open in another process", path.display())),
    };
    let status = loopdev::status(&held).map_err(|error| text(&error))?;
    let lost = || format!("{} lost its image at once", held.path().display());
    let direct_io = status.ok_or_else(lost)?.direct_io;
    drop(held);
    // Whoever looks at all loops just now keeps it for a moment; the kernel detaches it after that.
    let _goes_by_itself = loopdev::wait_unused(&path, PATIENCE).map_err(|error| text(&error))?;
    Ok(direct_io)
}

/// A closed file: only then it can be attached. In a container the usual place may be read-only.
fn scratch_file() -> Result<tempfile::TempPath, String> {
    let mut failure = String::new();
    for directory in [std::env::temp_dir(), "/dev/shm".into(), "/run".into()] {
        let made = tempfile::Builder::new().prefix("wharf-check-").tempfile_in(&directory);
        match made.and_then(|file| file.as_file().set_len(1 << 20).map(|()| file)) {
            Ok(file) => return Ok(file.into_temp_path()),
            Err(error) => {
                failure = format!("no scratch image can be made, lastly in {}: {error}", directory.display())
            }
        }
    }
    Err(failure)
}

fn filesystems() -> Vec<Item> {
    let knows = |name: &'static str, good: &str, advice: &str| match host::knows_filesystem(name) {
        Ok(true) => Ok(good.to_owned()),
        Ok(false) => Err(advice.to_owned()),
        Err(error) => Err(text(&error)),
    };
    vec![
        required(
            "ext4 in the kernel",
            knows(
                "ext4",
                "the default inside images",
                "load it (`modprobe ext4`): it is the default inside images",
            ),
        ),
        optional(
            "xfs in the kernel",
            State::Missing,
            knows(
                "xfs",
                "images may hold it, pools may be it",
                "images with `fstype: xfs` cannot be mounted",
            ),
        ),
        optional(
            "btrfs in the kernel",
            State::Missing,
            knows("btrfs", "pools may be it", "no pool can be btrfs, which limits and snapshots directories"),
        ),
        optional(
            "NFS 4 client",
            State::Limited,
            knows(
                "nfs4",
                "the kernel can mount NFS 4",
                "the kernel cannot mount NFS 4: local volumes do not need it",
            ),
        ),
        optional(
            "NFS 3 client",
            State::Limited,
            knows(
                "nfs",
                "the kernel can mount NFS 3",
                "the kernel cannot mount NFS 3: local volumes do not need it",
            ),
        ),
    ]
}

fn tools() -> Vec<Item> {
    let tool = |tool: Tool, package: &str, loss: &str| match tool.path() {
        Some(path) => Ok(path.display().to_string()),
        None => Err(format!("install {package}: {loss}")),
    };
    let ext4 = "e2fsprogs";
    let xfs = "xfsprogs";
    let missing = |name: &str, outcome| optional(name, State::Missing, outcome);
    vec![
        required("mke2fs", tool(Tool::Mke2fs, ext4, "without it no volume with ext4 can be made")),
        missing("e2fsck", tool(Tool::E2fsck, ext4, "without it ext4 cannot grow where the kernel refuses")),
        missing(
            "resize2fs",
            tool(Tool::Resize2fs, ext4, "without it ext4 cannot grow where the kernel refuses"),
        ),
        missing("tune2fs", tool(Tool::Tune2fs, ext4, "without it ext4 cannot be restored or cloned")),
        missing("mkfs.xfs", tool(Tool::MkfsXfs, xfs, "without it no volume with xfs can be made")),
        missing("xfs_db", tool(Tool::XfsDb, xfs, "without it xfs cannot be restored or cloned")),
    ]
}

fn propagation() -> Item {
    let advice = "containers that run already do not see volumes that are mounted later: `mount --make-rshared /` \
                  (Kubernetes' mountPropagation Bidirectional needs it)";
    let outcome = match mountinfo::at(Path::new("/")) {
        Ok(Some(root)) if root.propagation.contains("shared:") => {
            Ok("shared: containers see new mounts".into())
        }
        Ok(_) => Err(format!("private: {advice}")),
        Err(error) => Err(text(&error)),
    };
    optional("mount propagation of /", State::Limited, outcome)
}

fn of_pool(config: &PoolConfig) -> Vec<Item> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(version("6.12.0-1-amd64"), Some((6, 12)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("unknown"), None);
    }
}
