//! Work in one open directory: every name is a single one, resolved from the directory itself.
//!
//! On NFS that is more than speed. A call names the directory by its file handle, so one that reaches the
//! server late meets the very directory that was meant, also when another has taken its path.

use super::{
    At, Error, Result,
    file::{self, Stat, settle},
    tree::open_below,
};
use rustix::{
    fs::{AtFlags, Mode, OFlags, RawMode, StatxFlags, Timespec, Timestamps, UTIME_NOW, futimens, statx},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    file: File,
    path: PathBuf,
}

impl Directory {
    /// Opens by path (O_NOFOLLOW).
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { file: file::open_dir(path)?, path: path.to_owned() })
    }

    /// The same open directory again.
    pub fn again(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone().at("open again", &self.path)?, path: self.path.clone() })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How it was reached; for messages, and for what takes paths.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory in it; `None`: nothing is there. A symlink is ELOOP, another filesystem EXDEV.
    pub fn enter(&self, name: &OsStr) -> Result<Option<Self>> {
        let path = self.place(name)?;
        match open_below(&self.file, name, OFlags::DIRECTORY) {
            Ok(directory) => Ok(Some(Self { file: directory.into(), path })),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).at("open directory", path),
        }
    }

    /// lstat(2) of a name; `None`: nothing is there.
    pub fn stat(&self, name: &OsStr) -> Result<Option<Stat>> {
        let path = self.place(name)?;
        match rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).at("look at", path),
        }
    }

    /// fstat(2) of the directory.
    pub fn own_stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.file).map(Stat::from).at("look at", &self.path)
    }

    /// mkdir(2); an existing name is an error (EEXIST).
    pub fn create_dir(&self, name: &OsStr, mode: u32) -> Result<()> {
        let path = self.place(name)?;
        let mode = Mode::from_raw_mode(RawMode::from(mode));
        rustix::fs::mkdirat(&self.file, name, mode).at("create directory", path)
    }

    /// Writes a whole file (0600) and syncs it; its name is not durable yet. What was there is replaced.
    pub fn write(&self, name: &OsStr, bytes: &[u8]) -> Result<()> {
        let path = self.place(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file =
            rustix::fs::openat(&self.file, name, flags, mode).map(File::from).at("write", &path)?;
        file.write_all(bytes).at("write", &path)?;
        // Only the stores of shares write so.
        crate::failpoint!("share.file-written");
        settle(&file).at("write", path)
    }

    /// Reads a regular file of at most `limit` bytes; `None`: nothing is there.
    pub fn read(&self, name: &OsStr, limit: u64) -> Result<Option<Vec<u8>>> {
        let path = self.place(name)?;
        let file = match open_below(&self.file, name, OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e).at("read", path),
        };
        if !file::stat_file(&file)?.is_file {
            return Err(Error::Unexpected(format!("{path:?} is no regular file")));
        }
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).at("read", &path)?;
        if bytes.len() as u64 > limit {
            return Err(Error::Unexpected(format!("{path:?} is larger than {limit} bytes")));
        }
        Ok(Some(bytes))
    }

    /// rename(2): replaces a file, and an *empty* directory, without a word; one that holds something not
    /// (ENOTEMPTY, EEXIST).
    pub fn rename(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        let (path, target) = (self.place(name)?, to.place(new)?);
        rustix::fs::renameat(&self.file, name, &to.file, new).at(format!("rename to {target:?}:"), path)
    }

    /// link(2): exclusive, an existing name is an error (EEXIST).
    pub fn link(&self, name: &OsStr, to: &Self, new: &OsStr) -> Result<()> {
        let (path, target) = (self.place(name)?, to.place(new)?);
        rustix::fs::linkat(&self.file, name, &to.file, new, AtFlags::empty())
            .at(format!("link to {target:?}:"), path)
    }

    /// unlink(2); absent is fine.
    pub fn remove_file(&self, name: &OsStr) -> Result<()> {
        self.unlink(name, AtFlags::empty(), "remove")
    }

    /// rmdir(2); absent is fine.
    pub fn remove_dir(&self, name: &OsStr) -> Result<()> {
        self.unlink(name, AtFlags::REMOVEDIR, "remove directory")
    }

    fn unlink(&self, name: &OsStr, flags: AtFlags, op: &str) -> Result<()> {
        let path = self.place(name)?;
        match rustix::fs::unlinkat(&self.file, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).at(op, path),
        }
    }

    /// An NFS client believes its list of names as long as it believes the directory's attributes: it has to ask
    /// for these now.
    fn refresh(&self) -> Result<()> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        statx(&self.file, "", flags, StatxFlags::MTIME | StatxFlags::CTIME)
            .map(drop)
            .at("look at", &self.path)
    }

    /// The names in it now, sorted.
    pub fn list(&self) -> Result<Vec<OsString>> {
        let op = "list";
        self.refresh()?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.file).at(op, &self.path)? {
            let entry = entry.at(op, &self.path)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> Result<bool> {
        let op = "list";
        self.refresh()?;
        for entry in rustix::fs::Dir::read_from(&self.file).at(op, &self.path)? {
            let entry = entry.at(op, &self.path)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives a file, which is made if need be, the present time by the clock of whoever keeps the
    /// filesystem (on NFS the server); gives its attributes afterwards.
    pub fn touch(&self, name: &OsStr) -> Result<Stat> {
        let (path, op) = (self.place(name)?, "touch");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.file, name, flags, mode).at(op, &path)?;
        let now = || Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        futimens(&file, &Timestamps { last_access: now(), last_modification: now() }).at(op, &path)?;
        rustix::fs::fstat(file).map(Stat::from).at(op, path)
    }

    /// Gives the directory itself the present time, by the same clock; gives its attributes afterwards. Unlike
    /// a file that has to be made it takes no room.
    pub fn touch_itself(&self) -> Result<Stat> {
        let now = || Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        futimens(&self.file, &Timestamps { last_access: now(), last_modification: now() })
            .at("touch", &self.path)?;
        self.own_stat()
    }

    /// fsync(2): the names in it are durable.
    pub fn sync(&self) -> Result<()> {
        settle(&self.file).at("sync", &self.path)
    }

    /// syncfs(2) of its filesystem.
    pub fn sync_filesystem(&self) -> Result<()> {
        rustix::fs::syncfs(&self.file).at("sync the filesystem of", &self.path)
    }

    /// The path of a name, which must be a single one.
    fn place(&self, name: &OsStr) -> Result<PathBuf> {
        let bytes = name.as_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
            return Err(Error::Unexpected(format!("{name:?} is no name of an entry of {:?}", self.path)));
        }
        Ok(self.path.join(name))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn names_stay_inside() {
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::open(home.path()).unwrap();
        for bad in ["", ".", "..", "a/b", "/"] {
            assert!(matches!(directory.stat(name(bad)), Err(Error::Unexpected(_))), "{bad:?}");
            assert!(matches!(directory.create_dir(name(bad), 0o700), Err(Error::Unexpected(_))));
        }
        symlink("/", home.path().join("link")).unwrap();
        let error = directory.enter(name("link")).unwrap_err();
        assert!(error.is_symlink() || error.is_no_directory(), "{error:?}");
        assert!(directory.read(name("link"), 9).unwrap_err().is_symlink());
        assert!(directory.write(name("link"), b"x").unwrap_err().is_symlink());
        assert!(directory.enter(name("absent")).unwrap().is_none());
        assert!(directory.is_empty().is_ok_and(|empty| !empty));
    }

    /// What makes a late call harmless: the directory that was opened is meant, not its path.
    #[test]
    fn a_directory_is_itself_wherever_its_path_leads() {
        let home = tempfile::tempdir().unwrap();
        let top = Directory::open(home.path()).unwrap();
        top.create_dir(name("a"), 0o755).unwrap();
        let old = top.enter(name("a")).unwrap().unwrap();
        old.write(name("f"), b"old").unwrap();
        top.rename(name("a"), &top, name("b")).unwrap();
        top.create_dir(name("a"), 0o755).unwrap();
        top.enter(name("a")).unwrap().unwrap().write(name("f"), b"new").unwrap();
        old.remove_file(name("f")).unwrap();
        assert_eq!(fs::read(home.path().join("a/f")).unwrap(), b"new");
        assert!(old.is_empty().unwrap());
        // An empty directory is replaced without a word, a full one is not.
        assert!(top.rename(name("b"), &top, name("a")).is_err());
        top.rename(name("a"), &top, name("b")).unwrap();
        assert_eq!(top.list().unwrap(), ["b"]);
    }

    #[test]
    fn touching_sets_the_time_anew() {
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::open(home.path()).unwrap();
        let first = directory.touch(name("beat")).unwrap().modified;
        let past = first - std::time::Duration::from_secs(100);
        File::options().write(true).open(home.path().join("beat")).unwrap().set_modified(past).unwrap();
        assert_eq!(directory.stat(name("beat")).unwrap().unwrap().modified, past);
        assert!(directory.touch(name("beat")).unwrap().modified >= first);
    }
}
