//! `wharf gc`: leftovers on pools and shares and in a cluster, shown, and removed where that is asked for and safe.

#[cfg(feature = "cluster")]
mod objects;
mod pools;
mod shares;

use super::{Outcome, Store, exit_code, print};
use crate::{
    config::{GcArgs, Output, check_pools},
    error::Result,
};
use indicatif::{ProgressBar, ProgressStyle};
#[cfg(feature = "cluster")]
use objects::InCluster;
use pools::OnPool;
use serde::Serialize;
use shares::OnShare;
use std::{io::IsTerminal, path::Path, time::SystemTime};

#[derive(Debug, Serialize)]
struct Report {
    leftovers: Vec<Row>,
    /// May be removed and is still there.
    removable: usize,
    /// Was removed now.
    removed: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    store: Store,
    what: String,
    place: String,
    bytes: Option<u64>,
    age_seconds: Option<u64>,
    removable: bool,
    removed: bool,
    /// Why it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip)]
    age: String,
}

impl Row {
    /// `reason`: why it is not to be removed.
    fn new(
        store: Store,
        what: String,
        place: &Path,
        bytes: Option<u64>,
        since: Option<SystemTime>,
        reason: Option<String>,
    ) -> Self {
        Self {
            store,
            what,
            place: place.display().to_string(),
            bytes,
            age_seconds: since.and_then(|since| since.elapsed().ok()).map(|age| age.as_secs()),
            removable: reason.is_none(),
            removed: false,
            reason,
            age: since.map_or("-".to_owned(), print::age),
        }
    }
}

/// Something that is left over.
enum Finding {
    OnPool(OnPool),
    OnShare(OnShare),
    #[cfg(feature = "cluster")]
    InCluster(InCluster),
}

impl Finding {
    fn row(&self) -> Row {
        match self {
            Self::OnPool(finding) => finding.row(),
            Self::OnShare(finding) => finding.row(),
            #[cfg(feature = "cluster")]
            Self::InCluster(finding) => finding.row(),
        }
    }

    /// Removes it; `files` gets the number of files that are gone. Gives why it stays, if it does.
    fn purge(&self, files: &mut dyn FnMut(u64)) -> Result<Option<String>> {
        match self {
            Self::OnPool(finding) => finding.purge(files),
            Self::OnShare(finding) => finding.purge(),
            #[cfg(feature = "cluster")]
            Self::InCluster(finding) => finding.purge(),
        }
    }
}

/// Looks through everything before anything is removed from one.
pub fn run(arguments: &GcArgs) -> Outcome {
    check_pools(&arguments.pools)?;
    let mut found = pools::find(&arguments.pools)?;
    found.extend(shares::find(&arguments.on)?);
    #[cfg(feature = "cluster")]
    found.extend(objects::find(&arguments.objects)?);
    let mut rows: Vec<Row> = found.iter().map(Finding::row).collect();
    if arguments.apply {
        purge(&found, &mut rows, arguments.output == Output::Table);
    }
    let report = Report {
        removable: rows.iter().filter(|row| row.removable && !row.removed).count(),
        removed: rows.iter().filter(|row| row.removed).count(),
        leftovers: rows,
    };
    match arguments.output {
        Output::Json => print::json(&report)?,
        Output::Table => show(&report, arguments.apply),
    }
    Ok(exit_code(report.removable == 0))
}

/// Removes what may be removed; what cannot be is left with its reason, and the others go on.
fn purge(found: &[Finding], rows: &mut [Row], for_people: bool) {
    let total = rows.iter().filter(|row| row.removable).count();
    let progress = Progress::new(total, for_people);
    for (finding, row) in found.iter().zip(rows).filter(|(_, row)| row.removable) {
        progress.begin(row);
        match finding.purge(&mut |files| progress.files(files)) {
            Ok(None) => row.removed = true,
            Ok(Some(reason)) => {
                row.removable = false;
                row.reason = Some(reason);
            }
            Err(error) => row.reason = Some(error.chain()),
        }
        progress.end(row);
    }
    progress.bar.finish_and_clear();
}

/// A bar on a terminal, a line for each removal elsewhere, nothing beside JSON.
struct Progress {
    bar: ProgressBar,
    lines: bool,
}

impl Progress {
    fn new(total: usize, for_people: bool) -> Self {
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let bar = if for_people && terminal { ProgressBar::new(total as u64) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, lines: for_people && !terminal }
    }

    fn begin(&self, row: &Row) {
        self.bar.set_message(print::plain(&row.place));
    }

    fn files(&self, files: u64) {
        if files.is_multiple_of(1000) {
            self.bar.tick();
        }
    }

    fn end(&self, row: &Row) {
        self.bar.inc(1);
        if self.lines {
            let place = print::plain(&row.place);
            match &row.reason {
                None => print::line(format_args!("removed {place}")),
                Some(reason) => print::line(format_args!("{place} stays: {}", print::plain(reason))),
            }
        }
    }
}

fn show(report: &Report, apply: bool) {
    if report.leftovers.is_empty() {
        print::line("nothing is left over");
        return;
    }
    let columns = [
        ("STORE", false),
        ("WHAT", false),
        ("WHERE", false),
        ("SIZE", true),
        ("AGE", true),
        ("ACTION", false),
    ];
    let rows = report.leftovers.iter().map(|row| {
        vec![
            row.store.to_string(),
            row.what.clone(),
            print::plain(&row.place),
            row.bytes.map_or("-".to_owned(), print::bytes),
            row.age.clone(),
            action(row, apply),
        ]
    });
    print::table(&columns, rows.collect());
    let kept = report.leftovers.len() - report.removed - report.removable;
    print::line("");
    match (apply, report.removable) {
        (false, 0) => print::line(format_args!("nothing of this may be removed; {kept} to stay")),
        (false, removable) => {
            print::line(format_args!("{removable} can be removed with --apply; {kept} to stay"))
        }
        (true, 0) => print::line(format_args!("{} removed; {kept} to stay", report.removed)),
        (true, failed) => {
            print::line(format_args!(
                "{} removed; {failed} could not be removed, run it again later; {kept} to stay",
                report.removed
            ));
        }
    }
}

fn action(row: &Row, apply: bool) -> String {
    match &row.reason {
        _ if row.removed => "removed".to_owned(),
        None if apply => "gone".to_owned(),
        None => "would remove".to_owned(),
        Some(reason) => format!("stays: {}", print::plain(reason)),
    }
}
