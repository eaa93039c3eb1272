//! The directories that an orchestrator gives: staging paths and targets.

use super::host::release;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// A directory of its own; when dropped, what is still mounted in it goes first.
#[derive(Debug)]
pub struct Places {
    directory: Option<TempDir>,
}

impl Places {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("wharf-places-").tempdir().unwrap();
        for name in ["staging", "pods"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory: Some(directory) }
    }

    pub fn path(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }

    /// A staging path, which exists, as the orchestrator has to see to.
    pub fn staging(&self, name: &str) -> PathBuf {
        let path = self.path().join("staging").join(name);
        if !path.exists() {
            fs::create_dir(&path).unwrap();
        }
        path
    }

    /// Unmounts everything here, as when the node goes down. Whether that worked.
    pub fn unmount_all(&self) -> bool {
        release(self.path(), false)
    }

    /// A target path; only its parent exists.
    pub fn target(&self, name: &str) -> PathBuf {
        self.path().join("pods").join(name)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if !self.unmount_all() {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("left behind: {kept:?}: something is still mounted there");
        }
    }
}
