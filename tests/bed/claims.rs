//! What a user writes: classes, claims, and pods that mount them.

use super::Bed;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{CSIDriver, StorageClass},
};
use serde_json::{Map, Value, json};

/// When a volume is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    Immediate,
    WaitForFirstConsumer,
}

/// A claim as a test asks for it.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    pub name: &'a str,
    pub class: &'a str,
    /// A quantity, such as `64Mi`.
    pub size: &'a str,
    /// `dataSource`; null for none.
    pub source: Value,
}

impl Bed {
    /// The driver as the chart announces it.
    pub fn csi_driver(&self, name: &str) {
        self.all::<CSIDriver>().create(json!({
            "metadata": { "name": name },
            "spec": {
                "attachRequired": false,
                "podInfoOnMount": false,
                "fsGroupPolicy": "File",
                "storageCapacity": true,
                "volumeLifecycleModes": ["Persistent"],
            },
        }));
    }

    /// A class with a name of its own, which it gives.
    pub fn class(&self, driver: &str, binding: Binding, parameters: &[(&str, &str)]) -> String {
        self.class_with(driver, binding, parameters, json!({}))
    }

    /// As [`Bed::class`], with fields that are seldom wanted, such as `allowedTopologies`.
    pub fn class_with(
        &self,
        driver: &str,
        binding: Binding,
        parameters: &[(&str, &str)],
        more: Value,
    ) -> String {
        let name = super::unique("class");
        let parameters: Map<String, Value> =
            parameters.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let mut class = json!({
            "metadata": { "name": name },
            "provisioner": driver,
            "parameters": parameters,
            "reclaimPolicy": "Delete",
            "allowVolumeExpansion": true,
            "volumeBindingMode": format!("{binding:?}"),
        });
        for (key, value) in more.as_object().unwrap() {
            class[key] = value.clone();
        }
        self.all::<StorageClass>().create(class);
        name
    }

    pub fn claim(&self, namespace: &str, claim: &Claim) -> PersistentVolumeClaim {
        self.within(namespace).create(json!({
            "metadata": { "name": claim.name },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": claim.class,
                "resources": { "requests": { "storage": claim.size } },
                "dataSource": claim.source,
            },
        }))
    }

    /// A pod that mounts these claims; `more` are fields of its spec.
    pub fn pod(&self, namespace: &str, name: &str, claims: &[&str], more: Value) -> Pod {
        let volumes: Vec<_> = claims
            .iter()
            .map(|claim| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } }))
            .collect();
        let mounts: Vec<_> =
            claims.iter().map(|claim| json!({ "name": claim, "mountPath": format!("/{claim}") })).collect();
        let mut spec = json!({
            "containers": [{ "name": "main", "image": "not-run", "volumeMounts": mounts }],
            "volumes": volumes,
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.within(namespace).create(json!({ "metadata": { "name": name }, "spec": spec }))
    }

    /// Waits until a claim is bound; gives its volume.
    pub fn bound(&self, namespace: &str, claim: &str, seconds: u64) -> PersistentVolume {
        let bound =
            self.within::<PersistentVolumeClaim>(namespace).wait(claim, "is bound", seconds, |claim| {
                claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
            });
        let volume = bound.spec.and_then(|spec| spec.volume_name).unwrap();
        self.all().get(&volume).unwrap_or_else(|| panic!("{claim} is bound to {volume}, which is not there"))
    }

    /// Waits until a pod has a node; gives its name.
    pub fn scheduled(&self, namespace: &str, pod: &str, seconds: u64) -> String {
        let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let pod = self.within(namespace).wait(pod, "is scheduled", seconds, |pod| node(pod).is_some());
        node(&pod).unwrap()
    }
}
