//! Publishes what this node offers: its StorageNode.

use super::{
    super::api::{PoolStatus, StorageNode, StorageNodeSpec, StorageNodeStatus},
    Agent,
    kind::readable,
    status::now,
};
use crate::{
    backend::limits::{self, Enforcement},
    error::Result,
    failpoint,
    os::mountinfo,
    service::Service,
    store::Pool,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time;

/// Between two looks that nothing asks for.
const BEAT: Duration = Duration::from_secs(60);
/// Between a change and the look that follows: many changes make one.
const CALM: Duration = Duration::from_secs(1);
/// Between two attempts after one has failed.
const RETRY: Duration = Duration::from_secs(5);

/// Publishes until it is dropped. What is seen is written even when it is the same as before: when it was seen tells the
/// controller which volumes are in the figures.
pub async fn publish(agent: &Agent) {
    let nodes = Api::<StorageNode>::all(agent.client.clone());
    loop {
        let wait = match look_and_write(agent, &nodes).await {
            Ok(()) => {
                agent.complaints.settled("storagenode");
                BEAT
            }
            Err(error) => {
                agent.complaints.about("storagenode", &error);
                RETRY
            }
        };
        tokio::select! {
            () = time::sleep(wait) => {}
            () = agent.node_changed.notified() => time::sleep(CALM).await,
        }
    }
}

async fn look_and_write(agent: &Agent, nodes: &Api<StorageNode>) -> kube::Result<()> {
    let Ok(status) = agent.short(|service| Ok(observe(service))).await else { return Ok(()) };
    let seen = StorageNodeStatus { observed_time: Some(Time(now())), ..status };
    match write(agent, nodes, &seen).await {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => {
            let object = StorageNode::new(&agent.node_name, StorageNodeSpec {});
            agent.within(nodes.create(&PostParams::default(), &object)).await?;
            failpoint!("agent.node-created");
            write(agent, nodes, &seen).await?;
        }
        other => other?,
    }
    Ok(())
}

async fn write(agent: &Agent, nodes: &Api<StorageNode>, status: &StorageNodeStatus) -> kube::Result<()> {
    let patch = Patch::Merge(json!({ "status": with_nulls(status) }));
    agent.within(nodes.patch_status(&agent.node_name, &PatchParams::default(), &patch)).await.map(drop)
}

/// A list is replaced as a whole; a field that may be absent has to be taken away. Conditions are others'.
fn with_nulls(status: &StorageNodeStatus) -> Value {
    let mut value = json!(status);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("conditions");
    }
    value
}

/// Looks at every pool.
fn observe(service: &Service) -> StorageNodeStatus {
    let pools = service.store().pools().map(|(name, pool)| match pool.and_then(|pool| of_pool(&pool)) {
        Ok(status) => status,
        Err(error) => {
            PoolStatus { name: name.to_owned(), message: Some(error.chain()), ..PoolStatus::default() }
        }
    });
    StorageNodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        topology_value: service.node().as_str().to_owned(),
        observed_time: None,
        pools: pools.collect(),
        conditions: Vec::new(),
    }
}

fn of_pool(pool: &Pool) -> Result<PoolStatus> {
    pool.verify()?;
    let room = pool.room()?;
    let filesystem = mountinfo::of(pool.home()).ok().flatten().map(|mount| mount.fstype);
    Ok(PoolStatus {
        name: pool.name().to_owned(),
        uuid: Some(pool.store().to_string()),
        path: pool.home().display().to_string(),
        filesystem,
        reflink: pool.abilities().reflink,
        directory_limits: limits::of(pool)? != Enforcement::None,
        capacity_bytes: i64::try_from(pool.space()?.total).unwrap_or(i64::MAX),
        available_bytes: i64::try_from(room).unwrap_or(i64::MAX),
        available: Some(readable(room)),
        message: pool.is_read_only()?.then(|| "its filesystem is read-only".to_owned()),
    })
}
