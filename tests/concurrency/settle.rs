//! After a storm: each volume is brought into a known state, as an orchestrator would by repeating its
//! requests, and then taken away.

use crate::{
    crowd::names,
    storm::Subject,
    support::{co::Co, host, pool::Pool},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    thread::sleep,
    time::{Duration, Instant},
};
use tonic::{Code, Status};

/// How far a volume is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Goal {
    Absent,
    Created,
    Staged,
    Published,
}

const GOALS: [Goal; 4] = [Goal::Absent, Goal::Created, Goal::Staged, Goal::Published];

pub fn settle(subjects: &[Subject], pools: &BTreeMap<&str, &Pool>, co: &mut Co) {
    let goals: Vec<_> = subjects.iter().zip(GOALS.into_iter().cycle()).collect();
    for (subject, goal) in &goals {
        reach(subject, *goal, co);
    }
    for (subject, goal) in &goals {
        assert_reached(subject, *goal, pools[subject.pool]);
    }
    let listed: BTreeSet<_> = co.volumes().unwrap().into_iter().collect();
    let on_disk: BTreeSet<_> = pools
        .values()
        .flat_map(|pool| names(pool, "volumes"))
        .map(|key| format!("local-{key}.node-1"))
        .collect();
    assert_eq!(listed, on_disk);
    for (subject, _) in &goals {
        reach(subject, Goal::Absent, co);
        fs::remove_dir(&subject.staging).unwrap();
    }
    for id in co.snapshots().unwrap() {
        repeat(|| co.delete_snapshot(&id));
    }
    for id in co.volumes().unwrap() {
        repeat(|| co.delete(&id));
    }
}

/// Repeats a request while others still work on the volume.
fn repeat<T>(mut request: impl FnMut() -> Result<T, Status>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match request() {
            Ok(answer) => return answer,
            Err(status) if status.code() == Code::Aborted && Instant::now() < deadline => {
                sleep(Duration::from_millis(10));
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}

/// Down to nothing on the node, then up as far as wanted.
fn reach(subject: &Subject, goal: Goal, co: &mut Co) {
    let id = subject.id();
    for target in &subject.targets {
        repeat(|| co.unpublish(&id, target));
    }
    repeat(|| co.unstage(&id, &subject.staging));
    if goal == Goal::Absent {
        return repeat(|| co.delete(&id));
    }
    repeat(|| co.create(&subject.name, &subject.spec));
    if goal >= Goal::Staged {
        repeat(|| co.stage(&id, &subject.staging, &subject.spec));
    }
    if goal == Goal::Published {
        for target in &subject.targets {
            repeat(|| co.publish(&id, &subject.staging, target, &subject.spec, false));
        }
    }
}

fn assert_reached(subject: &Subject, goal: Goal, pool: &Pool) {
    let directory = pool.path().join("volumes").join(&subject.id()["local-".len()..][..36]);
    let mounts = host::mounts();
    let count = |path: &std::path::Path| mounts.iter().filter(|mount| mount.point == path).count();
    let loops = host::loops_below(&directory).len();
    let has_loop = directory.join("data/disk.img").exists() && goal >= Goal::Staged;
    assert_eq!(directory.exists(), goal != Goal::Absent, "{goal:?}");
    assert_eq!(count(&subject.staged()), usize::from(goal >= Goal::Staged), "{goal:?}");
    for target in &subject.targets {
        assert_eq!(count(target), usize::from(goal == Goal::Published), "{goal:?}");
        assert_eq!(target.exists(), goal == Goal::Published, "{goal:?}");
    }
    assert_eq!(loops, usize::from(has_loop), "{goal:?}");
}
