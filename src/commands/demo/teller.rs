//! How the demo tells what happens: a line for each step, with its time.

use crate::commands::print;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Prints steps and counts them.
#[derive(Debug)]
pub struct Teller {
    colours: bool,
    running: Option<ProgressBar>,
    begun: Instant,
    steps: usize,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it should.
    Done,
    /// Not now, for a reason that is no failure.
    Later,
    /// Badly.
    Failed,
}

impl Mark {
    fn sign(self) -> (&'static str, &'static str) {
        match self {
            Self::Done => ("✓", "32"),
            Self::Later => ("–", "33"),
            Self::Failed => ("✗", "31"),
        }
    }
}

impl Teller {
    /// With colours and a running line on a terminal alone.
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours, running: None, begun: Instant::now(), steps: 0 }
    }

    /// A line without a step.
    pub fn say(&self, text: &str) {
        print::line(text);
    }

    /// A step begins.
    pub fn begin(&mut self, what: &'static str) {
        self.begun = Instant::now();
        if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() {
            let line = ProgressBar::new_spinner().with_message(what);
            if let Ok(style) = ProgressStyle::with_template(" {spinner} {msg}") {
                line.set_style(style);
            }
            line.enable_steady_tick(Duration::from_millis(80));
            self.running = Some(line);
        }
    }

    /// It ends, `text` says how.
    pub fn end(&mut self, mark: Mark, what: &str, text: &str) {
        let took = self.begun.elapsed();
        if let Some(line) = self.running.take() {
            line.finish_and_clear();
        }
        if mark != Mark::Failed {
            self.steps += 1;
        }
        let (sign, colour) = mark.sign();
        let time = format!("{:>8}", milliseconds(took));
        print::line(format_args!(
            " {} {what:<24} {}  {text}",
            self.painted(sign, colour),
            self.painted(&time, "2")
        ));
    }

    /// How many went well.
    pub fn steps(&self) -> usize {
        self.steps
    }

    fn painted(&self, text: &str, colour: &str) -> String {
        if self.colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// `0.4 ms`, `34 ms`, `1.20 s`.
pub fn milliseconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds * 1000.0 {
        0.0..10.0 => format!("{:.1} ms", seconds * 1000.0),
        10.0..1000.0 => format!("{:.0} ms", seconds * 1000.0),
        _ => format!("{seconds:.2} s"),
    }
}
