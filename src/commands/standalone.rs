//! `wharf standalone`: all three CSI services on one socket.

use super::{
    chain,
    serve::{self, Role},
    share_helper,
};
use crate::{
    config::{StandaloneArgs, check_node_id, check_pools},
    os,
    rpc::{Offer, metrics::Metrics},
    server::{self, Endpoint},
    service::{
        self, Service,
        nfs::{self, At},
    },
    share::{Limits, Owner},
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// Serves until SIGTERM or SIGINT. An error is one sentence that says what to change.
pub fn run(arguments: &StandaloneArgs) -> Result<(), String> {
    check_pools(&arguments.pools)?;
    os::loopdev::ignore_lease_signals();
    let node_id = match &arguments.node_id {
        Some(node_id) => node_id.clone(),
        None => os::host::name().map_err(|error| chain(&error))?,
    };
    check_node_id(&node_id)?;
    // Said before a pool is touched.
    let _: Endpoint =
        arguments.role.endpoint.parse().map_err(|error: server::socket::EndpointError| chain(&error))?;
    let owner = arguments.owner.as_deref().map_or_else(|| default_owner(&node_id), Owner::new);
    let mut shares = shares(&arguments.shares, owner);
    shares.limits = shares.limits.with_mounting(Duration::from_secs(arguments.role.mount_timeout));
    let config = service::Config {
        pools: &arguments.pools,
        node_id: &node_id,
        max_volumes: arguments.max_volumes,
        shares,
    };
    let service = Service::new(&config).map_err(|error| error.chain())?;
    let service = Arc::new(service);
    let role = Role {
        endpoint: &arguments.role.endpoint,
        driver_name: &arguments.role.driver_name,
        metrics_address: arguments.role.metrics_address,
        metrics: Metrics::new(Arc::clone(&service)),
        offer: Offer { controller: true, node: true },
        service,
    };
    serve::to_the_end(serve::runtime()?, role.serve())
}

/// How this machine uses shares.
pub fn shares(shares: &[At], owner: Owner) -> nfs::Config {
    nfs::Config {
        shares: shares.to_vec(),
        owner,
        launcher: share_helper::launcher(),
        limits: Limits::default(),
    }
}

/// Two machines never have the same one, and one machine keeps its own.
pub fn default_owner(node_id: &str) -> Owner {
    let machine = os::host::machine_id().unwrap_or_else(|| node_id.to_owned());
    let name = Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{machine}.wharf.csi.dev").as_bytes());
    Owner::new(&name.to_string())
}
