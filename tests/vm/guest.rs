//! The guest as scripts/vm/guest prepares it: its NFS servers, and shares mounted from them.

use crate::support::host::attempt;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};
use sys_mount::{Mount, UnmountFlags, unmount};
use tempfile::TempDir;

/// Every test here begins with it.
pub fn required() {
    assert!(
        Path::new("/run/vm/ready").exists(),
        "this test needs the guest that scripts/vm/run starts: run `scripts/test vm`"
    );
}

/// Held by who takes server b's link away, and by who cannot do without it.
pub fn link_b() -> MutexGuard<'static, ()> {
    static LINK: Mutex<()> = Mutex::new(());
    LINK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server by one of its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    pub address: &'static str,
    /// Its root in the guest's mount namespace.
    pub root: &'static str,
}

pub const A: Server = Server { address: "127.0.0.1", root: "/run/vm/a" };
pub const A6: Server = Server { address: "::1", root: "/run/vm/a" };
/// In a network namespace of its own, behind the link `wharf-b`.
pub const B: Server = Server { address: "10.77.0.2", root: "/run/vm/b" };
pub const B6: Server = Server { address: "fd77::2", root: "/run/vm/b" };

impl Server {
    /// Has it listen on port 2050, too.
    pub fn listen_elsewhere(self) {
        static LISTENS: OnceLock<()> = OnceLock::new();
        let portlist = Path::new(self.root).join("proc/fs/nfsd/portlist");
        LISTENS.get_or_init(|| fs::write(portlist, "tcp 2050").unwrap());
    }

    /// An export's directory as the server sees it.
    pub fn inside(self, export: &str) -> PathBuf {
        Path::new(self.root).join("export").join(export)
    }

    /// Mounts an export; `version` is `4.2`, `4.1`, `4.0` or `3`.
    pub fn mount(self, export: &str, version: &str) -> Share {
        self.try_mount(export, version).unwrap_or_else(|e| panic!("{self:?} {export} {version}: {e}"))
    }

    /// The same with a superblock of its own, which knows nothing yet.
    pub fn mount_alone(self, export: &str, version: &str) -> Share {
        let version = format!("{version},nosharecache");
        self.try_mount(export, &version).unwrap_or_else(|e| panic!("{self:?} {export} {version}: {e}"))
    }

    pub fn try_mount(self, export: &str, version: &str) -> std::io::Result<Share> {
        let six = self.address.contains(':');
        let (host, family) =
            if six { (format!("[{}]", self.address), "tcp6") } else { (self.address.to_owned(), "tcp") };
        let mut options = format!("vers={version},proto={family},addr={}", self.address);
        if version == "3" {
            options += &format!(",nolock,mountproto={family}");
        }
        let directory = tempfile::Builder::new().prefix("wharf-share-").tempdir()?;
        Mount::builder()
            .fstype("nfs")
            .data(&options)
            .mount(format!("{host}:/export/{export}"), directory.path())?;
        Ok(Share { directory: Some(directory) })
    }
}

/// A mounted export, gone when dropped.
#[derive(Debug)]
pub struct Share {
    directory: Option<TempDir>,
}

impl Share {
    pub fn path(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let path = self.path().to_owned();
        let gone = unmount(&path, UnmountFlags::empty())
            .or_else(|_| unmount(&path, UnmountFlags::FORCE | UnmountFlags::DETACH));
        if let Err(error) = gone {
            // The directory stays, or its removal would walk into what is still mounted.
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("left behind: {kept:?}: {error}");
        }
    }
}

/// A filesystem that answers nobody until this is dropped.
#[derive(Debug)]
pub struct Frozen(PathBuf);

impl Frozen {
    /// `fsfreeze` on a server's export: it still accepts connections and answers NULL.
    pub fn new(server: Server, export: &str) -> Self {
        let place = server.inside(export);
        attempt("fsfreeze", ["--freeze".as_ref(), place.as_os_str()]).unwrap();
        Self(place)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        attempt("fsfreeze", ["--unfreeze".as_ref(), self.0.as_os_str()]).unwrap();
    }
}

/// A directory of an export for one test, as the server sees it; what a test made goes with it.
#[derive(Debug)]
pub struct Corner(pub PathBuf);

impl Corner {
    /// Its name is the same on the share.
    pub fn new(server: Server, export: &str, name: &str) -> Self {
        let place = server.inside(export).join(name);
        // An attempt that failed may have left it.
        let _ = attempt("rm", ["-rf".as_ref(), place.as_os_str()]);
        fs::create_dir(&place).unwrap();
        Self(place)
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        let _ = attempt("rm", ["-r".as_ref(), self.0.as_os_str()]);
    }
}
