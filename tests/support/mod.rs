//! What the integration tests share: real pools, the real binary, a client that acts as an orchestrator.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::wrong_self_convention,
    clippy::needless_pass_by_value,
    clippy::type_complexity,
    reason = "test code; not every test uses all of it"
)]

pub mod co;
pub mod data;
pub mod driver;
pub mod host;
pub mod inventory;
pub mod places;
pub mod pool;

pub const MIB: u64 = 1 << 20;

/// Whether all of it is asked for, not what each commit is dealt.
pub fn is_full() -> bool {
    std::env::var("WHARF_TEST_FULL").is_ok_and(|value| value == "1")
}

/// A name that no other test, and no earlier run, has used.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

/// Waits for a condition, `seconds` at most; panics with `what` when it does not come.
pub fn eventually(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
