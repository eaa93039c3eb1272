//! The log: structured, to standard error, as text or JSON.

use crate::config::LogFormat;
use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// The client of the API server calls each failed request an error. Who made the request knows better, and says it once
/// while the API server is away.
const LEFT_OUT: &str = "kube_client::client::builder=off";

/// Starts the log at `level`, else at `default`.
pub fn start(format: LogFormat, level: Option<&str>, default: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(format!("{LEFT_OUT},{}", level.unwrap_or(default)))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
    }
    Ok(())
}
