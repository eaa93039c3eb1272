//! The log: structured, to standard error, as text or JSON.

use crate::config::LogFormat;
use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Starts the log at `level`, else at `default`.
pub fn start(format: LogFormat, level: Option<&str>, default: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(level.unwrap_or(default))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
    }
    Ok(())
}
