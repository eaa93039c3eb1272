//! The steps, in the order in which an orchestrator takes them.

use super::{scratch::Scratch, step::Break, teller::Teller};
use crate::{
    commands::print,
    os::{file, mountinfo},
    rpc::{
        client::{Client, answered},
        csi::{self, volume_capability, volume_content_source},
    },
    server::Shutdown,
    service::Service,
    volume::parameters::DEFAULT_POOL,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const MIB: i64 = 1 << 20;
/// The volume, as it is made and as it is after growing.
const SIZE: i64 = 512 * MIB;
const GROWN: i64 = 768 * MIB;
/// The volume, its snapshot and its restore, with something to spare.
const NEEDED: i64 = 3 * GROWN;
/// What the application writes.
const CONTENT: usize = 16 << 20;
const FILE: &str = "data.bin";

/// A volume as its orchestrator knows it.
#[derive(Clone, Debug)]
struct Volume {
    id: String,
    staging: PathBuf,
    target: PathBuf,
}

/// The orchestrator.
pub struct Story<'a> {
    client: Client,
    scratch: &'a Scratch,
    pub(super) teller: &'a mut Teller,
    service: &'a Service,
    pub(super) interrupted: Arc<AtomicBool>,
    volumes: Vec<Volume>,
    snapshots: Vec<String>,
}

/// One call, repeated where the answer asks for that.
macro_rules! call {
    ($story:expr, $service:ident . $method:ident, $request:expr) => {{
        let (service, request) = ($story.client.$service.clone(), $request);
        answered(move || {
            let (mut service, request) = (service.clone(), request.clone());
            async move { service.$method(request).await }
        })
    }};
}

impl<'a> Story<'a> {
    /// Watches for signals from here on.
    pub fn new(
        client: Client,
        scratch: &'a Scratch,
        teller: &'a mut Teller,
        service: &'a Service,
        signals: Shutdown,
    ) -> Self {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        tokio::spawn(async move {
            signals.draining().await;
            flag.store(true, Ordering::Relaxed);
        });
        Self { client, scratch, teller, service, interrupted, volumes: Vec::new(), snapshots: Vec::new() }
    }

    /// From the first question to the last deletion.
    pub async fn tell(&mut self) -> Result<(), Break> {
        self.look_around().await?;
        let volume = self.create("demo", SIZE, None).await?;
        self.stage(&volume).await?;
        self.publish(&volume).await?;
        let content = noise(CONTENT);
        self.write(&volume, &content)?;
        self.stats(&volume).await?;
        let early = self.snapshot(&volume).await?;
        if early.is_some() {
            self.overwrite(&volume)?;
        }
        let grown = self.expand(&volume).await?;
        self.unpublish(&volume).await?;
        self.unstage(&volume).await?;
        let snapshot = match early {
            Some(snapshot) => snapshot,
            None => self.snapshot(&volume).await?.ok_or_else(|| {
                Break::new("CreateSnapshot", "it was refused again although the volume is in no use any more")
            })?,
        };
        if !grown {
            self.grow_at_stage(&volume).await?;
        }
        self.restore(&snapshot, &content).await?;
        self.delete_all().await
    }

    async fn look_around(&mut self) -> Result<(), Break> {
        let asked = call!(self, identity.get_plugin_info, csi::GetPluginInfoRequest {});
        self.step("GetPluginInfo", asked, |info| {
            format!("{} {} answers over gRPC", info.name, info.vendor_version)
        })
        .await?;
        let request =
            csi::GetCapacityRequest { volume_capabilities: vec![capability()], ..Default::default() };
        let asked = call!(self, controller.get_capacity, request);
        let room = self.step("GetCapacity", asked, |answer| {
            format!("{} can be claimed by new volumes", size(answer.available_capacity))
        });
        let room = room.await?.available_capacity;
        if room >= NEEDED {
            return Ok(());
        }
        Err(Break::new(
            "GetCapacity",
            format!(
                "{} has room for {}, but the demo needs {}: choose a directory on a larger disk with --directory",
                self.scratch.path().display(),
                size(room),
                size(NEEDED)
            ),
        ))
    }

    async fn create(
        &mut self,
        name: &str,
        bytes: i64,
        snapshot: Option<&csi::Snapshot>,
    ) -> Result<Volume, Break> {
        let source = snapshot.map(|snapshot| csi::VolumeContentSource {
            r#type: Some(volume_content_source::Type::Snapshot(volume_content_source::SnapshotSource {
                snapshot_id: snapshot.snapshot_id.clone(),
            })),
        });
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capabilities: vec![capability()],
            volume_content_source: source,
            ..Default::default()
        };
        let restored = snapshot.is_some();
        let made = self.step("CreateVolume", call!(self, controller.create_volume, request), |answer| {
            let bytes = answer.volume.as_ref().map_or(0, |volume| volume.capacity_bytes);
            match restored {
                false => format!("{} that are its own, with ext4 inside", size(bytes)),
                true => {
                    format!("{} restored from the snapshot, with a filesystem id of its own", size(bytes))
                }
            }
        });
        let id = made.await?.volume.unwrap_or_default().volume_id;
        let place = |what: &str| self.scratch.path().join(format!("{name}-{what}"));
        let volume = Volume { id, staging: place("staging"), target: place("target") };
        self.volumes.push(volume.clone());
        Ok(volume)
    }

    async fn stage(&mut self, volume: &Volume) -> Result<(), Break> {
        // Kubernetes' kubelet makes the staging directory, too.
        self.local("NodeStageVolume", |_| -> crate::os::Result<()> {
            match file::stat(&volume.staging)? {
                Some(_) => Ok(()),
                None => file::create_dir(&volume.staging),
            }
        })?;
        let request = csi::NodeStageVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: text(&volume.staging),
            volume_capability: Some(capability()),
            ..Default::default()
        };
        let staging = volume.staging.clone();
        let staged = call!(self, node.node_stage_volume, request);
        self.step("NodeStageVolume", staged, move |_| match mountinfo::at(&staging) {
            Ok(Some(mount)) => format!("the image is {} now, mounted once for this node", mount.source),
            _ => "the image is attached and mounted once for this node".to_owned(),
        })
        .await
        .map(drop)
    }

    async fn publish(&mut self, volume: &Volume) -> Result<(), Break> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: text(&volume.staging),
            target_path: text(&volume.target),
            volume_capability: Some(capability()),
            ..Default::default()
        };
        let published = call!(self, node.node_publish_volume, request);
        let told = |_: &_| "the application sees its directory (nosuid, nodev)".to_owned();
        self.step("NodePublishVolume", published, told).await.map(drop)
    }

    fn write(&mut self, volume: &Volume, content: &[u8]) -> Result<(), Break> {
        let path = volume.target.join(FILE);
        self.teller.begin("the application");
        let written = fs::write(&path, content).and_then(|()| fs::File::open(&path)?.sync_all());
        self.told(
            "the application",
            written.map(|()| format!("wrote {} and synced it", print::bytes(content.len() as u64))),
        )
    }

    fn overwrite(&mut self, volume: &Volume) -> Result<(), Break> {
        self.teller.begin("the application");
        let written = fs::write(volume.target.join(FILE), b"changed after the snapshot");
        self.told("the application", written.map(|()| "overwrote its file".to_owned()))
    }

    async fn stats(&mut self, volume: &Volume) -> Result<i64, Break> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: volume.id.clone(),
            volume_path: text(&volume.target),
            ..Default::default()
        };
        let answer =
            self.step("NodeGetVolumeStats", call!(self, node.node_get_volume_stats, request), |answer| {
                match answer.usage.first() {
                    Some(usage) => format!("{} of {} are used", size(usage.used), size(usage.total)),
                    None => "no figures".to_owned(),
                }
            });
        Ok(answer.await?.usage.first().map_or(0, |usage| usage.total))
    }

    /// `None`: not while the volume is in use.
    async fn snapshot(&mut self, volume: &Volume) -> Result<Option<csi::Snapshot>, Break> {
        let request = csi::CreateSnapshotRequest {
            source_volume_id: volume.id.clone(),
            name: "demo-snapshot".to_owned(),
            ..Default::default()
        };
        let cut = call!(self, controller.create_snapshot, request);
        let in_use = mountinfo::at(&volume.staging).is_ok_and(|mount| mount.is_some());
        let filesystem = self.scratch.filesystem();
        let cut = self.step_unless_refused("CreateSnapshot", cut, |answer| match answer {
            Some(_) if in_use => "cut while the volume is in use, sharing its blocks".to_owned(),
            Some(_) => "copied, holes left out".to_owned(),
            None => {
                format!("{filesystem} cannot share blocks: it will be copied once the volume is unstaged")
            }
        });
        let Some(snapshot) = cut.await?.and_then(|answer| answer.snapshot) else { return Ok(None) };
        self.snapshots.push(snapshot.snapshot_id.clone());
        Ok(Some(snapshot))
    }

    /// Whether the filesystem has grown already.
    async fn expand(&mut self, volume: &Volume) -> Result<bool, Break> {
        let range = Some(csi::CapacityRange { required_bytes: GROWN, limit_bytes: 0 });
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: volume.id.clone(),
            capacity_range: range,
            ..Default::default()
        };
        let expanded = call!(self, controller.controller_expand_volume, request);
        self.step("ControllerExpandVolume", expanded, |answer| {
            format!("the image has {} now, and owns them", size(answer.capacity_bytes))
        })
        .await?;
        let request = csi::NodeExpandVolumeRequest {
            volume_id: volume.id.clone(),
            volume_path: text(&volume.target),
            staging_target_path: text(&volume.staging),
            capacity_range: range,
            ..Default::default()
        };
        let expanded = self.step_unless_refused(
            "NodeExpandVolume",
            call!(self, node.node_expand_volume, request),
            |answer| match answer {
                Some(_) => "the filesystem grew while it was mounted".to_owned(),
                None => {
                    "the kernel refuses without CAP_SYS_RESOURCE: it grows when it is staged again".to_owned()
                }
            },
        );
        Ok(expanded.await?.is_some())
    }

    async fn grow_at_stage(&mut self, volume: &Volume) -> Result<(), Break> {
        self.stage(volume).await?;
        self.publish(volume).await?;
        let total = self.stats(volume).await?;
        self.unpublish(volume).await?;
        self.unstage(volume).await?;
        // What ext4 needs for itself does not count.
        if total > SIZE {
            return Ok(());
        }
        Err(Break::new(
            "NodeStageVolume",
            format!("the filesystem did not grow, it still has {}", size(total)),
        ))
    }

    async fn restore(&mut self, snapshot: &csi::Snapshot, content: &[u8]) -> Result<(), Break> {
        let volume = self.create("restored", snapshot.size_bytes, Some(snapshot)).await?;
        self.stage(&volume).await?;
        self.publish(&volume).await?;
        self.teller.begin("the application");
        let read = fs::read(volume.target.join(FILE)).and_then(|found| match found == content {
            true => Ok("found its file as it was at the snapshot, byte for byte".to_owned()),
            false => Err(std::io::Error::other("the restored file differs from what was written")),
        });
        self.told("the application", read)?;
        self.unpublish(&volume).await?;
        self.unstage(&volume).await
    }

    async fn unpublish(&mut self, volume: &Volume) -> Result<(), Break> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: volume.id.clone(),
            target_path: text(&volume.target),
        };
        let gone = call!(self, node.node_unpublish_volume, request);
        self.step("NodeUnpublishVolume", gone, |_| "the application has ended".to_owned()).await.map(drop)
    }

    async fn unstage(&mut self, volume: &Volume) -> Result<(), Break> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: volume.id.clone(),
            staging_target_path: text(&volume.staging),
        };
        let gone = call!(self, node.node_unstage_volume, request);
        self.step("NodeUnstageVolume", gone, |_| "unmounted, and its loop device is free".to_owned())
            .await
            .map(drop)
    }

    async fn delete_all(&mut self) -> Result<(), Break> {
        while let Some(id) = self.snapshots.last().cloned() {
            let request = csi::DeleteSnapshotRequest { snapshot_id: id, ..Default::default() };
            let gone = call!(self, controller.delete_snapshot, request);
            self.step("DeleteSnapshot", gone, |_| {
                "one rename, the rest follows in the background".to_owned()
            })
            .await?;
            self.snapshots.pop();
        }
        while let Some(volume) = self.volumes.last().cloned() {
            let request = csi::DeleteVolumeRequest { volume_id: volume.id, ..Default::default() };
            let gone = call!(self, controller.delete_volume, request);
            self.step("DeleteVolume", gone, |_| "one rename, the rest follows in the background".to_owned())
                .await?;
            self.volumes.pop();
        }
        self.local("the pool", Story::check_empty)?;
        Ok(())
    }

    /// What was deleted is purged soon; then the pool holds nothing.
    fn check_empty(&self) -> crate::error::Result<()> {
        let pool = self.service.store().pool(DEFAULT_POOL)?;
        pool.janitor().wait_until_idle(Duration::from_secs(30));
        let left = pool.leftovers()?;
        match left.first() {
            None if pool.keys(crate::store::Kind::Volume)?.is_empty() => Ok(()),
            None => Err(crate::error::Error::Internal("a deleted volume is still there".into())),
            Some(first) => {
                Err(crate::error::Error::Internal(format!("{} is left over", first.place.display())))
            }
        }
    }

    /// Undoes what was done, as far as it goes, without a word: the scratch directory goes next.
    pub async fn tidy(&mut self) {
        for volume in self.volumes.clone() {
            let target = text(&volume.target);
            let request =
                csi::NodeUnpublishVolumeRequest { volume_id: volume.id.clone(), target_path: target };
            let _removed_by_force_otherwise = call!(self, node.node_unpublish_volume, request).await;
            let staging_target_path = text(&volume.staging);
            let request = csi::NodeUnstageVolumeRequest { volume_id: volume.id.clone(), staging_target_path };
            let _removed_by_force_otherwise = call!(self, node.node_unstage_volume, request).await;
        }
    }
}

fn capability() -> csi::VolumeCapability {
    use volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Mount(MountVolume {
            fs_type: "ext4".to_owned(),
            ..Default::default()
        })),
    }
}

/// Paths are made here, of names that are text.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn size(bytes: i64) -> String {
    print::bytes(u64::try_from(bytes).unwrap_or_default())
}

/// Bytes that no filesystem can compress or store sparsely (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}
