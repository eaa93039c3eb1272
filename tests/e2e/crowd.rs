//! Many at once.

use crate::{
    cluster::room,
    node::ADDRESS,
    scene::{Scene, within},
};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpStream,
    pin::pin,
    time::{Duration, Instant},
};
use tokio::time;
use wharf::cluster::api::LocalVolume;

const COUNT: usize = 200;
/// How many write claims beside each other. One alone waits for answers most of the time, and would be what is measured.
const WRITERS: usize = 10;
/// Who computes for it.
const CPU: [(&str, &str); 3] = [("controller", "driver"), ("node", "driver"), ("node", "programs")];
/// The chart's defaults.
const CONTROLLER_METRICS: u16 = 29811;
const NODE_METRICS: u16 = 29810;

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn two_hundred_claims_at_once_are_bound_deleted_and_their_room_is_back() {
    let scene = Scene::alone("crowd");
    let before = room();
    let cpu = CPU.map(|(role, of)| cpu_seconds(role, of));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (calls_before, seconds_before) = calls("controller", "CreateVolume");
    let requests_before = requests(&scene);
    let start = Instant::now();
    std::thread::scope(|writers| {
        for writer in 0..WRITERS {
            let scene = &scene;
            writers.spawn(move || {
                for number in (writer..COUNT).step_by(WRITERS) {
                    scene.claim(&format!("data-{number}"), "local-now", "64Mi");
                }
            });
        }
    });
    let asked = start.elapsed();
    let claims = scene.claims().api().clone();
    let all = async { time::timeout(Duration::from_secs(240), all_bound(claims)).await };
    scene.bed().block_on(all).expect("all are bound within 240 s");
    let bound = start.elapsed();
    println!(
        "figure: {COUNT} claims of 64 MiB bound in {:.1} s, {:.1} a second; creating them took {:.1} s of that",
        bound.as_secs_f64(),
        COUNT as f64 / bound.as_secs_f64(),
        asked.as_secs_f64()
    );
    let (calls, seconds) = calls("controller", "CreateVolume");
    let now = CPU.map(|(role, of)| cpu_seconds(role, of));
    let [controller, node, mkfs] = [0, 1, 2].map(|n| now[n] - cpu[n]);
    let share = |seconds: f64| seconds / (bound.as_secs_f64() * cores as f64) * 100.0;
    println!(
        "figure: the driver computed {controller:.1} s as controller and {node:.1} s as node, {:.1} % of that time on \
         {cores} cores, and mkfs {mkfs:.1} s, {:.1} %; CreateVolume took {:.0} ms in the mean of {} calls",
        share(controller + node),
        share(mkfs),
        (seconds - seconds_before) / (calls - calls_before) * 1e3,
        calls - calls_before
    );
    let mut requests: Vec<_> = requests(&scene)
        .into_iter()
        .map(|(what, count)| (count - requests_before.get(&what).copied().unwrap_or_default(), what))
        .collect();
    requests.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (count, what) in requests.iter().take(20) {
        println!("figure: the API server was asked for {:.1} {what} for each claim", count / COUNT as f64);
    }
    let mine: BTreeSet<String> = scene
        .claims()
        .list()
        .into_iter()
        .filter_map(|claim| claim.spec.and_then(|spec| spec.volume_name))
        .collect();
    assert_eq!(mine.len(), COUNT);
    let start = Instant::now();
    let claims = scene.claims();
    scene
        .bed()
        .block_on(claims.api().delete_collection(&DeleteParams::default(), &ListParams::default()))
        .unwrap();
    within("all are gone", 240, || {
        let volumes = scene.bed().all::<PersistentVolume>().list();
        let objects = scene.bed().all::<LocalVolume>().list();
        volumes.iter().all(|volume| !mine.contains(&volume.name_any()))
            && objects.iter().all(|object| !mine.contains(&object.spec.name))
    });
    within("the room comes back", 60, || room() + (64 << 20) >= before);
    println!("figure: {COUNT} claims deleted and their room back in {:.1} s", start.elapsed().as_secs_f64());
}

/// Hears of each: to list so many claims again and again would take what the machine needs to bind them.
async fn all_bound(claims: Api<PersistentVolumeClaim>) {
    let mut bound = BTreeSet::new();
    let mut events = pin!(watcher(claims, watcher::Config::default()).default_backoff());
    while bound.len() < COUNT {
        match events.next().await {
            Some(Ok(Event::Apply(claim) | Event::InitApply(claim)))
                if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound") =>
            {
                bound.insert(claim.name_any());
            }
            Some(Err(error)) => eprintln!("watching claims: {error}"),
            _ => {}
        }
    }
}

/// How many requests of each kind the API server has answered: verb, resource and subresource.
fn requests(scene: &Scene) -> BTreeMap<String, f64> {
    let page = scene.bed().kubectl(&["get", "--raw", "/metrics"]);
    let mut counts = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
            rest.split('"').next().unwrap()
        };
        let what = [label("verb"), label("resource"), label("subresource")].join(" ");
        *counts.entry(what.trim().to_owned()).or_default() +=
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    }
    counts
}

/// How many calls of a method a role has answered, and how many seconds that took in sum.
pub fn calls(role: &str, method: &str) -> (f64, f64) {
    let page = scrape(port(role));
    let sum = |name: &str| -> f64 {
        let of_it = |line: &&str| line.starts_with(name) && line.contains(&format!("\"{method}\""));
        page.lines().filter(of_it).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    (sum("wharf_rpc_duration_seconds_count"), sum("wharf_rpc_duration_seconds_sum"))
}

fn scrape(port: u16) -> String {
    let mut stream = TcpStream::connect((ADDRESS, port)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: here\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("wharf_"), "{text}");
    text
}

/// What the driver of one role, or the programs that it has run, have computed so far, by its own account.
fn cpu_seconds(role: &str, of: &str) -> f64 {
    let (page, name) = (scrape(port(role)), format!("wharf_cpu_seconds_total{{of=\"{of}\"}} "));
    page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

fn port(role: &str) -> u16 {
    if role == "controller" { CONTROLLER_METRICS } else { NODE_METRICS }
}
