//! The host itself: its kernel, what this process may do there, its terminal.

use super::{At, Error, Result};
use linux_raw_sys::general::mount_attr;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{FsOpenFlags, fsopen},
};
use std::{io, mem::MaybeUninit, path::Path, time::Duration};

const STATUS: &str = "/proc/self/status";
const FILESYSTEMS: &str = "/proc/filesystems";

/// The host's name (uname(2)).
pub fn name() -> Result<String> {
    let name = nix::sys::utsname::uname().at("read the name of", "the host")?;
    Ok(name.nodename().to_string_lossy().into_owned())
}

/// What tells this machine from all others, and is not to be published as it is (machine-id(5)); `None`: it has
/// no id.
pub fn machine_id() -> Option<String> {
    let text = std::fs::read_to_string("/etc/machine-id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The kernel's release, such as `6.12.0-1-amd64` (uname(2)).
pub fn kernel_release() -> Result<String> {
    let name = nix::sys::utsname::uname().at("read the kernel's release of", "the host")?;
    Ok(name.release().to_string_lossy().into_owned())
}

/// What this process may do beyond its user's rights: its effective capabilities (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

/// Those that wharf needs, by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// CAP_SYS_ADMIN: mount, attach.
    SysAdmin = 21,
    /// CAP_SYS_RESOURCE: grow a mounted ext4.
    SysResource = 24,
}

impl Capabilities {
    /// Whether it is among them.
    pub fn have(self, capability: Capability) -> bool {
        self.0 >> capability as u64 & 1 == 1
    }
}

/// Of this process.
pub fn capabilities() -> Result<Capabilities> {
    let status = std::fs::read_to_string(STATUS).at("read", STATUS)?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .map(Capabilities)
        .ok_or_else(|| Error::Unexpected(format!("{STATUS} has no line CapEff")))
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the kernel knows a filesystem. fsopen(2), as mount(2) would, loads its module where there is one.
pub fn knows_filesystem(name: &str) -> Result<bool> {
    match fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV) => Ok(false),
        // Not allowed to ask, or too old a kernel: what is loaded already is public.
        Err(_) => {
            let known = std::fs::read_to_string(FILESYSTEMS).at("read", FILESYSTEMS)?;
            Ok(known.lines().any(|line| line.rsplit('\t').next() == Some(name)))
        }
    }
}

/// Fails unless fsopen(2) and mount_setattr(2) are there and not forbidden. Nothing is mounted.
pub fn try_mount_api() -> Result<()> {
    fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).at("call fsopen(2) on", "this host")?;
    let nothing = mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a C string, the structure and its size belong together, both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            -1,
            c"".as_ptr(),
            0,
            &raw const nothing,
            size_of::<mount_attr>(),
        )
    };
    // With nothing to change the kernel only looks whether the caller may, never at the file.
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).at("call mount_setattr(2) on", "this host"),
    }
}

/// Whether files in this directory can be read and written past the page cache (O_DIRECT), tried with a
/// file that has no name; `None`: nothing can be written there now.
pub fn direct_io(directory: &Path) -> Result<Option<bool>> {
    let open = |more: OFlags| {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC | more;
        rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR).map(drop)
    };
    let outcome = match open(OFlags::DIRECT) {
        Err(Errno::INVAL) => open(OFlags::empty()).map(|()| false),
        outcome => outcome.map(|()| true),
    };
    match outcome {
        Err(Errno::NOSPC | Errno::DQUOT | Errno::ROFS) => Ok(None),
        outcome => outcome.map(Some).at("make a temporary file in", directory),
    }
}

/// How many columns the terminal has that standard output goes to; `None`: it goes elsewhere.
pub fn terminal_columns() -> Option<u16> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, which is plain data.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col)
}

/// Lets all threads allocate from one heap. glibc would give each its own, up to eight for each processor, and what is
/// freed in one is of no use to another (mallopt(3)). To be called before there is a second thread.
pub fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers and sets how the allocator goes on.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This process.
    Own = libc::RUSAGE_SELF as isize,
    /// Those that it has started and waited for.
    Children = libc::RUSAGE_CHILDREN as isize,
}

/// CPU time so far, in user and system (getrusage(2)).
pub fn cpu_time(whose: Whose) -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes one rusage, which is plain data and zero until then.
    let usage = unsafe {
        libc::getrusage(whose as i32, usage.as_mut_ptr());
        usage.assume_init()
    };
    let part = |time: libc::timeval| {
        let micros = time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_usec);
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    };
    part(usage.ru_utime) + part(usage.ru_stime)
}

/// How much of this process is in memory now, in bytes: `VmRSS` of proc_pid_status(5).
pub fn resident_bytes() -> Result<u64> {
    let text = std::fs::read_to_string(STATUS).at("read", STATUS)?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    let kilobytes = kilobytes.and_then(|text| text.parse::<u64>().ok());
    Ok(kilobytes.ok_or_else(|| io::Error::other("it has no VmRSS")).at("read", STATUS)? * 1024)
}

/// Gives memory back to the kernel that this process has freed and its allocator has kept. Only glibc keeps so much that
/// it is worth asking (malloc_trim(3)); milliseconds.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, locks what it touches, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn what_this_process_uses_is_what_the_kernel_says() {
        let before = cpu_time(Whose::Own);
        let filled = std::hint::black_box(vec![1u8; 32 << 20]);
        let resident = resident_bytes().unwrap();
        assert!((32 << 20..1 << 32).contains(&resident), "{resident}");
        let begun = std::time::Instant::now();
        while cpu_time(Whose::Own) < before + Duration::from_millis(50) {
            std::hint::black_box(filled.iter().map(|byte| u64::from(*byte)).sum::<u64>());
            assert!(begun.elapsed() < Duration::from_secs(60), "it stands still at {before:?}");
        }
    }

    #[test]
    fn capabilities_are_bits() {
        let some = Capabilities(1 << 21);
        assert!(some.have(Capability::SysAdmin) && !some.have(Capability::SysResource));
        // Tests run as root with the right to mount; docs/testing says so.
        assert!(is_root() && capabilities().unwrap().have(Capability::SysAdmin));
    }

    #[test]
    fn filesystems_that_exist_and_one_that_does_not() {
        assert!(knows_filesystem("ext4").unwrap());
        assert!(knows_filesystem("proc").unwrap());
        assert!(!knows_filesystem("wharf-fs").unwrap());
        try_mount_api().unwrap();
    }

    #[test]
    fn direct_io_is_tried_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(direct_io(directory.path()).unwrap().is_some());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        // A filesystem without files of its own.
        assert!(direct_io(Path::new("/proc")).is_err());
    }

    #[test]
    fn the_kernel_has_a_release() {
        assert!(kernel_release().unwrap().starts_with(|c: char| c.is_ascii_digit()));
    }
}
