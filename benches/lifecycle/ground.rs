//! A pool on a filesystem of its own, with direct I/O all the way down, and a driver on it.

use super::{
    figures::Times,
    support::{
        MIB,
        driver::Driver,
        host::{self, run},
        pool::Kind,
    },
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The pools that are measured.
pub const KINDS: [Kind; 3] = [Kind::Xfs, Kind::Ext4, Kind::BtrfsQuota];

pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Xfs => "XFS",
        Kind::XfsQuota => "XFS with project quota",
        Kind::Ext4 => "ext4",
        Kind::Ext4Quota => "ext4 with project quota",
        Kind::Btrfs => "btrfs",
        Kind::BtrfsQuota => "btrfs with quota",
    }
}

/// A mounted filesystem in a sparse file. Gone when dropped, with all that hangs on it.
pub struct Ground {
    directory: Option<TempDir>,
    mount: PathBuf,
}

impl Ground {
    /// `gib` is its size.
    pub fn new(kind: Kind, gib: u64) -> Self {
        let directory = tempfile::Builder::new().prefix("wharf-bench-").tempdir().unwrap();
        let image = directory.path().join("image");
        let mount = directory.path().join("pool");
        File::create(&image).unwrap().set_len(gib * 1024 * MIB).unwrap();
        fs::create_dir(&mount).unwrap();
        let ground = Self { directory: Some(directory), mount };
        // What mkfs leaves for a kernel thread to do later would be measured too.
        let (program, options): (_, &[&str]) = match kind {
            Kind::Btrfs | Kind::BtrfsQuota => ("mkfs.btrfs", &["-q", "-m", "single"]),
            Kind::Xfs | Kind::XfsQuota => ("mkfs.xfs", &["-q", "-s", "size=4096", "-m", "reflink=1"]),
            Kind::Ext4 | Kind::Ext4Quota => {
                ("mkfs.ext4", &["-q", "-b", "4096", "-E", "nodiscard,assume_storage_prezeroed=1"])
            }
        };
        run(program, options.iter().map(OsStr::new).chain([image.as_os_str()]));
        // mount(8) attaches with AUTOCLEAR: nothing stays behind when this process is killed.
        run("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), ground.mount.as_os_str()]);
        let device = host::loops_below(ground.mount.parent().unwrap()).first().map(host::Loop::node).unwrap();
        run("losetup", [OsStr::new("--direct-io=on"), device.as_os_str()]);
        if kind == Kind::BtrfsQuota {
            run("btrfs", ["quota".as_ref(), "enable".as_ref(), ground.mount.as_os_str()]);
            run("btrfs", ["quota".as_ref(), "rescan".as_ref(), "-w".as_ref(), ground.mount.as_os_str()]);
        }
        fs::create_dir(ground.home()).unwrap();
        ground
    }

    /// The pool's directory.
    pub fn home(&self) -> PathBuf {
        self.mount.join("home")
    }

    /// The root of the filesystem, for what is compared with the pool.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// A driver with this one pool, quiet as in production.
    pub fn driver(&self) -> Driver {
        Driver::start(&[("default", &self.home())], &[])
    }

    /// What the disk below charges for one durable small file: the unit in which to read the other figures.
    pub fn fsync(&self) -> Times {
        let mut times = Times::default();
        for number in 0..20 {
            let path = self.mount.join(format!("probe-{number}"));
            times.of(|| {
                let mut file = File::create(&path).unwrap();
                file.write_all(&[0; 600]).unwrap();
                file.sync_all().unwrap();
            });
            fs::remove_file(path).unwrap();
        }
        times
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if !host::release(&self.mount, true) {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("left behind: {kept:?}: something still uses {:?}", self.mount);
        }
    }
}
