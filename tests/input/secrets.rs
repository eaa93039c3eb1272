//! What must never be told: secrets, and mount flags, which may hold some.

use crate::{
    calls::{Rpc, ask},
    support::{
        MIB,
        co::{Co, Spec, csi},
        driver::Driver,
        places::Places,
        pool::{Kind, Pool},
        unique,
    },
};
use std::{collections::BTreeMap, fs, path::Path};
use tonic::Status;

const CANARY: &str = "c4n4ry-7f3a";

fn canary() -> BTreeMap<String, String> {
    [("token".to_owned(), CANARY.to_owned()), (CANARY.to_owned(), "x".to_owned())].into()
}

/// A flag that is refused: its text must not come back.
fn flags() -> Vec<String> {
    vec!["noatime".to_owned(), format!("context={CANARY}")]
}

fn with_flags(mut capability: csi::VolumeCapability) -> csi::VolumeCapability {
    if let Some(csi::volume_capability::AccessType::Mount(mount)) = &mut capability.access_type {
        mount.mount_flags = flags();
    }
    capability
}

/// Sends requests and keeps what was said.
struct Caller {
    co: Co,
    said: Vec<String>,
    requests: usize,
}

impl Caller {
    fn ask<Q: Rpc>(&mut self, request: Q) -> Result<Q::Answer, Status> {
        self.requests += 1;
        let answer = ask(&mut self.co, request);
        if let Err(status) = &answer {
            self.said.push(format!("{status:?} {}", status.message()));
        }
        answer
    }
}

#[test]
fn secrets_and_mount_flags_are_never_told() {
    let pool = Pool::new(Kind::Xfs, 2 << 30);
    let mut logged = 0;
    for format in ["text", "json"] {
        let environment =
            [("WHARF_LOG_LEVEL", "trace"), ("WHARF_LOG_FORMAT", format), ("RUST_BACKTRACE", "1")];
        let driver = Driver::start(&[("default", pool.path())], &environment);
        let places = Places::new();
        let mut caller = Caller { co: driver.co(), said: Vec::new(), requests: 0 };
        life(&mut caller, &places);
        mistakes(&mut caller, &places);
        let log = driver.log();
        assert!(log.contains("TRACE"), "the log is at its most talkative");
        assert!(log.contains("CreateVolume"));
        let line = log.lines().find(|line| line.contains(CANARY));
        assert!(line.is_none(), "{line:?}");
        let said = caller.said.iter().find(|said| said.contains(CANARY));
        assert!(said.is_none(), "{said:?}");
        assert!(caller.said.len() >= 8, "{:?}", caller.said);
        search(pool.path());
        println!(
            "{} requests, {} lines of log, {} messages",
            caller.requests,
            log.lines().count(),
            caller.said.len()
        );
        logged += log.lines().count();
    }
    assert!(logged > 500);
}

/// Nothing of it is stored either.
fn search(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        assert!(!entry.file_name().to_string_lossy().contains(CANARY));
        let path = entry.path();
        if path.is_dir() {
            search(&path);
        } else if path.file_name().is_some_and(|name| name != "disk.img") {
            let content = fs::read(&path).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&content).contains(CANARY), "{}", path.display());
        }
    }
}

/// Each request that may carry secrets, answered with OK.
fn life(caller: &mut Caller, places: &Places) {
    let spec = Spec::new().thin().size(8 * MIB).flag("noatime");
    let (staging, target) = (places.staging(&unique("s")), places.target(&unique("t")));
    let [staging, target] = [staging, target].map(|path| path.to_str().unwrap().to_owned());
    let create = csi::CreateVolumeRequest { secrets: canary(), ..spec.request(&unique("v")) };
    let id = caller.ask(create.clone()).unwrap().volume.unwrap().volume_id;
    caller.ask(create).unwrap();
    let capability = Some(spec.capability());
    let stage = csi::NodeStageVolumeRequest {
        volume_id: id.clone(),
        staging_target_path: staging.clone(),
        volume_capability: capability.clone(),
        secrets: canary(),
        ..Default::default()
    };
    caller.ask(stage).unwrap();
    let publish = csi::NodePublishVolumeRequest {
        volume_id: id.clone(),
        staging_target_path: staging.clone(),
        target_path: target.clone(),
        volume_capability: capability.clone(),
        secrets: canary(),
        ..Default::default()
    };
    caller.ask(publish).unwrap();
    let range = Some(csi::CapacityRange { required_bytes: 16 << 20, limit_bytes: 0 });
    let expand = csi::ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: range,
        secrets: canary(),
        ..Default::default()
    };
    caller.ask(expand).unwrap();
    let expand = csi::NodeExpandVolumeRequest {
        volume_id: id.clone(),
        volume_path: target.clone(),
        capacity_range: range,
        secrets: canary(),
        ..Default::default()
    };
    let _ = caller.ask(expand);
    let cut = csi::CreateSnapshotRequest {
        source_volume_id: id.clone(),
        name: unique("s"),
        secrets: canary(),
        ..Default::default()
    };
    let snapshot = caller.ask(cut).unwrap().snapshot.unwrap().snapshot_id;
    caller.ask(csi::ListSnapshotsRequest { secrets: canary(), ..Default::default() }).unwrap();
    caller.ask(csi::GetSnapshotRequest { snapshot_id: snapshot.clone(), secrets: canary() }).unwrap();
    caller.ask(csi::ControllerListVolumeHealthRequest { secrets: canary(), ..Default::default() }).unwrap();
    caller.ask(csi::ControllerGetVolumeHealthRequest { volume_id: id.clone(), secrets: canary() }).unwrap();
    let validate = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_capabilities: capability.into_iter().collect(),
        secrets: canary(),
        ..Default::default()
    };
    caller.ask(validate).unwrap();
    caller.ask(csi::DeleteSnapshotRequest { snapshot_id: snapshot, secrets: canary() }).unwrap();
    caller.ask(csi::NodeUnpublishVolumeRequest { volume_id: id.clone(), target_path: target }).unwrap();
    caller
        .ask(csi::NodeUnstageVolumeRequest { volume_id: id.clone(), staging_target_path: staging })
        .unwrap();
    caller.ask(csi::DeleteVolumeRequest { volume_id: id, secrets: canary() }).unwrap();
}

/// Each request that may carry secrets or mount flags, answered with an error.
fn mistakes(caller: &mut Caller, places: &Places) {
    let spec = Spec::new().thin().size(8 * MIB);
    let id = caller.ask(spec.request(&unique("v"))).unwrap().volume.unwrap().volume_id;
    let staging = places.staging(&unique("s")).to_str().unwrap().to_owned();
    let flagged = with_flags(spec.capability());
    let mut create = csi::CreateVolumeRequest { secrets: canary(), ..spec.request(&unique("v")) };
    create.volume_capabilities = vec![flagged.clone()];
    caller.ask(create.clone()).map(drop).unwrap_err();
    create.parameters.insert("colour".into(), "red".into());
    caller.ask(create).map(drop).unwrap_err();
    for secrets in [canary(), BTreeMap::new()] {
        let stage = csi::NodeStageVolumeRequest {
            volume_id: id.clone(),
            staging_target_path: staging.clone(),
            volume_capability: Some(flagged.clone()),
            secrets,
            ..Default::default()
        };
        caller.ask(stage).map(drop).unwrap_err();
    }
    caller.co.stage(&id, Path::new(&staging), &spec).unwrap();
    let target = places.target(&unique("t"));
    let publish = csi::NodePublishVolumeRequest {
        volume_id: id.clone(),
        staging_target_path: staging.clone(),
        target_path: target.to_str().unwrap().to_owned(),
        volume_capability: Some(flagged.clone()),
        secrets: canary(),
        ..Default::default()
    };
    caller.ask(publish).map(drop).unwrap_err();
    let expand =
        csi::ControllerExpandVolumeRequest { volume_id: id.clone(), secrets: canary(), ..Default::default() };
    caller.ask(expand).map(drop).unwrap_err();
    let attach = csi::ControllerPublishVolumeRequest {
        volume_id: id.clone(),
        volume_capability: Some(flagged.clone()),
        secrets: canary(),
        ..Default::default()
    };
    caller.ask(attach).map(drop).unwrap_err();
    let modify =
        csi::ControllerModifyVolumeRequest { volume_id: id.clone(), secrets: canary(), ..Default::default() };
    caller.ask(modify).map(drop).unwrap_err();
    let cut = csi::CreateSnapshotRequest { name: unique("s"), secrets: canary(), ..Default::default() };
    caller.ask(cut).map(drop).unwrap_err();
    // In use: refused.
    caller.ask(csi::DeleteVolumeRequest { volume_id: id.clone(), secrets: canary() }).map(drop).unwrap_err();
    let validate = csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.clone(),
        volume_capabilities: vec![flagged.clone()],
        secrets: canary(),
        ..Default::default()
    };
    let answer = caller.ask(validate).unwrap();
    assert!(answer.confirmed.is_none());
    caller.said.push(answer.message);
    let capacity = csi::GetCapacityRequest { volume_capabilities: vec![flagged], ..Default::default() };
    assert_eq!(caller.ask(capacity).unwrap().available_capacity, 0);
    caller.co.unstage(&id, Path::new(&staging)).unwrap();
    caller.co.delete(&id).unwrap();
}
