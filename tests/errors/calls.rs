//! Every RPC that the driver serves, as a message that can be sent.

#![allow(dead_code, reason = "several tests share this, and not each uses all of it")]

use crate::support::co::{Co, csi};
use std::{future::Future, time::Duration};
use tonic::{Request, Response, Status};
use wharf::rpc::client::Client;

/// The caller's deadline, where a test does not give one.
const LIMIT: Duration = Duration::from_secs(60);

/// A request, and the answer that belongs to it.
pub trait Rpc: Clone + Default + Send + 'static {
    type Answer: Clone + PartialEq + Send + 'static;
    const METHOD: &'static str;

    fn send(
        request: Request<Self>,
        client: Client,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

macro_rules! rpcs {
    ($($service:ident $method:ident: $request:ident => $answer:ident;)*) => {
        $(impl Rpc for csi::$request {
            type Answer = csi::$answer;
            const METHOD: &'static str = stringify!($method);

            async fn send(
                request: Request<Self>,
                mut client: Client,
            ) -> Result<Response<Self::Answer>, Status> {
                client.$service.$method(request).await
            }
        })*

        /// How many RPCs there are.
        pub const SERVED: usize = [$(stringify!($method)),*].len();
    };
}

rpcs! {
    identity get_plugin_info: GetPluginInfoRequest => GetPluginInfoResponse;
    identity get_plugin_capabilities: GetPluginCapabilitiesRequest => GetPluginCapabilitiesResponse;
    identity probe: ProbeRequest => ProbeResponse;
    controller create_volume: CreateVolumeRequest => CreateVolumeResponse;
    controller delete_volume: DeleteVolumeRequest => DeleteVolumeResponse;
    controller controller_publish_volume: ControllerPublishVolumeRequest => ControllerPublishVolumeResponse;
    controller controller_unpublish_volume: ControllerUnpublishVolumeRequest => ControllerUnpublishVolumeResponse;
    controller validate_volume_capabilities: ValidateVolumeCapabilitiesRequest => ValidateVolumeCapabilitiesResponse;
    controller list_volumes: ListVolumesRequest => ListVolumesResponse;
    controller controller_list_volume_health: ControllerListVolumeHealthRequest => ControllerListVolumeHealthResponse;
    controller controller_get_volume_health: ControllerGetVolumeHealthRequest => ControllerGetVolumeHealthResponse;
    controller get_capacity: GetCapacityRequest => GetCapacityResponse;
    controller controller_get_capabilities: ControllerGetCapabilitiesRequest => ControllerGetCapabilitiesResponse;
    controller create_snapshot: CreateSnapshotRequest => CreateSnapshotResponse;
    controller delete_snapshot: DeleteSnapshotRequest => DeleteSnapshotResponse;
    controller list_snapshots: ListSnapshotsRequest => ListSnapshotsResponse;
    controller get_snapshot: GetSnapshotRequest => GetSnapshotResponse;
    controller controller_expand_volume: ControllerExpandVolumeRequest => ControllerExpandVolumeResponse;
    controller controller_get_volume: ControllerGetVolumeRequest => ControllerGetVolumeResponse;
    controller controller_modify_volume: ControllerModifyVolumeRequest => ControllerModifyVolumeResponse;
    node node_stage_volume: NodeStageVolumeRequest => NodeStageVolumeResponse;
    node node_unstage_volume: NodeUnstageVolumeRequest => NodeUnstageVolumeResponse;
    node node_publish_volume: NodePublishVolumeRequest => NodePublishVolumeResponse;
    node node_unpublish_volume: NodeUnpublishVolumeRequest => NodeUnpublishVolumeResponse;
    node node_get_volume_stats: NodeGetVolumeStatsRequest => NodeGetVolumeStatsResponse;
    node node_get_volume_health: NodeGetVolumeHealthRequest => NodeGetVolumeHealthResponse;
    node node_get_storage_health: NodeGetStorageHealthRequest => NodeGetStorageHealthResponse;
    node node_expand_volume: NodeExpandVolumeRequest => NodeExpandVolumeResponse;
    node node_get_capabilities: NodeGetCapabilitiesRequest => NodeGetCapabilitiesResponse;
    node node_get_info: NodeGetInfoRequest => NodeGetInfoResponse;
}

/// Sends a request and waits for its answer.
pub fn ask<Q: Rpc>(co: &mut Co, request: Q) -> Result<Q::Answer, Status> {
    ask_within(co, request, LIMIT)
}

/// With another deadline.
pub fn ask_within<Q: Rpc>(co: &mut Co, message: Q, limit: Duration) -> Result<Q::Answer, Status> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    co.call(|client| Q::send(request, client))
}

/// Sends a request and goes away after a while, as a caller that is cancelled does. Whether the answer
/// came before that.
pub fn abandon<Q: Rpc>(co: &mut Co, message: Q, after: Duration) -> bool {
    let request = Request::new(message);
    let outcome = co.call(|client| async move {
        let answer = tokio::time::timeout(after, Q::send(request, client)).await;
        Ok(Response::new(answer.is_ok()))
    });
    outcome.unwrap()
}
