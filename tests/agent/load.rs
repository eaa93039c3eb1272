//! Many volumes: what they cost.

use crate::{
    bed::unique,
    stand::{Stand, entries, key, phase},
    support::eventually,
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};
use wharf::cluster::api::Phase;

const VOLUMES: usize = 1000;
/// Of what is not backed by files; the program itself comes on top. This is for an unoptimised program; a release build
/// needs half of it.
const MOST_KIB: u64 = 7 << 10;

#[test]
fn a_thousand_volumes() {
    let mut stand = Stand::new();
    let names: Vec<_> = (0..VOLUMES).map(|_| unique("pvc")).collect();
    let keys: BTreeSet<_> = names.iter().map(|name| key(name)).collect();
    let start = Instant::now();
    let directory = json!({ "parameters": { "layout": "directory", "limit": "advisory" }, "filesystem": null,
        "requiredBytes": 4096 });
    for name in &names {
        stand.volumes().create(stand.volume(name, directory.clone()));
    }
    eventually("all are there", 120, || {
        let volumes = stand.own_volumes();
        volumes.len() == VOLUMES && volumes.iter().all(|volume| phase(volume) == Phase::Ready)
    });
    eprintln!("{VOLUMES} volumes: {:.1} s, {}", start.elapsed().as_secs_f64(), memory(&stand));
    assert_eq!(entries(&stand.pool.path().join("volumes")).into_iter().collect::<BTreeSet<_>>(), keys);

    // All are read anew, and nothing is written.
    let versions = versions(&stand);
    stand.kill();
    let start = Instant::now();
    stand.start(&[]);
    eventually("it has read them", 30, || {
        stand.driver.as_ref().unwrap().log().contains(&format!("watching localvolumes objects={VOLUMES}"))
    });
    eventually("it is as small as before", 20, || anonymous(&stand) <= MOST_KIB);
    std::thread::sleep(Duration::from_secs(3));
    eprintln!("restarted: {:.1} s, {}", start.elapsed().as_secs_f64(), memory(&stand));
    assert_eq!(self::versions(&stand), versions);
    stand.kill();
    // The next test's list is the shorter for it.
    for key in &keys {
        stand.volumes().merge(key, json!({ "metadata": { "finalizers": [] } })).unwrap();
        stand.volumes().delete(key);
    }
}

fn versions(stand: &Stand) -> BTreeSet<String> {
    stand.own_volumes().into_iter().filter_map(|volume| volume.metadata.resource_version).collect()
}

fn memory(stand: &Stand) -> String {
    let resident = stand.driver.as_ref().unwrap().resident_kib();
    format!("{resident} KiB resident, {} of it anonymous", anonymous(stand))
}

/// Memory that is resident and not backed by files.
fn anonymous(stand: &Stand) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", stand.driver.as_ref().unwrap().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
