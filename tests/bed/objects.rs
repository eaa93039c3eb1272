//! Objects of one kind, read and written one call at a time.

use super::Bed;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
    core::{ClusterResourceScope, NamespaceResourceScope},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// The objects of a kind, in one namespace or of the cluster.
#[derive(Clone, Debug)]
pub struct Objects<K> {
    api: Api<K>,
    runtime: Handle,
}

impl Bed {
    /// Objects that belong to no namespace.
    pub fn all<K>(&self) -> Objects<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Objects { api: Api::all(self.client()), runtime: self.runtime.handle().clone() }
    }

    pub fn within<K>(&self, namespace: &str) -> Objects<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Objects { api: Api::namespaced(self.client(), namespace), runtime: self.runtime.handle().clone() }
    }

    /// A new namespace; its default account, which pods need, is there.
    pub fn namespace(&self, prefix: &str) -> String {
        let name = super::unique(prefix);
        self.all::<k8s_openapi::api::core::v1::Namespace>().create(json!({ "metadata": { "name": name } }));
        let accounts = self.within::<k8s_openapi::api::core::v1::ServiceAccount>(&name);
        accounts.wait("default", "is there", 30, |_| true);
        name
    }
}

impl<K> Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    pub fn api(&self) -> &Api<K> {
        &self.api
    }

    /// Creates an object of what YAML would say; `apiVersion` and `kind` are known.
    pub fn create(&self, object: Value) -> K {
        self.try_create(object).unwrap_or_else(|e| panic!("a {} is not created: {e}", K::kind(&())))
    }

    pub fn try_create(&self, object: Value) -> Result<K, kube::Error> {
        let object: K = serde_json::from_value(object).unwrap();
        self.runtime.block_on(self.api.create(&PostParams::default(), &object))
    }

    pub fn get(&self, name: &str) -> Option<K> {
        self.runtime.block_on(self.api.get_opt(name)).unwrap()
    }

    pub fn list(&self) -> Vec<K> {
        self.runtime.block_on(self.api.list(&ListParams::default())).unwrap().items
    }

    /// A merge patch.
    pub fn merge(&self, name: &str, patch: Value) -> Result<K, kube::Error> {
        self.runtime.block_on(self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)))
    }

    /// A merge patch of the status.
    pub fn merge_status(&self, name: &str, patch: Value) -> Result<K, kube::Error> {
        self.runtime.block_on(self.api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)))
    }

    /// Deletes it as `kubectl delete` does; OK when it is not there.
    pub fn delete(&self, name: &str) {
        self.delete_with(name, &DeleteParams::background());
    }

    /// Without grace: a pod on a node without a kubelet has nobody who would end it.
    pub fn delete_now(&self, name: &str) {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        self.delete_with(name, &parameters);
    }

    fn delete_with(&self, name: &str, parameters: &DeleteParams) {
        match self.runtime.block_on(self.api.delete(name, parameters)) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(e) => panic!("{} {name} is not deleted: {e}", K::kind(&())),
        }
    }

    /// Waits until an object is there and is as wanted, `seconds` at most; panics with the object otherwise.
    pub fn wait(&self, name: &str, what: &str, seconds: u64, wanted: impl Fn(&K) -> bool) -> K {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let found = self.get(name);
            if let Some(object) = &found
                && wanted(object)
            {
                return object.clone();
            }
            if Instant::now() > deadline {
                let found = serde_json::to_string_pretty(&found.map(without_managers)).unwrap();
                panic!(
                    "{} {name}: not within {seconds} s: {what}\n{found}{}",
                    K::kind(&()),
                    self.events(name)
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until it is gone.
    pub fn wait_gone(&self, name: &str, seconds: u64) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while let Some(found) = self.get(name) {
            if Instant::now() > deadline {
                let found = serde_json::to_string_pretty(&without_managers(found)).unwrap();
                panic!(
                    "{} {name} is still there after {seconds} s\n{found}{}",
                    K::kind(&()),
                    self.events(name)
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// What was told about an object: a line for each event.
    pub fn events(&self, name: &str) -> String {
        let events = Api::<k8s_openapi::api::core::v1::Event>::all(self.api.clone().into_client());
        let of_it = ListParams::default()
            .fields(&format!("involvedObject.kind={},involvedObject.name={name}", K::kind(&())));
        let all = self.runtime.block_on(events.list(&of_it)).unwrap();
        let told = |text: &Option<String>| text.clone().unwrap_or_default();
        all.iter().map(|event| format!("\n{}: {}", told(&event.reason), told(&event.message))).collect()
    }
}

fn without_managers<K: ResourceExt>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object
}
