//! `wharf share-helper`: what the driver starts for each share that it works on. Not for people.

use super::{Outcome, standalone::chain};
use crate::{os::child::Launcher, share};
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

/// The name of the command, and the whole command line of a child.
pub const NAME: &str = "share-helper";

/// What helpers can be asked for beyond what every one can: nothing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Operation {}

/// Starts this binary as a helper, or as a child for one task.
pub fn launcher() -> Launcher {
    Launcher::new([NAME])
}

/// Runs one to its end, which comes with the driver's.
pub fn run() -> Outcome {
    share::run(|_root, operation: Operation, _context| -> crate::error::Result<()> { match operation {} })
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| chain(&error))
}
