//! Shows the controller that this node's agent is alive.

use super::Agent;
use crate::os;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::time::Duration;
use tokio::time;
use uuid::Uuid;

/// Between two renewals.
const RENEWAL: Duration = Duration::from_secs(10);
/// Between two attempts after one has failed.
const RETRY: Duration = Duration::from_secs(2);
/// Whoever has not renewed for so long is taken for dead.
const SECONDS: i32 = 40;

/// Renews until it is dropped. The lease is not given up at the end: another process of this node takes it over.
pub async fn keep(agent: &Agent, namespace: &str) {
    let leases = Api::<Lease>::namespaced(agent.client.clone(), namespace);
    let name = format!("wharf-node-{}", agent.node_name);
    // One host, one process: no other one has ever had it.
    let host = os::host::name().unwrap_or_else(|_| agent.node_name.clone());
    let holder = format!("{host}_{}", Uuid::new_v4());
    let acquired = now();
    let subject = format!("lease {namespace}/{name}");
    loop {
        let spec = LeaseSpec {
            holder_identity: Some(holder.clone()),
            lease_duration_seconds: Some(SECONDS),
            acquire_time: Some(acquired.clone()),
            renew_time: Some(now()),
            ..LeaseSpec::default()
        };
        let wait = match renew(agent, &leases, &name, spec).await {
            Ok(()) => {
                agent.complaints.settled(&subject);
                RENEWAL
            }
            Err(error) => {
                agent.complaints.about(&subject, &error);
                RETRY
            }
        };
        time::sleep(wait).await;
    }
}

async fn renew(agent: &Agent, leases: &Api<Lease>, name: &str, spec: LeaseSpec) -> kube::Result<()> {
    let patch = Patch::Merge(json!({ "spec": spec }));
    match agent.within(leases.patch(name, &PatchParams::default(), &patch)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            agent.within(leases.create(&PostParams::default(), &lease)).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// To the microsecond, as leases hold it.
fn now() -> MicroTime {
    let now = Timestamp::now();
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}
