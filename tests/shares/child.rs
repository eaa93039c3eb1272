//! What this test binary does when it is started as a helper, before its own main.

#![allow(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use wharf::{
    error::{Error, Result},
    os::{self, child::Launcher},
    share::{self, Context},
};

pub const NAME: &str = "share-helper";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Operation {
    Write(String, String),
    Read(String),
    /// The process's id and what it can see: its mounts, its descriptors.
    Inspect,
    Fail,
    Panic,
    /// Answers later.
    Sleep(Duration),
    /// Tells so many times, with this pause in between, that it moves.
    Move(u64, Duration),
    /// Ends when told to stop.
    UntilStopped,
    /// Answers with this many bytes.
    Long(usize),
    /// Copies all of the share into an empty directory.
    Copy(PathBuf),
    Exit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Text(String),
    Inside { process: u32, mounts: Vec<String>, descriptors: Vec<String>, parent_dies: i32 },
}

pub fn launcher() -> Launcher {
    Launcher::new([NAME])
}

fn carry_out(root: &Path, operation: Operation, context: &Context) -> Result<Answer> {
    let os = |op: &str, path: &Path, source| Error::Os {
        doing: format!("trying to {op}"),
        source: os::Error::Path { op: op.into(), path: path.into(), source },
    };
    Ok(match operation {
        Operation::Write(name, text) => {
            let path = root.join(name);
            let mut file = File::create(&path).map_err(|error| os("create", &path, error))?;
            file.write_all(text.as_bytes()).map_err(|error| os("write", &path, error))?;
            file.sync_all().map_err(|error| os("sync", &path, error))?;
            Answer::Done
        }
        Operation::Read(name) => {
            let (path, mut text) = (root.join(name), String::new());
            let mut file = File::open(&path).map_err(|error| os("open", &path, error))?;
            file.read_to_string(&mut text).map_err(|error| os("read", &path, error))?;
            Answer::Text(text)
        }
        Operation::Inspect => inspect(),
        Operation::Fail => return Err(Error::Incompatible("volume x exists, but differs".into())),
        Operation::Panic => panic!("on purpose"),
        Operation::Sleep(time) => {
            thread::sleep(time);
            Answer::Done
        }
        Operation::Move(times, pause) => {
            for done in 0..times {
                thread::sleep(pause);
                context.progress(done, times);
            }
            Answer::Done
        }
        Operation::UntilStopped => {
            while !context.is_stopping() {
                thread::sleep(Duration::from_millis(2));
            }
            Answer::Text("stopped".into())
        }
        Operation::Long(length) => Answer::Text("x".repeat(length)),
        Operation::Copy(to) => {
            let open = |path: &Path| {
                os::directory::Directory::open(path)
                    .map_err(|source| Error::Os { doing: "opening a directory".into(), source })
            };
            let abilities = share::copy::Abilities::default();
            share::copy::tree(&open(root)?, &open(&to)?, abilities, &mut |_| true)?;
            Answer::Done
        }
        Operation::Exit => std::process::exit(3),
    })
}

fn inspect() -> Answer {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect();
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let descriptors = entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let descriptors = descriptors.map(|target| target.display().to_string()).collect();
    let mut parent_dies = -1;
    // SAFETY: PR_GET_PDEATHSIG writes one int.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut parent_dies) };
    Answer::Inside { process: std::process::id(), mounts, descriptors, parent_dies }
}

extern "C" fn begin() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|name| name == NAME) {
        if let Some(control) = arguments.next() {
            crate::fuse::prepare(Path::new(&control));
        }
        let code = match share::run(carry_out) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("share-helper: {}", error.chain());
                1
            }
        };
        std::process::exit(code);
    }
}

// A helper has to be in the first thread, which the harness's tests are not.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;
