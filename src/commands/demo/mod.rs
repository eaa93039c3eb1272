//! `wharf demo`: one volume's life, driven through gRPC as an orchestrator would.
//!
//! The driver is the one of `wharf standalone`, on a socket and a pool in a scratch directory. Whatever
//! happens (a failure, SIGINT, a panic), that directory goes, with everything mounted or attached there.

mod scratch;
mod step;
mod story;
mod teller;

use self::{
    scratch::Scratch,
    step::Break,
    story::Story,
    teller::{Teller, milliseconds},
};
use super::{
    Outcome, chain,
    standalone::{default_owner, shares},
};
use crate::{
    config::DemoArgs,
    os::{self, host},
    rpc::{self, Offer, client::Client, metrics::Metrics},
    server::{self, End, Endpoint, Shutdown, shutdown::Trigger, socket::EndpointError},
    service::{Config, Service},
    store::PoolConfig,
    volume::parameters::DEFAULT_POOL,
};
use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime, task::JoinHandle};

/// No call takes nearly as long on a disk that works.
const LIMIT: Duration = Duration::from_secs(120);
/// The node that the demo's driver says it is.
const NODE: &str = "demo";
/// What a shell says of a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Tells the whole story, or as much as works here.
pub fn run(arguments: &DemoArgs) -> Outcome {
    if !host::is_root() {
        return Err("the demo attaches loop devices and mounts filesystems: run it as root".into());
    }
    os::loopdev::ignore_lease_signals();
    let begun = Instant::now();
    let scratch = Scratch::new(arguments.directory.as_deref())?;
    let mut teller = Teller::new();
    let end = play(&scratch, &mut teller);
    let in_use = match end {
        Ok(()) => scratch.still_in_use().unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let path = scratch.path().display().to_string();
    let left = scratch.remove();
    conclude(&teller, end, &in_use, &left, &path, begun.elapsed())
}

/// Runs the driver for as long as the story takes.
fn play(scratch: &Scratch, teller: &mut Teller) -> Result<(), Break> {
    let endpoint = scratch.socket().to_string_lossy().parse::<Endpoint>();
    let endpoint = endpoint.map_err(|error: EndpointError| {
        Break::new("starting the driver", format!("{}; choose a shorter one with --directory", chain(&error)))
    })?;
    let failed = |why: String| Break::new("starting the driver", why);
    let pool = PoolConfig { name: DEFAULT_POOL.into(), path: scratch.pool(), mounted: false };
    let config =
        Config { pools: &[pool], node_id: NODE, max_volumes: 0, shares: shares(&[], default_owner(NODE)) };
    let service = Service::new(&config).map_err(|error| failed(error.chain()))?;
    let service = Arc::new(service);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    teller.say(&format!(
        "wharf {} on a scratch pool in {} ({})\n",
        env!("CARGO_PKG_VERSION"),
        scratch.path().display(),
        scratch.filesystem()
    ));
    let end = runtime.block_on(async {
        let signals = server::shutdown_signal().map_err(|error| failed(error.to_string()))?;
        let (stop, server) = serve(&endpoint, &service).map_err(failed)?;
        let client =
            Client::connect(&scratch.socket(), LIMIT).await.map_err(|error| failed(chain(&error)))?;
        let mut story = Story::new(client, scratch, teller, &service, signals);
        let end = story.tell().await;
        if end.is_err() {
            story.tidy().await;
        }
        drop(story);
        stop.advance();
        match server.await {
            Ok(Ok(_)) => end,
            Ok(Err(error)) => end.and(Err(failed(error))),
            Err(error) => end.and(Err(failed(error.to_string()))),
        }
    });
    // A call that hangs has hung the disk as well; the directory is removed as far as that works.
    runtime.shutdown_timeout(Duration::from_secs(10));
    end
}

type Server = JoinHandle<Result<End, String>>;

fn serve(endpoint: &Endpoint, service: &Arc<Service>) -> Result<(Trigger, Server), String> {
    let metrics = Arc::new(Metrics::new(Arc::clone(service)));
    let offer = Offer { controller: true, node: true };
    let routes = rpc::routes(Arc::clone(service), "wharf.csi.dev", metrics, offer);
    let listener = server::listen(endpoint).map_err(|error| chain(&error))?;
    let (stop, shutdown) = Shutdown::new();
    let serving = async {
        server::serve(listener, routes, shutdown, server::GRACE).await.map_err(|error| chain(&error))
    };
    Ok((stop, tokio::spawn(serving)))
}

fn conclude(
    teller: &Teller,
    end: Result<(), Break>,
    in_use: &[String],
    left: &[String],
    path: &str,
    took: Duration,
) -> Outcome {
    let left = match left.is_empty() {
        true => format!("left behind: nothing ({path}, its mounts and loop devices are gone)"),
        false => format!("left behind: {}", left.join(", ")),
    };
    match end {
        // The story had said that everything was deleted.
        Ok(()) if !in_use.is_empty() => {
            teller.say(&format!("\n{left}"));
            Err(format!(
                "after every volume was deleted there still was {}: report this as a bug",
                in_use.join(", ")
            ))
        }
        Ok(()) => {
            teller.say(&format!("\n{} steps in {}; {left}", teller.steps(), milliseconds(took)));
            Ok(if left.starts_with("left behind: nothing") { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(Break::Interrupted) => {
            teller.say(&format!("\ninterrupted; {left}"));
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(Break::Failed { step, reason }) => {
            teller.say(&format!("\n{left}"));
            Err(format!("the demo failed at {step}: {reason}; `wharf check` shows what this host lacks"))
        }
    }
}
