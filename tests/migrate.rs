//! scripts/migrate-pv on lists of objects in files: what it writes is what the driver understands, and what it
//! cannot move it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};
use wharf::volume::nfs::{AnyVolumeId, Context, OnDelete, Settings};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VOLUMES: &str = "tests/migrate/volumes.json";
const CSI: &str = "pvc-4bcbf944-b6f7-4bd0-b50f-3c3dd00efc64";
const SUBDIR: &str = "pvc-0d1c2b3a-1111-4222-8333-444455556666";

#[test]
fn the_new_objects_are_as_written_down() {
    let (objects, report) = moved(&[]);
    let expected: Value = serde_json::from_str(&read("tests/migrate/moved.json")).unwrap();
    assert_eq!(objects, expected, "{objects:#}");
    for fragment in [
        &format!("{CSI}: default/data, nas.example:/export/data/{CSI}, becomes {CSI}-wharf"),
        "its reclaim policy was Delete and becomes Retain",
        "the claim asks for 2Gi, more than the old PV's 1Gi",
        "by-hand: not claimed, fd00::7:/, becomes by-hand-wharf",
        "DeleteVolume will refuse",
    ] {
        assert!(report.contains(fragment), "{fragment:?} is not in:\n{report}");
    }
}

#[test]
fn nothing_of_the_old_objects_lives_on() {
    let text = moved(&[]).0.to_string();
    for gone in [
        "nfs.csi.k8s.io",
        "\"uid\"",
        "resourceVersion",
        "finalizers",
        "status",
        "dataSource",
        "bind-completed",
    ] {
        let owner = gone == "\"uid\"" && text.matches(gone).count() == 1;
        assert!(owner || !text.contains(gone), "{gone} in {text}");
    }
}

#[test]
fn the_driver_understands_what_was_written() {
    let (objects, _) = moved(&["--on-delete", "archive"]);
    let mut seen = BTreeMap::new();
    for pv in items(&objects, "PersistentVolume") {
        let csi = &pv["spec"]["csi"];
        let attributes: BTreeMap<String, String> =
            serde_json::from_value(csi["volumeAttributes"].clone()).unwrap();
        let context = Context::parse(&attributes).unwrap();
        let handle = csi["volumeHandle"].as_str().unwrap();
        let Some(AnyVolumeId::Legacy(id)) = AnyVolumeId::parse(handle) else { panic!("{handle}") };
        assert_eq!((&id.share, &id.directory), (&context.share, &context.directory), "{handle}");
        let flags: Vec<String> =
            serde_json::from_value(pv["spec"].get("mountOptions").cloned().unwrap_or(json!([]))).unwrap();
        let settings = context.settings(&flags).unwrap();
        settings.clone().resolve().unwrap();
        let name = pv["metadata"]["name"].as_str().unwrap().to_owned();
        seen.insert(name, (context.source().unwrap().to_string(), settings.to_list(), id.on_delete));
    }
    let row = |source: &str, options: &str, end| (source.to_owned(), options.to_owned(), end);
    let expected = BTreeMap::from([
        (
            format!("{CSI}-wharf"),
            row(&format!("nas.example:/export/data/{CSI}"), "vers=4.1,noatime,hard", None),
        ),
        (
            format!("{SUBDIR}-wharf"),
            row(&format!("192.0.2.7:/srv/k8s/web-html-web-0-{SUBDIR}"), "vers=3", Some(OnDelete::Archive)),
        ),
        ("by-hand-wharf".to_owned(), row("[fd00::7]:/", "", Some(OnDelete::Archive))),
    ]);
    assert_eq!(seen, expected);
}

#[test]
fn options_choose_class_policy_names_and_where_a_share_ends() {
    let options = [
        "--class",
        "nfs",
        "--reclaim",
        "Delete",
        "--suffix",
        ".new",
        "--driver",
        "x.example",
        "--share",
        "/srv",
    ];
    let (objects, report) = moved(&[&options[..], &[SUBDIR]].concat());
    let [pv, claim] = &objects["items"].as_array().unwrap()[..] else { panic!("{objects:#}") };
    assert_eq!(pv["metadata"]["name"], format!("{SUBDIR}.new"));
    assert_eq!(pv["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"], "x.example");
    assert_eq!(
        (&pv["spec"]["storageClassName"], &claim["spec"]["storageClassName"]),
        (&json!("nfs"), &json!("nfs"))
    );
    assert_eq!(
        (&pv["spec"]["persistentVolumeReclaimPolicy"], &pv["spec"]["csi"]["driver"]),
        (&json!("Delete"), &json!("x.example"))
    );
    let directory = format!("k8s/web-html-web-0-{SUBDIR}");
    assert_eq!(
        pv["spec"]["csi"]["volumeAttributes"],
        json!({"server": "192.0.2.7", "share": "/srv", "subDir": directory})
    );
    assert_eq!(pv["spec"]["csi"]["volumeHandle"], format!("192.0.2.7#srv#{directory}#{SUBDIR}#retain"));
    assert!(!report.contains("reclaim"), "{report}");
}

#[test]
fn what_cannot_be_moved_is_refused_with_the_reason() {
    let handle = format!("nas.example#export/data#{CSI}##");
    let twin = json!({"kind": "PersistentVolume", "metadata": {"name": "twin"},
        "spec": {"csi": {"driver": "wharf.csi.dev", "volumeHandle": handle}}});
    let cases: [(&str, Value, &str); 17] = [
        ("/items/0/spec/mountOptions", json!(["nfsvers=3", "lock"]), "rpc.statd"),
        ("/items/0/spec/mountOptions", json!(["udp"]), "does not take the mount options udp"),
        ("/items/0/spec/mountOptions", json!(["hard,proto=udp"]), "UDP"),
        ("/items/0/spec/csi/volumeAttributes/mountOptions", json!("vers=3,local_lock=posix"), "rpc.statd"),
        ("/items/0/spec/csi/volumeAttributes/subdir", json!("a/../b"), "by . or .."),
        ("/items/0/spec/csi/volumeAttributes/subdir", json!("/.Wharf/tmp"), ".wharf"),
        ("/items/0/spec/csi/volumeAttributes/server", json!(""), "no server and share"),
        ("/items/0/spec/csi/driver", json!("wharf.csi.dev"), "a volume of wharf.csi.dev already"),
        ("/items/0/spec/csi/driver", json!("other"), "a volume of other"),
        ("/items/0/spec/csi", Value::Null, "no NFS volume"),
        ("/items/0/spec/volumeMode", json!("Block"), "raw block"),
        ("/items/0/status/phase", json!("Released"), "it is Released"),
        ("/items/0/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"), "being deleted"),
        ("/items/0/spec/claimRef/uid", json!("other"), "not bound to it"),
        ("/items/1/metadata/name", json!("other"), "is not there"),
        ("/items/1/metadata/ownerReferences", json!([{"kind": "Pod", "name": "p"}]), "belongs to a pod"),
        ("/items/-", twin, "the same volumeHandle"),
    ];
    for (place, value, why) in cases {
        let mut objects: Value = serde_json::from_str(&read(VOLUMES)).unwrap();
        put(&mut objects, place, value);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("volumes.json");
        fs::write(&file, objects.to_string()).unwrap();
        let output = run(&["--file", file.to_str().unwrap(), CSI]);
        let report = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{place}: {report}");
        assert!(report.contains(&format!("{CSI}: refused: ")) && report.contains(why), "{place}: {report}");
        let written: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(written["items"], json!([]), "{place}");
    }
    let report = run(&["--file", VOLUMES, "--share", "/elsewhere", SUBDIR, "nobody", "local"]);
    let report = String::from_utf8_lossy(&report.stderr).into_owned();
    for why in ["not below --share /elsewhere", "nobody: refused: there is no such", "local: refused"] {
        assert!(report.contains(why), "{report}");
    }
}

#[test]
fn one_that_is_refused_does_not_keep_the_others() {
    let output = run(&["--file", VOLUMES, CSI, "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(items(&serde_json::from_slice(&output.stdout).unwrap(), "PersistentVolume").len(), 1);
}

#[test]
fn the_plan_keeps_the_data_first() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("moving");
    let output = run(&["--file", VOLUMES, "--output", directory.to_str().unwrap()]);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o077, 0);
    let names: BTreeSet<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected =
        [CSI, SUBDIR].iter().flat_map(|name| ["old", "pv", "pvc"].map(|what| format!("{name}.{what}.json")));
    let expected: BTreeSet<_> =
        expected.chain(["by-hand.old.json", "by-hand.pv.json", "apply.sh"].map(str::to_owned)).collect();
    assert_eq!(names, expected);

    let old: Value =
        serde_json::from_str(&fs::read_to_string(directory.join(format!("{CSI}.old.json"))).unwrap())
            .unwrap();
    let before: Value = serde_json::from_str(&read(VOLUMES)).unwrap();
    assert_eq!(old["items"], json!([before["items"][0], before["items"][1]]), "the way back");

    let plan = fs::read_to_string(directory.join("apply.sh")).unwrap();
    assert!(
        Command::new("bash").arg("-n").arg(directory.join("apply.sh")).status().unwrap().success(),
        "{plan}"
    );
    let at = |text: &str| plan.find(text).unwrap_or_else(|| panic!("{text:?} is not in:\n{plan}"));
    let order = [
        "set -euo pipefail",
        "\"persistentVolumeReclaimPolicy\":\"Retain\"",
        "[ \"$policy\" = Retain ] || die",
        "[ \"$uid\" = \"$known\" ]",
        "[ -z \"$users\" ] || die",
        "kubectl delete pvc",
        "create pvc",
        "kubectl wait \"pvc/",
    ];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{plan}");
    assert!(!plan.contains("delete pv "), "the old PVs stay");
    for line in [
        format!("move '{CSI}' '{CSI}-wharf' 'default' 'data' 'c1'\n"),
        format!("move '{SUBDIR}' '{SUBDIR}-wharf' 'web' 'html-web-0' 'c2'\n"),
        "move 'by-hand' 'by-hand-wharf'\n".to_owned(),
    ] {
        at(&line);
    }

    let again = run(&["--file", VOLUMES, "--output", directory.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(2), "what describes moved volumes is overwritten");
}

#[test]
fn wrong_calls_are_told_apart() {
    let broken = tempfile::NamedTempFile::new().unwrap();
    fs::write(&broken, "{").unwrap();
    for arguments in [
        &["--file"][..],
        &["--file", "tests/migrate/nothing.json"],
        &["--file", broken.path().to_str().unwrap()],
        &["--file", VOLUMES, "--reclaim", "Recycle"],
        &["--file", VOLUMES, "--on-delete", "shred"],
        &["--file", VOLUMES, "--share", "srv"],
        &["--file", VOLUMES, "--driver", "nfs.csi.k8s.io"],
        &["--colour"],
    ] {
        let output = run(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    let help = run(&["--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--on-delete WHAT"));
}

/// An option that the driver gets to know later must not be refused here.
#[test]
fn the_options_are_those_of_the_driver() {
    let rules = read("src/volume/nfs/options/rules.rs");
    let table = rules.split("pub const RULES").nth(1).unwrap().split("];").next().unwrap();
    let calls = ["flag(\"", "means(\"", "number(\"", "word(\"", "name: \""];
    let of_driver: BTreeSet<&str> = calls
        .iter()
        .flat_map(|call| table.split(call).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let program = read("scripts/migrate-pv.jq");
    let list = program.split("def known_options: [").nth(1).unwrap().split(']').next().unwrap();
    let of_script: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(of_script, of_driver);
    assert!(of_driver.len() > 60);
    for name in of_script {
        let forms = ["", "=1", "=3", "=1024", "=tcp", "=all", "=none", "=lazy", "=sys"];
        let forms = forms.map(|value| format!("{name}{value}"));
        assert!(forms.iter().any(|form| Settings::parse_list(form).is_ok()), "{name}");
    }
}

fn moved(arguments: &[&str]) -> (Value, String) {
    let output = run(&[&["--file", VOLUMES], arguments].concat());
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{report}");
    (serde_json::from_slice(&output.stdout).unwrap(), report)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(Path::new(ROOT).join("scripts/migrate-pv"))
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .unwrap()
}

fn items<'a>(list: &'a Value, kind: &str) -> Vec<&'a Value> {
    list["items"].as_array().unwrap().iter().filter(|item| item["kind"] == kind).collect()
}

/// As `add` of JSON patch.
fn put(objects: &mut Value, place: &str, value: Value) {
    let (above, name) = place.rsplit_once('/').unwrap();
    match objects.pointer_mut(above).unwrap() {
        Value::Array(list) => list.push(value),
        other => other[name] = value,
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}
