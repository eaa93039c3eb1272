//! What everybody does with a volume.

use crate::{
    bed::claims::Binding,
    cluster::room,
    scene::{PATIENCE, Scene, Use, handle, is_ready, pod_spec, within},
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolume, Pod},
};
use kube::ResourceExt;
use serde_json::json;

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn data_outlives_its_pod_and_the_room_comes_back_with_the_claims_end() {
    let scene = Scene::alone("life");
    let before = room();
    scene.claim("data", "wharf-local", "512Mi");
    scene.run("writer", Use::Mount("data"));
    let sum = scene.fill("writer", "/data/file", 64);
    let size = scene.size("writer");
    assert!((440..=512).contains(&size), "{size} MiB of 512 asked for");
    assert!(before - room() >= 512 << 20, "a thick volume of 512 MiB took {} bytes", before - room());
    scene.stop("writer");
    scene.run("reader", Use::Mount("data"));
    assert_eq!(scene.sum("reader", "/data/file"), sum);
    scene.stop("reader");
    scene.delete_claim("data");
    within("the room comes back", PATIENCE, || room() + (8 << 20) >= before);
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn each_pod_of_a_stateful_set_keeps_its_own_volume() {
    let scene = Scene::shared("set");
    let sets = scene.bed().within::<StatefulSet>(&scene.namespace);
    sets.create(stateful_set(2));
    sets.wait("db", "has both pods", PATIENCE, |set| {
        set.status.as_ref().and_then(|status| status.ready_replicas) == Some(2)
    });
    for pod in ["db-0", "db-1"] {
        scene.exec(pod, "hostname > /data/owner; sync /data/owner");
    }
    let before = scene.pods().get("db-0").unwrap().uid();
    scene.pods().delete("db-0");
    scene
        .pods()
        .wait("db-0", "is another one, and ready", PATIENCE, |pod| pod.uid() != before && is_ready(pod));
    assert_eq!(scene.exec("db-0", "cat /data/owner"), "db-0");
    assert_eq!(scene.exec("db-1", "cat /data/owner"), "db-1");
    sets.delete("db");
    for (pod, claim) in [("db-0", "data-db-0"), ("db-1", "data-db-1")] {
        scene.pods().wait_gone(pod, PATIENCE);
        scene.delete_claim(claim);
    }
}

fn stateful_set(replicas: u32) -> serde_json::Value {
    let mut pod = pod_spec(Use::Nothing, "exec sleep 100000");
    pod.as_object_mut().unwrap().remove("volumes");
    json!({
        "metadata": { "name": "db" },
        "spec": {
            "replicas": replicas,
            "serviceName": "db",
            "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": "db" } },
            "template": { "metadata": { "labels": { "app": "db" } }, "spec": pod },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "wharf-local",
                    "resources": { "requests": { "storage": "32Mi" } },
                },
            }],
        },
    })
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_raw_block_volume_keeps_what_is_written_to_its_device() {
    let scene = Scene::shared("raw");
    scene.claim_with("disk", "wharf-local", "64Mi", &json!({ "volumeMode": "Block" }));
    scene.run("writer", Use::Device("disk"));
    assert_eq!(scene.exec("writer", "blockdev --getsize64 /dev/volume"), (64u64 << 20).to_string());
    scene.exec("writer", "dd if=/dev/urandom of=/dev/volume bs=1M count=64 conv=fsync 2>/dev/null");
    let sum = scene.sum("writer", "/dev/volume");
    scene.stop("writer");
    scene.run("reader", Use::Device("disk"));
    assert_eq!(scene.sum("reader", "/dev/volume"), sum);
    scene.stop("reader");
    scene.delete_claim("disk");
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_volume_of_one_pod_alone_admits_no_second_pod() {
    let scene = Scene::shared("alone");
    scene.claim_with("data", "wharf-local", "32Mi", &json!({ "accessModes": ["ReadWriteOncePod"] }));
    scene.run("first", Use::Mount("data"));
    scene.pod("second", Use::Mount("data"), &json!({}));
    scene.pods().wait("second", "is told why it waits", PATIENCE, |pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|each| {
            each.type_ == "PodScheduled"
                && each.message.as_deref().is_some_and(|message| message.contains("ReadWriteOncePod"))
        })
    });
    scene.stop("first");
    scene.ready("second");
    scene.stop("second");
    scene.delete_claim("data");
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_retained_volume_keeps_its_data_and_is_taken_up_by_a_volume_written_by_hand() {
    let scene = Scene::shared("retained");
    scene.claim("data", "local-retain", "64Mi");
    scene.run("writer", Use::Mount("data"));
    let sum = scene.fill("writer", "/data/file", 16);
    scene.stop("writer");
    let volume = scene.volume("data");
    scene.claims().delete("data");
    let volumes = scene.bed().all::<PersistentVolume>();
    volumes.wait(&volume.name_any(), "is released", PATIENCE, |volume| {
        volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released")
    });
    volumes.delete(&volume.name_any());
    volumes.wait_gone(&volume.name_any(), PATIENCE);

    // What docs tell people to write.
    let name = crate::bed::unique("by-hand");
    let spec = volume.spec.unwrap();
    volumes.create(json!({
        "metadata": { "name": name },
        "spec": {
            "capacity": { "storage": "64Mi" },
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": "local-retain",
            "csi": {
                "driver": crate::scene::DRIVER,
                "volumeHandle": spec.csi.as_ref().unwrap().volume_handle,
                "fsType": "ext4",
                "volumeAttributes": spec.csi.as_ref().unwrap().volume_attributes,
            },
            "nodeAffinity": spec.node_affinity,
        },
    }));
    scene.claim_with("again", "local-retain", "64Mi", &json!({ "volumeName": name }));
    scene.run("reader", Use::Mount("again"));
    assert_eq!(scene.sum("reader", "/data/file"), sum);
    scene.stop("reader");
    let id = handle(&volumes.get(&name).unwrap());
    // Kubernetes leaves a volume to its provisioner only if that is written on it.
    volumes
        .merge(
            &name,
            json!({ "metadata": { "annotations": {
            "pv.kubernetes.io/provisioned-by": crate::scene::DRIVER,
        } } }),
        )
        .unwrap();
    scene.claims().delete("again");
    volumes.wait_gone(&name, PATIENCE);
    within("the driver's object goes with it", PATIENCE, || scene.object_of(&id).is_none());
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_bad_class_is_told_at_the_claim() {
    let scene = Scene::shared("bad");
    type Case = (&'static str, Binding, &'static [(&'static str, &'static str)], [&'static str; 2]);
    let cases: [Case; 5] = [
        ("key", Binding::Immediate, &[("colour", "blue")], ["colour", "layout"]),
        ("key-of-a-pod", Binding::WaitForFirstConsumer, &[("colour", "blue")], ["colour", "layout"]),
        ("pool", Binding::Immediate, &[("pool", "nowhere")], ["nowhere", "default"]),
        ("pool-of-a-pod", Binding::WaitForFirstConsumer, &[("pool", "nowhere")], ["nowhere", "default"]),
        (
            "server",
            Binding::Immediate,
            &[("server", "no-such-host.invalid"), ("share", "/data")],
            ["no-such-host.invalid", "resolve"],
        ),
    ];
    let classes = cases.map(|(name, binding, parameters, _)| {
        let waits = binding == Binding::WaitForFirstConsumer;
        let class = scene.bed().class(crate::scene::DRIVER, binding, parameters);
        scene.claim(name, &class, "32Mi");
        if waits {
            scene.pod(name, Use::Mount(name), &json!({}));
        }
        class
    });
    for ((name, _, _, causes), class) in cases.into_iter().zip(classes) {
        within(&format!("{name}: the claim is told"), PATIENCE, || {
            let told = scene.claims().events(name);
            told.contains("ProvisioningFailed") && causes.iter().all(|cause| told.contains(cause))
        });
        if scene.pods().get(name).is_some() {
            scene.pods().delete_now(name);
        }
        scene.claims().delete(name);
        scene.kubectl(&["delete", "storageclass", &class]);
    }
}

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn a_full_pool_leaves_the_pod_pending_with_a_reason_until_there_is_room() {
    let scene = Scene::alone("full");
    scene.claim("large", "wharf-local", &format!("{}", room() * 6 / 10));
    scene.run("holder", Use::Mount("large"));
    let half = format!("{}", room() / 4 * 5);
    scene.claim("more", "wharf-local", &half);
    scene.pod("waiting", Use::Mount("more"), &json!({}));
    scene.pods().wait("waiting", "is told why it waits", PATIENCE, |pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|each| {
            each.type_ == "PodScheduled"
                && each.message.as_deref().is_some_and(|message| message.contains("enough free storage"))
        })
    });
    // The one that is there works on.
    scene.fill("holder", "/data/file", 8);
    scene.stop("holder");
    scene.delete_claim("large");
    scene.bed().within::<Pod>(&scene.namespace).wait("waiting", "is ready", 120, is_ready);
    scene.stop("waiting");
    scene.delete_claim("more");
}
