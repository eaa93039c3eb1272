//! `wharf probe`.

use super::{command, finish, support, wharf};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use support::driver::Driver;

fn driver(pool: &Path) -> Driver {
    Driver::start(&[("default", pool)], &[])
}

#[test]
fn a_running_driver_is_well() {
    let pool = tempfile::tempdir().unwrap();
    let mut driver = driver(pool.path());
    let socket = driver.socket();
    for endpoint in [format!("unix://{}", socket.display()), socket.display().to_string()] {
        let answer = wharf(&["probe", "--endpoint", &endpoint]);
        assert_eq!((answer.code, answer.out.as_str(), answer.err.as_str()), (Some(0), "", ""));
    }
    let mut probe = command(&["probe"]);
    probe.env("CSI_ENDPOINT", &socket);
    assert_eq!(finish(probe).code, Some(0));

    driver.terminate();
    // The socket's file stays, nobody listens on it.
    let answer = wharf(&["probe", "--endpoint", socket.to_str().unwrap()]);
    assert!(answer.sentence().contains("start the driver"), "{answer:?}");
}

#[test]
fn a_driver_that_hangs_is_not_waited_for() {
    let pool = tempfile::tempdir().unwrap();
    let driver = driver(pool.path());
    let pid = Pid::from_raw(i32::try_from(driver.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let begun = Instant::now();
    let answer = wharf(&["probe", "--timeout", "1", "--endpoint", driver.socket().to_str().unwrap()]);
    assert!(answer.sentence().contains("did not answer within 1 s"), "{answer:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_driver_without_any_usable_pool_is_not_well() {
    let pool = tempfile::tempdir().unwrap();
    let home = pool.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let driver = driver(&home);
    std::fs::rename(&home, pool.path().join("elsewhere")).unwrap();
    let answer = wharf(&["probe", "--endpoint", driver.socket().to_str().unwrap()]);
    assert!(answer.sentence().contains("no pool can be used"), "{answer:?}");
}

#[test]
fn endpoints_that_are_none() {
    for (endpoint, reason) in
        [("tcp://127.0.0.1:1", "no unix socket"), ("unix://relative", "is not absolute")]
    {
        let answer = wharf(&["probe", "--endpoint", endpoint]);
        assert!(answer.sentence().contains(reason), "{answer:?}");
    }
    let answer = wharf(&["probe", "--endpoint", "/nonexistent/csi.sock"]);
    assert!(answer.sentence().contains("nobody answers on unix:///nonexistent/csi.sock"), "{answer:?}");
}
