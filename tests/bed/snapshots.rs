//! Snapshots without a snapshotter: the objects that it would have written around a snapshot that a driver has cut.

use super::Bed;
use serde_json::{Value, json};

/// A snapshot that a driver knows.
#[derive(Clone, Debug)]
pub struct Cut<'a> {
    pub driver: &'a str,
    /// The driver's id of it.
    pub handle: &'a str,
    /// Of a volume that is restored from it, at least; in bytes.
    pub restore_size: u64,
}

impl Bed {
    /// Makes the API server know the kinds; they come with the snapshotter's own module.
    pub fn define_snapshots(&self) {
        let defined = self.define("snapshotter");
        assert_eq!(defined.len(), 3, "snapshots, contents and classes, not {defined:?}");
    }

    /// A VolumeSnapshot that is ready, and its content. Gives the `dataSource` of a claim for it.
    pub fn snapshot(&self, namespace: &str, name: &str, cut: &Cut) -> Value {
        let content = format!("content-{namespace}-{name}");
        let version = json!({ "apiVersion": "snapshot.storage.k8s.io/v1" });
        let object = |kind: &str, fields: Value| {
            let mut object = version.clone();
            object["kind"] = json!(kind);
            for (key, value) in fields.as_object().unwrap() {
                object[key] = value.clone();
            }
            object
        };
        self.apply(
            &object(
                "VolumeSnapshot",
                json!({
                    "metadata": { "name": name, "namespace": namespace },
                    "spec": { "source": { "volumeSnapshotContentName": content } },
                }),
            )
            .to_string(),
        );
        let uid =
            self.kubectl(&["get", "volumesnapshot", "-n", namespace, name, "-o", "jsonpath={.metadata.uid}"]);
        self.apply(
            &object(
                "VolumeSnapshotContent",
                json!({
                    "metadata": { "name": content },
                    "spec": {
                        "driver": cut.driver,
                        "deletionPolicy": "Retain",
                        "source": { "snapshotHandle": cut.handle },
                        "volumeSnapshotRef": { "name": name, "namespace": namespace, "uid": uid },
                    },
                }),
            )
            .to_string(),
        );
        let status = |more: Value| json!({ "status": more }).to_string();
        self.kubectl(&[
            "patch",
            "volumesnapshotcontent",
            &content,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status(json!({
                "snapshotHandle": cut.handle, "readyToUse": true, "restoreSize": cut.restore_size,
            })),
        ]);
        self.kubectl(&[
            "patch",
            "volumesnapshot",
            "-n",
            namespace,
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status(json!({
                "boundVolumeSnapshotContentName": content, "readyToUse": true,
                "restoreSize": cut.restore_size.to_string(),
            })),
        ]);
        json!({ "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name })
    }
}
