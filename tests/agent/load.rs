//! Many volumes: what they cost. Of the release build, which is what people run.

use crate::{
    bed::unique,
    stand::{Stand, entries, key, phase},
    support::{driver::Driver, eventually},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use wharf::cluster::api::Phase;

const VOLUMES: usize = 1000;
/// What either role may have in memory then.
const NODE_KIB: u64 = 16 << 10;
const CONTROLLER_KIB: u64 = 20 << 10;

#[test]
fn a_thousand_volumes() {
    let mut stand = Stand::idle();
    stand.program = release();
    stand.start(&[]);
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
    eprintln!("{VOLUMES} volumes: {:.1} s", start.elapsed().as_secs_f64());
    stays_below("node", stand.driver(), NODE_KIB);
    assert_eq!(entries(&stand.pool.path().join("volumes")).into_iter().collect::<BTreeSet<_>>(), keys);

    let controller = controller(&stand);
    stays_below("controller", &controller, CONTROLLER_KIB);
    drop(controller);

    // All are read anew, and nothing is written.
    let versions = versions(&stand);
    stand.kill();
    let start = Instant::now();
    stand.start(&[]);
    eventually("it has read them", 30, || {
        stand.driver.as_ref().unwrap().log().contains(&format!("watching localvolumes objects={VOLUMES}"))
    });
    eprintln!("read anew: {:.1} s", start.elapsed().as_secs_f64());
    stays_below("node, restarted", stand.driver(), NODE_KIB);
    assert_eq!(self::versions(&stand), versions);
    stand.kill();
    // The next test's list is the shorter for it.
    for key in &keys {
        stand.volumes().merge(key, json!({ "metadata": { "finalizers": [] } })).unwrap();
        stand.volumes().delete(key);
    }
}

fn release() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_wharf")).ancestors().nth(2).unwrap();
    let program = target.join("release/wharf");
    assert!(program.exists(), "{} is not there: cargo build --release --locked", program.display());
    program
}

/// `wharf controller` that has seen all of them.
fn controller(stand: &Stand) -> Driver {
    let mut command = Command::new(&stand.program);
    command.args(["controller", "--namespace", &stand.namespace, "--kubeconfig"]).arg(stand.bed.kubeconfig());
    let mut driver = Driver::spawn_as(command, &[]);
    assert!(driver.wait_until_ready(), "{}", driver.log());
    let suffix = format!(".{}", stand.node);
    eventually("it has seen them", 60, || {
        let listed = driver.co().volumes().unwrap_or_default();
        listed.iter().filter(|id| id.ends_with(&suffix)).count() == VOLUMES
    });
    driver
}

/// Once it has come to rest, and a while later.
fn stays_below(role: &str, driver: &Driver, most_kib: u64) {
    eventually(&format!("{role} is at most {most_kib} KiB, and not {}", driver.resident_kib()), 20, || {
        driver.resident_kib() <= most_kib
    });
    std::thread::sleep(Duration::from_secs(3));
    let resident = driver.resident_kib();
    eprintln!("{role}: {resident} KiB resident");
    assert!(resident <= most_kib, "{role}: {resident} KiB");
}

fn versions(stand: &Stand) -> BTreeSet<String> {
    stand.own_volumes().into_iter().filter_map(|volume| volume.metadata.resource_version).collect()
}
