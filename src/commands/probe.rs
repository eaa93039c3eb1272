//! `wharf probe`: the exit code of the Probe RPC.

use super::{Outcome, chain};
use crate::{
    config::ProbeArgs,
    rpc::{
        client::{Client, Failure},
        csi::ProbeRequest,
    },
    server::{Endpoint, socket::EndpointError},
};
use std::{process::ExitCode, time::Duration};
use tokio::{runtime, time};

/// Asks once. No answer within the limit is an answer, too.
pub fn run(arguments: &ProbeArgs) -> Outcome {
    let endpoint: Endpoint = arguments.endpoint.parse().map_err(|error: EndpointError| chain(&error))?;
    let limit = Duration::from_secs(arguments.timeout);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(async {
        let late = || format!("the driver on {endpoint} did not answer within {} s", arguments.timeout);
        // The limit of a single call comes later: its message says less.
        let longer = limit + Duration::from_secs(1);
        time::timeout(limit, ask(&endpoint, longer)).await.map_err(|_| late())?
    })
}

async fn ask(endpoint: &Endpoint, limit: Duration) -> Outcome {
    let mut client = Client::connect(endpoint.path(), limit).await.map_err(|error| {
        format!("nobody answers on {endpoint} ({}): start the driver, or correct --endpoint", chain(&error))
    })?;
    let answer = client.identity.probe(ProbeRequest {}).await;
    let answer = answer
        .map_err(|status| format!("the driver on {endpoint} cannot serve: {}", Failure::from(status)))?;
    match answer.into_inner().ready {
        Some(false) => Err(format!("the driver on {endpoint} is not ready yet: ask again later")),
        _ => Ok(ExitCode::SUCCESS),
    }
}
