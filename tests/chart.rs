//! The Helm chart: what it renders is what Kubernetes takes, what it refuses, and what it gives to whom.
//! `tests/chart/setup` brings helm and the schemas.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod support;

use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};
use support::host::{attempt, run};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SNAPSHOTS: &str = "--api-versions=snapshot.storage.k8s.io/v1";

/// What Kubernetes 1.34 has no schema for, because it is not part of it.
const FOREIGN: [&str; 2] = ["VolumeSnapshotClass", "ServiceMonitor"];

/// Each way to render the chart that is looked at: its name, and arguments of helm.
fn variants() -> Vec<(&'static str, Vec<String>)> {
    let values = |file: &str| format!("--values={ROOT}/tests/chart/{file}.yaml");
    vec![
        ("defaults", vec![]),
        ("defaults, with snapshots", vec![SNAPSHOTS.into()]),
        ("everything", vec![values("everything")]),
        ("minimal", vec![values("minimal")]),
    ]
}

#[test]
fn the_manifests_are_what_the_chart_renders() {
    let directory = tempfile::tempdir().unwrap();
    run(&at("deploy/render"), [directory.path()]);
    for file in ["wharf.yaml", "wharf-snapshots.yaml"] {
        let rendered = fs::read_to_string(directory.path().join(file)).unwrap();
        let committed = fs::read_to_string(at(&format!("deploy/{file}"))).unwrap();
        assert!(rendered == committed, "deploy/{file} is not what the chart makes: run deploy/render");
    }
}

#[test]
fn helm_objects_to_nothing() {
    for (name, arguments) in variants() {
        let arguments: Vec<_> = arguments.iter().filter(|argument| *argument != SNAPSHOTS).collect();
        let lint = ["lint".to_owned(), "--strict".to_owned(), at("deploy/chart")];
        let said = run(&helm(), lint.iter().chain(arguments));
        assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{name}: {said}");
    }
}

#[test]
fn kubernetes_takes_every_object() {
    for (name, arguments) in variants() {
        let text = rendered("storage", &arguments);
        let objects = objects(&text);
        let own = objects.iter().filter(|object| !FOREIGN.contains(&kind(object))).count();
        assert!(own > 20, "{name}: only {own} objects");
        assert_eq!(valid(&text), own, "{name}: some were not looked at");
        let named: BTreeSet<_> =
            objects.iter().map(|o| format!("{} {}/{}", kind(o), o["metadata"]["namespace"], id(o))).collect();
        assert_eq!(named.len(), objects.len(), "{name}: two objects are the same");
    }
}

#[test]
fn the_plain_manifests_are_valid() {
    for file in ["wharf.yaml", "wharf-snapshots.yaml"] {
        let text = fs::read_to_string(at(&format!("deploy/{file}"))).unwrap();
        let own = objects(&text).iter().filter(|object| !FOREIGN.contains(&kind(object))).count();
        assert_eq!(valid(&text), own, "{file}");
        assert!(text.contains("\nkind: Namespace\n"), "{file}: nothing makes the namespace");
    }
}

#[test]
fn examples_are_valid() {
    let first = read("deploy/examples/first.yaml");
    assert_eq!(valid(&first), 2);
    let classes = objects(&rendered("storage", &[]));
    let claim = &objects(&first)[0]["spec"]["storageClassName"];
    assert!(classes.iter().any(|o| kind(o) == "StorageClass" && id(o) == claim), "there is no class {claim}");
    // The settings that docs/install.md shows.
    let page = read("docs/install.md");
    let values = page.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("values.yaml");
    fs::write(&file, values).unwrap();
    let text = rendered("storage", &[format!("--values={}", file.display())]);
    assert!(text.contains("default=/srv/wharf,mounted fast=/srv/nvme,mounted"), "{values}");
    valid(&text);
}

#[test]
fn impossible_values_are_refused() {
    let pool = |path: &str| format!(r#"pools=[{{"name":"default","path":"{path}"}}]"#);
    let cases = [
        ("an unknown setting", "colour=1".to_owned(), "colour"),
        ("an unknown setting further down", r#"controller={"replica":3}"#.to_owned(), "replica"),
        ("a pool without a path", r#"pools=[{"name":"default"}]"#.to_owned(), "path"),
        ("an illegal name of a pool", r#"pools=[{"name":"a b","path":"/srv/x"}]"#.to_owned(), "name"),
        ("an unknown key of a pool", r#"pools=[{"name":"a","path":"/srv/x","size":1}]"#.to_owned(), "size"),
        ("a relative path", pool("srv/x"), "path"),
        ("a path with a space", pool("/srv/x y"), "path"),
        ("a path with a comma, which would be an option", pool("/srv/x,mounted"), "path"),
        ("a path with dots", pool("/srv/../etc"), "path"),
        ("the host's root", pool("/"), "path"),
        ("the host's own directories", pool("/etc/wharf"), "path"),
        ("a directory of everybody's", pool("/var/lib"), "path"),
        ("the container's program", pool("/wharf"), "path"),
        (
            "a kubelet directory with a slash at its end",
            r#"kubeletDir="/var/lib/kubelet/""#.to_owned(),
            "kubeletDir",
        ),
        ("a driver's name in capitals", r#"driverName="Wharf""#.to_owned(), "driverName"),
        ("an unknown level of detail", r#"log={"format":"xml"}"#.to_owned(), "format"),
        ("a server without a share", r#"storageClasses.nfs.server="nas""#.to_owned(), "share"),
        ("a share without a server", r#"storageClasses.nfs.share="/export""#.to_owned(), "server"),
        (
            "a number where a class wants text",
            r#"storageClasses.local.parameters={"mode":488}"#.to_owned(),
            "mode",
        ),
        (
            "an unknown reclaim policy",
            r#"storageClasses.local.reclaimPolicy="Keep""#.to_owned(),
            "reclaimPolicy",
        ),
        (
            "an unknown binding mode",
            r#"storageClasses.more=[{"name":"a","volumeBindingMode":"Late"}]"#.to_owned(),
            "volumeBindingMode",
        ),
        ("a class without a name", r#"storageClasses.more=[{"parameters":{}}]"#.to_owned(), "name"),
        ("snapshots, perhaps", r#"snapshots.enabled="maybe""#.to_owned(), "enabled"),
        ("no controller", "controller.replicas=0".to_owned(), "replicas"),
        ("a secret of every namespace", r#"controller.secrets=[{"name":"a"}]"#.to_owned(), "namespace"),
        ("an upgrade that never moves", "node.maxUnavailable=0".to_owned(), "maxUnavailable"),
        ("less than no volumes", "node.maxVolumes=-1".to_owned(), "maxVolumes"),
        ("a name for an address", r#"metrics.address="localhost""#.to_owned(), "address"),
        ("a port that is none", "metrics.nodePort=70000".to_owned(), "nodePort"),
        (
            "a label that objects find each other by",
            r#"commonLabels={"app.kubernetes.io/name":"x"}"#.to_owned(),
            "app.kubernetes.io/name",
        ),
        ("a mount that takes for ever", "mountTimeout=0".to_owned(), "mountTimeout"),
    ];
    for (what, value, place) in cases {
        let refusal = render("storage", &[format!("--set-json={value}")]).expect_err(what);
        let said =
            refusal.contains("values don't meet the specifications of the schema") && refusal.contains(place);
        assert!(said, "{what}: {refusal}");
    }
}

#[test]
fn what_a_schema_cannot_say_is_refused_too() {
    let cases = [
        (
            r#"pools=[{"name":"a","path":"/srv/a"},{"name":"a","path":"/srv/b"}]"#,
            "give each pool a name of its own",
        ),
        (
            r#"pools=[{"name":"a","path":"/srv/a"},{"name":"b","path":"/srv/a/b"}]"#,
            "give each its own directory",
        ),
        (
            r#"pools=[{"name":"a","path":"/srv/a/b"},{"name":"b","path":"/srv/a"}]"#,
            "give each its own directory",
        ),
        (r#"kubeletDir="/var/snap/microk8s/common/var/lib/kubelet-that-is-far-away""#, ""),
        (r#"metrics.serviceMonitor={"enabled":true,"interval":"30s"}"#, "needs metrics.enabled"),
        (
            r#"metrics={"enabled":true,"address":"127.0.0.1","serviceMonitor":{"enabled":true}}"#,
            "nobody but the node itself",
        ),
    ];
    for (value, fragment) in cases {
        let mut arguments = vec![format!("--set-json={value}")];
        let long = value.starts_with("kubeletDir");
        if long {
            arguments.push(format!("--set=driverName={}.example", "x".repeat(50)));
        }
        let refusal = render("storage", &arguments).expect_err(value);
        let fragment = if long { "a socket's path may have 107 bytes" } else { fragment };
        assert!(refusal.contains(fragment), "{value}: {refusal}");
    }
}

/// A misspelt setting is never taken for one that is not there.
#[test]
fn the_schema_is_closed() {
    let schema: Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    let mut seen = 0;
    let mut rest = vec![(String::from("#"), &schema)];
    while let Some((place, value)) = rest.pop() {
        if value["properties"].is_object() && value["type"] == "object" {
            seen += 1;
            assert_eq!(value["additionalProperties"], false, "{place} takes anything");
        }
        if let Some(map) = value.as_object() {
            rest.extend(map.iter().map(|(key, value)| (format!("{place}/{key}"), value)));
        } else if let Some(list) = value.as_array() {
            rest.extend(list.iter().map(|value| (place.clone(), value)));
        }
    }
    assert!(seen > 10, "only {seen} objects");
}

#[test]
fn the_chart_has_the_version_of_the_driver() {
    let chart = read("deploy/chart/Chart.yaml");
    for key in ["version", "appVersion"] {
        let line = format!("\n{key}: {}\n", env!("CARGO_PKG_VERSION"));
        assert!(chart.contains(&line), "Chart.yaml has another {key}");
    }
}

#[test]
fn nothing_depends_on_the_namespace_or_the_release() {
    let text = run(&at("deploy/render"), ["--", "disks", "--namespace", "storage", SNAPSHOTS]);
    let elsewhere: BTreeSet<_> = objects(&text)
        .iter()
        .filter_map(|object| object["metadata"]["namespace"].as_str().map(str::to_owned))
        .filter(|namespace| namespace != "storage")
        .collect();
    // Events about objects without a namespace.
    assert_eq!(elsewhere, BTreeSet::from(["default".to_owned()]));
    for object in objects(&text) {
        let own = ["CSIDriver", "StorageClass", "VolumeSnapshotClass"].contains(&kind(&object));
        assert!(own || id(&object).starts_with("disks-wharf-"), "{} {}", kind(&object), id(&object));
    }
    for account in [
        "system:serviceaccount:storage:disks-wharf-node",
        "system:serviceaccount:storage:disks-wharf-controller",
    ] {
        assert!(text.contains(account), "the policies do not know {account}");
    }
    assert!(!text.contains("serviceaccount:wharf"), "a policy assumes a namespace");
}

/// A variable that the driver does not know would be ignored without a word.
#[test]
fn the_driver_knows_its_settings() {
    let all = variants().into_iter().find(|(name, _)| *name == "everything").unwrap().1;
    let pods = pods(&objects(&rendered("storage", &all)));
    for (role, pod) in pods {
        let help = run(env!("CARGO_BIN_EXE_wharf"), [role.as_str(), "--help"]);
        let container = &pod["containers"][0];
        assert_eq!(container["args"], json!([role]));
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            assert!(
                name == "POD_NAME" || help.contains(&format!("[env: {name}=")),
                "wharf {role} knows no {name}"
            );
        }
    }
}

#[test]
fn roles_are_for_kinds_that_exist() {
    let kinds: BTreeSet<_> = objects(&read("deploy/crds.yaml"))
        .iter()
        .map(|kind| kind["spec"]["names"]["plural"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(valid(&read("deploy/crds.yaml")), kinds.len());
    let mut used = BTreeSet::new();
    for role in objects(&rendered("storage", &[])).iter().filter(|o| o["rules"].is_array()) {
        for rule in role["rules"].as_array().unwrap() {
            if rule["apiGroups"] == json!(["wharf.csi.dev"]) {
                let resources = rule["resources"].as_array().unwrap().iter();
                used.extend(
                    resources.map(|each| each.as_str().unwrap().trim_end_matches("/status").to_owned()),
                );
            }
        }
    }
    assert_eq!(used, kinds);
}

#[test]
fn roles_are_narrow() {
    for (name, arguments) in variants() {
        for role in objects(&rendered("storage", &arguments)).iter().filter(|o| o["rules"].is_array()) {
            for rule in role["rules"].as_array().unwrap() {
                let what = format!("{name}: {} {}: {rule}", kind(role), id(role));
                let texts = |key: &str| -> Vec<String> {
                    let list = rule[key].as_array().unwrap_or_else(|| panic!("{what}: no {key}"));
                    list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
                };
                let (resources, verbs) = (texts("resources"), texts("verbs"));
                for forbidden in ["*", "deletecollection", "escalate", "bind", "impersonate"] {
                    assert!(!verbs.iter().any(|verb| verb == forbidden), "{what}");
                }
                assert!(!resources.iter().any(|each| each.starts_with('*')), "{what}");
                let agents = id(role).ends_with("-node");
                assert!(!agents || !verbs.contains(&"delete".to_owned()), "{what}: an agent deletes nothing");
                for each in resources {
                    let only_read =
                        verbs.iter().all(|verb| ["get", "list", "watch"].contains(&verb.as_str()));
                    match each.as_str() {
                        "secrets" => assert!(rule["resourceNames"].is_array() && verbs == ["get"], "{what}"),
                        "nodes" | "storageclasses" | "csinodes" | "namespaces" | "replicasets" | "pods" => {
                            assert!(only_read, "{what}");
                        }
                        _ => {}
                    }
                    let powerful = [
                        "roles",
                        "customresourcedefinitions",
                        "serviceaccounts",
                        "deployments",
                        "daemonsets",
                    ];
                    assert!(!powerful.iter().any(|word| each.contains(word)), "{what}");
                }
            }
        }
    }
}

#[test]
fn secrets_are_given_one_by_one() {
    let secrets = |arguments: &[String]| -> BTreeSet<String> {
        let all = objects(&rendered("storage", arguments));
        let rules = all.iter().flat_map(|o| {
            o["rules"]
                .as_array()
                .cloned()
                .unwrap_or_default()
                .into_iter()
                .map(|r| (o["metadata"]["namespace"].clone(), r))
        });
        rules
            .filter(|(_, rule)| rule["resources"].as_array().unwrap().contains(&json!("secrets")))
            .map(|(namespace, rule)| format!("{namespace} {}", rule["resourceNames"]))
            .collect()
    };
    assert_eq!(secrets(&[]), BTreeSet::new());
    let all = variants().into_iter().find(|(name, _)| *name == "everything").unwrap().1;
    let expected = [r#""apps" ["nfs-options","other"]"#, r#""more" ["nfs-options"]"#].map(str::to_owned);
    assert_eq!(secrets(&all), BTreeSet::from(expected));
}

#[test]
fn containers_have_what_they_need_and_no_more() {
    for (name, arguments) in variants() {
        let all = objects(&rendered("storage", &arguments));
        for (pod, container) in pods(&all).into_iter().flat_map(containers) {
            let what = format!("{name}: {pod}: {}", container["name"]);
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true, "{what}");
            match (pod.as_str(), container["name"].as_str().unwrap()) {
                ("node", "wharf") => assert_eq!(security["privileged"], true, "{what}"),
                ("controller", "wharf") => {
                    assert_eq!(security["privileged"], false, "{what}");
                    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{what}");
                    let given = json!(["SYS_ADMIN", "SYS_CHROOT", "FOWNER", "MKNOD"]);
                    assert_eq!(security["capabilities"]["add"], given, "{what}");
                }
                _ => {
                    let confined = json!({
                        "runAsUser": 0, "runAsGroup": 0, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
                    });
                    assert_eq!(*security, confined, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_node_pod_has_one_container_and_little_of_the_host() {
    let all = objects(&rendered("storage", &[]));
    let pods = pods(&all);
    let (_, node) = pods.iter().find(|(name, _)| name == "node").unwrap();
    assert_eq!(node["containers"].as_array().unwrap().len(), 1);
    let host: BTreeSet<_> =
        node["volumes"].as_array().unwrap().iter().map(|v| v["hostPath"]["path"].as_str().unwrap()).collect();
    let expected = [
        "/dev",
        "/var/lib/kubelet/plugins/kubernetes.io/csi",
        "/var/lib/kubelet/plugins/wharf.csi.dev",
        "/var/lib/kubelet/plugins_registry",
        "/var/lib/kubelet/pods",
        "/var/lib/wharf",
    ];
    assert_eq!(host, BTreeSet::from(expected));
    // The kubelet and people name a path as it is on the host.
    for mount in node["containers"][0]["volumeMounts"].as_array().unwrap() {
        let volume = node["volumes"].as_array().unwrap().iter().find(|v| v["name"] == mount["name"]).unwrap();
        assert_eq!(volume["hostPath"]["path"], mount["mountPath"]);
    }
    let (_, controller) = pods.iter().find(|(name, _)| name == "controller").unwrap();
    let volumes = controller["volumes"].as_array().unwrap();
    assert!(
        volumes.iter().all(|volume| volume["emptyDir"].is_object()),
        "the controller needs nothing of its host"
    );
}

/// A claim that can be pasted, and what to do about CustomResourceDefinitions that are missing.
#[test]
fn notes_tell_the_first_claim() {
    let cases: [(&[&str], &str); 3] = [
        (&[], "storageClassName: wharf-local\n"),
        (
            &["--set-json=pools=[]", "--set=storageClasses.nfs.server=nas,storageClasses.nfs.share=/x"],
            "storageClassName: wharf-nfs\n",
        ),
        (&["--set-json=pools=[]"], ""),
    ];
    for (arguments, class) in cases {
        let notes = notes(arguments);
        assert!(notes.contains("kubectl apply --server-side --filename deploy/crds.yaml"), "{notes}");
        assert!(notes.contains(class), "{notes}");
        let claim = notes.split_once("<<'END'\n").and_then(|(_, rest)| rest.split_once("END\n"));
        assert_eq!(claim.is_some(), !class.is_empty(), "{notes}");
        if let Some((claim, _)) = claim {
            assert_eq!(valid(claim), 1, "{claim}");
        }
    }
    let notes = notes(&["--api-versions=wharf.csi.dev/v1alpha1", SNAPSHOTS]);
    assert!(!notes.contains("crds.yaml") && !notes.contains("Snapshots are off"), "{notes}");
}

#[test]
fn the_default_classes_bind_as_they_are_meant_to() {
    let nfs =
        ["server=nas.example.com", "share=/export"].map(|value| format!("--set=storageClasses.nfs.{value}"));
    let all = objects(&rendered("storage", &nfs));
    let classes: Vec<_> = all
        .iter()
        .filter(|object| kind(object) == "StorageClass")
        .map(|class| (id(class), class["volumeBindingMode"].as_str().unwrap()))
        .collect();
    let meant = [
        ("wharf-local", "WaitForFirstConsumer"),
        ("wharf-local-restore", "Immediate"),
        ("wharf-nfs", "Immediate"),
    ];
    assert_eq!(classes, meant);
}

/// What `make test-placement` and `make e2e` run is built from these modules.
#[test]
fn the_sidecars_are_those_that_the_cluster_tests_run() {
    let text = rendered("storage", &[SNAPSHOTS.to_owned()]);
    for (sidecar, module) in [
        ("csi-provisioner", "provisioner/go.mod github.com/kubernetes-csi/external-provisioner/v6"),
        ("csi-resizer", "resizer/go.mod github.com/kubernetes-csi/external-resizer/v2"),
        ("csi-snapshotter", "snapshotter/go.mod github.com/kubernetes-csi/external-snapshotter/v8"),
    ] {
        let (file, path) = module.split_once(' ').unwrap();
        let modules = fs::read_to_string(at(&format!("e2e/tools/{file}"))).unwrap();
        let required =
            modules.lines().find_map(|line| line.trim().strip_prefix(path)?.strip_prefix(' ')).unwrap();
        let version = required.split(' ').next().unwrap();
        assert!(text.contains(&format!("/{sidecar}:{version}\n")), "the chart's {sidecar} is not {version}");
    }
}

/// NOTES.txt is rendered on a cluster only: here as part of an object, in a copy of the chart.
fn notes(arguments: &[&str]) -> String {
    let copy = tempfile::tempdir().unwrap();
    run("cp", ["--recursive".as_ref(), at("deploy/chart").as_ref(), copy.path()]);
    let chart = copy.path().join("chart");
    let object =
        "kind: Notes\nnotes: |\n{{ include (print .Template.BasePath \"/NOTES.txt\") . | indent 2 }}\n";
    fs::write(chart.join("templates/notes.yaml"), object).unwrap();
    let template = [
        "template",
        "wharf",
        chart.to_str().unwrap(),
        "--show-only",
        "templates/notes.yaml",
        "--kube-version=1.34.0",
    ];
    let text = run(&helm(), template.iter().chain(arguments));
    objects(&text)[0]["notes"].as_str().unwrap().to_owned()
}

/// Name (`controller`, `node`) and specification of each pod.
fn pods(objects: &[Value]) -> Vec<(String, Value)> {
    let templates = objects.iter().map(|object| &object["spec"]["template"]).filter(|t| t.is_object());
    let component = |template: &Value| {
        template["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap().to_owned()
    };
    let pods: Vec<_> = templates.map(|template| (component(template), template["spec"].clone())).collect();
    assert_eq!(pods.len(), 2);
    pods
}

fn containers((name, pod): (String, Value)) -> Vec<(String, Value)> {
    pod["containers"].as_array().unwrap().iter().map(|container| (name.clone(), container.clone())).collect()
}

/// How many of the objects in this text are valid, strictly; panics when one is not.
fn valid(text: &str) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("objects.yaml");
    fs::write(&file, text).unwrap();
    let validate = ["--kubernetes-version=1.34.0".as_ref(), "--strict".as_ref(), file.as_os_str()];
    let said = run(&python("kubernetes-validate"), validate);
    said.lines().filter(|line| line.contains(" passed for resource ")).count()
}

fn objects(text: &str) -> Vec<Value> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("objects.yaml");
    fs::write(&file, text).unwrap();
    let program =
        "import json, sys, yaml; print(json.dumps([o for o in yaml.safe_load_all(open(sys.argv[1])) if o]))";
    let list = run(&python("python"), ["-c".as_ref(), program.as_ref(), file.as_os_str()]);
    serde_json::from_str(&list).unwrap()
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

fn id(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

#[track_caller]
fn rendered(namespace: &str, arguments: &[String]) -> String {
    render(namespace, arguments).unwrap_or_else(|error| panic!("{error}"))
}

fn render(namespace: &str, arguments: &[String]) -> Result<String, String> {
    let fixed = ["--", "wharf", "--namespace", namespace].map(str::to_owned);
    attempt(&at("deploy/render"), fixed.iter().chain(arguments))
}

fn helm() -> String {
    let path = at("build/cluster/bin/helm");
    assert!(Path::new(&path).exists(), "there is no {path}: run tests/chart/setup");
    path
}

fn python(program: &str) -> String {
    let path = at(&format!("build/chart/venv/bin/{program}"));
    assert!(Path::new(&path).exists(), "there is no {path}: run tests/chart/setup");
    path
}

fn at(path: &str) -> String {
    format!("{ROOT}/{path}")
}

fn read(path: &str) -> String {
    fs::read_to_string(at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
