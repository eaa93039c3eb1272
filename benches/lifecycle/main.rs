//! Drives the release binary through gRPC as an orchestrator does, on pools that it makes itself, and prints
//! what that costs next to the budgets. It judges nothing: a missed budget is a word in a table.
//!
//! As root: `make bench`, or `cargo bench --bench lifecycle -- [--quick] [SECTION…]`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::result_large_err,
    reason = "a benchmark ends with the first call that fails"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod crowd;
mod cuts;
mod figures;
mod ground;
mod io;
mod lives;
mod machine;
mod syncs;

use std::time::Instant;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// For development: seconds instead of minutes.
    pub quick: bool,
}

impl Effort {
    /// One of two numbers.
    pub fn of<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

type Section = (&'static str, fn(Effort));

/// In the order of docs/performance.md.
const SECTIONS: [Section; 7] = [
    ("lives", lives::print),
    ("rate", lives::print_rate),
    ("syncs", syncs::print),
    ("crowd", crowd::print),
    ("memory", crowd::print_memory),
    ("cuts", cuts::print),
    ("io", io::print),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| *argument != "--quick").collect();
    if let Some(unknown) = wanted.iter().find(|name| SECTIONS.iter().all(|(known, _)| known != *name)) {
        let known: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no section {unknown}, only {}", known.join(", "));
        std::process::exit(2);
    }
    machine::isolate();
    machine::print(&arguments);
    let began = Instant::now();
    for (name, print) in SECTIONS {
        if wanted.is_empty() || wanted.contains(&name) {
            let start = Instant::now();
            print(Effort { quick });
            println!("\n({name}: {:.0} s, load {})", start.elapsed().as_secs_f64(), machine::load());
        }
    }
    println!("\n{:.1} minutes in all", began.elapsed().as_secs_f64() / 60.0);
}
