//! kill -9 and power cuts at every failpoint of the real binary.
//!
//! Each case prepares, ends the process between two side effects of one operation, starts it again and
//! repeats the call as an orchestrator would: the answer, everything on disk and in the kernel and the
//! volumes' data must be as if nothing had happened.
//!
//! By default every failpoint is struck once for each way to end, with scenario and pool dealt by the
//! commit (`WHARF_COMMIT`, else git's HEAD). `WHARF_TEST_FULL=1` strikes every hit of every scenario on
//! every pool. `WHARF_CRASH_ONLY=TEXT` keeps the cases whose description contains TEXT.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err
)]

mod case;
mod matrix;
mod model;
mod points;
mod rig;
mod scenario;
#[path = "../support/mod.rs"]
mod support;

use case::Kind;
use matrix::{Matrix, Target};
use points::Hit;
use scenario::POOLS;

fn require_failpoints() {
    assert!(
        cfg!(feature = "failpoints"),
        "this test strikes failpoints, which only a build with `--features failpoints` has: run it with that, \
         or run `make test`"
    );
}

#[test]
fn every_failpoint_can_be_struck_without_a_trace() {
    require_failpoints();
    Matrix::new().run();
}

/// What was answered survives a power cut; and the test that shows it notices when a sync is missing.
#[test]
fn a_missing_sync_is_noticed() {
    require_failpoints();
    let mut matrix = Matrix::new();
    for pool in POOLS {
        for name in ["ext4/create", "ext4/delete", "ext4/snapshot", "ext4/clone"] {
            let target = Target { scenario: matrix.find(name), pool };
            let hit = Hit { point: "the answer".into(), number: 1 };
            if let Err(why) = matrix.case(&target, Kind::PowerCutAfterAnswer, &hit, &[]) {
                panic!("{name} on {pool:?} did not survive a power cut after its answer: {why}");
            }
            let broken = [("WHARF_BREAK_DURABILITY", "1")];
            let outcome = matrix.case(&target, Kind::PowerCutAfterAnswer, &hit, &broken);
            assert!(outcome.is_err(), "{name} on {pool:?}: a sync was left out and nothing noticed");
        }
    }
}
