//! `wharf gc`: leftovers on pools, shown, and removed where that is asked for and safe.

use super::{Outcome, exit_code, print};
use crate::{
    config::{GcArgs, Output, check_pools},
    store::{Fate, Kind, Leftover, Pool, Purged, What},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{io::IsTerminal, sync::Arc};

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
    pool: String,
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

/// Looks through all pools before anything is removed from one.
pub fn run(arguments: &GcArgs) -> Outcome {
    check_pools(&arguments.pools)?;
    let mut found = Vec::new();
    for config in &arguments.pools {
        let look = || {
            let pool = Pool::inspect(config)?;
            let leftovers = pool.leftovers()?;
            Ok((pool, leftovers))
        };
        let (pool, leftovers) = look().map_err(|error: crate::error::Error| {
            format!("pool {:?} cannot be looked through: {}", config.name, error.chain())
        })?;
        found.extend(leftovers.into_iter().map(|leftover| (Arc::clone(&pool), leftover)));
    }
    let mut rows: Vec<Row> = found.iter().map(|(pool, leftover)| row(pool, leftover)).collect();
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

fn row(pool: &Pool, leftover: &Leftover) -> Row {
    Row {
        pool: pool.name().to_owned(),
        what: what(&leftover.what),
        place: leftover.place.display().to_string(),
        bytes: leftover.bytes,
        age_seconds: leftover.since.and_then(|since| since.elapsed().ok()).map(|age| age.as_secs()),
        removable: leftover.fate == Fate::Purge,
        removed: false,
        reason: match &leftover.fate {
            Fate::Purge => None,
            Fate::Leave(reason) => Some(reason.clone()),
        },
        age: leftover.since.map_or("-".to_owned(), print::age),
    }
}

fn what(what: &What) -> String {
    match what {
        What::Unfinished(kind, _) => format!("unfinished {kind}"),
        What::Trash(_) => "removed, not purged".to_owned(),
        What::Temporary(kind, _) => format!("half-written record of a {kind}"),
        What::Damaged(Kind::Snapshot, _) => "snapshot without a readable record".to_owned(),
        What::Damaged(..) => "volume without a readable record".to_owned(),
        What::Stranger => "stranger".to_owned(),
        What::Loop(number) => format!("stray /dev/loop{number}"),
        What::Qgroups(ids) => {
            let first: Vec<_> = ids.iter().take(5).map(|id| format!("0/{id}")).collect();
            let more = if ids.len() > first.len() { ", …" } else { "" };
            format!("{} without a subvolume ({}{more})", print::count(ids.len(), "qgroup"), first.join(", "))
        }
    }
}

/// Removes what may be removed; what cannot be is left with its reason, and the others go on.
fn purge(found: &[(Arc<Pool>, Leftover)], rows: &mut [Row], for_people: bool) {
    let total = rows.iter().filter(|row| row.removable).count();
    let progress = Progress::new(total, for_people);
    for ((pool, leftover), row) in found.iter().zip(rows).filter(|(_, row)| row.removable) {
        progress.begin(row);
        match pool.purge_leftover(leftover, &mut |files| progress.files(files)) {
            Ok(Purged::Gone) => row.removed = true,
            Ok(Purged::Left(reason)) => {
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
        ("POOL", false),
        ("WHAT", false),
        ("WHERE", false),
        ("SIZE", true),
        ("AGE", true),
        ("ACTION", false),
    ];
    let rows = report.leftovers.iter().map(|row| {
        vec![
            row.pool.clone(),
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
