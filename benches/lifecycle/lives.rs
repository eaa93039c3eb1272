//! What each RPC of a volume's life takes, and how many volumes come into being in a second.

use super::{
    Effort,
    figures::{Table, Times, ms},
    ground::{Ground, KINDS, name},
    machine::{checkpoint, progress},
    support::{
        MIB,
        co::{Co, Spec},
        driver::Driver,
        places::Places,
        pool::Kind,
        unique,
    },
};
use std::{thread, time::Instant};

pub const RPCS: [&str; 7] = ["create", "stage", "publish", "stats", "unpublish", "unstage", "delete"];

/// Times of each of [`RPCS`].
pub type Life = [Times; 7];

/// One volume from its creation to its deletion.
pub fn live(co: &mut Co, places: &Places, spec: &Spec, times: &mut Life) {
    checkpoint();
    let name = unique("life");
    let (staging, target) = (places.staging(&name), places.target(&name));
    let [create, stage, publish, stats, unpublish, unstage, delete] = times;
    let id = create.of(|| co.create(&name, spec)).unwrap().volume_id;
    stage.of(|| co.stage(&id, &staging, spec)).unwrap();
    publish.of(|| co.publish(&id, &staging, &target, spec, false)).unwrap();
    stats.of(|| co.stats(&id, &target)).unwrap();
    unpublish.of(|| co.unpublish(&id, &target)).unwrap();
    unstage.of(|| co.unstage(&id, &staging)).unwrap();
    delete.of(|| co.delete(&id)).unwrap();
    let _ = std::fs::remove_dir(staging);
}

/// `each` lives of each of `callers`, who do not wait for one another.
pub fn many(driver: &Driver, places: &Places, spec: &Spec, callers: usize, each: usize) -> Life {
    let mut all = Life::default();
    live(&mut driver.co(), places, spec, &mut Life::default());
    thread::scope(|scope| {
        let work = || {
            let mut times = Life::default();
            let mut co = driver.co();
            for _ in 0..each {
                live(&mut co, places, spec, &mut times);
            }
            times
        };
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            all.iter_mut().zip(thread.join().unwrap()).for_each(|(sum, times)| sum.append(times));
        }
    });
    all
}

/// The volumes whose lives are measured on a pool of this kind.
pub fn specs(kind: Kind) -> [(&'static str, Spec); 3] {
    let directory = match kind {
        Kind::BtrfsQuota => ("directory, enforced", Spec::directory("enforced")),
        _ => ("directory, advisory", Spec::directory("advisory")),
    };
    [("image, ext4", Spec::image("ext4")), ("image, xfs", Spec::image("xfs")), directory]
        .map(|(what, spec)| (what, spec.size(1024 * MIB)))
}

/// design: an image with one caller, a directory with eight.
fn budgets(kind: Kind, image: bool, callers: usize) -> [Option<f64>; 7] {
    let mut budgets = [None; 7];
    let given: &[(usize, f64)] = match (image, callers, kind.is_btrfs()) {
        (true, 1, false) => &[(0, 30.0), (1, 15.0), (6, 10.0)],
        (true, 1, true) => &[(0, 75.0), (1, 37.5), (6, 25.0)],
        (false, 8, false) => &[(0, 5.3), (1, 14.4), (2, 18.4), (3, 12.3), (4, 3.2), (5, 3.3), (6, 4.2)],
        (false, 8, true) => &[(0, 15.0), (6, 8.0)],
        _ => &[],
    };
    for (index, budget) in given {
        budgets[*index] = Some(*budget);
    }
    budgets
}

pub fn print(effort: Effort) {
    for kind in KINDS {
        let ground = Ground::new(kind, 32);
        let fsync = ground.fsync();
        let driver = ground.driver();
        let places = Places::new();
        let mut table = Table::new(["1 GiB", "callers"].into_iter().chain(RPCS));
        for (what, spec) in specs(kind) {
            for callers in [1, 8] {
                progress(&format!("living on {}: {what}, callers: {callers}", name(kind)));
                let each = if callers == 1 { effort.of(8, 40) } else { effort.of(3, 12) };
                let times = many(&driver, &places, &spec, callers, each);
                let budgets = budgets(kind, what.starts_with("image"), callers);
                let cells = times.iter().zip(budgets).map(|(times, budget)| times.against(budget));
                table.row([what.to_owned(), callers.to_string()].into_iter().chain(cells));
            }
        }
        let about = format!("one small file and its fsync {} ms", ms(fsync.median()));
        table.print(&format!("A life on {}: ms, median / p95 ({about})", name(kind)));
    }
}

pub fn print_rate(effort: Effort) {
    let each = effort.of(4, 15);
    let mut table = Table::new(["pool", "volumes of 1 GiB", "made", "volumes/s"]);
    for kind in KINDS {
        let ground = Ground::new(kind, 160);
        let driver = ground.driver();
        for (what, spec) in specs(kind) {
            live(&mut driver.co(), &Places::new(), &spec, &mut Life::default());
            progress(&format!("creating on {}: {what}", name(kind)));
            let start = Instant::now();
            let ids: Vec<String> = eight(&driver, |co| {
                checkpoint();
                (0..each).map(|_| co.create(&unique("rate"), &spec).unwrap().volume_id).collect::<Vec<_>>()
            });
            let seconds = start.elapsed().as_secs_f64();
            let rate = ids.len() as f64 / seconds;
            let budget = if rate >= 40.0 { "≥40 ok" } else { "≥40 **missed**" };
            table.row([
                name(kind).to_owned(),
                what.to_owned(),
                ids.len().to_string(),
                format!("{rate:.0}, {budget}"),
            ]);
            let mut co = driver.co();
            ids.iter().for_each(|id| co.delete(id).unwrap());
        }
    }
    table.print("Eight callers that only create");
}

/// Runs `work` for eight callers at once.
pub fn eight<T: Send>(driver: &Driver, work: impl Fn(&mut Co) -> Vec<T> + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| work(&mut driver.co()))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}
