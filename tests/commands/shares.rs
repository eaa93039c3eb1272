//! What commands say about shares where no server helps: `tests/vm/commands.rs` has those that one does.

use super::{Outcome, command, finish, pool, support, wharf};
use std::{
    net::TcpListener,
    time::{Duration, Instant},
};
use support::driver::Driver;

/// Each with a share; what the sentence begins with where the share cannot be used.
const COMMANDS: [(&str, &str, &str); 3] = [
    ("volumes", "share ", " cannot be listed: "),
    ("gc", "share ", " cannot be looked through: "),
    ("migrate", "the store on ", " was not migrated: "),
];

/// Longer than a name, a connection and a mount may take together.
const IN_TIME: Duration = Duration::from_secs(15);

fn in_time(arguments: &[&str]) -> Outcome {
    let begun = Instant::now();
    let outcome = wharf(arguments);
    assert!(begun.elapsed() < IN_TIME, "{:?}: {outcome:?}", begun.elapsed());
    outcome
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for arguments in [
        &["volumes"][..],
        &["gc", "--apply"],
        &["migrate"],
        &["migrate", "--pool", "a=/tmp"],
        &["volumes", "--share", "nas"],
        &["gc", "--share", "nas:/a,vers=9"],
        &["check", "--share", "nas:/../a"],
        &["volumes", "--share", "nas:/a", "--owner", "a b"],
    ] {
        let refused = wharf(arguments);
        assert_eq!((refused.code, refused.out.as_str()), (Some(2), ""), "{refused:?}");
        assert!(refused.err.starts_with("error: "), "{refused:?}");
    }
    let missing = wharf(&["volumes"]);
    assert!(missing.err.contains("--pool") && missing.err.contains("--share"), "{missing:?}");
    for (name, ..) in COMMANDS {
        let twice = wharf(&[name, "--share", "nas:/a", "--share", "nas:/a/,vers=3"]);
        assert_eq!(twice.sentence(), "share nas:/a is given twice");
    }
}

#[test]
fn a_server_that_refuses_or_does_not_exist_is_named_at_once() {
    for (share, says) in [
        ("127.0.0.1:/export,port=9", "Connection refused"),
        ("no-such-host.invalid:/export", "cannot resolve the name"),
    ] {
        let shown = share.split(',').next().unwrap();
        for (name, before, after) in COMMANDS {
            let outcome = in_time(&[name, "--share", share]);
            let sentence = outcome.sentence();
            assert!(sentence.starts_with(&format!("{before}{shown}{after}")), "{outcome:?}");
            assert!(sentence.contains(says) && outcome.out.is_empty(), "{outcome:?}");
        }
        let check = in_time(&["check", "--share", share]);
        let last = format!("cannot serve volumes on these shares; missing: share {share}\n");
        assert!(check.code == Some(1) && check.out.ends_with(&last), "{check:?}");
        assert!(check.out.contains(says), "{check:?}");
    }
}

#[test]
fn servers_that_accept_and_say_nothing_do_not_add_up() {
    // The kernel accepts for them.
    let silent =
        ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(|address| TcpListener::bind((address, 0)).unwrap());
    let shares = silent.each_ref().map(|listener| {
        let address = listener.local_addr().unwrap();
        format!("{}:/export,port={}", address.ip(), address.port())
    });
    let arguments = shares.iter().flat_map(|share| ["--share", share]).collect::<Vec<_>>();
    let one = |name: &str| {
        let begun = Instant::now();
        assert_eq!(in_time(&[name, "--share", &shares[0]]).code, Some(1));
        begun.elapsed()
    };
    for name in ["volumes", "migrate"] {
        let alone = one(name);
        let begun = Instant::now();
        let outcome = in_time(&[&[name], &arguments[..]].concat());
        let together = begun.elapsed();
        assert_eq!((outcome.code, outcome.err.lines().count()), (Some(1), 3), "{outcome:?}");
        assert!(together < alone * 2, "{alone:?}, together {together:?}");
    }
}

#[test]
fn a_share_that_fails_hides_no_pool_and_gc_removes_nothing_then() {
    let directory = tempfile::tempdir().unwrap();
    Driver::start(&[("p", directory.path())], &[]).terminate();
    let on_pool = pool("p", directory.path());
    let share = "127.0.0.1:/export,port=9";
    let listed =
        in_time(&["volumes", "--output", "json", "--pool", &on_pool, "--share", share, "--owner", "me"]);
    assert!(listed.sentence().starts_with("share 127.0.0.1:/export cannot be listed: "), "{listed:?}");
    let report = listed.json();
    assert_eq!(report["pools"][0]["volumes"].as_u64(), Some(0));
    assert_eq!(
        (&report["shares"][0]["share"], &report["shares"][0]["owner"]),
        (&"127.0.0.1:/export".into(), &"me".into())
    );
    assert!(report["shares"][0]["error"].as_str().unwrap().contains("refused"), "{report}");

    let left = directory.path().join("tmp").join(uuid::Uuid::new_v4().to_string());
    std::fs::create_dir(&left).unwrap();
    let gc = in_time(&["gc", "--apply", "--pool", &on_pool, "--share", share]);
    assert!(gc.sentence().contains("cannot be looked through") && left.exists(), "{gc:?}");
    assert_eq!(wharf(&["gc", "--apply", "--pool", &on_pool]).code, Some(0));
    assert!(!left.exists());
}

#[test]
fn the_environment_names_shares_too() {
    let mut volumes = command(&["volumes"]);
    volumes.env("WHARF_SHARES", "127.0.0.1:/a,port=9 [::1]:/b,port=9");
    let outcome = finish(volumes);
    assert_eq!((outcome.code, outcome.err.lines().count()), (Some(1), 2), "{outcome:?}");
    assert!(outcome.err.contains("share [::1]:/b cannot"), "{outcome:?}");
}

#[test]
fn every_machine_has_an_owner_of_its_own_that_stays() {
    let owner = |arguments: &[&str]| {
        let base = ["volumes", "--output", "json", "--share", "127.0.0.1:/a,port=9"];
        wharf(&[&base, arguments].concat()).json()["shares"][0]["owner"].as_str().unwrap().to_owned()
    };
    assert_eq!(owner(&[]), owner(&[]));
    assert_eq!(owner(&["--owner", "cluster-1"]), "cluster-1");
}
