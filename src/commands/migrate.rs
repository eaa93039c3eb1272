//! `wharf migrate`: brings the stores on shares to this driver's version.

use super::{Outcome, exit_code, print, shares};
use crate::{
    config::{MigrateArgs, Output, check_shares},
    service::nfs::At,
    share::{Remote, store::STORE_VERSION},
};
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Report {
    shares: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    share: String,
    /// The version that its store had.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u32>,
    /// The version that it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// Why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Works on every share, whatever becomes of the others.
pub fn run(arguments: &MigrateArgs) -> Outcome {
    check_shares(&arguments.shares)?;
    // A store is everybody's who uses it: whose volumes are on it does not matter.
    let remote = shares::remote(None)?;
    let report = Report { shares: shares::each(&arguments.shares, |at| migrate(&remote, at)) };
    match arguments.output {
        Output::Json => print::json(&report)?,
        Output::Table => report.shares.iter().for_each(show),
    }
    for row in &report.shares {
        if let Some(error) = &row.error {
            eprintln!("wharf: the store on {} was not migrated: {}", row.share, print::plain(error));
        }
    }
    Ok(exit_code(report.shares.iter().all(|row| row.error.is_none())))
}

fn migrate(remote: &Remote, at: &At) -> Row {
    let share = at.to_string();
    match remote.migrate(&shares::reach(at)) {
        Ok(from) => Row { share, from: Some(from), version: Some(STORE_VERSION), error: None },
        Err(error) => Row { share, from: None, version: None, error: Some(shares::reason(at, &error)) },
    }
}

fn show(row: &Row) {
    match row.from {
        Some(STORE_VERSION) => print::line(format_args!(
            "{}: the store has this driver's version, {STORE_VERSION}: nothing to do",
            row.share
        )),
        Some(from) => {
            print::line(format_args!(
                "{}: the store was brought from version {from} to {STORE_VERSION}",
                row.share
            ));
        }
        None => {}
    }
}
