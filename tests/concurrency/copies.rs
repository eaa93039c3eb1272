//! Work that takes longer than its caller waits: copies on a pool that cannot share blocks.

use crate::{
    calls::{abandon, ask, ask_within},
    crowd::{key_of, names, snapshot_id, volume_id},
    support::{
        MIB,
        co::{Co, Spec, csi},
        data,
        driver::Driver,
        eventually,
        inventory::{Inventory, assert_same},
        pool::{Kind, Pool},
        unique,
    },
};
use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};
use tonic::{Code, Status};

const SIZE: u64 = 384 * MIB;
/// Less than a copy of that takes, anywhere.
const SHORT: Duration = Duration::from_millis(80);

/// A pool with a large volume. Fields are dropped in this order.
struct Stand {
    driver: Driver,
    pool: Pool,
    volume: String,
}

impl Stand {
    fn new() -> Self {
        let pool = Pool::new(Kind::Ext4, 4 << 30);
        let driver = Driver::start(&[("default", pool.path())], &[]);
        let name = unique("v");
        let volume = driver.co().create(&name, &Spec::block().thin().size(SIZE)).unwrap().volume_id;
        let stand = Self { driver, pool, volume };
        let image = OpenOptions::new().write(true).open(stand.image("volumes", &name)).unwrap();
        let piece = data::bytes(3, 8 << 20);
        for at in 0..SIZE / (8 * MIB) {
            image.write_all_at(&piece, at * 8 * MIB).unwrap();
        }
        stand
    }

    fn image(&self, directory: &str, name: &str) -> PathBuf {
        self.pool.path().join(directory).join(key_of(name).to_string()).join("data/disk.img")
    }

    fn restart(&mut self) {
        self.driver = Driver::start(&[("default", self.pool.path())], &[]);
    }

    fn cut(&self, name: &str) -> csi::CreateSnapshotRequest {
        csi::CreateSnapshotRequest {
            source_volume_id: self.volume.clone(),
            name: name.to_owned(),
            ..Default::default()
        }
    }

    /// Starts a copy and goes away.
    fn start_copy(&self, name: &str) {
        let draft = self.pool.path().join("tmp").join(format!("{}.snap/data/disk.img", key_of(name)));
        let mut co = self.driver.co();
        // On a busy machine a request may be given up before it has left; the next one joins those that arrived.
        eventually("the copy is under way", 30, || {
            abandon(&mut co, self.cut(name), Duration::from_millis(20));
            draft.metadata().is_ok_and(|file| file.len() > 0)
        });
    }
}

/// The next answer that is not the client's own clock.
fn still_running(co: &mut Co, request: &csi::CreateSnapshotRequest) -> Status {
    loop {
        let status = ask_within(co, request.clone(), SHORT).map(drop).expect_err("the copy was too fast");
        if status.code() == Code::Aborted {
            return status;
        }
        assert_eq!(status.message(), "Timeout expired");
    }
}

#[test]
fn the_same_request_waits_for_the_work() {
    let stand = Stand::new();
    let (name, mut co) = (unique("s"), stand.driver.co());
    let request = stand.cut(&name);
    let texts = [(); 3].map(|()| still_running(&mut co, &request).message().to_owned());
    assert!(texts.iter().all(|text| *text == texts[0]), "each new text is an event for the user: {texts:?}");
    assert_eq!(names(&stand.pool, "tmp").len(), 1, "there is one copy");
    // Somebody else's request for the same name, or the source, does not join: it is told to wait.
    let other = csi::CreateSnapshotRequest { source_volume_id: volume_id("other"), ..request.clone() };
    assert_eq!(ask(&mut co, other).map(drop).unwrap_err().code(), Code::Aborted);
    assert_eq!(co.delete(&stand.volume).unwrap_err().code(), Code::Aborted);
    assert_eq!(co.delete_snapshot(&snapshot_id(&name)).unwrap_err().code(), Code::Aborted);
    // Others are not held up.
    let began = Instant::now();
    co.create(&unique("v"), &Spec::block().thin().size(MIB)).unwrap();
    let _ = began.elapsed();
    let first = ask(&mut co, request.clone()).unwrap().snapshot.unwrap();
    assert!(first.ready_to_use);
    assert!(ask(&mut co, request).unwrap().snapshot.unwrap() == first);
    let copy = data::sha256(&stand.image("snapshots", &name));
    let source = stand.pool.path().join("volumes").join(&stand.volume["local-".len()..][..36]);
    assert_eq!(copy, data::sha256(&source.join("data/disk.img")));
    assert_eq!(names(&stand.pool, "tmp"), [] as [&str; 0]);
    println!("6 answers while it ran");
}

#[test]
fn many_callers_wait_for_one_copy() {
    let stand = Stand::new();
    let name = unique("s");
    let answers: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| ask(&mut stand.driver.co(), stand.cut(&name)).unwrap())).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    println!("{} callers", answers.len());
}

#[test]
fn a_copy_that_is_killed_leaves_nothing() {
    let mut stand = Stand::new();
    let before = Inventory::take(&stand.pool, &[]);
    for how in ["kill", "terminate"] {
        let name = unique("s");
        stand.start_copy(&name);
        if how == "kill" {
            stand.driver.kill();
        } else {
            let began = Instant::now();
            assert!(stand.driver.terminate().success());
            assert!(began.elapsed() < Duration::from_secs(20), "a copy ends at the next piece");
        }
        assert_eq!(names(&stand.pool, "snapshots"), [] as [&str; 0], "{how}");
        stand.restart();
        assert_same(&before, &Inventory::take(&stand.pool, &[]));
        let mut co = stand.driver.co();
        assert!(ask(&mut co, stand.cut(&name)).unwrap().snapshot.unwrap().ready_to_use);
        co.delete_snapshot(&snapshot_id(&name)).unwrap();
    }
    assert_same(&before, &Inventory::take(&stand.pool, &[]));
    println!("2 ways to end");
}

/// Its start sweeps what killed drivers left; a living one's work is no leftover.
#[test]
fn a_second_driver_does_not_sweep_away_a_running_copy() {
    let stand = Stand::new();
    let name = unique("s");
    stand.start_copy(&name);
    let second = Driver::start(&[("default", stand.pool.path())], &[]);
    // The other process cannot join: it is told to repeat.
    let outcome = ask(&mut second.co(), stand.cut(&name)).map(drop);
    assert!(outcome.is_ok() || outcome.is_err_and(|status| status.code() == Code::Aborted));
    let found = ask(&mut stand.driver.co(), stand.cut(&name)).unwrap().snapshot.unwrap();
    assert!(found.ready_to_use);
    assert_eq!(
        ask(&mut second.co(), stand.cut(&name)).unwrap().snapshot.unwrap().snapshot_id,
        found.snapshot_id
    );
    assert!(stand.image("snapshots", &name).metadata().unwrap().len() == SIZE);
    println!("1 case");
}

/// One request hits a bug; those beside it, and the next of the same name, do not notice.
#[test]
fn a_panic_is_one_answer() {
    if !cfg!(feature = "failpoints") {
        panic!("run the tests with --features failpoints, as scripts/test does");
    }
    let mut cases = 0;
    for point in [
        "draft.record-written",
        "create.filled",
        "draft.committed",
        "image.allocated",
        "draft.directory-made",
    ] {
        let pool = Pool::new(Kind::Xfs, 1 << 30);
        let armed = format!("{point}@3=panic");
        let driver = Driver::start(&[("default", pool.path())], &[("WHARF_FAILPOINT", &armed)]);
        let names: Vec<_> = (0..8).map(|_| unique("v")).collect();
        let spec = Spec::new().thin().size(8 * MIB);
        let answers: Vec<_> = thread::scope(|scope| {
            let create = |name: &str| driver.co().create(name, &spec).map(drop);
            let callers: Vec<_> = names.iter().map(|name| scope.spawn(move || create(name))).collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        let failed: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert_eq!(failed.len(), 1, "{point}: {failed:?}");
        assert_eq!(failed[0].code(), Code::Internal, "{failed:?}");
        assert!(!failed[0].message().contains("failpoint"), "a panic's text is for the log");
        let mut co = driver.co();
        for name in &names {
            co.create(name, &spec).unwrap();
            co.delete(&volume_id(name)).unwrap();
        }
        cases += 1;
    }
    println!("{cases} cases");
}
