//! The commands of the binary. They may use every layer, and print for people or scripts.

pub mod check;
pub mod demo;
pub mod gc;
mod print;
pub mod probe;
pub mod share_helper;
pub mod standalone;
pub mod volumes;

use std::process::ExitCode;

/// The exit code, or one sentence that says what to change.
pub type Outcome = Result<ExitCode, String>;

/// 0 for yes, 1 for no.
fn exit_code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
