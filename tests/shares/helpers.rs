//! Helpers that answer: isolation, life, errors, limits.

use crate::{
    child::{Answer, Operation},
    host::{LONG, call, eventually, is_alive, memory, run, shares},
};
use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};
use wharf::{
    error::Error,
    share::{Call, Limits, Share, client::Mounted},
};

fn inside(shares: &crate::host::TestShares, share: &Share) -> (u32, Vec<String>, Vec<String>, i32) {
    match call(shares, share, Operation::Inspect).unwrap() {
        Answer::Inside { process, mounts, descriptors, parent_dies } => {
            (process, mounts, descriptors, parent_dies)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_helper_is_alone_with_its_share() {
    let shares = shares(Limits::default());
    let share = memory("alone", "one");
    // A descriptor that would be inherited, were it not for close_range.
    let inheritable = fs::File::open("/proc/self/status").unwrap();
    rustix::io::fcntl_setfd(&inheritable, rustix::io::FdFlags::empty()).unwrap();
    let (process, mounts, descriptors, parent_dies) = inside(&shares, &share);
    let mut mounts = mounts;
    mounts.sort();
    assert_eq!(mounts, ["/", "/proc", "/share"]);
    assert!(descriptors.iter().all(|target| !target.contains("status")), "{descriptors:?}");
    let sockets = descriptors.iter().filter(|target| target.starts_with("socket:")).count();
    // Standard input and its copies: for reading and for writing.
    assert_eq!(sockets, 3, "{descriptors:?}");
    assert_eq!(parent_dies, 0, "it has something to do when the driver ends");
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains(" /share "), "{host}");
    // The same helper again, with what was written to it.
    call(&shares, &share, Operation::Write("a".into(), "text".into())).unwrap();
    assert_eq!(call(&shares, &share, Operation::Read("a".into())).unwrap(), Answer::Text("text".into()));
    assert_eq!(inside(&shares, &share).0, process);
    // Another one for other options.
    let mut other = share.clone();
    if let Mounted::Local { data, .. } = &mut other.mounted {
        *data = "size=2m".into();
    }
    assert_ne!(inside(&shares, &other).0, process);
    drop(shares);
    eventually("the helper ends with its owner", || !is_alive(process));
}

#[test]
fn errors_keep_their_meaning_and_a_panic_ends_one_operation() {
    let shares = shares(Limits::default());
    let share = memory("errors", "one");
    let error = call(&shares, &share, Operation::Fail).unwrap_err();
    assert!(
        matches!(&error, Error::Incompatible(text) if text == "volume x exists, but differs"),
        "{error:?}"
    );
    let error = call(&shares, &share, Operation::Read("missing".into())).unwrap_err();
    assert!(
        error.chain().contains("trying to open: cannot open \"/share/missing\": No such file"),
        "{error:?}"
    );
    let error = call(&shares, &share, Operation::Write("full".into(), "x".repeat(2 << 20))).unwrap_err();
    assert!(error.is_no_space(), "{error:?}");
    assert!(matches!(call(&shares, &share, Operation::Panic), Err(Error::Internal(_))));
    let too_long = Operation::Long(wharf::share::wire::LONGEST);
    let error = call(&shares, &share, too_long).unwrap_err();
    assert!(matches!(&error, Error::Internal(text) if text.contains("cannot be sent")), "{error:?}");
    let Answer::Text(long) = call(&shares, &share, Operation::Long(8 << 20)).unwrap() else { panic!() };
    assert_eq!(long.len(), 8 << 20);
    assert!(!shares.servers()[0].open, "the server has always answered");
}

#[test]
fn operations_run_side_by_side_within_their_bound() {
    let limits = Limits { operations: 8, ..Limits::default() };
    let shares = shares(limits);
    let share = memory("crowd", "one");
    inside(&shares, &share);
    let begin = Instant::now();
    let time = Duration::from_secs(1);
    let results: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> =
            (0..12).map(|_| scope.spawn(|| call(&shares, &share, Operation::Sleep(time)))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(begin.elapsed() < time * 6, "one after the other");
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(refused.len(), 4, "{refused:?}");
    assert!(refused.iter().all(|error| matches!(error, Error::Unavailable(_))), "{refused:?}");
    assert_eq!(shares.servers()[0].operations, 0);
}

#[test]
fn progress_renews_the_deadline() {
    let shares = shares(Limits::default());
    let share = memory("progress", "one");
    let limit = Call::within(Duration::from_secs(3));
    inside(&shares, &share);
    shares.call(&share, Operation::Move(12, Duration::from_millis(500)), limit).unwrap();
    let error = shares.call(&share, Operation::Sleep(LONG), limit).unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("is unknown")), "{error:?}");
}

#[test]
fn an_idle_helper_ends_and_the_next_call_starts_another() {
    let shares = shares(Limits { idle: Duration::from_millis(300), ..Limits::default() });
    let share = memory("idle", "one");
    let (first, ..) = inside(&shares, &share);
    eventually("it ends", || !is_alive(first));
    eventually("it is not counted", || shares.servers()[0].helpers == 0);
    assert_ne!(inside(&shares, &share).0, first);
    // Work keeps it.
    let (second, ..) = inside(&shares, &share);
    call(&shares, &share, Operation::Sleep(Duration::from_secs(1))).unwrap();
    assert_eq!(inside(&shares, &share).0, second);
}

#[test]
fn a_server_has_few_helpers_and_an_idle_one_makes_room() {
    let shares = shares(Limits { helpers: 2, ..Limits::default() });
    let [one, two, three] = ["one", "two", "three"].map(|name| memory("few", name));
    let (first, ..) = inside(&shares, &one);
    thread::scope(|scope| {
        // Longer than a busy machine takes to start two helpers: once both are idle, either may go.
        let busy = scope.spawn(|| call(&shares, &two, Operation::Sleep(Duration::from_secs(12))));
        eventually("it runs", || shares.servers()[0].operations == 1);
        eventually("it is ready", || shares.servers()[0].helpers == 2);
        inside(&shares, &three);
        assert!(!is_alive(first), "the idle one was not the one that ended");
        // Another server has its own.
        inside(&shares, &memory("other", "one"));
        busy.join().unwrap().unwrap();
    });
    assert!(shares.servers().iter().all(|server| server.helpers <= 2), "{:?}", shares.servers());
}

#[test]
fn a_helper_that_dies_is_replaced_and_its_operations_are_unknown() {
    let shares = shares(Limits::default());
    let share = memory("dies", "one");
    let (first, ..) = inside(&shares, &share);
    let error = thread::scope(|scope| {
        let running = scope.spawn(|| call(&shares, &share, Operation::Sleep(LONG)));
        eventually("it is called", || shares.servers()[0].operations == 1);
        thread::sleep(Duration::from_millis(500));
        run("kill", ["-9", &first.to_string()]);
        running.join().unwrap().unwrap_err()
    });
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("is unknown")), "{error:?}");
    let (second, ..) = inside(&shares, &share);
    assert_ne!(first, second);
    assert!(matches!(call(&shares, &share, Operation::Exit), Err(Error::Unavailable(_))));
    assert_ne!(inside(&shares, &share).0, second);
}

#[test]
fn stopping_reaches_long_operations_and_refuses_new_ones() {
    let shares = shares(Limits::default());
    let share = memory("stop", "one");
    let answer = thread::scope(|scope| {
        let running = scope.spawn(|| call(&shares, &share, Operation::UntilStopped));
        eventually("it is ready", || shares.look(&share).is_ok());
        eventually("it runs", || shares.servers()[0].operations == 1);
        shares.stop();
        running.join().unwrap().unwrap()
    });
    assert_eq!(answer, Answer::Text("stopped".into()));
    assert!(matches!(call(&shares, &share, Operation::Inspect), Err(Error::Unavailable(_))));
}

#[test]
fn what_cannot_be_mounted_says_so_and_leaves_nothing() {
    let shares = shares(Limits::default());
    let mut share = memory("refuses", "one");
    if let Mounted::Local { data, .. } = &mut share.mounted {
        *data = "no-such-option".into();
    }
    let error = call(&shares, &share, Operation::Inspect).unwrap_err();
    assert!(error.chain().contains("Invalid argument") && !error.chain().contains("no-such"), "{error:?}");
    eventually("it is not counted", || shares.servers()[0].helpers == 0);
}

#[test]
fn a_server_that_is_not_there_is_found_out_in_time_and_then_refused_at_once() {
    use wharf::volume::nfs::{self, Connection};
    let shares = shares(Limits::default());
    let connection = Connection::parse("port=9").unwrap();
    let share = Share::nfs(&nfs::Share::parse("127.0.0.78:/none").unwrap(), &connection);
    for _ in 0..3 {
        let begin = Instant::now();
        let error = call(&shares, &share, Operation::Inspect).unwrap_err();
        assert!(
            error.chain().contains("server 127.0.0.78 of share 127.0.0.78:/none does not answer"),
            "{error:?}"
        );
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
    let server = || shares.servers().into_iter().next().unwrap();
    assert!(server().open);
    let begin = Instant::now();
    let error = shares.call(&share, Operation::Inspect, Call::within(Duration::ZERO)).unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(text) if text.contains("has not answered lately")),
        "{error:?}"
    );
    assert!(begin.elapsed() < Duration::from_millis(500));
    // Whoever insists is told by the server.
    let error = shares.call(&share, Operation::Inspect, Call { limit: LONG, insist: true }).unwrap_err();
    assert!(error.chain().contains("does not answer"), "{error:?}");
    // Others are not concerned.
    inside(&shares, &memory("another", "one"));
    eventually("nothing is left", || server().helpers == 0 && server().lost == 0);
}

#[test]
fn each_copy_has_a_helper_of_its_own_that_ends_with_it() {
    let shares = shares(Limits::default());
    let share = memory("copies", "one");
    let copy = |operation| shares.copy(&share, operation, Call::within(LONG));
    thread::scope(|scope| {
        let first = scope.spawn(|| copy(Operation::Sleep(Duration::from_secs(3))));
        eventually("it runs", || shares.servers().first().is_some_and(|server| server.operations == 1));
        let insides = [(); 2].map(|()| match copy(Operation::Inspect).unwrap() {
            Answer::Inside { process, .. } => process,
            other => panic!("{other:?}"),
        });
        assert!(!first.is_finished());
        assert_ne!(insides[0], insides[1]);
        eventually("theirs are gone", || shares.servers()[0].helpers == 1);
        assert_eq!(shares.servers()[0].operations, 1, "the first copy goes on");
        first.join().unwrap().unwrap();
    });
    eventually("nothing is left", || shares.servers()[0].helpers == 0);
}

#[test]
fn copies_leave_room_for_what_is_done_quickly() {
    for limits in [
        Limits { helpers: 1, copies: 2, ..Limits::default() },
        Limits { all_helpers: 3, all_copies: 2, ..Limits::default() },
    ] {
        let shares = shares(limits);
        let copy = |name: &str, operation| shares.copy(&memory("busy", name), operation, Call::within(LONG));
        thread::scope(|scope| {
            let running = ["one", "two"]
                .map(|name| scope.spawn(move || copy(name, Operation::Sleep(Duration::from_secs(6)))));
            eventually("they run", || shares.servers().first().is_some_and(|server| server.helpers == 2));
            let begin = Instant::now();
            inside(&shares, &memory("busy", "three"));
            assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
            let error = copy("four", Operation::Inspect).unwrap_err();
            assert!(
                matches!(&error, Error::Unavailable(text) if text.contains("too many helper processes")),
                "{error:?}"
            );
            // What has nothing to do makes room for another share, not for a copy.
            inside(&shares, &memory("busy", "five"));
            running.into_iter().for_each(|copy| drop(copy.join().unwrap().unwrap()));
        });
        copy("four", Operation::Inspect).unwrap();
    }
}

/// A server that has version 3 alone: what is asked in another is told so.
fn old_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.79:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut call = [0; 28];
            while stream.read_exact(&mut call).is_ok() {
                let length = u32::from_be_bytes(call[..4].try_into().unwrap()) & 0x7fff_ffff;
                let mut rest = vec![0; length as usize - 24];
                stream.read_exact(&mut rest).unwrap();
                let version = u32::from_be_bytes(call[20..24].try_into().unwrap());
                let words: &[u32] = if version == 3 { &[1, 0, 0, 0, 0] } else { &[1, 0, 0, 0, 2, 3, 3] };
                let length = u32::try_from(4 + 4 * words.len()).unwrap() | 1 << 31;
                let words = words.iter().flat_map(|word| word.to_be_bytes());
                let answer: Vec<u8> =
                    length.to_be_bytes().into_iter().chain(call[4..8].to_vec()).chain(words).collect();
                if stream.write_all(&answer).is_err() {
                    break;
                }
            }
        }
    });
    address
}

#[test]
fn a_server_without_the_version_says_that_and_nothing_else() {
    let shares = shares(Limits::default());
    let port = old_server().port();
    let share = wharf::volume::nfs::Share::parse("127.0.0.79:/old").unwrap();
    let ask = |options: String| {
        let connection = wharf::volume::nfs::Connection::parse(&options).unwrap();
        call(&shares, &Share::nfs(&share, &connection), Operation::Inspect).unwrap_err()
    };
    let error = ask(format!("port={port}"));
    assert!(matches!(&error, Error::NotOffered(text) if text.contains("does not offer NFS 4")), "{error:?}");
    assert!(!shares.servers()[0].open, "it has answered");
    // There, mounting is tried; it is no whole server.
    let error = ask(format!("vers=3,port={port},mountport={port}"));
    assert!(!error.to_string().contains("does not offer"), "{error:?}");
}
