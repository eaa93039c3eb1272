//! The CustomResourceDefinitions, from the Rust types.

use super::api::{LocalSnapshot, LocalVolume, StorageNode};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// All kinds, in the order in which `wharf crds` prints them.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![LocalVolume::crd(), LocalSnapshot::crd(), StorageNode::crd()]
}

/// What `deploy/crds.yaml` holds.
pub fn yaml() -> Result<String, String> {
    let mut text = String::from(
        "# The kinds of objects of wharf, printed by `wharf crds`: apply before each upgrade, keep on uninstall.\n",
    );
    for definition in all() {
        let one = serde_saphyr::to_string(&definition)
            .map_err(|error| format!("a definition cannot be written as YAML: {error}"))?;
        text.push_str("---\n");
        text.push_str(&one);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn what_is_checked_in_is_what_is_printed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/crds.yaml");
        let kept = std::fs::read_to_string(path).unwrap();
        assert_eq!(kept, yaml().unwrap(), "write it anew: wharf crds > deploy/crds.yaml");
    }
}
