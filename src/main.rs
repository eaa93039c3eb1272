//! `wharf`: flags in, exit code out.

use clap::Parser;
use std::process::ExitCode;
use wharf::{
    commands,
    config::{Args, Command},
    telemetry,
};

fn main() -> ExitCode {
    let arguments = Args::parse();
    let default = if matches!(arguments.command, Command::Standalone(_)) { "info" } else { "warn" };
    if let Err(error) = telemetry::start(arguments.log_format, arguments.log_level.as_deref(), default) {
        eprintln!("wharf: --log-level: {error}");
        return ExitCode::from(2);
    }
    let result = match arguments.command {
        Command::Standalone(arguments) => commands::standalone::run(&arguments),
        _ => Err("not yet".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wharf: {error}");
            ExitCode::FAILURE
        }
    }
}
