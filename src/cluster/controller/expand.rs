//! ControllerExpandVolume: a larger wish, and the agent's answer to it.

use super::{
    Controller,
    wait::{Ended, nobody, still_running},
};
use crate::{
    cluster::api::{LocalObject, LocalVolume, Phase},
    error::{Error, Result},
    failpoint,
    service::{ExpandVolume, Expanded},
    volume::{VolumeId, size},
};
use kube::ResourceExt;
use serde_json::json;
use std::time::{Duration, Instant};

/// Allocation of a large thick image takes a while on some filesystems.
const GROWING: Duration = Duration::from_secs(50);

impl Controller {
    pub(super) async fn expand(&self, id: &VolumeId, request: &ExpandVolume) -> Result<Expanded> {
        let name = id.key.to_string();
        let began = Instant::now();
        while began.elapsed() < GROWING {
            let object = self.known_volume(id).await?;
            if let Some(capability) = &request.capability {
                super::capability::check(capability, &object)?;
            }
            check_limit(&object, request)?;
            if object.is_orphaned() {
                self.adopt(&object).await?;
                continue;
            }
            let Some(wished) = self.wish_larger(&object, request).await? else { continue };
            let left = GROWING.saturating_sub(began.elapsed());
            match self.wait(&self.volumes, &wished, left, answer).await? {
                Ended::Decided(Ok(size_bytes)) => return Ok(expanded(&wished, size_bytes)),
                Ended::Decided(Err(error)) if error.is_final() => {
                    failpoint!("cluster.expand.refused");
                    return Err(self.take_back(&object, &wished, error).await);
                }
                Ended::Decided(Err(error)) => return Err(error),
                Ended::Gone => {}
                Ended::Dead => return Err(nobody(&wished)),
                Ended::Late => break,
            }
        }
        Err(still_running::<LocalVolume>(&name))
    }

    /// The object with the wish in it; `None`: it is not what it was.
    async fn wish_larger(&self, object: &LocalVolume, request: &ExpandVolume) -> Result<Option<LocalVolume>> {
        let required = i64::try_from(request.range.required).unwrap_or(i64::MAX);
        let limit = request.range.limit.map_or(0, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        if object.spec.required_bytes >= required && object.spec.limit_bytes == limit {
            return Ok(Some(object.clone()));
        }
        let required = required.max(object.spec.required_bytes);
        let change = json!({ "spec": { "requiredBytes": required, "limitBytes": limit } });
        let wished = self.volumes.patch(object, change).await?;
        failpoint!("cluster.expand.wished");
        Ok(wished)
    }

    /// A final answer leaves no wish behind: else the volume would grow later, when nobody asks for it any more.
    async fn take_back(&self, before: &LocalVolume, wished: &LocalVolume, error: Error) -> Error {
        let size = before.status.as_ref().and_then(|status| status.size_bytes).unwrap_or_default();
        // An earlier call may have died with the wish written down: then the size it has is all that is known.
        let required = match before.metadata.generation == wished.metadata.generation {
            true => size.min(before.spec.required_bytes),
            false => before.spec.required_bytes,
        };
        let Ok(Some(now)) = self.volumes.get(&wished.name_any()).await else { return error.after_commit() };
        if now.uid() != wished.uid() || now.metadata.generation != wished.metadata.generation {
            return error.after_commit();
        }
        let limit = if required == before.spec.required_bytes { before.spec.limit_bytes } else { 0 };
        let change = json!({ "spec": { "requiredBytes": required, "limitBytes": limit } });
        let taken_back = self.volumes.patch(&now, change).await;
        failpoint!("cluster.expand.taken-back");
        match taken_back {
            Ok(Some(_)) => error,
            Ok(None) | Err(_) => error.after_commit(),
        }
    }
}

/// No size that it can have is within the limit: nothing is written for that.
fn check_limit(object: &LocalVolume, request: &ExpandVolume) -> Result<()> {
    let size = object.status.as_ref().and_then(|status| status.size_bytes).unwrap_or_default();
    let least = size::round_up(request.range.required).max(u64::try_from(size).unwrap_or_default());
    match request.range.limit {
        Some(limit) if least > limit => Err(Error::OutOfRange(format!(
            "volume {} has {size} bytes and grows in blocks of {}; limit_bytes is too small",
            object.name_any(),
            size::BLOCK
        ))),
        _ => Ok(()),
    }
}

/// What the agent says to the wish as it stands.
fn answer(object: &LocalVolume) -> Option<Result<u64>> {
    if object.is_leaving() {
        return Some(Err(still_running::<LocalVolume>(&object.name_any())));
    }
    if object.phase() == Some(Phase::Lost) {
        return Some(Err(super::create::lost(object)));
    }
    if let Some(error) = object.failure_now() {
        return Some(Err(error));
    }
    let status = object.status.as_ref()?;
    let is_now = Some(status.observed_generation) == object.metadata.generation;
    let size = status.size_bytes.filter(|_| is_now && status.phase == Phase::Ready)?;
    Some(Ok(u64::try_from(size).unwrap_or_default()))
}

fn expanded(object: &LocalVolume, size_bytes: u64) -> Expanded {
    Expanded { size_bytes, node_expansion_required: object.spec.filesystem.is_some() }
}
