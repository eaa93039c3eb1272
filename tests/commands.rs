//! The commands beside `standalone`, run as people and scripts run them: the real binary, its output, its exit code.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err
)]

#[path = "commands/check.rs"]
mod check;
#[path = "commands/demo.rs"]
mod demo;
#[path = "commands/gc.rs"]
mod gc;
#[path = "commands/probe.rs"]
mod probe;
#[path = "commands/shares.rs"]
mod shares;
mod support;
#[path = "commands/volumes.rs"]
mod volumes;

use serde_json::Value;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Outcome {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Errors are one sentence on standard error, and nothing else is there.
    fn sentence(&self) -> &str {
        let sentence = self.err.strip_prefix("wharf: ").unwrap_or_else(|| panic!("{self:?}"));
        assert_eq!(sentence.trim_end().lines().count(), 1, "{self:?}");
        assert!(self.code == Some(1), "{self:?}");
        sentence.trim_end()
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WHARF_")) {
        command.env_remove(name);
    }
    command.env_remove("CSI_ENDPOINT").args(arguments).stdin(Stdio::null());
    command
}

fn finish(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn wharf(arguments: &[&str]) -> Outcome {
    finish(command(arguments))
}

/// `NAME=PATH`
fn pool(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// Every file below a directory, with all that a write would change.
fn listing(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(path) = rest.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        lines.push(format!(
            "{} {} {} {:o} {}.{} {}.{}",
            path.display(),
            data.ino(),
            data.size(),
            data.mode(),
            data.mtime(),
            data.mtime_nsec(),
            data.ctime(),
            data.ctime_nsec()
        ));
        if data.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

#[test]
fn help_tells_what_each_command_is_for() {
    let help = wharf(&["--help"]);
    assert_eq!(help.code, Some(0));
    for name in ["standalone", "check", "volumes", "gc", "migrate", "probe", "demo"] {
        assert!(help.out.contains(name), "{help:?}");
        let help = wharf(&[name, "--help"]);
        assert!(help.code == Some(0) && help.out.len() > 200, "{help:?}");
    }
}

#[test]
fn a_reader_that_has_gone_stops_nothing() {
    for arguments in [&["check"][..], &["check", "--output", "json"]] {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    }
}

#[test]
fn the_same_pool_twice_is_refused_everywhere() {
    for name in ["check", "volumes", "gc"] {
        let refused = wharf(&[name, "--pool", "a=/tmp/x", "--pool", "b=/tmp/x/y"]);
        assert!(refused.sentence().contains("lie in each other"), "{refused:?}");
    }
}
