//! CreateVolume: an object for a node, its agent's answer, or back again.

use super::{
    Controller,
    agents::Liveness,
    objects::Deleted,
    placement::{Flight, Way, candidates},
    wait::{Ended, nobody, still_running},
};
use crate::{
    cluster::api::{LocalObject, LocalVolume, LocalVolumeSpec, Phase, SourceKind},
    error::{Error, Result},
    failpoint,
    service::{CreateLocal, Existing, SourceRequest, Volume, Wish},
    volume::{Class, Key, Layout, LimitMode, NodeName, SnapshotId, VolumeId},
};
use kube::ResourceExt;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// For a new volume, and for one whose content is copied: the agent's Lease mostly decides earlier.
const MAKING: Duration = Duration::from_secs(120);
const COPYING: Duration = Duration::from_secs(600);
/// An agent that lives and does not take a volume on cannot see its objects.
const ACCEPTING: Duration = Duration::from_secs(30);

/// What has become of an object that stands for the request.
pub(super) enum Step {
    /// The volume is there.
    Done(Volume),
    /// It is not what it was; look again.
    Again,
    /// Nothing is left of it on this node, for this reason.
    Withdrawn(String, Error),
}

/// What an agent has come to.
enum Verdict {
    Ready,
    Failed(Error),
    /// Still at it, or waiting, and it says why.
    Trouble(Error),
    Lost,
    Leaving,
    NotAccepted,
}

impl Controller {
    pub(super) async fn create(&self, request: &CreateLocal) -> Result<Volume> {
        let wish = Wish::new(request)?;
        let way = self.way(request).await?;
        let name = Key::of(&request.name).to_string();
        let limit = if request.source.is_some() { COPYING } else { MAKING };
        let began = Instant::now();
        let (mut spent, mut last) = (Vec::new(), None);
        while began.elapsed() < limit {
            let object = match self.volumes.get(&name).await? {
                Some(object) => object,
                None => {
                    let placed = self.write(request, &wish, &way, &spent).await;
                    match placed {
                        Ok(Some(object)) => object,
                        Ok(None) => continue,
                        // The node that was tried tells more than that there is no other. What is not final may have
                        // been written.
                        Err(error) if error.is_final() => return Err(last.unwrap_or(error)),
                        Err(error) => return Err(error),
                    }
                }
            };
            let left = limit.saturating_sub(began.elapsed());
            match self.step(request, &wish, &object, left).await? {
                Step::Done(volume) => return Ok(volume),
                Step::Again => {}
                Step::Withdrawn(node, error @ Error::NoSpace(_)) => {
                    tracing::info!(
                        volume = name,
                        node,
                        error = error.chain(),
                        "withdrawn; looking elsewhere"
                    );
                    spent.push(node);
                    last = Some(error);
                }
                Step::Withdrawn(_, error) => return Err(error),
            }
        }
        Err(still_running::<LocalVolume>(&name))
    }

    async fn way(&self, request: &CreateLocal) -> Result<Way> {
        let source = request.source.as_ref().map(source_node).transpose()?;
        let wants_node = source.is_none() && !request.topology.preferred.is_empty();
        let selected = match &request.claim {
            Some(claim) if wants_node => self.has_selected_node(claim).await?,
            // An orchestrator that does not tell the claim names its wish first.
            None => wants_node,
            Some(_) => false,
        };
        Ok(Way::of(source, &request.topology, selected))
    }

    /// Writes the object for the best node. `Ok(None)`: there is one already.
    async fn write(
        &self,
        request: &CreateLocal,
        wish: &Wish,
        way: &Way,
        spent: &[String],
    ) -> Result<Option<LocalVolume>> {
        let name = Key::of(&request.name).to_string();
        let bytes = match request.source {
            None => Some(request.range.choose(wish.shape.filesystem, 0)?),
            Some(_) => None,
        };
        let node_name = self.place(request, wish, way, bytes, spent).await?;
        let flight = Flight {
            node_name: node_name.clone(),
            pool: request.class.pool().to_owned(),
            bytes: bytes.unwrap_or_default(),
        };
        let _until_it_is_seen = self.flights.start(&name, flight);
        let object = LocalVolume::new(&name, LocalVolumeSpec::of(request, wish, &node_name));
        failpoint!("cluster.create.placed");
        let written = self.volumes.create(&object).await?;
        failpoint!("cluster.create.written");
        Ok(written)
    }

    /// The best node.
    async fn place(
        &self,
        request: &CreateLocal,
        wish: &Wish,
        way: &Way,
        bytes: Option<u64>,
        spent: &[String],
    ) -> Result<String> {
        self.listed().await?;
        let advisory = wish.shape.layout == Layout::Directory && wish.limit == Some(LimitMode::Advisory);
        let bytes = bytes.filter(|_| !advisory);
        let name = request.name.as_str();
        let find = || {
            let (known, alive) = (self.view(), |node: &str| self.agents.glance(node) == Liveness::Alive);
            let view = known.with(&alive);
            self.check_class(&view, &request.class)?;
            candidates(view.sites(&request.class, name), way, &request.topology, bytes, spent)
        };
        let found = match find() {
            // The watch may be behind what agents show.
            Err(Error::NoSpace(_)) if self.some_agents_are_not_seen(&request.class).await? => find(),
            found => found,
        };
        match found?.into_iter().next() {
            Some(site) => Ok(site.node_name),
            None => Err(Error::NoSpace("no node can take the volume".into())),
        }
    }

    /// Asks for those agents again that do not seem to live. An error: they cannot be told yet.
    async fn some_agents_are_not_seen(&self, class: &Class) -> Result<bool> {
        let mut found = false;
        let known = |node: &str| self.machines.mirror.get(node).is_some();
        for offer in self.offers.all().iter().filter(|offer| known(&offer.name_any())) {
            let pools = offer.status.iter().flat_map(|status| &status.pools);
            if !pools.into_iter().any(|pool| pool.name == class.pool()) {
                continue;
            }
            match self.agents.look(&offer.name_any()).await? {
                Liveness::Unknown => {
                    return Err(Error::Unavailable(
                        "the API server was away, and agents have not shown yet that they are alive".into(),
                    ));
                }
                Liveness::Alive => found = true,
                Liveness::Dead => {}
            }
        }
        Ok(found)
    }

    /// One look at an object of the request's name, and what follows from it.
    async fn step(
        &self,
        request: &CreateLocal,
        wish: &Wish,
        object: &LocalVolume,
        left: Duration,
    ) -> Result<Step> {
        if object.is_leaving() {
            return self.see_off(object).await;
        }
        if !request.topology.allows(&object.spec.node()) && self.release(object).await? {
            return Err(Error::Busy(format!(
                "volume {} was meant for node {}, which the topology requirement leaves out, and is given up there; \
                 the same request again makes it elsewhere",
                object.name_any(),
                object.node_name()
            )));
        }
        if let Err(error) = compare(request, wish, object) {
            // Nothing is there that it could be incompatible with.
            return match object.has_failed() {
                true => Ok(match self.withdraw(&self.volumes, object).await? {
                    true => Step::Again,
                    false => return Err(still_running::<LocalVolume>(&object.name_any())),
                }),
                false => Err(error),
            };
        }
        if object.is_orphaned() {
            if object.was_there() || !self.release(object).await? {
                self.adopt(object).await?;
            }
            return Ok(Step::Again);
        }
        self.await_verdict(request, wish, object, left).await
    }

    async fn await_verdict(
        &self,
        request: &CreateLocal,
        wish: &Wish,
        object: &LocalVolume,
        left: Duration,
    ) -> Result<Step> {
        let name = object.name_any();
        let began = Instant::now();
        let verdict = |object: &LocalVolume| {
            let found = verdict(object);
            let refused = !object.is_accepted() && began.elapsed() >= ACCEPTING.min(left);
            found.or_else(|| refused.then_some(Verdict::NotAccepted)).map(|found| (found, object.clone()))
        };
        match self.wait(&self.volumes, object, left, verdict).await? {
            Ended::Decided((verdict, object)) => match verdict {
                Verdict::Ready => {
                    compare(request, wish, &object)?;
                    volume_of(&object).map(Step::Done)
                }
                Verdict::Failed(error) => {
                    failpoint!("cluster.create.failed");
                    match self.withdraw(&self.volumes, &object).await? {
                        true => Ok(Step::Withdrawn(object.node_name().to_owned(), error)),
                        false => Err(error.after_commit()),
                    }
                }
                Verdict::Trouble(error) => Err(error),
                // The object stays.
                Verdict::Lost => Err(lost(&object).after_commit()),
                Verdict::Leaving => Ok(Step::Again),
                Verdict::NotAccepted => self.withdraw_from_silent(&object).await,
            },
            Ended::Gone => Ok(Step::Again),
            Ended::Dead => match self.volumes.get(&name).await? {
                Some(object) if object.is_leaving() => Ok(Step::Again),
                Some(object) if object.is_accepted() => {
                    let gone = !object.was_there() && self.is_gone_for_good(object.node_name()).await?;
                    match gone && self.release(&object).await? {
                        true => Ok(Step::Again),
                        false => Err(nobody(&object)),
                    }
                }
                Some(object) => self.withdraw_from_silent(&object).await,
                None => Ok(Step::Again),
            },
            Ended::Late => Err(still_running::<LocalVolume>(&name)),
        }
    }

    /// The agent has not taken it on: nothing has happened, so the answer is final.
    async fn withdraw_from_silent(&self, object: &LocalVolume) -> Result<Step> {
        failpoint!("cluster.create.stale");
        match self.volumes.delete_unchanged(object).await? {
            Deleted::Gone => Ok(Step::Withdrawn(
                object.node_name().to_owned(),
                Error::NoSpace(format!(
                    "the agent on node {} does not take volumes on: see the driver's pod there",
                    object.node_name()
                )),
            )),
            Deleted::Leaving | Deleted::Changed => Ok(Step::Again),
        }
    }
}

/// `None`: nothing to act on yet.
fn verdict(object: &LocalVolume) -> Option<Verdict> {
    if object.is_leaving() {
        return Some(Verdict::Leaving);
    }
    let failure = object.failure_now();
    match (object.phase()?, failure) {
        (Phase::Failed, Some(error)) if error.is_final() => Some(Verdict::Failed(error)),
        (Phase::Lost, _) => Some(Verdict::Lost),
        (Phase::Ready, _) if volume_of(object).is_ok() => Some(Verdict::Ready),
        // Whatever it says, it has not said that nothing is left.
        (Phase::Pending, Some(error)) if error.is_final() => Some(Verdict::Trouble(error.after_commit())),
        (Phase::Pending | Phase::Failed, Some(error)) => Some(Verdict::Trouble(error)),
        _ => None,
    }
}

/// Refuses a request that does not mean the volume that the object stands for.
fn compare(request: &CreateLocal, wish: &Wish, object: &LocalVolume) -> Result<()> {
    let asked = object.spec.request()?;
    let existing = Existing {
        id: object.id()?,
        wish: Wish::new(&asked)?,
        pool: &object.spec.pool,
        owner: asked.class.owner,
        size_bytes: size_of(object).filter(|_| object.phase() != Some(Phase::Failed)),
    };
    wish.check_same(request, &existing)
}

fn size_of(object: &LocalVolume) -> Option<u64> {
    object.status.as_ref()?.size_bytes.and_then(|bytes| u64::try_from(bytes).ok())
}

/// A volume that its agent has told of.
pub(super) fn volume_of(object: &LocalVolume) -> Result<Volume> {
    let id = object.id()?;
    let size_bytes = size_of(object).ok_or_else(|| still_running::<LocalVolume>(&object.name_any()))?;
    let source = object.spec.source.as_ref().map(|source| match source.kind {
        SourceKind::Snapshot => SourceRequest::Snapshot(source.id.clone()),
        SourceKind::Volume => SourceRequest::Volume(source.id.clone()),
    });
    Ok(Volume {
        id: id.to_string(),
        size_bytes,
        // Its node has a record of everything else.
        context: BTreeMap::new(),
        source,
        node: Some(id.node),
    })
}

pub(super) fn lost(object: &LocalVolume) -> Error {
    let why = object.failure_now().map_or(String::new(), |error| format!(": {}", error.chain()));
    Error::Damaged(format!(
        "volume {} was on node {} and is not any more{why}: bring its disk back, or delete it and restore a snapshot or \
         backup",
        object.name_any(),
        object.node_name()
    ))
}

/// The node that a source's id names.
fn source_node(source: &SourceRequest) -> Result<NodeName> {
    let (node, what, id) = match source {
        SourceRequest::Snapshot(id) => (SnapshotId::parse(id).map(|id| id.node), "snapshot", id),
        SourceRequest::Volume(id) => (VolumeId::parse(id).map(|id| id.node), "volume", id),
    };
    node.ok_or_else(|| Error::NotFound(format!("source {what} {id:?} does not exist")))
}
