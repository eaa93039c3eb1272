//! The commands of the binary. They may use every layer, and print for people or scripts.

pub mod check;
pub mod demo;
pub mod gc;
pub mod migrate;
mod print;
pub mod probe;
pub mod share_helper;
mod shares;
pub mod standalone;
pub mod volumes;

use serde::Serialize;
use std::{fmt, process::ExitCode};

/// The exit code, or one sentence that says what to change.
pub type Outcome = Result<ExitCode, String>;

/// 0 for yes, 1 for no.
fn exit_code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where something was found; in JSON a field `pool` or `share`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Store {
    /// By its name.
    Pool(String),
    /// `SERVER:/PATH`.
    Share(String),
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(name) | Self::Share(name) => f.write_str(name),
        }
    }
}
