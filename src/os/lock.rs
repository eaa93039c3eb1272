//! Byte-range locks that exclude within a process and across processes.
//!
//! Open-file-description locks (fcntl(2), F_OFD_SETLK): each guard has an open file of its own, the
//! kernel frees it when the file is closed, so also after kill -9.

use super::{At as _, Error, Result};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
};
use rustix::fs::{CWD, Mode as FileMode, OFlags, openat};
use std::{fs::File, path::Path};

/// Holds one byte of a lock file.
#[derive(Debug)]
pub struct Guard {
    file: File,
    offset: i64,
}

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Many holders.
    Shared,
    /// One holder.
    Exclusive,
}

/// Tries to lock the byte at `offset` (below 2^63); `None` when somebody holds it. The file must exist: a
/// pool whose disk is not mounted would otherwise get a lock file on the disk below.
pub fn try_lock(path: &Path, offset: u64, mode: Mode) -> Result<Option<Guard>> {
    let offset = i64::try_from(offset).map_err(|_| {
        Error::Unexpected(format!("cannot lock byte {offset} of {path:?}: the last is 2^63 - 1"))
    })?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, FileMode::empty()).at("open the lock file", path)?);
    let kind = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    };
    match set(&file, offset, kind) {
        Ok(()) => Ok(Some(Guard { file, offset })),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
        Err(e) => Err(e).at("lock a byte of", path),
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Closing is the unlock that counts, but a child between fork and exec shares the open file and
        // would keep the lock for a moment longer.
        let _closing_unlocks_too = set(&self.file, self.offset, libc::F_UNLCK);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "constants that fit every platform's flock")]
fn set(file: &File, offset: i64, kind: libc::c_int) -> nix::Result<()> {
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use std::{
        env, fs,
        io::{BufRead, BufReader},
        process::{Command, Stdio},
        sync::atomic::{AtomicU32, Ordering},
        thread,
        time::Duration,
    };

    const FILE: &str = "WHARF_TEST_LOCK_FILE";

    fn lock_file() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        File::create_new(&path).unwrap();
        (directory, path)
    }

    #[test]
    fn one_exclusive_holder_or_many_shared_ones() {
        let (_directory, path) = lock_file();
        let exclusive = try_lock(&path, 5, Mode::Exclusive).unwrap().unwrap();
        assert!(try_lock(&path, 5, Mode::Exclusive).unwrap().is_none());
        assert!(try_lock(&path, 5, Mode::Shared).unwrap().is_none());
        drop(exclusive);
        let shared = [(); 3].map(|()| try_lock(&path, 5, Mode::Shared).unwrap().unwrap());
        assert!(try_lock(&path, 5, Mode::Exclusive).unwrap().is_none());
        drop(shared);
        assert!(try_lock(&path, 5, Mode::Exclusive).unwrap().is_some());
    }

    #[test]
    fn bytes_are_independent_to_the_last_one() {
        let (_directory, path) = lock_file();
        let last = i64::MAX.cast_unsigned();
        let _held =
            [0, 1, 2, last - 1, last].map(|at| try_lock(&path, at, Mode::Exclusive).unwrap().unwrap());
        assert!(try_lock(&path, last, Mode::Exclusive).unwrap().is_none());
        assert!(try_lock(&path, 3, Mode::Exclusive).unwrap().is_some());
        assert!(try_lock(&path, last + 1, Mode::Exclusive).is_err());
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_missing_file_is_not_made() {
        let (_directory, path) = lock_file();
        fs::remove_file(&path).unwrap();
        assert!(try_lock(&path, 0, Mode::Exclusive).unwrap_err().is_not_found());
        assert!(!path.exists());
    }

    #[test]
    fn threads_take_turns() {
        let (_directory, path) = lock_file();
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if let Some(_guard) = try_lock(&path, 0, Mode::Exclusive).unwrap() {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
    }

    /// Also the other process of the next test, which names the file and kills it.
    #[test]
    fn holder() {
        let (_directory, own) = lock_file();
        let given = env::var_os(FILE);
        let path = given.as_deref().map_or(own.as_path(), Path::new);
        let _guard = try_lock(path, 7, Mode::Exclusive).unwrap().unwrap();
        assert!(try_lock(path, 7, Mode::Exclusive).unwrap().is_none());
        if given.is_some() {
            println!("\nlocked");
            thread::sleep(Duration::from_secs(60));
        }
    }

    #[test]
    fn a_killed_process_holds_nothing() {
        let (_directory, path) = lock_file();
        let mut other = Command::new(env::current_exe().unwrap())
            .args(["--exact", "os::lock::tests::holder", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
        let locked = lines.any(|line| line.unwrap() == "locked");
        let excluded = try_lock(&path, 7, Mode::Exclusive).map(|guard| guard.is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(locked && excluded.unwrap());
        assert!(try_lock(&path, 7, Mode::Exclusive).unwrap().is_some());
    }
}
