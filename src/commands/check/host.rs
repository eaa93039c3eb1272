//! The host itself: kernel, rights, loop devices, filesystems, tools.

use super::{Item, Needs, State, optional, required, text};
use crate::os::{
    self,
    command::Tool,
    host::{self, Capability},
    loopdev::{self, Attach},
    mountinfo,
    nfs::Version,
};
use std::{path::Path, time::Duration};

/// mount_setattr(2) exists since 5.12; what is inside images is pinned to what 5.15 mounts (docs/formats.md).
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// How long the end of the scratch loop is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything that can be found out without a pool or share.
pub(super) fn items(needs: Needs) -> Vec<Item> {
    let mut items = vec![kernel(), root(), resources(), mount_api(), loop_control(needs), loop_device(needs)];
    items.extend(filesystems(needs));
    items.extend(tools(needs));
    items.push(propagation());
    items
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

fn loop_control(needs: Needs) -> Item {
    let outcome = match os::file::stat(Path::new("/dev/loop-control")) {
        Ok(Some(_)) => Ok("new loop devices can be asked for".into()),
        Ok(None) => {
            Err("load the kernel's loop module (`modprobe loop`); in a container, mount the host's /dev"
                .into())
        }
        Err(error) => Err(text(&error)),
    };
    needs.local("/dev/loop-control", outcome)
}

/// A real attach, of an empty file that is gone afterwards with its loop.
fn loop_device(needs: Needs) -> Item {
    let outcome = attach_scratch().map(|direct_io| {
        let how = if direct_io { "with" } else { "without" };
        format!("an image was attached {how} direct I/O in a temporary directory")
    });
    needs.local("loop devices", outcome)
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

fn filesystems(needs: Needs) -> Vec<Item> {
    let knows = |name: &'static str, good: &str, advice: &str| match host::knows_filesystem(name) {
        Ok(true) => Ok(good.to_owned()),
        Ok(false) => Err(advice.to_owned()),
        Err(error) => Err(text(&error)),
    };
    vec![
        needs.local(
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
        nfs(),
    ]
}

/// A share that is asked about tells by itself what it lacks.
fn nfs() -> Item {
    let outcome = os::nfs::mountable().map_err(|error| text(&error)).and_then(|versions| {
        let list = versions.iter().map(Version::to_string).collect::<Vec<_>>().join(", ");
        if versions.contains(&Version::V4_2) {
            Ok(format!("the kernel can mount NFS {list}"))
        } else if list.is_empty() {
            Err("the kernel has no NFS client: load it (`modprobe nfs`); local volumes do not need it".into())
        } else {
            Err(format!(
                "the kernel can mount NFS {list}; without 4.2 snapshots and clones on shares never share blocks"
            ))
        }
    });
    optional("NFS client", State::Limited, outcome)
}

fn tools(needs: Needs) -> Vec<Item> {
    let tool = |tool: Tool, package: &str, loss: &str| match tool.path() {
        Some(path) => Ok(path.display().to_string()),
        None => Err(format!("install {package}: {loss}")),
    };
    let ext4 = "e2fsprogs";
    let xfs = "xfsprogs";
    let missing = |name: &str, outcome| optional(name, State::Missing, outcome);
    vec![
        needs.local("mke2fs", tool(Tool::Mke2fs, ext4, "without it no volume with ext4 can be made")),
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
