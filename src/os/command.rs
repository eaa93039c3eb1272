//! The one place that starts a program: absolute path, empty environment, deadline that kills.

use super::{At as _, Error, Result};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, getpid, getppid, kill_process_group, pidfd_open,
        set_parent_process_death_signal,
    },
};
use std::{
    ffi::OsStr,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Where the host's tools are looked for; `PATH` is not consulted.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// How much of each output stream is kept, from its end. A pipe holds no more, so after a program's end
/// one read of this size takes all that is left.
const KEPT: usize = 64 * 1024;

/// How much of it goes into an error.
const QUOTED: usize = 4 * 1024;

/// The host's tools that wharf may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// e2fsprogs: makes ext4.
    Mke2fs,
    /// e2fsprogs: checks ext4.
    E2fsck,
    /// e2fsprogs: grows ext4 offline.
    Resize2fs,
    /// e2fsprogs: gives ext4 a new identity.
    Tune2fs,
    /// xfsprogs: makes XFS.
    MkfsXfs,
    /// xfsprogs: gives XFS a new identity.
    XfsDb,
}

impl Tool {
    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mke2fs => "mke2fs",
            Self::E2fsck => "e2fsck",
            Self::Resize2fs => "resize2fs",
            Self::Tune2fs => "tune2fs",
            Self::MkfsXfs => "mkfs.xfs",
            Self::XfsDb => "xfs_db",
        }
    }

    /// Its absolute path in `/usr/sbin`, `/sbin`, `/usr/bin` or `/bin`, if it is installed.
    pub fn path(self) -> Option<PathBuf> {
        search(self.name())
    }

    fn package(self) -> &'static str {
        match self {
            Self::Mke2fs | Self::E2fsck | Self::Resize2fs | Self::Tune2fs => "e2fsprogs",
            Self::MkfsXfs | Self::XfsDb => "xfsprogs",
        }
    }
}

fn search(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// What a program said: of each stream at most the last 64 KiB.
#[derive(Debug)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a tool; any exit code not in `accepted` is [`super::Error::Command`].
pub fn run<S: AsRef<OsStr>>(
    tool: Tool,
    arguments: impl IntoIterator<Item = S>,
    accepted: &[i32],
    limit: Duration,
) -> Result<Output> {
    let path = tool.path().ok_or_else(|| {
        Error::Unexpected(format!(
            "{} is not installed in {}: install {}",
            tool.name(),
            DIRECTORIES.join(", "),
            tool.package()
        ))
    })?;
    #[expect(clippy::disallowed_methods, reason = "the one place that it is disallowed for")]
    let mut command = Command::new(path);
    command.args(arguments);
    run_command(tool.name(), command, accepted, limit)
}

fn run_command(program: &'static str, command: Command, accepted: &[i32], limit: Duration) -> Result<Output> {
    let deadline = Instant::now() + limit;
    let mut running = Running::start(command).at("start", program)?;
    if !running.wait_until(deadline).at("wait for", program)? {
        running.kill();
        return Err(Error::Timeout { program, limit });
    }
    let (status, stdout, stderr) = running.finish().at("end", program)?;
    match status.code() {
        Some(code) if accepted.contains(&code) => {
            Ok(Output { code, stdout: text(&stdout), stderr: text(&stderr) })
        }
        // e2fsck explains itself on standard output.
        _ => {
            let said = if stderr.trim_ascii().is_empty() { &stdout } else { &stderr };
            let end = &said[said.len().saturating_sub(QUOTED)..];
            Err(Error::Command { program, status: status.to_string(), stderr: text(end).trim().to_owned() })
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A program with a process group of its own; dropping it kills the group and waits for the program.
struct Running {
    child: Child,
    exit: OwnedFd,
    stdout: Stream<ChildStdout>,
    stderr: Stream<ChildStderr>,
    reaped: bool,
}

impl Running {
    fn start(mut command: Command) -> io::Result<Self> {
        command
            .env_clear()
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        die_with_parent(&mut command);
        let mut child = command.spawn()?;
        let parts = |child: &mut Child| {
            let exit = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
            Ok::<_, io::Error>((exit, Stream::new(child.stdout.take())?, Stream::new(child.stderr.take())?))
        };
        match parts(&mut child) {
            Ok((exit, stdout, stderr)) => Ok(Self { child, exit, stdout, stderr, reaped: false }),
            Err(e) => {
                kill_group_and_reap(&mut child);
                Err(e)
            }
        }
    }

    /// Collects output until the program ends; `false` when it has not at the deadline. The program's end
    /// counts, not that of its output: something that it left behind may hold the pipes for ever.
    fn wait_until(&mut self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let [exit, out, err] = readable(
                [Some(self.exit.as_raw_fd()), self.stdout.descriptor(), self.stderr.descriptor()],
                left,
            )?;
            if out || exit {
                self.stdout.read_once()?;
            }
            if err || exit {
                self.stderr.read_once()?;
            }
            if exit {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    fn finish(mut self) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
        let status = self.child.wait()?;
        self.reaped = true;
        Ok((status, std::mem::take(&mut self.stdout.end), std::mem::take(&mut self.stderr.end)))
    }

    fn kill(&mut self) {
        if !self.reaped {
            kill_group_and_reap(&mut self.child);
            self.reaped = true;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits without a limit: a program that still writes must never be taken for one that has ended, and
/// on a local disk SIGKILL is delayed only by I/O that the disk itself delays.
fn kill_group_and_reap(child: &mut Child) {
    let _gone_already = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _cannot_fail_on_our_own_child = child.wait();
}

/// Lets the kernel kill the program when this process dies, also by SIGKILL. The signal is really tied to
/// the thread that starts the program, and a thread of tokio's blocking pool may end at any time, but not
/// here: this very thread waits in [`run_command`] until the program is reaped.
fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated or locked.
    unsafe { command.pre_exec(prepare) };
}

/// One output stream and the last of what came through it.
struct Stream<R> {
    pipe: Option<R>,
    end: Vec<u8>,
}

impl<R: Read + AsFd + AsRawFd> Stream<R> {
    fn new(pipe: Option<R>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { pipe, end: Vec::new() })
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.pipe.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn read_once(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut chunk = vec![0; KEPT];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                self.end.extend_from_slice(&chunk[..length]);
                self.end.drain(..self.end.len().saturating_sub(KEPT));
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// poll(2): which of the descriptors can be read or have ended; absent ones never.
pub(super) fn readable<const N: usize>(
    descriptors: [Option<RawFd>; N],
    limit: Duration,
) -> io::Result<[bool; N]> {
    let mut asked =
        descriptors.map(|fd| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 });
    // Rounded up, so that the last wait does not turn into many of 0 ms.
    let milliseconds = limit.as_micros().div_ceil(1000).try_into().unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads and writes exactly the array whose length is given.
    let answered = unsafe { libc::poll(asked.as_mut_ptr(), N as libc::nfds_t, milliseconds) };
    if answered < 0 {
        let e = io::Error::last_os_error();
        return if e.kind() == io::ErrorKind::Interrupted { Ok([false; N]) } else { Err(e) };
    }
    Ok(asked.map(|each| each.revents != 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use std::{fs, thread};

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn run_shell(script: &str, limit: Duration) -> Result<Output> {
        run_command("sh", shell(script), &[0], limit)
    }

    fn exists(pid: i32) -> bool {
        // A zombie that nobody has reaped is dead enough: the process that inherits it may be slow.
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn tools_are_found_in_fixed_places() {
        assert_eq!(search("sh").as_deref().and_then(Path::file_name), Some(OsStr::new("sh")));
        assert_eq!(search("there-is-no-such-program"), None);
        assert_eq!(search(""), None);
        for tool in [Tool::Mke2fs, Tool::E2fsck, Tool::Resize2fs, Tool::Tune2fs, Tool::MkfsXfs, Tool::XfsDb] {
            assert!(tool.path().is_none_or(|path| path.is_absolute() && path.ends_with(tool.name())));
        }
    }

    #[test]
    fn a_tool_says_its_version() {
        let output = run(Tool::Mke2fs, ["-V"], &[0], LONG).unwrap();
        assert_eq!(output.code, 0);
        assert!(output.stderr.contains("mke2fs"), "{output:?}");
    }

    #[test]
    fn environment_input_and_directory_are_empty() {
        let output = run_shell("pwd; cat; tr '\\0' '\\n' </proc/$$/environ", LONG).unwrap();
        assert_eq!(output.stdout, "/\nLC_ALL=C.UTF-8\n");
    }

    #[test]
    fn only_accepted_codes_are_a_success() {
        let output = run_command("sh", shell("exit 1"), &[0, 1], LONG).unwrap();
        assert_eq!(output.code, 1);
        match run_shell("echo ignored; echo reason >&2; exit 1", LONG).unwrap_err() {
            Error::Command { program: "sh", status, stderr } => {
                assert_eq!((status.as_str(), stderr.as_str()), ("exit status: 1", "reason"));
            }
            other => panic!("{other}"),
        }
        let error = run_shell("kill -9 $$", LONG).unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
        let error = run_shell("echo on stdout; exit 4", LONG).unwrap_err().to_string();
        assert!(error.contains("on stdout"), "{error}");
    }

    #[test]
    fn of_much_output_the_end_is_kept() {
        let script =
            "i=0; while [ $i -lt 40000 ]; do echo line $i; echo error $i >&2; i=$((i+1)); done; exit $0";
        let mut command = shell(script);
        command.arg("0");
        let output = run_command("sh", command, &[0], LONG).unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (KEPT, KEPT));
        assert!(output.stdout.ends_with("line 39999\n") && output.stderr.ends_with("error 39999\n"));
        let mut command = shell(script);
        command.arg("3");
        match run_command("sh", command, &[0], LONG).unwrap_err() {
            Error::Command { stderr, .. } => {
                assert!(stderr.len() <= QUOTED && stderr.len() > QUOTED - 100, "{}", stderr.len());
                assert!(stderr.ends_with("error 39999"), "{stderr}");
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn output_need_not_be_text() {
        let output = run_shell("printf 'a\\377b'", LONG).unwrap();
        assert_eq!(output.stdout, "a\u{fffd}b");
    }

    #[test]
    fn the_deadline_kills_the_program_and_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!("sleep 60 & echo $$ $! >{}; wait", pids.display());
        let begin = Instant::now();
        let error = run_shell(&script, Duration::from_millis(500)).unwrap_err();
        assert!(
            matches!(error, Error::Timeout { program: "sh", limit } if limit == Duration::from_millis(500))
        );
        assert!(begin.elapsed() >= Duration::from_millis(500));
        assert!(begin.elapsed() < Duration::from_secs(20));
        let pids = fs::read_to_string(pids).unwrap();
        let [program, grandchild] = pids.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{pids}") };
        assert!(!Path::new(&format!("/proc/{program}")).exists(), "not reaped");
        let deadline = Instant::now() + Duration::from_secs(10);
        while exists(grandchild.parse().unwrap()) {
            assert!(Instant::now() < deadline, "the grandchild lives");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipes_is_not_waited_for() {
        let begin = Instant::now();
        let output = run_shell("sleep 3 & echo said", LONG).unwrap();
        assert_eq!(output.stdout, "said\n");
        assert!(begin.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_program_dies_with_the_thread_that_waits_for_it() {
        let mut sleep = Command::new("/bin/sleep");
        sleep.arg("60");
        // What happens when the whole process is killed: nobody is left to kill or reap.
        let pid = thread::spawn(|| {
            let running = std::mem::ManuallyDrop::new(Running::start(sleep).unwrap());
            Pid::from_child(&running.child)
        })
        .join()
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG).unwrap() {
                Some((_, status)) => return assert_eq!(status.terminating_signal(), Some(9)),
                None => assert!(Instant::now() < deadline, "the program lives on"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_that_cannot_start_is_an_error() {
        let error = run_command("none", Command::new("/no/such/program"), &[0], LONG).unwrap_err();
        assert!(error.is_not_found());
    }
}
