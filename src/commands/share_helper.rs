//! `wharf share-helper`: what the driver starts for each share that it works on. Not for people.

use super::{Outcome, chain};
use crate::{os::child::Launcher, share};
use std::process::ExitCode;

/// The name of the command, and the whole command line of a child.
pub const NAME: &str = "share-helper";

/// Starts this binary as a helper, or as a child for one task.
pub fn launcher() -> Launcher {
    Launcher::new([NAME])
}

/// Runs one to its end, which comes with the driver's.
pub fn run() -> Outcome {
    share::run(share::operation::handler()).map(|()| ExitCode::SUCCESS).map_err(|error| chain(&error))
}
