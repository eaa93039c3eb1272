//! `wharf`: flags in, exit code out.

use clap::Parser;
use std::process::ExitCode;
use wharf::{
    commands,
    config::{Args, Command},
    os, telemetry,
};

fn main() -> ExitCode {
    os::host::use_one_heap();
    let arguments = Args::parse();
    let default = match arguments.command {
        Command::Standalone(_) | Command::ShareHelper => "info",
        #[cfg(feature = "cluster")]
        Command::Controller(_) | Command::Node(_) => "info",
        // The others tell what they find in their own words.
        _ => "error",
    };
    if let Err(error) = telemetry::start(arguments.log_format, arguments.log_level.as_deref(), default) {
        eprintln!("wharf: --log-level: {error}");
        return ExitCode::from(2);
    }
    let outcome = match arguments.command {
        Command::Standalone(arguments) => commands::standalone::run(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "cluster")]
        Command::Controller(arguments) => commands::controller::run(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "cluster")]
        Command::Node(arguments) => commands::node::run(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "cluster")]
        Command::Crds => commands::crds::run(),
        Command::Check(arguments) => commands::check::run(&arguments),
        Command::Volumes(arguments) => commands::volumes::run(&arguments),
        Command::Gc(arguments) => commands::gc::run(&arguments),
        Command::Migrate(arguments) => commands::migrate::run(&arguments),
        Command::Probe(arguments) => commands::probe::run(&arguments),
        Command::Demo(arguments) => commands::demo::run(&arguments),
        Command::ShareHelper => commands::share_helper::run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wharf: {error}");
            ExitCode::FAILURE
        }
    }
}
