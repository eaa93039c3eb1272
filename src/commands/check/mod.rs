//! `wharf check`: what this host can do, for local volumes and for those on shares.

mod host;
mod pools;
mod shares;

use super::{Outcome, exit_code, print};
use crate::{
    config::{CheckArgs, Output, check_pools},
    os,
};
use serde::Serialize;

/// How an item does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Limited,
    Missing,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// One line.
#[derive(Debug, Serialize)]
struct Item {
    item: String,
    state: State,
    /// Without it nothing of what was asked about can be served.
    required: bool,
    /// What it means, and what to do.
    meaning: String,
}

#[derive(Debug, Serialize)]
struct Report {
    ready: bool,
    items: Vec<Item>,
}

/// What the host is to serve.
#[derive(Clone, Copy, Debug)]
struct Needs {
    local: bool,
    shares: bool,
}

impl Needs {
    fn of(arguments: &CheckArgs) -> Self {
        let shares = !arguments.shares.is_empty();
        Self { local: !arguments.pools.is_empty() || !shares, shares }
    }

    /// An item that has to be there for local volumes.
    fn local(self, item: &str, outcome: Result<String, String>) -> Item {
        Item { required: self.local, ..required(item, outcome) }
    }

    fn what(self) -> &'static str {
        match self {
            Self { shares: false, .. } => "local volumes",
            Self { local: false, .. } => "volumes on these shares",
            _ => "local volumes and volumes on these shares",
        }
    }
}

/// Looks, prints, and says by its exit code whether volumes can be served.
pub fn run(arguments: &CheckArgs) -> Outcome {
    check_pools(&arguments.pools)?;
    let needs = Needs::of(arguments);
    let mut items = host::items(needs);
    for pool in &arguments.pools {
        items.extend(pools::items(pool));
    }
    items.extend(shares::items(&arguments.shares)?);
    let ready = items.iter().all(|item| !item.required || item.state != State::Missing);
    let report = Report { ready, items };
    match arguments.output {
        Output::Json => print::json(&report)?,
        Output::Table => show(&report, needs.what()),
    }
    Ok(exit_code(ready))
}

fn show(report: &Report, what: &str) {
    let rows = report.items.iter().map(|item| {
        vec![print::plain(&item.item), item.state.as_str().to_owned(), print::plain(&item.meaning)]
    });
    print::table(&[("ITEM", false), ("STATE", false), ("MEANING", false)], rows.collect());
    let lacking: Vec<_> = report
        .items
        .iter()
        .filter(|item| item.required && item.state == State::Missing)
        .map(|item| item.item.as_str())
        .collect();
    if report.ready {
        print::line(format_args!("\nthis host can serve {what}"));
    } else {
        print::line(format_args!(
            "\nthis host cannot serve {what}; missing: {}",
            print::plain(&lacking.join(", "))
        ));
    }
}

/// An item that has to be there.
fn required(item: impl Into<String>, outcome: Result<String, String>) -> Item {
    Item { required: true, ..optional(item, State::Missing, outcome) }
}

/// An item whose absence takes something away.
fn optional(item: impl Into<String>, absent: State, outcome: Result<String, String>) -> Item {
    let (state, meaning) = match outcome {
        Ok(meaning) => (State::Ok, meaning),
        Err(meaning) => (absent, meaning),
    };
    Item { item: item.into(), state, required: false, meaning }
}

fn text(error: &os::Error) -> String {
    super::chain(error)
}
