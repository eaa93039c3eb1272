//! What the Prometheus operator would find. Its kind is known here, and itself is not: it only writes a configuration of
//! what the objects say.

use crate::{bed::Bed, release::rendered};
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;
use std::collections::BTreeMap;

#[test]
fn the_chart_s_service_monitors_are_such_and_lead_to_its_services() {
    let bed = Bed::shared();
    assert_eq!(
        bed.define("monitoring"),
        ["customresourcedefinition.apiextensions.k8s.io/servicemonitors.monitoring.coreos.com"]
    );
    let namespace = bed.namespace("monitored");
    let switched = [
        "metrics.enabled=true",
        "metrics.serviceMonitor.enabled=true",
        "metrics.serviceMonitor.labels.release=p",
    ];
    let manifest = rendered(&namespace, &["metrics.yaml"], &["--set", &switched.join(",")]);
    // Strictly: a field that the kind does not have is an error, and not left out.
    bed.try_kubectl(&["create", "--validate=strict", "-f", "-"], &manifest).unwrap();

    let services = bed.within::<Service>(&namespace).list();
    let found = bed.kubectl(&["get", "servicemonitors", "-n", &namespace, "-l", "release=p", "-o", "json"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let monitors = found["items"].as_array().unwrap();
    assert_eq!((services.len(), monitors.len()), (2, 2));
    for monitor in monitors {
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        let has = |labels: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
        };
        let chosen: Vec<_> =
            services.iter().filter(|service| service.metadata.labels.as_ref().is_some_and(has)).collect();
        assert_eq!(chosen.len(), 1, "one service for {}", monitor["metadata"]["name"]);
        let ports = chosen[0].spec.as_ref().unwrap().ports.as_ref().unwrap();
        let endpoint = monitor["spec"]["endpoints"][0]["port"].as_str();
        assert_eq!(ports[0].name.as_deref(), endpoint);
    }
}
