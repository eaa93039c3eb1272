//! The directory that the demo works in, and that nothing of it outlives.

use crate::{
    commands::chain,
    os::{self, file, loopdev, mount, mountinfo, tree},
};
use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long a mount or loop that is still busy is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// A directory of the demo's own. Dropping it removes it with everything mounted or attached there.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    removed: bool,
}

impl Scratch {
    /// In `directory`, else where temporary files live on a disk.
    pub fn new(directory: Option<&Path>) -> Result<Self, String> {
        let directory = match directory {
            Some(directory) => directory.to_owned(),
            None => usual_place(),
        };
        let failed = |error: &dyn std::error::Error| {
            format!(
                "no scratch directory can be made in {}: {}; choose another with --directory",
                directory.display(),
                chain(error)
            )
        };
        let home = file::canonical(&directory).map_err(|error| failed(&error))?;
        let made = tempfile::Builder::new()
            .prefix("wharf-demo-")
            .tempdir_in(home)
            .map_err(|error| failed(&error))?;
        // tempfile's own removal would walk through mounts; the one below cannot.
        let scratch = Self { path: made.keep(), removed: false };
        file::create_dir(&scratch.pool()).map_err(|error| failed(&error))?;
        Ok(scratch)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the pool is.
    pub fn pool(&self) -> PathBuf {
        self.path.join("pool")
    }

    /// Where the driver's socket is.
    pub fn socket(&self) -> PathBuf {
        self.path.join("csi.sock")
    }

    /// The filesystem that it lies on.
    pub fn filesystem(&self) -> String {
        let mount = mountinfo::of(&self.path).ok().flatten();
        mount.map_or_else(|| "unknown filesystem".to_owned(), |mount| mount.fstype)
    }

    /// What of [`Scratch::in_use`] stays. Whoever looks at all loops just now keeps each for a moment.
    pub fn still_in_use(&self) -> os::Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.in_use()?;
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(left);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Mounts below it and loops on its files: nothing, once every volume is unstaged.
    fn in_use(&self) -> os::Result<Vec<String>> {
        let mounts = self.mounts()?.into_iter().map(|point| format!("a mount at {}", point.display()));
        let loops = self.loops()?.into_iter().map(|number| format!("/dev/loop{number}"));
        Ok(mounts.chain(loops).collect())
    }

    /// Removes it, and says what could not be removed.
    pub fn remove(mut self) -> Vec<String> {
        self.clear()
    }

    fn clear(&mut self) -> Vec<String> {
        if self.removed {
            return Vec::new();
        }
        self.removed = true;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let outcome = self.release();
            match (outcome, self.in_use()) {
                (Ok(()), Ok(left)) if left.is_empty() => break,
                (outcome, left) if Instant::now() >= deadline => {
                    let why = outcome.and(left.map(drop)).err().map(|error| chain(&error));
                    let left = self.in_use().unwrap_or_default();
                    return left.into_iter().chain(why).chain([format!("{}", self.path.display())]).collect();
                }
                _ => thread::sleep(PAUSE),
            }
        }
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Vec::new();
        };
        match tree::remove(parent, name, &mut |_| {}) {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("{} ({})", self.path.display(), chain(&error))],
        }
    }

    /// What a story that ended early has left mounted and attached.
    fn release(&self) -> os::Result<()> {
        for point in self.mounts()?.iter().rev() {
            mount::unmount(point)?;
        }
        for number in self.loops()? {
            if let Some(held) = loopdev::open(number)? {
                loopdev::clear(held)?;
            }
        }
        Ok(())
    }

    fn mounts(&self) -> os::Result<Vec<PathBuf>> {
        let mounts = mountinfo::read()?.into_iter().map(|mount| mount.point);
        Ok(mounts.filter(|point| point.starts_with(&self.path)).collect())
    }

    fn loops(&self) -> os::Result<Vec<u32>> {
        let mut ours = Vec::new();
        for (number, _) in loopdev::all()? {
            if loopdev::backing_path(number)?.is_some_and(|backing| backing.path.starts_with(&self.path)) {
                ours.push(number);
            }
        }
        Ok(ours)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for left in self.clear() {
            eprintln!("wharf: left behind: {left}");
        }
    }
}

/// The system's temporary directory; where that is in memory, the one that survives a restart: the demo's
/// images would use up the memory.
fn usual_place() -> PathBuf {
    let place = std::env::temp_dir();
    let in_memory = |path: &Path| match mountinfo::of(path) {
        Ok(Some(mount)) => matches!(mount.fstype.as_str(), "tmpfs" | "ramfs"),
        _ => true,
    };
    let durable = PathBuf::from("/var/tmp");
    if in_memory(&place) && !in_memory(&durable) { durable } else { place }
}
