//! A client that speaks as a container orchestrator does, and waits for each answer.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tonic::{Request, Response, Status};
use wharf::rpc::client::Client;
pub use wharf::rpc::csi;

pub use csi::volume_capability::access_mode::Mode;

/// The caller's deadline of every call.
const LIMIT: Duration = Duration::from_secs(60);

/// What a StorageClass and a claim ask for, and how the volume is used. No `Debug`: the generated modes have none.
#[derive(Clone)]
pub struct Spec {
    pub parameters: Vec<(String, String)>,
    /// Empty: none named.
    pub fs: String,
    pub block: bool,
    pub required: i64,
    pub limit: i64,
    pub mode: Mode,
    pub flags: Vec<String>,
    pub source: Option<Source>,
    /// What CreateVolume answered, or a PV says: for Stage and Publish.
    pub context: BTreeMap<String, String>,
}

/// What a new volume is filled with.
#[derive(Clone, Debug)]
pub enum Source {
    Snapshot(String),
    Volume(String),
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            parameters: Vec::new(),
            fs: String::new(),
            block: false,
            required: 0,
            limit: 0,
            mode: Mode::SingleNodeWriter,
            flags: Vec::new(),
            source: None,
            context: BTreeMap::new(),
        }
    }
}

impl Spec {
    pub fn new() -> Self {
        Self::default()
    }

    /// An image with this filesystem.
    pub fn image(fs: &str) -> Self {
        Self::new().fs(fs)
    }

    /// A raw block volume.
    pub fn block() -> Self {
        Self { block: true, ..Self::default() }
    }

    /// A directory of an NFS share.
    pub fn nfs(server: &str, share: &str) -> Self {
        Self::new().parameter("server", server).parameter("share", share).mode(Mode::MultiNodeMultiWriter)
    }

    pub fn context(mut self, context: BTreeMap<String, String>) -> Self {
        self.context = context;
        self
    }

    /// A directory; `enforced` or `advisory`.
    pub fn directory(limit: &str) -> Self {
        Self::new().parameter("layout", "directory").parameter("limit", limit)
    }

    pub fn parameter(mut self, key: &str, value: &str) -> Self {
        self.parameters.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn fs(mut self, fs: &str) -> Self {
        self.fs = fs.to_owned();
        self
    }

    pub fn thin(self) -> Self {
        self.parameter("provisioning", "thin")
    }

    pub fn pool(self, name: &str) -> Self {
        self.parameter("pool", name)
    }

    pub fn owner(self, uid: u32, gid: u32, mode: &str) -> Self {
        self.parameter("uid", &uid.to_string()).parameter("gid", &gid.to_string()).parameter("mode", mode)
    }

    /// `required_bytes`.
    pub fn size(mut self, bytes: u64) -> Self {
        self.required = i64::try_from(bytes).unwrap();
        self
    }

    /// `limit_bytes`.
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = i64::try_from(bytes).unwrap();
        self
    }

    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    pub fn from_snapshot(mut self, id: &str) -> Self {
        self.source = Some(Source::Snapshot(id.to_owned()));
        self
    }

    pub fn from_volume(mut self, id: &str) -> Self {
        self.source = Some(Source::Volume(id.to_owned()));
        self
    }

    pub fn capability(&self) -> csi::VolumeCapability {
        use csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
        let access = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            AccessType::Mount(MountVolume {
                fs_type: self.fs.clone(),
                mount_flags: self.flags.clone(),
                volume_mount_group: String::new(),
            })
        };
        csi::VolumeCapability {
            access_mode: Some(AccessMode { mode: self.mode.into() }),
            access_type: Some(access),
        }
    }

    pub fn request(&self, name: &str) -> csi::CreateVolumeRequest {
        csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: (self.required != 0 || self.limit != 0)
                .then_some(csi::CapacityRange { required_bytes: self.required, limit_bytes: self.limit }),
            volume_capabilities: vec![self.capability()],
            parameters: self.parameters.iter().cloned().collect(),
            volume_content_source: self.source.clone().map(content_source),
            ..Default::default()
        }
    }
}

fn content_source(source: Source) -> csi::VolumeContentSource {
    use csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
    csi::VolumeContentSource {
        r#type: Some(match source {
            Source::Snapshot(snapshot_id) => Type::Snapshot(SnapshotSource { snapshot_id }),
            Source::Volume(volume_id) => Type::Volume(VolumeSource { volume_id }),
        }),
    }
}

/// One connection. Calls block; nothing happens on the connection in between.
#[derive(Debug)]
pub struct Co {
    runtime: Runtime,
    client: Client,
}

impl Co {
    pub fn connect(socket: &Path) -> Self {
        // Only its causes say what is wrong.
        Self::try_connect(socket).unwrap_or_else(|e| panic!("{}: {e:?}", socket.display()))
    }

    pub fn try_connect(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect(socket, LIMIT))?;
        Ok(Self { runtime, client })
    }

    /// Any call: `co.call(|client| async move { client.controller.list_volumes(…).await })`.
    pub fn call<T, F>(&mut self, call: impl FnOnce(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let work = call(self.client.clone());
        let answer = self.runtime.block_on(async { timeout(LIMIT, work).await });
        answer
            .map_err(|_| Status::deadline_exceeded("no answer within the caller's deadline"))?
            .map(Response::into_inner)
    }

    pub fn probe(&mut self) -> Result<csi::ProbeResponse, Status> {
        self.call(|mut client| async move { client.identity.probe(csi::ProbeRequest {}).await })
    }

    /// CreateVolume, also with a source.
    pub fn create(&mut self, name: &str, spec: &Spec) -> Result<csi::Volume, Status> {
        let request = spec.request(name);
        let answer =
            self.call(|mut client| async move { client.controller.create_volume(limited(request)).await })?;
        Ok(answer.volume.expect("CreateVolume answers with a volume"))
    }

    pub fn delete(&mut self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() };
        self.call(|mut client| async move { client.controller.delete_volume(limited(request)).await })
            .map(drop)
    }

    /// CreateSnapshot.
    pub fn snapshot(&mut self, name: &str, volume: &str) -> Result<csi::Snapshot, Status> {
        let request = csi::CreateSnapshotRequest {
            source_volume_id: volume.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        let answer =
            self.call(|mut client| async move { client.controller.create_snapshot(limited(request)).await })?;
        Ok(answer.snapshot.expect("CreateSnapshot answers with a snapshot"))
    }

    pub fn delete_snapshot(&mut self, id: &str) -> Result<(), Status> {
        let request = csi::DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        self.call(|mut client| async move { client.controller.delete_snapshot(limited(request)).await })
            .map(drop)
    }

    /// A new volume from a snapshot.
    pub fn restore(&mut self, name: &str, spec: &Spec, snapshot: &str) -> Result<csi::Volume, Status> {
        self.create(name, &spec.clone().from_snapshot(snapshot))
    }

    /// A new volume from a volume.
    pub fn clone_volume(&mut self, name: &str, spec: &Spec, volume: &str) -> Result<csi::Volume, Status> {
        self.create(name, &spec.clone().from_volume(volume))
    }

    /// ControllerExpandVolume.
    pub fn expand(&mut self, id: &str, required: u64) -> Result<csi::ControllerExpandVolumeResponse, Status> {
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: i64::try_from(required).unwrap(),
                limit_bytes: 0,
            }),
            ..Default::default()
        };
        self.call(
            |mut client| async move { client.controller.controller_expand_volume(limited(request)).await },
        )
    }

    /// NodeExpandVolume.
    pub fn expand_node(
        &mut self,
        id: &str,
        path: &Path,
        required: u64,
    ) -> Result<csi::NodeExpandVolumeResponse, Status> {
        let request = csi::NodeExpandVolumeRequest {
            volume_id: id.to_owned(),
            volume_path: text(path),
            capacity_range: Some(csi::CapacityRange {
                required_bytes: i64::try_from(required).unwrap(),
                limit_bytes: 0,
            }),
            ..Default::default()
        };
        self.call(|mut client| async move { client.node.node_expand_volume(limited(request)).await })
    }

    pub fn stage(&mut self, id: &str, staging: &Path, spec: &Spec) -> Result<(), Status> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(staging),
            volume_capability: Some(spec.capability()),
            volume_context: spec.context.clone(),
            ..Default::default()
        };
        self.call(|mut client| async move { client.node.node_stage_volume(limited(request)).await }).map(drop)
    }

    pub fn unstage(&mut self, id: &str, staging: &Path) -> Result<(), Status> {
        let request =
            csi::NodeUnstageVolumeRequest { volume_id: id.to_owned(), staging_target_path: text(staging) };
        self.call(|mut client| async move { client.node.node_unstage_volume(limited(request)).await })
            .map(drop)
    }

    pub fn publish(
        &mut self,
        id: &str,
        staging: &Path,
        target: &Path,
        spec: &Spec,
        readonly: bool,
    ) -> Result<(), Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: text(staging),
            target_path: text(target),
            volume_capability: Some(spec.capability()),
            volume_context: spec.context.clone(),
            readonly,
            ..Default::default()
        };
        self.call(|mut client| async move { client.node.node_publish_volume(limited(request)).await })
            .map(drop)
    }

    pub fn unpublish(&mut self, id: &str, target: &Path) -> Result<(), Status> {
        let request = csi::NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: text(target) };
        self.call(|mut client| async move { client.node.node_unpublish_volume(limited(request)).await })
            .map(drop)
    }

    pub fn stats(&mut self, id: &str, path: &Path) -> Result<csi::NodeGetVolumeStatsResponse, Status> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: id.to_owned(),
            volume_path: text(path),
            ..Default::default()
        };
        self.call(|mut client| async move { client.node.node_get_volume_stats(limited(request)).await })
    }

    /// GetCapacity for a class.
    pub fn capacity(&mut self, spec: &Spec) -> Result<csi::GetCapacityResponse, Status> {
        let request = csi::GetCapacityRequest {
            volume_capabilities: vec![spec.capability()],
            parameters: spec.parameters.iter().cloned().collect(),
            ..Default::default()
        };
        self.call(|mut client| async move { client.controller.get_capacity(limited(request)).await })
    }

    /// The ids of all volumes.
    pub fn volumes(&mut self) -> Result<Vec<String>, Status> {
        let request = csi::ListVolumesRequest::default();
        let answer =
            self.call(|mut client| async move { client.controller.list_volumes(limited(request)).await })?;
        Ok(answer
            .entries
            .into_iter()
            .filter_map(|entry| entry.volume)
            .map(|volume| volume.volume_id)
            .collect())
    }

    /// The ids of all snapshots.
    pub fn snapshots(&mut self) -> Result<Vec<String>, Status> {
        let request = csi::ListSnapshotsRequest::default();
        let answer =
            self.call(|mut client| async move { client.controller.list_snapshots(limited(request)).await })?;
        Ok(answer
            .entries
            .into_iter()
            .filter_map(|entry| entry.snapshot)
            .map(|found| found.snapshot_id)
            .collect())
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LIMIT);
    request
}

fn text(path: &Path) -> String {
    path.to_str().expect("test paths are text").to_owned()
}

/// Where a published volume's data is: for block the device node itself.
pub fn file_in(target: &Path, spec: &Spec, name: &str) -> PathBuf {
    if spec.block { target.to_owned() } else { target.join(name) }
}
