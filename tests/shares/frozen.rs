//! Filesystems that do not answer: deadlines, what is killed, what is lost, what others notice of it.

use crate::{
    child::{Answer, NAME, Operation},
    fuse::{Mood, Server},
    host::{
        Disk, LONG, TestShares, call, children, eventually, is_alive, memory, namespaces_with, run, scratch,
        shares,
    },
};
use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use wharf::{
    error::Error,
    share::{Call, Limits, Shares, breaker::Pace},
};

const LIMIT: Duration = Duration::from_secs(1);

/// Whether anything is left of a process but what its parent has not asked for.
fn exists(process: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
    tasks.flatten().any(|task| {
        std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
    })
}

/// Whether a process has a thread that hangs in the kernel.
fn hangs(process: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
    tasks
        .flatten()
        .any(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stat.contains(") D ")))
}

#[test]
fn what_hangs_is_unknown_at_its_deadline_and_disturbs_nobody() {
    let disk = Disk::new();
    let pace = Pace { gap: Duration::from_millis(100), ..Pace::default() };
    let shares = shares(Limits { helpers: 2, looking: Duration::from_secs(2), pace, ..Limits::default() });
    let (share, other) = (disk.share("frozen"), memory("healthy", "one"));
    let Answer::Inside { process, .. } = call(&shares, &share, Operation::Inspect).unwrap() else { panic!() };
    call(&shares, &other, Operation::Inspect).unwrap();
    assert_eq!(namespaces_with(&disk.device), 2, "the host's and the helper's");
    let frozen = disk.freeze();
    let write = |number: usize| Operation::Write(format!("f{number}"), "late".into());

    let begin = Instant::now();
    let errors: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> = (0..10)
            .map(|number| {
                let (shares, share) = (&shares, &share);
                scope.spawn(move || shares.call(share, write(number), Call::within(LIMIT)))
            })
            .collect();
        eventually("they hang", || hangs(process));
        // Meanwhile another server answers as ever.
        let healthy = Instant::now();
        call(&shares, &other, Operation::Inspect).unwrap();
        assert!(healthy.elapsed() < LIMIT, "{:?}", healthy.elapsed());
        calls.into_iter().map(|call| call.join().unwrap().unwrap_err()).collect()
    });
    assert!(begin.elapsed() < LIMIT + Duration::from_secs(5), "{:?}", begin.elapsed());
    for error in errors {
        assert!(matches!(&error, Error::Unavailable(text) if text.contains("unknown")), "{error:?}");
    }
    let status = || shares.servers().into_iter().find(|server| server.server == "frozen").unwrap();
    assert!(status().open);
    eventually("it counts as lost", || status().lost == 1);
    assert!(exists(process), "ext4 cannot be forced: this one waits for the thaw");
    // However often it is tried, processes stay within the server's bound.
    for number in 0..6 {
        assert!(shares.call(&share, write(number), Call::within(LIMIT)).is_err());
        assert!(status().helpers <= 2, "{:?}", status());
    }
    call(&shares, &other, Operation::Inspect).unwrap();

    drop(frozen);
    eventually("the lost ones are gone", || status().lost == 0 && !exists(process));
    // The first retry is not refused.
    call(&shares, &share, Operation::Write("after".into(), "thaw".into())).unwrap();
    assert_eq!(std::fs::read_to_string(disk.path().join("after")).unwrap(), "thaw");
    assert!(!status().open);
    drop(shares);
    eventually("no namespace has it any more but the host's", || namespaces_with(&disk.device) == 1);
}

#[test]
fn what_hangs_is_forced_off_and_killed_while_the_server_is_silent() {
    for mood in [Mood::Silent, Mood::Frozen] {
        let server = Server::new();
        let pace = Pace { gap: Duration::from_millis(100), ..Pace::default() };
        let limits = Limits { looking: Duration::from_secs(1), pace, ..Limits::default() };
        let shares: TestShares = Shares::new(server.launcher(), limits);
        let share = server.share("silent");
        let Answer::Inside { process, .. } = call(&shares, &share, Operation::Inspect).unwrap() else {
            panic!()
        };
        assert_eq!(namespaces_with(server.source()), 1);
        server.set(mood);
        let begin = Instant::now();
        thread::scope(|scope| {
            for number in 0..8 {
                let (shares, share) = (&shares, &share);
                let write = Operation::Write(number.to_string(), String::new());
                scope.spawn(move || {
                    let error = shares.call(share, write, Call::within(LIMIT)).unwrap_err();
                    assert!(
                        matches!(&error, Error::Unavailable(text) if text.contains("unknown")),
                        "{error:?}"
                    );
                });
            }
        });
        assert!(begin.elapsed() < LIMIT + Duration::from_secs(4), "{:?}", begin.elapsed());
        // The server still says nothing.
        eventually("the helper is gone", || !exists(process));
        eventually("and its mount", || namespaces_with(server.source()) == 0);
        eventually("it is counted no more", || shares.servers()[0].helpers == 0);
        assert_eq!((shares.servers()[0].lost, shares.servers()[0].open), (0, true));
        if mood == Mood::Silent {
            // The probe hangs as well, and is forced as well.
            let error = call(&shares, &share, Operation::Inspect).unwrap_err();
            assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
            eventually("nothing is left", || {
                shares.servers()[0].helpers == 0 && namespaces_with(server.source()) == 0
            });
        }
        server.set(Mood::Answers);
        call(&shares, &share, Operation::Inspect).unwrap();
        let error = call(&shares, &share, Operation::Write("a".into(), String::new())).unwrap_err();
        assert!(error.chain().contains("Read-only"), "the server's own answer: {error:?}");
        assert!(!shares.servers()[0].open);
    }
}

#[test]
fn helpers_do_not_hold_what_the_host_unmounts() {
    let disk = Disk::new();
    let shares = shares(Limits::default());
    let share = memory("holds", "one");
    call(&shares, &share, Operation::Inspect).unwrap();
    // The disk was mounted when the helper began.
    assert_eq!(namespaces_with(&disk.device), 1);
}

/// Started by the next test as a driver that is killed: its helper has to notice, also while an operation hangs.
#[test]
fn driver() {
    let Ok(control) = std::env::var("WHARF_SHARES_DRIVER") else { return };
    let server = Server::at(control.into());
    let shares: TestShares = Shares::new(server.launcher(), Limits::default());
    let share = server.share("driver");
    let Answer::Inside { process, .. } = call(&shares, &share, Operation::Inspect).unwrap() else { panic!() };
    server.set(Mood::Frozen);
    thread::scope(|scope| {
        for operation in [Operation::UntilStopped, Operation::Write("a".into(), String::new())] {
            let (shares, share) = (&shares, &share);
            scope.spawn(move || call(shares, share, operation));
        }
        eventually("both are there", || shares.servers()[0].operations == 2);
        thread::sleep(Duration::from_millis(500));
        std::fs::write(std::env::var("WHARF_SHARES_REPORT").unwrap(), process.to_string()).unwrap();
        thread::sleep(LONG);
    });
}

/// A driver with an operation that hangs in its helper, and that helper.
fn hanging_driver(server: &Server) -> (std::process::Child, u32) {
    let directory = scratch();
    let report = directory.path().join("helper");
    let driver = Command::new("/proc/self/exe")
        .args(["--exact", "frozen::driver", "--nocapture"])
        .env("WHARF_SHARES_DRIVER", server.source())
        .env("WHARF_SHARES_REPORT", &report)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(&report).ok().and_then(|text| text.parse::<u32>().ok());
    eventually("an operation hangs in the helper", || read().is_some());
    let helper = read().unwrap();
    let command = std::fs::read(format!("/proc/{helper}/cmdline")).unwrap();
    assert!(String::from_utf8_lossy(&command).contains(NAME));
    (driver, helper)
}

#[test]
fn a_driver_that_is_killed_leaves_no_helper_and_no_mount() {
    let server = Server::new();
    let (mut driver, helper) = hanging_driver(&server);
    driver.kill().unwrap();
    driver.wait().unwrap();
    eventually("the helper is gone", || !exists(helper));
    eventually("and its mount", || namespaces_with(server.source()) == 0);
}

#[test]
fn helpers_that_were_killed_with_their_driver_are_released_by_the_next() {
    let server = Server::new();
    let (mut driver, helper) = hanging_driver(&server);
    // The helper first: one that sees the driver end forces its share off by itself.
    run("kill", ["-9".to_owned(), helper.to_string(), driver.id().to_string()]);
    driver.wait().unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(exists(helper), "it hangs");
    let next: TestShares = Shares::new(server.launcher(), Limits::default());
    assert_eq!(next.release_orphans().unwrap(), 1);
    eventually("it is gone", || !exists(helper));
    eventually("and its mount", || namespaces_with(server.source()) == 0);
    assert_eq!(next.release_orphans().unwrap(), 0);
}

#[test]
fn nothing_is_left_of_many() {
    let before = children().len();
    let shares = shares(Limits::default());
    for round in 0..8 {
        let share = memory("many", &format!("share {round}"));
        call(&shares, &share, Operation::Inspect).unwrap();
    }
    drop(shares);
    // Other tests' children come and go.
    eventually("all are reaped", || children().len() <= before + 8);
}

#[test]
fn a_root_that_fails_is_never_final_and_a_stale_mount_is_not_looked_at_again() {
    let server = Server::new();
    let shares: TestShares = Shares::new(server.launcher(), Limits::default());
    let share = server.share("fails");
    for number in [libc::ETIMEDOUT, libc::EIO, libc::ESTALE] {
        server.set(Mood::Fails(number));
        // One that starts, and one that has been there before.
        for _ in 0..2 {
            let error = shares.look(&share).unwrap_err();
            assert!(
                matches!(&error, Error::Unavailable(text) if text.contains("looking at the root of")),
                "{number}: {error:?}"
            );
            server.set(Mood::Answers);
            eventually("it answers", || shares.look(&share).is_ok());
            server.set(Mood::Fails(number));
        }
        server.set(Mood::Answers);
        let inside = || match call(&shares, &share, Operation::Inspect).unwrap() {
            Answer::Inside { process, .. } => process,
            other => panic!("{other:?}"),
        };
        let before = inside();
        server.set(Mood::Fails(number));
        shares.look(&share).unwrap_err();
        server.set(Mood::Answers);
        if number == libc::ESTALE {
            eventually("it ends", || !is_alive(before));
        }
        assert_eq!(inside() == before, number != libc::ESTALE, "{number}");
    }
}

#[test]
fn a_copy_without_a_file_whose_name_is_there_is_none() {
    let server = Server::new();
    let shares: TestShares = Shares::new(server.launcher(), Limits::default());
    let share = server.share("copies");
    let target = scratch();
    // As a helper can name it, whose own namespace has it nowhere.
    let to = format!("/proc/{}/root{}", std::process::id(), target.path().display());
    let copy = |number| {
        server.set(Mood::Lists(number));
        call(&shares, &share, Operation::Copy(to.clone().into()))
    };
    let error = copy(libc::ESTALE).unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("starts anew")), "{error:?}");
    assert_eq!(copy(libc::ENOENT).unwrap(), Answer::Done);
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
}
