//! The calls to the API server about objects of one kind.
//!
//! Every write is conditional: a create is exclusive by its name, a patch and a deletion name what they were decided
//! on. Who loses reads again.

use super::mirror::Mirror;
use crate::{
    cluster::api::LocalObject,
    error::{Error, Result},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams, PostParams, Preconditions},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::{sync::Notify, time};

/// An API server that takes longer for one request is as good as away.
const ANSWER: Duration = Duration::from_secs(15);

/// Objects that are read at a time.
const PAGE: u32 = 500;

/// All objects of a kind.
#[derive(Debug)]
pub(super) struct Objects<K: LocalObject> {
    api: Api<K>,
    /// What the watch has seen: for lists and waiting, and never for a decision that loses something.
    pub(super) mirror: Mirror<K>,
}

/// How a deletion went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deleted {
    /// There is no such object any more.
    Gone,
    /// It waits for its finalizers.
    Leaving,
    /// It is not what it was when this was decided.
    Changed,
}

impl<K: LocalObject> Objects<K> {
    pub(super) fn new(client: Client, quiet: &Arc<Notify>) -> Self {
        Self { api: Api::all(client.clone()), mirror: Mirror::start(client, quiet, |_| {}) }
    }

    /// As the API server has it now.
    pub(super) async fn get(&self, name: &str) -> Result<Option<K>> {
        get(&self.api, name, K::NOUN).await
    }

    /// The same, where what the watch has seen will do.
    pub(super) async fn look(&self, name: &str) -> Result<Option<Arc<K>>> {
        match self.mirror.get(name) {
            Some(object) => Ok(Some(object)),
            None => Ok(self.get(name).await?.map(Arc::new)),
        }
    }

    /// `None`: there is one of this name.
    pub(super) async fn create(&self, object: &K) -> Result<Option<K>> {
        let doing = || format!("creating the object of {} {}", K::NOUN, object.name_any());
        match answer(self.api.create(&by_us(), object)).await {
            Ok(object) => Ok(Some(object)),
            Err(Trouble::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
            Err(trouble) => Err(trouble.doing(&doing())),
        }
    }

    /// Merges `change` into the object, if it is what it was; `None`: it is not.
    pub(super) async fn patch(&self, object: &K, change: Value) -> Result<Option<K>> {
        patch(&self.api, object, change).await
    }

    /// The same for its status.
    pub(super) async fn patch_status(&self, object: &K, mut change: Value) -> Result<Option<K>> {
        let name = object.name_any();
        change["metadata"] = json!({ "resourceVersion": object.resource_version(), "uid": object.uid() });
        let (parameters, change) = (as_us(), Patch::Merge(change));
        unless_changed(answer(self.api.patch_status(&name, &parameters, &change)).await)
            .map_err(|trouble| trouble.doing(&format!("reporting on the object of {} {name}", K::NOUN)))
    }

    /// Deletes it if it is as it was when it was read.
    pub(super) async fn delete_unchanged(&self, object: &K) -> Result<Deleted> {
        delete(&self.api, object, object.resource_version()).await
    }

    /// Deletes it, whatever has been written to it since; never another one of its name.
    pub(super) async fn delete_this(&self, object: &K) -> Result<Deleted> {
        delete(&self.api, object, None).await
    }
}

/// Merges `change` into the object, if it is what it was; `None`: it is not.
pub(super) async fn patch<K: LocalObject>(api: &Api<K>, object: &K, mut change: Value) -> Result<Option<K>> {
    let name = object.name_any();
    change["metadata"]["resourceVersion"] = json!(object.resource_version());
    change["metadata"]["uid"] = json!(object.uid());
    let (parameters, change) = (as_us(), Patch::Merge(change));
    unless_changed(answer(api.patch(&name, &parameters, &change)).await)
        .map_err(|trouble| trouble.doing(&format!("changing the object of {} {name}", K::NOUN)))
}

/// Deletes an object, never another one of its name; with a version only as it was then.
pub(super) async fn delete<K: LocalObject>(
    api: &Api<K>,
    object: &K,
    resource_version: Option<String>,
) -> Result<Deleted> {
    let name = object.name_any();
    let preconditions = Some(Preconditions { resource_version, uid: object.uid() });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    match answer(api.delete(&name, &parameters)).await {
        // What is gone at once is answered with a status or with its last state, which then has no finalizers.
        Ok(left) => Ok(match left.left() {
            Some(object) if !object.finalizers().is_empty() => Deleted::Leaving,
            _ => Deleted::Gone,
        }),
        Err(Trouble::Api(status)) if is_missing(&status) => Ok(Deleted::Gone),
        Err(Trouble::Api(status)) if status.code == 409 => Ok(Deleted::Changed),
        Err(trouble) => Err(trouble.doing(&format!("deleting the object of {} {name}", K::NOUN))),
    }
}

/// Any object, as the API server has it now; `noun` is for messages.
pub(super) async fn get<K>(api: &Api<K>, name: &str, noun: &str) -> Result<Option<K>>
where
    K: Clone + DeserializeOwned + fmt::Debug,
{
    match answer(api.get(name)).await {
        Ok(object) => Ok(Some(object)),
        Err(Trouble::Api(status)) if is_missing(&status) => Ok(None),
        Err(trouble) => Err(trouble.doing(&format!("reading the object of {noun} {name}"))),
    }
}

/// Shows each of a list's objects, a page at a time, so that ten thousand never are in memory; `doing` is for messages.
pub(super) async fn every<K, L>(
    list: impl Fn(ListParams) -> L,
    doing: &str,
    mut show: impl FnMut(K),
) -> Result<()>
where
    K: Clone,
    L: Future<Output = kube::Result<ObjectList<K>>>,
{
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = answer(list(page.clone())).await.map_err(|trouble| trouble.doing(doing))?;
        listed.items.into_iter().for_each(&mut show);
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

fn by_us() -> PostParams {
    PostParams { field_manager: Some("wharf-controller".to_owned()), ..PostParams::default() }
}

fn as_us() -> PatchParams {
    PatchParams { field_manager: by_us().field_manager, ..PatchParams::default() }
}

/// `None`: the object is not what it was, or no more.
fn unless_changed<K>(answer: Result<K, Trouble>) -> Result<Option<K>, Trouble> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(Trouble::Api(status)) if status.code == 409 || is_missing(&status) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// The API server's own words.
    Api(Box<kube::core::Status>),
    /// It could not be reached, or did not answer.
    Away(String),
    /// It has what this driver does not understand.
    Unreadable(String),
}

/// One request, with its time limit.
pub(super) async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Trouble> {
    match time::timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(Trouble::Api(status)),
        Ok(Err(kube::Error::SerdeError(error))) => Err(Trouble::Unreadable(error.to_string())),
        Ok(Err(error)) => Err(Trouble::Away(chain(&error))),
        Err(_) => Err(Trouble::Away(format!("no answer within {} s", ANSWER.as_secs()))),
    }
}

impl Trouble {
    /// Never final: what was asked for may have happened.
    pub(super) fn doing(self, doing: &str) -> Error {
        Error::Unavailable(match self {
            Self::Away(why) => format!("{doing}: the API server cannot be reached: {why}"),
            Self::Unreadable(why) => {
                format!("{doing}: this driver cannot read what is there; is it of a newer version? {why}")
            }
            Self::Api(status) if status.code == 403 => {
                format!(
                    "{doing}: the API server forbids it; see the driver's roles (RBAC): {}",
                    status.message
                )
            }
            Self::Api(status) if status.code == 404 => format!(
                "{doing}: the API server does not know this kind; apply the driver's CustomResourceDefinitions \
                 (`wharf crds` prints them)"
            ),
            Self::Api(status) => {
                format!("{doing}: the API server answered {}: {}", status.code, status.message)
            }
        })
    }
}

/// Nothing has this name. Where the kind itself is unknown the API server answers 404 as well, without naming an object.
fn is_missing(status: &kube::core::Status) -> bool {
    status.reason == "NotFound" && status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some of these repeat their causes.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
