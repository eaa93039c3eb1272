//! The identity of a store on a share, and how one is made while others may be making it, too.

use super::{fault::OnShare, names::Worker, part, record::HOME};
use crate::{
    error::{Error, Result},
    failpoint,
    os::directory::Directory,
    store::sealed,
};
use serde::{Deserialize, Serialize};
use std::{ffi::OsStr, path::Path};
use uuid::Uuid;

/// The version of the store that this driver reads and writes.
pub const VERSION: u32 = 1;
const FORMAT: &str = "format.json";
const LIMIT: u64 = 64 << 10;
/// In the order of [`open_parts`].
pub const PARTS: [&str; 5] = ["volumes", "snapshots", "claims", "tmp", "trash"];

/// What `format.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Of the store.
    pub version: u32,
    /// Its identity.
    pub uuid: Uuid,
}

/// The store's directory and format; `None`: there is no store, or one that is just being made.
pub fn read(root: &Directory) -> Result<Option<(Directory, Format)>> {
    let Some(home) = enter_home(root)? else { return Ok(None) };
    let Some(format) = read_format(&home)? else { return Ok(None) };
    if format.version < VERSION {
        return Err(Error::Refused(format!(
            "the store at {} has version {}, and others may still use it: when all of them have this driver's \
             version, run `wharf migrate --share`",
            home.path().display(),
            format.version
        )));
    }
    Ok(Some((home, format)))
}

fn enter_home(root: &Directory) -> Result<Option<Directory>> {
    match root.enter(OsStr::new(HOME)) {
        Err(e) if e.is_symlink() || e.is_no_directory() => Err(Error::Refused(format!(
            "{} is no directory, but the driver keeps its store there: move it away",
            root.path().join(HOME).display()
        ))),
        home => home.on_share(|| format!("opening {HOME} of the share")),
    }
}

fn read_format(home: &Directory) -> Result<Option<Format>> {
    let place = || home.path().join(FORMAT);
    let bytes = home.read(OsStr::new(FORMAT), LIMIT).on_share(|| format!("reading {}", place().display()))?;
    let format = bytes.map(|bytes| sealed::open(&bytes, VERSION)).transpose();
    format.map_err(|reason| {
        Error::Damaged(format!("{} {reason}; it was left alone: restore it from a backup", place().display()))
    })
}

/// Makes a store. `format.json` comes last and is linked into its place, so that of several at once one wins.
pub fn make(root: &Directory, worker: Worker) -> Result<(Directory, Format)> {
    let doing = || format!("making a store in {}", root.path().join(HOME).display());
    make_dir(root, HOME).on_share(doing)?;
    failpoint!("share.home-made");
    let lost = || Error::Unavailable(format!("{HOME} of the share has vanished: try again"));
    let home = enter_home(root)?.ok_or_else(lost)?;
    for name in PARTS {
        make_dir(&home, name).on_share(doing)?;
        failpoint!("share.part-made");
    }
    refuse_bereft(&home)?;
    let tmp = part(&home, "tmp")?;
    let (draft, format) = (worker.format(), Format { version: VERSION, uuid: Uuid::new_v4() });
    tmp.write(&draft, &sealed::seal(&format)?).on_share(doing)?;
    failpoint!("share.format-written");
    match tmp.link(&draft, &home, OsStr::new(FORMAT)) {
        Ok(()) => tracing::info!(share = %root.path().display(), store = %format.uuid, "made a new store"),
        // Another was faster, or this call was carried out twice: what stands there counts.
        Err(e) if e.is_already_there() => {}
        Err(e) => return Err(e).on_share(doing),
    }
    failpoint!("share.format-linked");
    tmp.remove_file(&draft).on_share(doing)?;
    home.sync().and_then(|()| root.sync()).on_share(doing)?;
    let format = read_format(&home)?.ok_or_else(lost)?;
    Ok((home, format))
}

fn make_dir(parent: &Directory, name: &str) -> crate::os::Result<()> {
    match parent.create_dir(OsStr::new(name), 0o700) {
        Err(e) if e.is_already_there() => Ok(()),
        result => result,
    }
}

/// Volumes without a format: that was one's only copy.
fn refuse_bereft(home: &Directory) -> Result<()> {
    let doing = || format!("looking into {}", home.path().display());
    for name in ["volumes", "snapshots"] {
        let inside = part(home, name)?;
        // Another may have finished the store meanwhile.
        if !inside.is_empty().on_share(doing)? && read_format(home)?.is_none() {
            return Err(Error::Damaged(format!(
                "the store at {} has lost its {FORMAT} but not its {name}: restore it from a backup",
                home.path().display()
            )));
        }
    }
    Ok(())
}

/// The directories of [`PARTS`].
pub fn open_parts(home: &Directory) -> Result<[Directory; 5]> {
    let [volumes, snapshots, claims, tmp, trash] = PARTS.map(|name| part(home, name));
    Ok([volumes?, snapshots?, claims?, tmp?, trash?])
}

/// Brings the store below the share at `root` to this driver's version; gives the version that it had. The
/// first version has no older one.
pub fn migrate(root: &Path) -> Result<u32> {
    let root = super::open_root(root)?;
    let absent = || Error::NotFound(format!("there is no store on the share at {}", root.path().display()));
    let home = enter_home(&root)?.ok_or_else(absent)?;
    let format = read_format(&home)?.ok_or_else(absent)?;
    if format.version < VERSION {
        return Err(Error::Damaged(format!(
            "the store at {} says that it has version {}, which never existed",
            home.path().display(),
            format.version
        )));
    }
    Ok(format.version)
}
