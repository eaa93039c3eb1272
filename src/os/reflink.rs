//! Sharing blocks between files, and copying where that is impossible.

use super::{
    At, Error, Result,
    file::{on, shown},
};
use linux_raw_sys::{
    general::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC},
    ioctl::{
        FIEMAP_EXTENT_DATA_INLINE, FIEMAP_EXTENT_LAST, FIEMAP_EXTENT_SHARED, FIEMAP_FLAG_SYNC, FS_IOC_FIEMAP,
    },
};
use rustix::{
    fs::{Advice, SeekFrom, fadvise, ftruncate, ioctl_ficlone, seek, statfs},
    io::Errno,
    ioctl::{Updater, ioctl},
};
use std::{fs::File, os::unix::fs::FileExt, path::Path};

/// The most that is copied between two calls of `progress`.
const PIECE: u64 = 8 << 20;
/// The same where a server copies: one call each, during which nothing is heard of it.
const SERVER_PIECE: u64 = 128 << 20;
/// What is copied to a server by way of this host's memory is sent there after so many bytes: in the end that would
/// take long, without a sign of life.
const HELD_BACK: u64 = 128 << 20;
/// Zeroes are looked for in blocks of this size.
const BLOCK: usize = 4096;
/// The buffer where the kernel cannot copy by itself.
const BUFFER: usize = 1 << 20;

/// Makes `to` share all blocks of `from` (FICLONE).
pub fn clone_file(from: &File, to: &File) -> Result<()> {
    ioctl_ficlone(to, from).map_err(|e| on(&format!("share the blocks of {:?} with", shown(from)), to)(e))
}

/// Whether files in this directory can share blocks: tried with two temporary files, which have no
/// name (O_TMPFILE) and so vanish with this process at the latest. Where nothing can be written (a full
/// or read-only filesystem must still be served and looked at) the filesystem's kind decides.
pub fn supported(directory: &Path) -> Result<bool> {
    match attempt(directory) {
        Err(e) if e.is_no_space() || e.errno() == Some(libc::EROFS) => {
            let kind = statfs(directory).at("find the filesystem of", directory)?.f_type;
            Ok([XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].map(i64::from).contains(&kind))
        }
        outcome => outcome,
    }
}

fn attempt(directory: &Path) -> Result<bool> {
    let op = "try to share blocks in";
    let from = tempfile::tempfile_in(directory).at(op, directory)?;
    let to = tempfile::tempfile_in(directory).at(op, directory)?;
    // XFS takes the clone of an empty file even where it cannot share.
    from.write_all_at(&[1; 4096], 0).at(op, directory)?;
    match ioctl_ficlone(&to, &from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(e) => Err(e).at(op, directory),
    }
}

/// Copies data and keeps holes (SEEK_DATA, SEEK_HOLE); `to` ends as large as `from` was at the start.
///
/// `to` must read as zeroes before (new, or allocated and never written): holes of `from` are skipped,
/// not written. `progress` gets the bytes of data copied so far, after at most 8 MiB each time, and says
/// whether to go on; if not, the outcome is [`Error::Cancelled`] and `to` is incomplete. Where the
/// filesystem can share blocks between the two files the kernel may do that instead of copying.
pub fn copy_sparse(from: &File, to: &File, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    let copy = Copy {
        from,
        to,
        in_kernel: true,
        piece: PIECE,
        remote: false,
        buffer: Vec::new(),
        held: 0,
        end: 0,
        done: 0,
    };
    copy.whole(progress)
}

/// As [`copy_sparse`] on NFS, where not every version shows holes: runs of zeroes become some. `in_kernel`:
/// the server copies by itself, in pieces of 128 MiB; said of a mount that cannot do that it would move the
/// data through this host, and zeroes too.
pub fn copy_remote(
    from: &File,
    to: &File,
    in_kernel: bool,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    let piece = if in_kernel { SERVER_PIECE } else { PIECE };
    let copy =
        Copy { from, to, in_kernel, piece, remote: true, buffer: Vec::new(), held: 0, end: 0, done: 0 };
    copy.whole(progress)
}

/// Bytes of the file in extents that no other file shares (FIEMAP without the shared flag), unwritten
/// ones included, those beyond its end (XFS preallocates there) not. What the file has in memory only
/// is written first.
pub fn exclusive_bytes(file: &File) -> Result<u64> {
    let op = "map the extents of";
    let size = file.metadata().map_err(on(op, file))?.len();
    let mut map = Fiemap::default();
    let (mut bytes, mut start, mut flags) = (0_u64, 0_u64, FIEMAP_FLAG_SYNC);
    loop {
        (map.start, map.length, map.flags) = (start, u64::MAX - start, flags);
        (map.mapped, map.count) = (0, EXTENTS);
        // SAFETY: FS_IOC_FIEMAP reads the 32 bytes of the header and writes it and at most `count`
        // extents, for which the array behind it has room.
        unsafe { ioctl(file, Updater::<FS_IOC_FIEMAP, Fiemap>::new(&mut map)) }.map_err(on(op, file))?;
        // Once is enough: what is written meanwhile is as good as written afterwards.
        flags = 0;
        let mapped = map.extents.get(..map.mapped as usize).unwrap_or(&map.extents);
        for extent in mapped {
            if extent.flags & (FIEMAP_EXTENT_SHARED | FIEMAP_EXTENT_DATA_INLINE) == 0 {
                bytes += extent.length.min(size.saturating_sub(extent.logical));
            }
        }
        match mapped.last() {
            Some(last) if last.flags & FIEMAP_EXTENT_LAST == 0 => {
                start = last.logical.saturating_add(last.length);
            }
            _ => return Ok(bytes),
        }
    }
}

/// ext4 and XFS call an allocated but unwritten block data as soon as its zeroes are in the page cache,
/// and read-ahead of the copy itself brings them there: a thick, nearly empty image would be copied whole.
/// Advice only: without it the copy is as right, and larger.
fn forget_cached_holes(from: &File) {
    let _ = fadvise(from, 0, None, Advice::DontNeed);
    let _ = fadvise(from, 0, None, Advice::Random);
}

/// A copy under way.
struct Copy<'a> {
    from: &'a File,
    to: &'a File,
    /// copy_file_range(2) has not refused yet.
    in_kernel: bool,
    /// The most that is copied at a time.
    piece: u64,
    /// On a server: runs of zeroes that pass through the buffer become holes, and not all is held back.
    remote: bool,
    buffer: Vec<u8>,
    /// Bytes that were written and not synced.
    held: u64,
    /// Where what was written so far ends.
    end: u64,
    done: u64,
}

impl Copy<'_> {
    fn whole(mut self, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
        let size = self.from.metadata().map_err(on("look at", self.from))?.len();
        forget_cached_holes(self.from);
        let mut position = 0;
        while let Some((start, end)) = data_after(self.from, position, size)? {
            position = start;
            while position < end {
                let copied = self.piece(position, (end - position).min(self.piece))?;
                if !progress(self.done) {
                    return Err(Error::Cancelled("the copy"));
                }
                if copied == 0 {
                    // Somebody cut the file short meanwhile: what is gone reads as zeroes.
                    return ftruncate(self.to, size).map_err(on("set the size of", self.to));
                }
                position += copied;
            }
        }
        if self.end == size {
            return Ok(());
        }
        ftruncate(self.to, size).map_err(on("set the size of", self.to))
    }

    /// Copies up to `length` bytes; 0 only at the end of the file.
    fn piece(&mut self, position: u64, length: u64) -> Result<u64> {
        let copied = if self.in_kernel { self.by_kernel(position, length)? } else { None };
        let copied = match copied {
            Some(copied) => {
                self.end = position + copied;
                copied
            }
            None => self.by_buffer(position, length)?,
        };
        self.done += copied;
        Ok(copied)
    }

    /// `None`: the kernel cannot do it between these two files.
    fn by_kernel(&mut self, position: u64, length: u64) -> Result<Option<u64>> {
        let (mut here, mut there) = (position, position);
        let length = usize::try_from(length).unwrap_or(BUFFER);
        let outcome = rustix::io::retry_on_intr(|| {
            rustix::fs::copy_file_range(self.from, Some(&mut here), self.to, Some(&mut there), length)
        });
        match outcome {
            // Some filesystems say 0 when they mean "cannot": the buffer finds out.
            Ok(0)
            | Err(
                Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::TXTBSY,
            ) => {
                self.in_kernel = false;
                Ok(None)
            }
            Ok(copied) => Ok(Some(copied as u64)),
            Err(e) => Err(on(&format!("copy {:?} to", shown(self.from)), self.to)(e)),
        }
    }

    fn by_buffer(&mut self, position: u64, length: u64) -> Result<u64> {
        self.buffer.resize(usize::try_from(length).unwrap_or(BUFFER).min(BUFFER), 0);
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(self.from, &mut self.buffer[..], position))
            .map_err(on("read", self.from))?;
        let bytes = self.buffer.get(..read).unwrap_or(&self.buffer);
        if self.remote {
            if let Some(end) = write_but_zeroes(self.to, bytes, position)? {
                self.end = end;
            }
            self.held += bytes.len() as u64;
            if self.held >= HELD_BACK {
                self.held = 0;
                self.to.sync_data().map_err(on("sync", self.to))?;
            }
        } else {
            self.to.write_all_at(bytes, position).map_err(on("write", self.to))?;
            self.end = position + bytes.len() as u64;
        }
        Ok(bytes.len() as u64)
    }
}

/// Leaves out blocks that hold nothing but zeroes; gives where the last of the others ends.
fn write_but_zeroes(to: &File, bytes: &[u8], position: u64) -> Result<Option<u64>> {
    let mut end = None;
    for run in runs(bytes) {
        let Some(data) = bytes.get(run.clone()) else { continue };
        to.write_all_at(data, position + run.start as u64).map_err(on("write", to))?;
        end = Some(position + run.end as u64);
    }
    Ok(end)
}

/// Where `bytes` hold something, in whole blocks.
fn runs(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        let start = number * BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += block.len(),
            _ => runs.push(start..start + block.len()),
        }
    }
    runs
}

/// The first stretch of data at or after `position`, cut off at `size`.
fn data_after(file: &File, position: u64, size: u64) -> Result<Option<(u64, u64)>> {
    let op = "look for data in";
    if position >= size {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(position)) {
        Ok(start) => start,
        // No data after this.
        Err(Errno::NXIO) => return Ok(None),
        Err(e) => return Err(on(op, file)(e)),
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        Err(Errno::NXIO) => size,
        Err(e) => return Err(on(op, file)(e)),
    };
    // Both at once change under a writer; an empty stretch would be looked at for ever.
    Ok((start < size).then_some((start, end.max(start + 1))))
}

/// How many extents one call gives.
const EXTENTS: u32 = 256;

/// `struct fiemap` of `linux/fiemap.h` with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS as usize],
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

impl Default for Fiemap {
    fn default() -> Self {
        let extents = [Extent::default(); EXTENTS as usize];
        Self { start: 0, length: 0, flags: 0, mapped: 0, count: EXTENTS, reserved: 0, extents }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::{
        super::{
            btrfs,
            file::{allocate, create_new, list, stat_file},
            testing::{Kind, MIB, Pool},
        },
        *,
    };
    use std::fs;

    /// 1 MiB of data at 0 and at 20 MiB, hole between and up to 40 MiB.
    fn sparse(path: &Path) -> File {
        let file = create_new(path).unwrap();
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        file.write_all_at(&vec![2; 1 << 20], 20 * MIB).unwrap();
        file.set_len(40 * MIB).unwrap();
        file
    }

    #[test]
    fn sharing_works_where_it_is_said_to_and_leaves_nothing() {
        for (kind, expected) in [(Kind::Btrfs, true), (Kind::Xfs, true), (Kind::Ext4, false)] {
            let pool = Pool::new(kind, 320 * MIB);
            let before = list(pool.path()).unwrap();
            assert_eq!(supported(pool.path()).unwrap(), expected, "{kind:?}");
            assert_eq!(list(pool.path()).unwrap(), before);
            let (from, to) = (sparse(&pool.path().join("a")), create_new(&pool.path().join("b")).unwrap());
            assert_eq!(clone_file(&from, &to).is_ok(), expected);
            if expected {
                assert_eq!(
                    fs::read(pool.path().join("a")).unwrap(),
                    fs::read(pool.path().join("b")).unwrap()
                );
            }
        }
    }

    #[test]
    fn a_full_or_read_only_pool_can_still_be_judged() {
        for (kind, expected) in [(Kind::Btrfs, true), (Kind::Xfs, true), (Kind::Ext4, false)] {
            let pool = Pool::new(kind, 320 * MIB);
            let mut size = 256 * MIB;
            let mut number = 0;
            while size >= 4096 {
                let file = create_new(&pool.path().join(format!("fill{number}")));
                number += 1;
                match file.and_then(|file| allocate(&file, size)) {
                    Ok(()) => {}
                    Err(_) => size /= 2,
                }
            }
            assert_eq!(supported(pool.path()).unwrap(), expected, "{kind:?}, full");
            crate::os::testing::run("mount", ["-o".as_ref(), "remount,ro".as_ref(), pool.path().as_os_str()]);
            assert_eq!(supported(pool.path()).unwrap(), expected, "{kind:?}, read-only");
        }
    }

    #[test]
    fn a_copy_is_equal_and_as_sparse() {
        let pool = Pool::new(Kind::Ext4, 128 * MIB);
        let elsewhere = tempfile::tempdir().unwrap();
        let from = sparse(&pool.path().join("from"));
        for directory in [pool.path(), elsewhere.path()] {
            let path = directory.join("to");
            let to = create_new(&path).unwrap();
            let mut steps = Vec::new();
            copy_sparse(&from, &to, &mut |bytes| {
                steps.push(bytes);
                true
            })
            .unwrap();
            assert!(fs::read(&path).unwrap() == fs::read(pool.path().join("from")).unwrap());
            let copied = stat_file(&to).unwrap();
            assert!(copied.size == 40 * MIB && copied.allocated <= 3 * MIB, "{copied:?}");
            assert_eq!(steps.last(), Some(&(2 * MIB)));
            assert!(steps.is_sorted());
        }
    }

    /// A thick image: allocated blocks that were never written, some of them in the page cache.
    #[test]
    fn what_was_never_written_is_not_copied() {
        for kind in [Kind::Ext4, Kind::Xfs] {
            let pool = Pool::new(kind, 320 * MIB);
            let path = pool.path().join("thick");
            let from = create_new(&path).unwrap();
            allocate(&from, 64 * MIB).unwrap();
            from.write_all_at(&vec![1; 1 << 20], 8 * MIB).unwrap();
            from.sync_all().unwrap();
            let before = fs::read(&path).unwrap();
            let to = create_new(&pool.path().join("copy")).unwrap();
            copy_sparse(&from, &to, &mut |_| true).unwrap();
            to.sync_all().unwrap();
            assert!(stat_file(&to).unwrap().allocated <= 4 * MIB, "{kind:?}: {:?}", stat_file(&to).unwrap());
            assert!(fs::read(pool.path().join("copy")).unwrap() == before);
        }
    }

    #[test]
    fn both_ways_of_copying_agree() {
        let home = tempfile::tempdir().unwrap();
        let from = create_new(&home.path().join("from")).unwrap();
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        from.write_all_at(&bytes, 0).unwrap();
        for in_kernel in [true, false] {
            let path = home.path().join(format!("{in_kernel}"));
            let to = create_new(&path).unwrap();
            let mut copy = Copy {
                from: &from,
                to: &to,
                in_kernel,
                piece: PIECE,
                remote: false,
                buffer: Vec::new(),
                held: 0,
                end: 0,
                done: 0,
            };
            let mut at = 0;
            loop {
                match copy.piece(at, 700_000).unwrap() {
                    0 => break,
                    n => at += n,
                }
            }
            assert!(fs::read(&path).unwrap() == bytes, "in kernel: {in_kernel}");
            assert_eq!(copy.done, bytes.len() as u64);
        }
    }

    #[test]
    fn a_copy_can_be_cancelled_and_goes_in_pieces() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) =
            (create_new(&home.path().join("a")).unwrap(), create_new(&home.path().join("b")).unwrap());
        from.write_all_at(&vec![1; 20 << 20], 0).unwrap();
        let mut seen = Vec::new();
        let outcome = copy_sparse(&from, &to, &mut |bytes| {
            seen.push(bytes);
            bytes < 9 * MIB
        });
        assert!(matches!(outcome, Err(Error::Cancelled(_))), "{outcome:?}");
        assert!(seen[0] <= 8 * MIB && *seen.last().unwrap() <= 16 * MIB, "{seen:?}");
        // Empty and all hole are copies too, and a larger target becomes as small.
        from.set_len(0).unwrap();
        from.set_len(MIB).unwrap();
        copy_sparse(&from, &to, &mut |_| true).unwrap();
        assert_eq!(stat_file(&to).unwrap().size, MIB);
    }

    #[test]
    fn exclusive_bytes_are_those_of_nobody_else() {
        for kind in [Kind::Btrfs, Kind::Xfs] {
            let pool = Pool::new(kind, 320 * MIB);
            let (a, b) =
                (create_new(&pool.path().join("a")).unwrap(), create_new(&pool.path().join("b")).unwrap());
            a.write_all_at(&vec![1; 8 << 20], 0).unwrap();
            assert_eq!(exclusive_bytes(&a).unwrap(), 8 * MIB, "{kind:?}: not yet written back");
            clone_file(&a, &b).unwrap();
            assert_eq!(exclusive_bytes(&a).unwrap(), 0, "{kind:?}");
            b.write_all_at(&vec![2; 1 << 20], 4 * MIB).unwrap();
            assert_eq!(exclusive_bytes(&b).unwrap(), MIB, "{kind:?}");
            let thick = create_new(&pool.path().join("thick")).unwrap();
            allocate(&thick, 16 * MIB).unwrap();
            assert_eq!(exclusive_bytes(&thick).unwrap(), 16 * MIB, "{kind:?}: unwritten");
            // More extents than one call gives.
            let many = create_new(&pool.path().join("many")).unwrap();
            many.set_len(8192 * 1000).unwrap(); // within the file XFS does not preallocate
            for n in 0..1000 {
                many.write_all_at(&[3; 4096], n * 8192).unwrap();
            }
            assert_eq!(exclusive_bytes(&many).unwrap(), 1000 * 4096, "{kind:?}");
            assert_eq!(exclusive_bytes(&create_new(&pool.path().join("none")).unwrap()).unwrap(), 0);
        }
    }

    #[test]
    fn a_subvolume_snapshot_shares_too() {
        let pool = Pool::new(Kind::Btrfs, 256 * MIB);
        btrfs::create_subvolume(pool.path(), "s".as_ref()).unwrap();
        let file = create_new(&pool.path().join("s/image")).unwrap();
        btrfs::set_nocow(&pool.path().join("s/image")).unwrap();
        file.write_all_at(&vec![1; 8 << 20], 0).unwrap();
        btrfs::snapshot(&pool.path().join("s"), pool.path(), "t".as_ref(), true).unwrap();
        assert_eq!(exclusive_bytes(&file).unwrap(), 0);
    }
}
