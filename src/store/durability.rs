//! Getting what was written onto the disk before it is promised.
//!
//! ext4 and XFS have a journal in which everything before an fsync'ed change is durable with it:
//! single files are synced. On btrfs each fsync costs about as much as a whole commit, so concurrent
//! callers share one syncfs(2): whoever comes while one runs waits for the next.

use crate::os::{self, file};
use std::{
    error::Error as _,
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
            Self::Together(batch) => batch.sync(|| file::sync_filesystem(&batch.home)),
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
    /// Syncs that failed, and why the last one did.
    failed: (u64, String),
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
    ///
    /// One that fails counts for everybody who waits: the kernel tells a failed write to one syncfs(2)
    /// only, and the next one, which succeeds, knows nothing of it.
    fn sync(&self, sync: impl Fn() -> os::Result<()>) -> os::Result<()> {
        let mut turn = self.turn();
        let needed = turn.started + 1;
        let failed_before = turn.failed.0;
        while turn.succeeded < needed {
            if turn.failed.0 > failed_before {
                return Err(os::Error::Unexpected(turn.failed.1.clone()));
            }
            if turn.running {
                turn = self.ended.wait(turn).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            turn.running = true;
            turn.started += 1;
            let mine = turn.started;
            drop(turn);
            let result = sync();
            turn = self.turn();
            turn.running = false;
            match &result {
                Ok(()) => turn.succeeded = mine,
                Err(error) => turn.failed = (turn.failed.0 + 1, told(error)),
            }
            self.ended.notify_all();
            result?;
        }
        Ok(())
    }
}

/// To those who waited for a sync that another caller did.
fn told(error: &os::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}, together with others: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{sync::mpsc, thread, time::Duration};

    fn failed() -> os::Error {
        os::Error::Unexpected("the disk failed".into())
    }

    #[test]
    fn a_failed_sync_fails_all_who_waited_and_nobody_after() {
        let batch = Batch::new("/".into());
        let (began, begin) = mpsc::channel();
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                batch.sync(|| {
                    began.send(()).unwrap();
                    thread::sleep(Duration::from_millis(300));
                    Err(failed())
                })
            });
            begin.recv().unwrap();
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| batch.sync(|| Ok(())))).collect();
            assert_eq!(first.join().unwrap().unwrap_err().to_string(), "the disk failed");
            for waiter in waiting {
                assert!(waiter.join().unwrap().unwrap_err().to_string().contains("the disk failed"));
            }
        });
        batch.sync(|| Ok(())).unwrap();
    }
}
