//! kill -9 and power cuts at every failpoint of the real binary.
//!
//! Each case prepares, ends the process between two side effects of one operation, starts it again and
//! repeats the call as an orchestrator would: the answer, everything on disk and in the kernel and the
//! volumes' data must be as if nothing had happened.
//!
//! By default every failpoint is struck twice, with scenario, pool and ways to end dealt by the commit
//! (`WHARF_COMMIT`, else git's HEAD). `WHARF_TEST_FULL=1` strikes every failpoint in every layout on every
//! pool in every way to end. To repeat some, every hit of them: `WHARF_CRASH_SCENARIO="ext4/create on Xfs"`
//! (all or the beginning of a scenario and its pool) and `WHARF_CRASH_CASE="kill at draft.renamed@1"` (any part of a description).

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::needless_pass_by_value,
    clippy::needless_update,
    clippy::assertions_on_constants
)]

mod case;
mod lane;
mod matrix;
mod model;
mod points;
mod rig;
mod scenario;
#[path = "../support/mod.rs"]
mod support;
mod traced;

use case::Kind;
use matrix::{Matrix, Target};
use points::Hit;
use scenario::POOLS;
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::pool;

fn require_failpoints() {
    if !cfg!(feature = "failpoints") {
        panic!(
            "this test strikes failpoints, which only a build with `--features failpoints` has: run it with \
             that, or run `make test`"
        );
    }
}

/// A device that was lost behind the driver's back leaves a bind, which must not meet another test's device
/// of the same number.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_failpoint_can_be_struck_without_a_trace() {
    require_failpoints();
    let _alone = alone();
    Matrix::new().run();
}

/// At system calls of which nobody has thought.
#[test]
fn faults_at_random_system_calls_leave_no_trace() {
    require_failpoints();
    let _alone = alone();
    Matrix::new().run_traced();
}

/// What was answered survives a power cut, and the test that shows it notices when a sync is missing:
/// all of them, or the n-th of the operation.
#[test]
fn a_missing_sync_is_noticed() {
    require_failpoints();
    let _alone = alone();
    let mut matrix = Matrix::new();
    let journaled = &[pool::Kind::Xfs, pool::Kind::Ext4][..];
    let cases = [
        ("ext4/create", "all", &POOLS[..]),
        ("ext4/create", "1", journaled),
        ("ext4/create", "2", &POOLS),
        ("ext4/snapshot", "all", &POOLS),
        ("ext4/clone", "all", &POOLS),
        ("ext4/delete", "1", &POOLS),
        ("ext4/expand", "all", &POOLS),
        // ext4 writes a file out before it replaces another.
        ("ext4/expand", "2", &[pool::Kind::BtrfsQuota, pool::Kind::Xfs]),
        ("ext4/expand", "3", &POOLS),
    ];
    for (name, sync, pools) in cases {
        for pool in pools {
            let target = Target { scenario: matrix.find(name), pool: *pool };
            let hit = Hit { point: "the answer".into(), number: 1 };
            if let Err(why) = matrix.case(&target, Kind::PowerCutAfterAnswer, &hit, &[]) {
                panic!("{name} on {pool:?} did not survive a power cut after its answer: {why}");
            }
            let broken = [("WHARF_BREAK_DURABILITY", sync)];
            let outcome = matrix.case(&target, Kind::PowerCutAfterAnswer, &hit, &broken);
            assert!(outcome.is_err(), "{name} on {pool:?}: sync {sync} was left out and nothing noticed");
        }
    }
}
