//! Layout `directory`: the volume's root is a directory of the pool, on btrfs a subvolume.

use crate::{
    error::{Doing, Error, Result},
    failpoint,
    os::{btrfs, file, mountinfo, quota, tree},
    store::{Draft, Kind, Pool},
    volume::{Key, LimitMode, VolumeRecord},
};
use std::{fs::File, path::Path};

/// Root mode of a new directory, as mkfs gives a new filesystem.
const ROOT_MODE: u32 = 0o755;

/// Makes an empty root.
pub fn create(draft: &Draft<'_>, record: &VolumeRecord) -> Result<()> {
    draft.make_data()?;
    hand_on(draft, record)?;
    set_mode(&draft.data(), record, Some(ROOT_MODE))?;
    limit(&draft.data(), record)
}

/// What a restored or cloned directory still needs.
pub fn finish(draft: &Draft<'_>, record: &VolumeRecord) -> Result<()> {
    set_mode(&draft.data(), record, None)?;
    limit(&draft.data(), record)
}

/// Everything that is made in it from now on carries the volume's project id.
fn hand_on(draft: &Draft<'_>, record: &VolumeRecord) -> Result<()> {
    let Some(id) = record.project_id else { return Ok(()) };
    let doing = || format!("giving volume {} its project id", record.key);
    let root = file::open_dir(&draft.data()).doing(doing)?;
    quota::set_number(&root, id, quota::Inherit::Yes).doing(doing)?;
    Ok(())
}

fn set_mode(data: &Path, record: &VolumeRecord, default: Option<u32>) -> Result<()> {
    let owner = record.owner;
    let doing = || format!("setting owner and mode of volume {}", record.key);
    let root = file::open_dir(data).doing(doing)?;
    file::set_owner(&root, owner.uid, owner.gid, owner.mode.or(default)).doing(doing)?;
    failpoint!("directory.owner-set");
    Ok(())
}

/// Sets the limit that the record asks for. A snapshot inherits its source's, so it is always set anew.
pub fn limit(data: &Path, record: &VolumeRecord) -> Result<()> {
    if record.limit != Some(LimitMode::Enforced) {
        return Ok(());
    }
    let bytes = Some(record.size_bytes);
    match record.project_id {
        Some(id) => quota::set_limit(data, id, bytes),
        None => btrfs::set_limit(data, bytes),
    }
    .doing(|| format!("limiting volume {}", record.key))?;
    failpoint!("directory.limit-set");
    Ok(())
}

/// Where the directory is mounted, wherever in this mount namespace.
pub fn mounts(pool: &Pool, key: Key) -> Result<Vec<mountinfo::Mount>> {
    mountinfo::of_root(&pool.data(Kind::Volume, key)).doing(|| format!("looking for mounts of volume {key}"))
}

/// The key in mountinfo's root field of a mounted directory volume.
pub fn key_of_root(root: &Path) -> Option<Key> {
    let text = root.to_str()?;
    let text = text.strip_suffix("//deleted").unwrap_or(text).strip_suffix("/data")?;
    let (above, key) = text.rsplit_once('/')?;
    above.ends_with("/volumes").then(|| Key::parse(key)).flatten()
}

/// Copies or reflinks the tree of `from` into the draft; of a new volume `fresh` is the record.
pub fn copy(
    from: &Path,
    draft: &Draft<'_>,
    fresh: Option<&VolumeRecord>,
    share: bool,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    draft.make_data()?;
    if let Some(record) = fresh {
        hand_on(draft, record)?;
    }
    let doing = || format!("copying {} to {}", from.display(), draft.data().display());
    let open = |path: &Path| -> Result<File> { file::open_dir(path).doing(doing) };
    tree::copy(&open(from)?, &open(&draft.data())?, share, progress).doing(doing)?;
    failpoint!("directory.copied");
    // Many files: one sync of the filesystem is cheaper than one of each.
    file::sync_filesystem(&draft.data()).doing(doing)
}

/// Subvolumes that a pod made inside its directory escape the limit and no snapshot holds them.
pub fn refuse_nested(data: &Path, key: Key) -> Result<()> {
    let nested = btrfs::nested_subvolumes(data).doing(|| format!("looking into volume {key}"))?;
    match nested.first() {
        Some(first) => Err(Error::Refused(format!(
            "volume {key} holds {} nested subvolumes (the first is {}), which no snapshot would contain: delete them first",
            nested.len(),
            first.display()
        ))),
        None => Ok(()),
    }
}
