//! Getting what was written onto the disk before it is promised.
//!
//! ext4 and XFS have a journal in which everything before an fsync'ed change is durable with it:
//! single files are synced. On btrfs each fsync costs about as much as a whole commit, so concurrent
//! callers share one syncfs(2): whoever comes while one runs waits for the next.

use crate::os::{self, file};
use std::{
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// How one pool makes things durable.
#[derive(Debug)]
pub enum Durability {
    /// fsync(2) of each.
    Each,
    /// One syncfs(2) for all that wait.
    Together(Batch),
}

impl Durability {
    /// For a pool at `home`.
    pub fn new(home: &Path, btrfs: bool) -> Self {
        if btrfs { Self::Together(Batch::new(home.to_owned())) } else { Self::Each }
    }

    /// Returns when all of `paths`, and the directory changes that led to them, survive a power cut.
    pub fn settle(&self, paths: &[&Path]) -> os::Result<()> {
        #[cfg(feature = "failpoints")]
        if crate::failpoint::sync_is_left_out() {
            return Ok(());
        }
        match self {
            Self::Each => paths.iter().try_for_each(|path| file::sync(path)),
            Self::Together(batch) => batch.sync(),
        }
    }
}

/// Group commit.
#[derive(Debug)]
pub struct Batch {
    home: PathBuf,
    turn: Mutex<Turn>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    started: u64,
    /// The newest sync that succeeded: it covers everything that waited when it started.
    succeeded: u64,
    running: bool,
}

impl Batch {
    fn new(home: PathBuf) -> Self {
        Self { home, turn: Mutex::default(), ended: Condvar::new() }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sync that began before this call may have missed what the caller wrote, so it does not count.
    fn sync(&self) -> os::Result<()> {
        let mut turn = self.turn();
        let needed = turn.started + 1;
        while turn.succeeded < needed {
            if turn.running {
                turn = self.ended.wait(turn).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            turn.running = true;
            turn.started += 1;
            let mine = turn.started;
            drop(turn);
            let result = file::sync_filesystem(&self.home);
            turn = self.turn();
            turn.running = false;
            if result.is_ok() {
                turn.succeeded = mine;
            }
            self.ended.notify_all();
            result?;
        }
        Ok(())
    }
}
