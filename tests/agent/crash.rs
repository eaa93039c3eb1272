//! kill -9 at every point between two side effects: whoever comes after finds the way to the same end.

use crate::{
    bed::unique,
    stand::{SIZE, Stand, entries, is_accepted, key, phase},
    support::driver::Driver,
};
use serde_json::json;
use std::{collections::BTreeSet, fs, path::Path, time::Duration};
use wharf::cluster::api::{Phase, StorageNode};

/// What leads to a point, and where it has to end.
struct Case {
    point: &'static str,
    /// Done before the agent starts that is to die.
    before: fn(&mut Stand, &str),
    /// Done while it runs.
    cause: fn(&Stand, &str),
    end: fn(&Stand, &str),
}

const CASES: [Case; 12] = [
    Case { point: "accepted", before: nothing, cause: wish, end: made },
    Case { point: "made", before: nothing, cause: wish, end: made },
    Case { point: "recorded", before: nothing, cause: wish, end: made },
    Case { point: "failure-recorded", before: nothing, cause: wish_too_much, end: failed },
    Case { point: "grown", before: make, cause: wish_more, end: grown },
    Case { point: "removed", before: make, cause: unwish, end: gone },
    Case { point: "released", before: make, cause: unwish, end: gone },
    Case { point: "removal-recorded", before: make, cause: unwish_only, end: let_go },
    Case { point: "let-go", before: make, cause: delete, end: announced },
    Case { point: "announced", before: make, cause: delete, end: announced },
    Case { point: "loss-recorded", before: lose, cause: |_, _| {}, end: lost },
    Case { point: "node-created", before: |stand, _| forget_node(stand), cause: |_, _| {}, end: published },
];

#[test]
fn every_point_of_the_agent_is_here() {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cluster/agent")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        found.extend(
            text.split("failpoint!(\"agent.").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()),
        );
    }
    assert_eq!(found, CASES.iter().map(|case| case.point.to_owned()).collect());
}

#[test]
fn a_crash_on_the_way_to_a_volume() {
    try_cases(&["accepted", "made", "recorded"]);
}

#[test]
fn a_crash_on_other_ways() {
    try_cases(&["failure-recorded", "grown", "loss-recorded", "node-created"]);
}

#[test]
fn a_crash_on_the_way_to_nothing() {
    try_cases(&["removed", "released", "removal-recorded"]);
}

#[test]
fn a_crash_on_the_way_to_another_object() {
    try_cases(&["let-go", "announced"]);
}

fn try_cases(points: &[&str]) {
    let mut stand = Stand::new();
    for case in CASES.iter().filter(|case| points.contains(&case.point)) {
        let name = unique("pvc");
        (case.before)(&mut stand, &name);
        // Nobody is at work while the one that is to die starts.
        stand.driver = None;
        let armed = format!("agent.{}=kill", case.point);
        let mut doomed = stand.spawn(&[("WHARF_FAILPOINT", &armed)]);
        (case.cause)(&stand, &name);
        assert_died(&mut doomed, case.point);
        stand.start(&[]);
        (case.end)(&stand, &name);
        assert_eq!(entries(&stand.pool.path().join("tmp")), Vec::<String>::new(), "{}", case.point);
        tidy(&stand, &name);
    }
}

fn assert_died(doomed: &mut Driver, point: &str) {
    let Some(status) = doomed.wait_exit(Duration::from_secs(30)) else {
        panic!("agent.{point} was not reached:\n{}", doomed.log());
    };
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "agent.{point}: {}",
        doomed.log()
    );
}

fn tidy(stand: &Stand, name: &str) {
    if stand.volumes().get(&key(name)).is_some() {
        stand.unwish(name);
        stand.volumes().wait_gone(&key(name), 30);
    }
    assert!(!stand.directory(name).exists());
}

fn nothing(_: &mut Stand, _: &str) {}

fn make(stand: &mut Stand, name: &str) {
    stand.ready(name, json!({}));
    fs::write(stand.directory(name).join("data/mark"), name).unwrap();
}

/// What was made carries a mark: it was not made a second time.
fn is_marked(stand: &Stand, name: &str) -> bool {
    fs::read_to_string(stand.directory(name).join("data/mark")).is_ok_and(|mark| mark == name)
}

fn wish(stand: &Stand, name: &str) {
    stand.volumes().create(stand.volume(name, json!({})));
}

fn made(stand: &Stand, name: &str) {
    let volume = stand.volumes().wait(&key(name), "is ready", 30, |volume| phase(volume) == Phase::Ready);
    assert_eq!(volume.status.unwrap().size_bytes, Some(SIZE.cast_signed()));
    assert_eq!(entries(&stand.pool.path().join("volumes")), [key(name)]);
}

fn wish_too_much(stand: &Stand, name: &str) {
    stand.volumes().create(stand.volume(name, json!({ "requiredBytes": 1_u64 << 50 })));
}

fn failed(stand: &Stand, name: &str) {
    stand.volumes().wait(&key(name), "has failed", 30, |volume| phase(volume) == Phase::Failed);
    assert!(!stand.directory(name).exists());
}

fn wish_more(stand: &Stand, name: &str) {
    stand.volumes().merge(&key(name), json!({ "spec": { "requiredBytes": 2 * SIZE } })).unwrap();
}

fn grown(stand: &Stand, name: &str) {
    stand.volumes().wait(&key(name), "has grown", 30, |volume| {
        volume.status.as_ref().unwrap().size_bytes == Some((2 * SIZE).cast_signed())
    });
    assert!(is_marked(stand, name));
}

fn unwish(stand: &Stand, name: &str) {
    stand.unwish(name);
}

fn unwish_only(stand: &Stand, name: &str) {
    stand.volumes().merge(&key(name), json!({ "spec": { "desired": "Absent" } })).unwrap();
}

fn gone(stand: &Stand, name: &str) {
    stand.volumes().wait_gone(&key(name), 30);
    assert!(!stand.directory(name).exists());
}

fn let_go(stand: &Stand, name: &str) {
    stand.volumes().wait(&key(name), "is let go", 30, |volume| !is_accepted(volume));
    assert!(!stand.directory(name).exists());
}

fn delete(stand: &Stand, name: &str) {
    stand.volumes().delete(&key(name));
}

fn announced(stand: &Stand, name: &str) {
    // The old object may still be there.
    crate::support::eventually("it is announced", 30, || {
        stand.volumes().get(&key(name)).is_some_and(|volume| phase(&volume) == Phase::Orphaned)
    });
    assert!(is_marked(stand, name));
}

fn lose(stand: &mut Stand, name: &str) {
    make(stand, name);
    stand.driver = None;
    fs::rename(stand.directory(name), stand.pool.path().join("trash").join(unique("taken"))).unwrap();
}

fn lost(stand: &Stand, name: &str) {
    stand.volumes().wait(&key(name), "is lost", 30, |volume| phase(volume) == Phase::Lost);
    assert!(!stand.directory(name).exists());
}

fn forget_node(stand: &Stand) {
    stand.bed.all::<StorageNode>().delete(&stand.node);
}

fn published(stand: &Stand, _: &str) {
    stand.storage_node("is published", |node| {
        node.status.as_ref().is_some_and(|status| status.pools.len() == 1)
    });
}
