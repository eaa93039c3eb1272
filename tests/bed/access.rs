//! Who may speak to the API server, and with which file.

use super::{Bed, plane::write_private};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Node, Pod, ServiceAccount},
};
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What a token ends with, and whose name the API server puts into its user's extra fields.
#[derive(Clone, Copy, Debug)]
pub enum Bound<'a> {
    Nothing,
    Pod(&'a Pod),
    Node(&'a Node),
}

impl Bed {
    /// A token of a service account as a pod's would be; it is good for two hours.
    pub fn token(&self, namespace: &str, account: &str, bound: Bound) -> String {
        let to = |kind: &str, name: String, uid: Option<String>| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name),
            uid,
        };
        let spec = TokenRequestSpec {
            audiences: Vec::new(),
            expiration_seconds: Some(7200),
            bound_object_ref: match bound {
                Bound::Nothing => None,
                Bound::Pod(pod) => Some(to("Pod", pod.name_any(), pod.uid())),
                Bound::Node(node) => Some(to("Node", node.name_any(), node.uid())),
            },
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.client(), namespace);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = self.block_on(accounts.create_token_request(account, &PostParams::default(), &request));
        answer.unwrap().status.unwrap().token
    }

    /// A kubeconfig with a service account's token.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str, bound: Bound) -> PathBuf {
        let token = self.token(namespace, account, bound);
        let path = self.directory().join(format!("{}.kubeconfig", super::unique(account)));
        write_kubeconfig(&path, &self.server(), &self.authority(), &token);
        path
    }
}

/// Kubeconfigs are YAML, and so is JSON.
pub fn write_kubeconfig(path: &Path, server: &str, authority: &Path, token: &str) {
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "bed", "cluster": { "server": server, "certificate-authority": authority } }],
        "users": [{ "name": "user", "user": { "token": token } }],
        "contexts": [{ "name": "bed", "context": { "cluster": "bed", "user": "user" } }],
        "current-context": "bed",
    });
    write_private(path, &text.to_string());
}
