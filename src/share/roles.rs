//! What a child of a single task does: it may hang, and is then killed by whoever waits for it.

use super::{
    Failure,
    helper::lost,
    refusal,
    wire::{self, Done, Found, Received, Receiver, Role, Way, What},
};
use crate::{
    error::{Doing as _, Error, Result},
    os::{
        self,
        mount::{self, Attributes},
        mountinfo,
        namespace::{self, Forced, Namespace, Tree},
        nfs::{self, FILESYSTEMS, Version},
        space,
    },
    volume::nfs::Share,
};
use std::{
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long between two attempts to release what hangs.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a mount that is in use is tried.
const BUSY: Duration = Duration::from_millis(300);

/// How long a mount is forced in one go.
const FORCING: Duration = Duration::from_secs(10);

/// Does the one task and answers.
pub(super) fn play(role: Role, socket: &UnixStream) -> Result<()> {
    let outcome = match role {
        Role::Force { process } => return force(process, socket),
        Role::Mount { what, below, target, attributes, fileid, instead_of } => {
            let made = mount_out_of_sight(&what, &below, &target, attributes, fileid);
            made.and_then(|made| made.appear(&target, instead_of))
        }
        Role::Find { what } => find(&what),
        Role::Bind { source, target, attributes, fileid } => bind(&source, &target, attributes, fileid),
        Role::Ask { path } => ask(&path).map(Done::Root),
        Role::Figures { path } => space::of(&path)
            .map(Done::Figures)
            .doing(|| format!("asking for the figures of {}", path.display())),
        Role::Unmount { target, way, filesystems } => unmount(&target, way, &filesystems),
        Role::Serve { .. } => Err(Error::Internal("a helper's role was given to another child".into())),
    };
    answer(socket, outcome)
}

fn answer(socket: &UnixStream, outcome: Result<Done>) -> Result<()> {
    wire::send(socket, &outcome.map_err(|error| Failure::from(&error))).map_err(lost)
}

/// Mounts with mount(2).
pub(super) fn mount(what: &What, target: &Path, attributes: Attributes) -> Result<Option<Version>> {
    match what {
        What::Nfs { source, attempts } => {
            let mounted = nfs::mount(source, target, attributes, attempts);
            let version = mounted.map_err(|error| refusal::of_mount(source, attempts, error))?;
            refuse_detour(source, target)?;
            Ok(Some(version))
        }
        What::Local { source, fstype, data } => mount::mount(source, target, fstype, attributes, data)
            .map(|()| None)
            .doing(|| format!("mounting {}", source.display())),
    }
}

/// With version 4 the kernel follows the server's symlinks and referrals, and shows where they lead: such a mount could
/// not be told from another volume's later. Mounts that share a superblock show what was mounted first.
fn refuse_detour(source: &str, target: &Path) -> Result<()> {
    let Some(mount) = mountinfo::named(target).doing(|| format!("looking at {source}"))? else {
        return Ok(());
    };
    let alone =
        mount.fstype == "nfs4" && mount.super_options.split(',').any(|option| option == "nosharecache");
    let (Ok(wanted), Ok(shown)) = (Share::parse(source), Share::parse(&mount.source)) else { return Ok(()) };
    if !alone || wanted.path == shown.path {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the server leads {wanted} to {shown}, through a symlink or a referral: give {} as the share",
        shown.path
    )))
}

/// A good mount that is nowhere yet: one that comes after this child was given up appears nowhere.
struct Made {
    host: Namespace,
    version: Option<Version>,
    tree: Tree,
    fileid: u64,
}

fn mount_out_of_sight(
    what: &What,
    below: &Path,
    target: &Path,
    attributes: Attributes,
    fileid: Option<u64>,
) -> Result<Made> {
    let doing = || format!("mounting on {}", target.display());
    let host = Namespace::current().doing(doing)?;
    namespace::isolate().doing(doing)?;
    let mut first = mounted(what, below, attributes, doing);
    // A superblock that other mounts use remembers for up to a minute what was there before, and what was not.
    let is_wanted = |found: &u64| fileid.is_none_or(|fileid| fileid == *found);
    if match &first {
        Ok(mounted) => !mounted.fileid.as_ref().is_ok_and(is_wanted),
        Err(error) => matches!(error, Error::NotFound(_)),
    } {
        look_again(what, first.ok());
        first = mounted(what, below, attributes, doing);
    }
    let Mounted { version, tree, fileid: found } = first?;
    let found = found.map_err(|error| match error {
        error if error.is_stale() => Error::Unavailable(format!(
            "the server no longer has what this node remembers of {}: repeat in a minute",
            target.display()
        )),
        source => Error::Os { doing: doing(), source },
    })?;
    check_root(fileid, found, target)?;
    Ok(Made { host, version, tree, fileid: found })
}

impl Made {
    /// On its place, in one step. What it is put there instead of goes in the step before: between the two nothing is
    /// asked of a server.
    fn appear(self, target: &Path, instead_of: Option<u64>) -> Result<Done> {
        let doing = || format!("mounting on {}", target.display());
        let Self { host, version, tree, fileid } = self;
        let id = tree.id().doing(doing)?;
        host.enter().doing(doing)?;
        if let Some(old) = instead_of {
            take_away(target, old)?;
        }
        tree.attach(target).doing(doing)?;
        Ok(Done::Mounted { version, fileid, id })
    }
}

/// Its users keep it.
fn take_away(target: &Path, id: u64) -> Result<()> {
    let doing = || format!("taking the mount on {} away", target.display());
    match mountinfo::named(target).doing(doing)? {
        Some(mount) if mount.id == id => {
            namespace::unmount_lazily(target, &FILESYSTEMS.map(str::to_owned)).doing(doing)
        }
        Some(_) => Err(Error::Busy(format!(
            "something else has just been mounted on {}; repeat the request",
            target.display()
        ))),
        None => Ok(()),
    }
}

/// The kernel gives a mount the superblock of another one when both are of the same filesystem of the same server, by
/// whatever address that was reached.
fn find(what: &What) -> Result<Done> {
    let doing = || format!("looking for what is mounted of {}", what.name());
    namespace::isolate().doing(doing)?;
    mount(what, Path::new(namespace::PLACE), Attributes::default())?;
    let tree = namespace::subtree(Path::new(""), Attributes::default()).doing(doing)?;
    let (device, fileid) = (tree.device().doing(doing)?, tree.fileid().doing(doing)?);
    Ok(Done::Found(Found { device, fileid }))
}

/// What is mounted in this namespace, with the inode number that the server tells.
struct Mounted {
    version: Option<Version>,
    tree: Tree,
    fileid: os::Result<u64>,
}

fn mounted(what: &What, below: &Path, attributes: Attributes, doing: impl Fn() -> String) -> Result<Mounted> {
    // Restrictions belong to the mount that is handed over: its superblock may be another volume's, too.
    let version = mount(what, Path::new(namespace::PLACE), Attributes::default())?;
    let tree = namespace::subtree(below, attributes).doing(doing)?;
    let fileid = tree.fileid();
    Ok(Mounted { version, tree, fileid })
}

/// Lets go of a mount, and has the directory above it asked of the server: if that has changed, the kernel forgets
/// which directories it has known there. Where that fails the next mount is as this one.
fn look_again(what: &What, mounted: Option<Mounted>) {
    let place = Path::new(namespace::PLACE);
    let let_go = || {
        if let Err(error) = mount::unmount(place) {
            tracing::warn!(%error, "a mount that nobody sees stays until this child ends");
        }
    };
    if let Some(Mounted { tree, .. }) = mounted {
        drop(tree);
        let_go();
    }
    let Some(above) = above(what) else { return };
    if mount(&above, place, Attributes::default()).is_ok() {
        if let Err(error) = nfs::ask(place) {
            tracing::warn!(%error, "the directory above a share is not told");
        }
        let_go();
    }
}

/// The directory that holds what is mounted, on the same server.
fn above(what: &What) -> Option<What> {
    let What::Nfs { source, attempts } = what else { return None };
    let source = match source.rsplit_once('/')? {
        (_, "") => return None,
        (server, _) if server.ends_with(':') => format!("{server}/"),
        (above, _) => above.to_owned(),
    };
    Some(What::Nfs { source, attempts: attempts.clone() })
}

fn check_root(expected: Option<u64>, found: u64, target: &Path) -> Result<()> {
    match expected.filter(|expected| *expected != found) {
        Some(expected) => Err(Error::Refused(format!(
            "what the server has there now is not the volume (its root is inode {found}, not {expected}); \
             nothing was mounted on {}",
            target.display()
        ))),
        None => Ok(()),
    }
}

fn ask(path: &Path) -> Result<u64> {
    nfs::ask(path).doing(|| format!("asking the server of {}", path.display()))
}

fn bind(source: &Path, target: &Path, attributes: Attributes, fileid: Option<u64>) -> Result<Done> {
    let found = ask(source)?;
    check_root(fileid, found, target)?;
    mount::bind(source, target, attributes)
        .map(|()| Done::Root(found))
        .doing(|| format!("binding {} on {}", source.display(), target.display()))
}

fn unmount(target: &Path, way: Way, filesystems: &[String]) -> Result<Done> {
    let outcome = match way {
        Way::Plain => unmount_patiently(target),
        Way::Force => namespace::unmount_by_force(target, filesystems),
        Way::Lazy => namespace::unmount_lazily(target, filesystems),
    };
    outcome.map(|()| Done::Nothing).doing(|| format!("taking the mount on {} away", target.display()))
}

/// Whoever looks at a mount keeps it busy for that moment.
fn unmount_patiently(target: &Path) -> os::Result<()> {
    let deadline = Instant::now() + BUSY;
    loop {
        match mount::unmount(target) {
            Err(error) if error.is_busy() && Instant::now() < deadline => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

/// Releases whatever hangs in a helper's mount, again and again: a process that is being killed may wait for the
/// server anew with each file that it closes. Ends when nothing is mounted there, or when told.
fn force(process: i32, socket: &UnixStream) -> Result<()> {
    let inside = namespace::enter_that_of(process).doing(|| format!("entering the namespace of {process}"));
    let entered = matches!(inside, Ok(true));
    answer(socket, inside.map(Done::Inside))?;
    socket.set_read_timeout(Some(PAUSE)).map_err(lost)?;
    let (mut receiver, deadline) = (Receiver::default(), Instant::now() + FORCING);
    while entered && Instant::now() < deadline {
        // The pause comes first: killed by then, no thread of the helper acts on the error that it gets.
        match receiver.receive::<()>(socket) {
            Ok(Received::Nothing) => {}
            _ => return Ok(()),
        }
        if namespace::force().doing(|| "forcing a share".into())? == Forced::Unmounted {
            return Ok(());
        }
    }
    Ok(())
}
