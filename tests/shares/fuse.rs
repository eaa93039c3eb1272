//! A server that can be made to stop answering: a FUSE filesystem whose daemon reads requests and keeps them.
//!
//! What waits for such an answer outlives SIGKILL, and umount2(2) with MNT_FORCE releases it: as with NFS.

#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use wharf::{
    os::child::Launcher,
    share::{Share, client::Mounted, wire::What},
};

/// The descriptor that the mount options name.
const DESCRIPTOR: i32 = 100;

const OPTIONS: &str = "fd=100,rootmode=40000,user_id=0,group_id=0";

/// What the daemon holds back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Answers,
    /// Changes alone, like an export that is frozen.
    Frozen,
    /// Everything, like a server whose threads are all busy.
    Silent,
    /// Nothing, but this is all it says of its root.
    Fails(i32),
    /// Nothing. A file is listed, and this is all it says of that.
    Lists(i32),
}

/// One server: its children's daemons look at this file before each answer.
pub struct Server {
    control: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

impl Server {
    pub fn new() -> Self {
        let directory = crate::host::scratch();
        let server = Self { control: directory.path().join("mood"), _directory: Some(directory) };
        server.set(Mood::Answers);
        server
    }

    /// Somebody else's.
    pub fn at(control: PathBuf) -> Self {
        Self { control, _directory: None }
    }

    pub fn set(&self, mood: Mood) {
        let text = match mood {
            Mood::Answers => String::new(),
            Mood::Frozen => "frozen".into(),
            Mood::Silent => "silent".into(),
            Mood::Fails(number) => format!("fails {number}"),
            Mood::Lists(number) => format!("lists {number}"),
        };
        std::fs::write(&self.control, text).unwrap();
    }

    /// What mountinfo shows as its source.
    pub fn source(&self) -> &str {
        self.control.to_str().unwrap()
    }

    pub fn launcher(&self) -> Launcher {
        Launcher::new([crate::child::NAME.into(), self.control.as_os_str().to_owned()])
    }

    pub fn what(&self) -> What {
        What::Local { source: self.control.clone(), fstype: "fuse".into(), data: OPTIONS.into() }
    }

    pub fn share(&self, name: &str) -> Share {
        let (fstype, data) = ("fuse".into(), OPTIONS.into());
        Share { server: name.into(), mounted: Mounted::Local { source: self.control.clone(), fstype, data } }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.set(Mood::Answers);
    }
}

/// In a child, before it becomes a helper: opens the device and leaves a daemon behind that ends with the mount.
pub fn prepare(control: &Path) {
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/fuse");
    let device = device.unwrap();
    // SAFETY: plain system calls; the process has one thread.
    unsafe {
        assert_eq!(libc::dup2(device.as_raw_fd(), DESCRIPTOR), DESCRIPTOR);
        libc::fcntl(DESCRIPTOR, libc::F_SETFD, libc::FD_CLOEXEC);
        if libc::fork() == 0 {
            // Neither killed with the helper nor taken for it by whoever waits for the end of its socket.
            libc::setsid();
            libc::close(0);
            libc::close(DESCRIPTOR);
            serve(device, control);
            libc::_exit(0);
        }
    }
}

fn mood(control: &Path) -> Mood {
    match std::fs::read_to_string(control).as_deref() {
        Ok("frozen") => Mood::Frozen,
        Ok("silent") => Mood::Silent,
        Ok(text) => match text.split_once(' ') {
            Some(("fails", number)) => Mood::Fails(number.parse().unwrap()),
            Some(("lists", number)) => Mood::Lists(number.parse().unwrap()),
            _ => Mood::Answers,
        },
        Err(_) => Mood::Answers,
    }
}

fn serve(mut device: File, control: &Path) {
    let (mut held, mut unmounted): (VecDeque<Vec<u8>>, u32) = (VecDeque::new(), 0);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match device.read(&mut buffer) {
            Ok(length) => held.push_back(buffer[..length].to_vec()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::ENOENT) => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                // Not mounted yet; a child that never mounts is given up.
                Some(libc::EPERM) if unmounted < 2000 => {
                    unmounted += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return,
            },
        }
        let mood = mood(control);
        let kept = held.iter().position(|request| answers(request, mood));
        if let Some(request) = kept.and_then(|at| held.remove(at))
            && let Some(answer) = answer(&request, mood)
        {
            let _released_meanwhile = device.write(&answer);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const STATFS: u32 = 17;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;

fn answers(request: &[u8], mood: Mood) -> bool {
    match mood {
        Mood::Answers | Mood::Fails(_) | Mood::Lists(_) => true,
        Mood::Frozen => matches!(word(request, 4), LOOKUP | GETATTR | STATFS | INIT),
        Mood::Silent => word(request, 4) == INIT,
    }
}

/// As linux/fuse.h has it: an empty root directory on which nothing can be made.
fn answer(request: &[u8], mood: Mood) -> Option<Vec<u8>> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let body = match (word(request, 4), mood) {
        (GETATTR, Mood::Fails(number)) => Err(number),
        (INIT, _) => Ok(words(&[&[7, 31, 0, 0, 0, 4096, 1][..], &[0; 9]].concat())),
        (GETATTR, _) => {
            let mut attributes = [0; 26];
            // Valid for no time; inode 1, a directory with two links.
            (attributes[4], attributes[19], attributes[20]) = (1, 0o40755, 2);
            Ok(words(&attributes))
        }
        (STATFS, _) => {
            let mut figures = [0; 20];
            (figures[0], figures[10], figures[11], figures[12]) = (1000, 4096, 255, 4096);
            Ok(words(&figures))
        }
        (LOOKUP, Mood::Lists(number)) => Err(number),
        (LOOKUP, _) => Err(libc::ENOENT),
        (OPENDIR, Mood::Lists(_)) => Ok(words(&[0; 4])),
        (RELEASEDIR, Mood::Lists(_)) => Ok(Vec::new()),
        // Inode 2, where the list goes on, the length of the name, its kind, the name.
        (READDIR, Mood::Lists(_)) if word(request, 48) == 0 => {
            let kind = u32::from(libc::DT_REG);
            Ok([&words(&[2, 0, 1, 0, 1, kind])[..], b"f\0\0\0\0\0\0\0"].concat())
        }
        (READDIR, Mood::Lists(_)) => Ok(Vec::new()),
        (GETXATTR | LISTXATTR, Mood::Lists(_)) => Err(libc::ENOSYS),
        // FORGET, INTERRUPT, BATCH_FORGET.
        (2 | 36 | 42, _) => return None,
        _ => Err(libc::EROFS),
    };
    let (error, body) = match body {
        Ok(body) => (0, body),
        Err(error) => (-error, Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).unwrap();
    Some([&length.to_ne_bytes()[..], &i32::to_ne_bytes(error), &request[8..16], &body].concat())
}
