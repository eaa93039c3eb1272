//! Pools on filesystems of their own: an image file, a loop device, a mount, all gone when dropped.

use super::host::{detach, release, run};
use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// What a pool may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Btrfs,
    /// With classic qgroups switched on.
    BtrfsQuota,
    /// At least 300 MiB.
    Xfs,
    /// Mounted with project quota, which few kernels of development machines have: `scripts/test vm`.
    XfsQuota,
    Ext4,
    /// As [`Kind::XfsQuota`].
    Ext4Quota,
}

impl Kind {
    fn fstype(self) -> &'static str {
        match self {
            Self::Btrfs | Self::BtrfsQuota => "btrfs",
            Self::Xfs | Self::XfsQuota => "xfs",
            Self::Ext4 | Self::Ext4Quota => "ext4",
        }
    }

    fn mount_options(self) -> &'static str {
        match self {
            // Another mount namespace may still hold the filesystem of before a power cut.
            Self::Xfs => "nouuid",
            Self::XfsQuota => "nouuid,prjquota",
            Self::Ext4Quota => "prjquota",
            Self::Btrfs | Self::BtrfsQuota | Self::Ext4 => "defaults",
        }
    }

    pub fn is_btrfs(self) -> bool {
        self.fstype() == "btrfs"
    }
}

/// A mounted filesystem of its own. When dropped, everything that was mounted below it or attached from
/// it goes too.
#[derive(Debug)]
pub struct Pool {
    directory: Option<TempDir>,
    kind: Kind,
    image: PathBuf,
    mount: PathBuf,
    device: Option<String>,
}

impl Pool {
    /// `size` in bytes; sparse.
    pub fn new(kind: Kind, size: u64) -> Self {
        Self::below(&std::env::temp_dir(), kind, size)
    }

    /// Its image lies in a new directory below `parent`.
    pub fn below(parent: &Path, kind: Kind, size: u64) -> Self {
        let directory = tempfile::Builder::new().prefix("wharf-test-").tempdir_in(parent).unwrap();
        let image = directory.path().join("image");
        let mount = directory.path().join("pool");
        File::create(&image).unwrap().set_len(size).unwrap();
        fs::create_dir(&mount).unwrap();
        let mut pool = Self { directory: Some(directory), kind, image, mount, device: None };
        let (program, options): (_, &[&str]) = match kind {
            // With the default profile of metadata: the 8 MiB that `-m single` begins with leave a rename
            // no room once data has taken the rest of the disk.
            Kind::Btrfs | Kind::BtrfsQuota => ("mkfs.btrfs", &["-q"]),
            Kind::Xfs | Kind::XfsQuota => ("mkfs.xfs", &["-q", "-s", "size=4096", "-m", "reflink=1"]),
            Kind::Ext4 => ("mkfs.ext4", &["-q", "-b", "4096"]),
            Kind::Ext4Quota => {
                ("mkfs.ext4", &["-q", "-b", "4096", "-O", "quota,project", "-E", "quotatype=prjquota"])
            }
        };
        run(program, options.iter().map(OsStr::new).chain([pool.image.as_os_str()]));
        pool.attach();
        if kind == Kind::BtrfsQuota {
            run("btrfs", ["quota".as_ref(), "enable".as_ref(), pool.mount.as_os_str()]);
            run("btrfs", ["quota".as_ref(), "rescan".as_ref(), "-w".as_ref(), pool.mount.as_os_str()]);
        }
        pool
    }

    /// The root of the filesystem: the pool's directory.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The file that holds the filesystem.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Mounts the filesystem again after [`Pool::detach`].
    pub fn attach(&mut self) {
        assert!(self.device.is_none(), "already attached");
        let device = run("losetup", [OsStr::new("--find"), OsStr::new("--show"), self.image.as_os_str()]);
        self.device = Some(device.clone());
        // A loop that was made read-only (BLKROSET) is still so for the next who gets its number.
        run("blockdev", ["--setrw", &device]);
        let [fstype, options, device] =
            [self.kind.fstype(), self.kind.mount_options(), &device].map(OsStr::new);
        run("mount", [OsStr::new("-t"), fstype, OsStr::new("-o"), options, device, self.mount.as_os_str()]);
    }

    /// Takes away everything that hangs on the pool, unmounts it and detaches its image; what a node
    /// that is switched off looks like. Whether that worked.
    pub fn detach(&mut self) -> bool {
        // The pool's own loop is outside `mount`, so only volumes' loops are found there.
        let mut clean = release(&self.mount, true);
        if let Some(device) = self.device.take() {
            let number = device.trim_start_matches("/dev/loop").parse().unwrap_or(u32::MAX);
            clean &= detach(number, &self.image);
        }
        clean
    }

    /// What a power cut would leave, for a pool whose image lies on XFS: a copy of the image with
    /// everything that has been written to the device, and nothing that is only in memory.
    pub fn cut(&self) -> Cut {
        let path = self.image.with_extension("cut");
        let from = File::open(&self.image).unwrap();
        let to = File::create(&path).unwrap();
        rustix::fs::ioctl_ficlone(&to, &from).unwrap();
        Cut(path)
    }

    /// The node comes back after the cut: everything that hung on the pool is gone, and it is mounted
    /// as it was at that moment.
    pub fn reboot(&mut self, cut: Cut) {
        assert!(self.detach(), "cannot take everything away from {}", self.mount.display());
        fs::rename(cut.0, &self.image).unwrap();
        self.attach();
        if self.kind == Kind::BtrfsQuota {
            // The kernel drops a subvolume's blocks and its qgroup in two transactions, and does not make
            // good for a cut in between.
            run("btrfs", ["qgroup".as_ref(), "clear-stale".as_ref(), self.mount.as_os_str()]);
        }
    }
}

/// The image of a pool at the moment of a power cut.
#[derive(Debug)]
pub struct Cut(PathBuf);

impl Drop for Pool {
    fn drop(&mut self) {
        let device = self.device.clone();
        if !self.detach() {
            // The directory stays, or its removal would walk into what is still mounted.
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("left behind: {kept:?}; clean up with umount {:?}; losetup -d {device:?}", self.mount);
        }
    }
}
