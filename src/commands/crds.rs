//! `wharf crds`: the definitions of the driver's objects, as YAML.

use super::Outcome;
use crate::cluster::crds;
use std::process::ExitCode;

/// Prints them.
pub fn run() -> Outcome {
    print!("{}", crds::yaml()?);
    Ok(ExitCode::SUCCESS)
}
