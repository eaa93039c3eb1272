//! CreateSnapshot: on the node of its volume.

use super::{
    Controller,
    agents::Liveness,
    wait::{Ended, nobody, still_running},
};
use crate::{
    cluster::api::{Desired, LocalObject, LocalSnapshot, LocalSnapshotSpec, Phase},
    error::{Error, Result},
    failpoint,
    service::{CreateSnapshot, Snapshot},
    volume::{Key, NodeName, SnapshotId, VolumeId, record::Timestamp},
};
use kube::ResourceExt;
use std::time::{Duration, Instant};

/// Where a pool cannot share blocks it is a copy.
const CUTTING: Duration = Duration::from_secs(600);

impl Controller {
    pub(super) async fn cut(&self, request: &CreateSnapshot, source: &VolumeId) -> Result<Snapshot> {
        let name = Key::of(&request.name).to_string();
        let began = Instant::now();
        while began.elapsed() < CUTTING {
            let object = match self.snapshots.get(&name).await? {
                Some(object) => object,
                None => match self.write_snapshot(request, source, &name).await? {
                    Some(object) => object,
                    None => continue,
                },
            };
            if object.is_leaving() {
                if !object.is_deleted() {
                    let Some(object) = self.wish_absent(&self.snapshots, &object).await? else { continue };
                    failpoint!("cluster.snapshot.old-wished");
                    self.snapshots.delete_this(&object).await?;
                    failpoint!("cluster.snapshot.old-deleted");
                } else if self.is_stranded(&object).await? {
                    self.let_go(&self.snapshots, &object).await?;
                    continue;
                }
                self.wait_until_out(&self.snapshots, &object).await?;
                continue;
            }
            if let Err(error) = compare(&object, source) {
                if !object.has_failed() {
                    return Err(error);
                }
                match self.withdraw(&self.snapshots, &object).await? {
                    true => continue,
                    false => return Err(still_running::<LocalSnapshot>(&name)),
                }
            }
            if self.give_up_with_node(&object).await? {
                continue;
            }
            if object.is_orphaned() {
                self.take_over(&self.snapshots, &object).await?;
                failpoint!("cluster.snapshot.adopted");
                continue;
            }
            let left = CUTTING.saturating_sub(began.elapsed());
            if let Some(done) = self.await_cut(&object, left).await? {
                return Ok(done);
            }
        }
        Err(still_running::<LocalSnapshot>(&name))
    }

    /// `None`: there is one already.
    async fn write_snapshot(
        &self,
        request: &CreateSnapshot,
        source: &VolumeId,
        name: &str,
    ) -> Result<Option<LocalSnapshot>> {
        // Nothing is written for a volume that nobody has heard of.
        let volume = self.known_volume(source).await?;
        if !request.topology.allows(&source.node) {
            return Err(Error::NoSpace(format!(
                "a snapshot lies where its volume lies, on node {}, which the topology requirement leaves out",
                source.node
            )));
        }
        if self.agents.look(volume.node_name()).await? == Liveness::Dead {
            return Err(match self.is_gone_for_good(volume.node_name()).await? {
                true => Error::Refused(format!(
                    "node {}, where volume {source} lies, is gone: nothing can be cut there",
                    volume.node_name()
                )),
                false => nobody(&volume),
            });
        }
        let spec = LocalSnapshotSpec {
            node_name: volume.node_name().to_owned(),
            name: request.name.as_str().to_owned(),
            source_volume_id: source.to_string(),
            desired: Desired::Present,
        };
        failpoint!("cluster.snapshot.placed");
        let written = self.snapshots.create(&LocalSnapshot::new(name, spec)).await?;
        failpoint!("cluster.snapshot.written");
        Ok(written)
    }

    /// `None`: look again.
    async fn await_cut(&self, object: &LocalSnapshot, limit: Duration) -> Result<Option<Snapshot>> {
        let ended = |object: &LocalSnapshot| {
            let failure = object.failure_now();
            let failed = object.phase() == Some(Phase::Failed);
            match failure {
                _ if object.is_leaving() => Some(Outcome::Leaving),
                Some(error) if failed && error.is_final() => {
                    Some(Outcome::Failed(error, Box::new(object.clone())))
                }
                Some(error) if error.is_final() => Some(Outcome::Trouble(error.after_commit())),
                Some(error) => Some(Outcome::Trouble(error)),
                None if object.phase() == Some(Phase::Lost) => {
                    Some(Outcome::Trouble(lost(object).after_commit()))
                }
                None if object.phase() == Some(Phase::Ready) => snapshot_of(object).ok().map(Outcome::Done),
                None => None,
            }
        };
        match self.wait(&self.snapshots, object, limit, ended).await? {
            Ended::Decided(Outcome::Done(snapshot)) => Ok(Some(snapshot)),
            Ended::Decided(Outcome::Leaving) | Ended::Gone => Ok(None),
            Ended::Decided(Outcome::Trouble(error)) => Err(error),
            Ended::Decided(Outcome::Failed(error, object)) => {
                failpoint!("cluster.snapshot.failed");
                match self.withdraw(&self.snapshots, &object).await? {
                    true => Err(error),
                    false => Err(error.after_commit()),
                }
            }
            Ended::Dead => match self.snapshots.get(&object.name_any()).await? {
                // Nothing has happened; should the node come back, nothing happens either.
                Some(now) if !now.is_accepted() && !now.is_leaving() => {
                    failpoint!("cluster.snapshot.stale");
                    self.snapshots.delete_unchanged(&now).await?;
                    Err(nobody(&now))
                }
                Some(now) => Err(nobody(&now)),
                None => Ok(None),
            },
            Ended::Late => Err(still_running::<LocalSnapshot>(&object.name_any())),
        }
    }

    /// Gives up what nobody has been told of, with a node that is gone for good. Were it to come back, its agent would find
    /// what there is.
    async fn give_up_with_node(&self, object: &LocalSnapshot) -> Result<bool> {
        if object.was_there() || !self.is_gone_for_good(object.node_name()).await? {
            return Ok(false);
        }
        self.drop_unchanged(&self.snapshots, object).await.map(|()| true)
    }
}

enum Outcome {
    Done(Snapshot),
    Failed(Error, Box<LocalSnapshot>),
    Trouble(Error),
    Leaving,
}

fn compare(object: &LocalSnapshot, source: &VolumeId) -> Result<()> {
    match VolumeId::parse(&object.spec.source_volume_id) {
        Some(found) if found.key == source.key => Ok(()),
        _ => Err(Error::Incompatible(format!(
            "a snapshot of this name exists for another volume ({}): use another name",
            object.spec.source_volume_id
        ))),
    }
}

/// A snapshot that its agent has told of.
pub(super) fn snapshot_of(object: &LocalSnapshot) -> Result<Snapshot> {
    let name = object.name_any();
    let key = Key::parse(&name).ok_or_else(|| {
        Error::Damaged(format!(
            "localsnapshot {name} is not called like a uuid: the driver makes none such, delete it"
        ))
    })?;
    let unready = || still_running::<LocalSnapshot>(&name);
    let status = object.status.as_ref().ok_or_else(unready)?;
    let asked = status.asked_bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let time = status.creation_time.as_ref().ok_or_else(unready)?.0;
    let node = NodeName::of_node(object.node_name());
    Ok(Snapshot {
        id: SnapshotId { key, node: node.clone() }.to_string(),
        volume_id: object.spec.source_volume_id.clone(),
        asked_bytes: asked.ok_or_else(unready)?,
        created: Timestamp {
            seconds: u64::try_from(time.as_second()).unwrap_or_default(),
            nanos: u32::try_from(time.subsec_nanosecond()).unwrap_or_default(),
        },
        node: Some(node),
    })
}

fn lost(object: &LocalSnapshot) -> Error {
    Error::Damaged(format!(
        "snapshot {} was on node {} and is not any more: bring its disk back, or delete it",
        object.name_any(),
        object.node_name()
    ))
}
