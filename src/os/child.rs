//! Children that are this very binary, started again: what may hang on a server, and what must be alone in a
//! mount namespace, runs in one of them.
//!
//! A child has a socket to its parent as standard input, the parent's standard error, and no other descriptor.

use super::{At as _, Error, Result};
use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group, pidfd_open,
        set_parent_process_death_signal, waitid,
    },
};
use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The first descriptor that a child must not inherit.
const FIRST: libc::c_uint = 3;

/// SIGKILL in the masks of /proc/PID/status.
const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// What is started: this binary, and how it is told what it is.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Launcher {
    /// This binary, also when its file has been replaced since, with these arguments.
    pub fn new(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            arguments: arguments.into_iter().map(Into::into).collect(),
        }
    }
}

/// A child. It is the caller's to end and to wait for: one that hangs in the kernel outlives SIGKILL, and
/// dropping must not wait for it. Dropping kills; what is not reaped then is a zombie until this process ends.
#[derive(Debug)]
pub struct Process {
    id: Pid,
    exit: OwnedFd,
    reaped: bool,
}

/// Starts a child and gives the other end of its socket.
///
/// It dies when the calling thread ends ([`outlive_parent`] lifts that), so that thread has to wait for it.
pub fn start(launcher: &Launcher) -> Result<(Process, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().at("make a socket for", &launcher.program)?;
    #[expect(clippy::disallowed_methods, reason = "os::command runs the host's tools; this is wharf itself")]
    let mut command = Command::new(&launcher.program);
    command
        .args(&launcher.arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| is_inherited(name.as_encoded_bytes())))
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .process_group(0);
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if getppid() != Some(parent) {
            return Err(Errno::SRCH.into());
        }
        close_others_at_exec()
    };
    // SAFETY: between fork and exec only system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn().at("start", &launcher.program)?;
    let id = Pid::from_child(&child);
    match pidfd_open(id, PidfdFlags::empty()) {
        Ok(exit) => Ok((Process { id, exit, reaped: false }, ours)),
        Err(error) => {
            let mut child = child;
            let _cannot_fail_on_our_own_child = (child.kill(), child.wait());
            Err(error).at("watch", &launcher.program)
        }
    }
}

/// What of the environment concerns a child, too: how to log, and the traps of tests.
fn is_inherited(name: &[u8]) -> bool {
    [&b"WHARF_LOG_"[..], b"WHARF_FAILPOINT", b"WHARF_BREAK_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Not at once: the descriptor by which exec's failure is told is among them.
fn close_others_at_exec() -> io::Result<()> {
    // SAFETY: three numbers; the call touches no memory.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Process {
    /// Its process id, which nobody else gets before it is reaped.
    pub fn id(&self) -> i32 {
        self.id.as_raw_pid()
    }

    /// SIGKILL to it and to what it started.
    pub fn kill(&self) {
        if !self.reaped {
            let _gone_already = kill_process_group(self.id, Signal::KILL);
        }
    }

    /// Waits for its end; `false` when it has not come within the limit.
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while !self.reaped {
            let left = deadline.saturating_duration_since(Instant::now());
            if super::command::readable([Some(self.exit.as_raw_fd())], left).at("wait for", self.name())?[0] {
                match waitid(WaitId::PidFd(self.exit.as_fd()), WaitIdOptions::EXITED) {
                    Ok(_) | Err(Errno::CHILD) => self.reaped = true,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error).at("reap", self.name()),
                }
            } else if left.is_zero() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn name(&self) -> String {
        format!("child {}", self.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // Most are gone at once; the others are what the type's comment says.
        let _still_there = self.wait(Duration::ZERO);
    }
}

/// Children of a launcher like this one, whoever started them, that are being killed and are not gone: they hang.
/// A driver that was killed with its whole container leaves them behind.
pub fn dying(launcher: &Launcher) -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").at("list", "/proc")?.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // The first thread may be gone already, and tells nothing then.
        let Ok(tasks) = fs::read_dir(process.path().join("task")) else { continue };
        if tasks.flatten().any(|task| is_dying(&task.path(), launcher)) {
            found.push(id);
        }
    }
    Ok(found)
}

fn is_dying(task: &Path, launcher: &Launcher) -> bool {
    let Ok(line) = fs::read(task.join("cmdline")) else { return false };
    let mut arguments = line.split(|byte| *byte == 0).skip(1);
    if !launcher.arguments.iter().all(|mine| arguments.next() == Some(mine.as_bytes())) {
        return false;
    }
    let status = fs::read_to_string(task.join("status")).unwrap_or_default();
    let pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    pending.filter_map(|hex| u64::from_str_radix(hex.trim(), 16).ok()).any(|mask| mask & SIGKILL_BIT != 0)
}

/// In a child: the socket to its parent.
pub fn parent() -> Result<UnixStream> {
    let stdin = io::stdin().as_fd().try_clone_to_owned().at("copy", "standard input")?;
    let socket = UnixStream::from(stdin);
    match socket.peer_addr() {
        Ok(_) => Ok(socket),
        Err(_) => Err(Error::Unexpected("this command is for the driver, which starts it by itself".into())),
    }
}

/// In a child: it no longer dies with the thread that started it. It has to watch its socket instead, whose end
/// is the end of the parent.
pub fn outlive_parent() -> Result<()> {
    set_parent_process_death_signal(None).at("outlive", "the parent")
}
