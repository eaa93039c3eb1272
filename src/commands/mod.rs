//! The commands of the binary. They may use every layer, and print for people or scripts.

pub mod check;
#[cfg(feature = "cluster")]
pub mod controller;
#[cfg(feature = "cluster")]
pub mod crds;
pub mod demo;
pub mod gc;
pub mod migrate;
#[cfg(feature = "cluster")]
pub mod node;
mod print;
pub mod probe;
#[cfg(feature = "cluster")]
mod registration;
mod serve;
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

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Where something was found; in JSON a field `pool`, `share` or `node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Store {
    /// By its name.
    Pool(String),
    /// `SERVER:/PATH`.
    Share(String),
    /// The name of its object.
    #[cfg(feature = "cluster")]
    Node(String),
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(name) | Self::Share(name) => f.write_str(name),
            #[cfg(feature = "cluster")]
            Self::Node(name) => f.write_str(name),
        }
    }
}
