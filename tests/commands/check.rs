//! `wharf check`.

use super::{Outcome, command, finish, listing, pool, support, wharf};
use serde_json::Value;
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::Command,
};
use support::{
    MIB, eventually,
    host::{loops, mounts},
    pool::{Kind, Pool},
};

/// The item of that name.
fn item(outcome: &Outcome, name: &str) -> Value {
    let report = outcome.json();
    let items = report["items"].as_array().unwrap();
    let found = items.iter().find(|item| item["item"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {outcome:?}")).clone()
}

fn state(outcome: &Outcome, name: &str) -> String {
    item(outcome, name)["state"].as_str().unwrap().to_owned()
}

fn check_json(path: &Path) -> Outcome {
    wharf(&["check", "--output", "json", "--pool", &pool("p", path)])
}

#[test]
fn a_host_that_can_serve() {
    let report = wharf(&["check", "--output", "json"]);
    assert_eq!((report.code, report.json()["ready"].as_bool()), (Some(0), Some(true)), "{report:?}");
    for name in
        ["Linux kernel", "root, CAP_SYS_ADMIN", "mount API", "/dev/loop-control", "loop devices", "mke2fs"]
    {
        let item = item(&report, name);
        assert!(item["state"] == "ok" && item["required"] == true, "{item}");
        assert!(item["meaning"].as_str().unwrap().len() > 10, "{item}");
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let may = u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1;
    assert_eq!(state(&report, "CAP_SYS_RESOURCE"), if may { "ok" } else { "limited" });

    let table = wharf(&["check"]);
    assert_eq!(table.code, Some(0));
    assert!(table.out.starts_with("ITEM "), "{table:?}");
    assert!(table.out.ends_with("\nthis host can serve local volumes\n"), "{table:?}");
    assert!(!table.out.contains('\u{1b}'), "colours in a pipe: {table:?}");
    // Aligned: every line's second column begins where its title does.
    let column = table.out.find("STATE").unwrap();
    for line in table.out.lines().take_while(|line| !line.is_empty()).skip(1) {
        let state = line[column..].split(' ').next().unwrap();
        assert!(["ok", "limited", "missing"].contains(&state), "{line}");
    }
}

#[test]
fn each_kind_of_pool_and_nothing_is_made_there() {
    for (kind, reflink, limits) in [
        (Kind::Ext4, "limited", "limited"),
        (Kind::Xfs, "ok", "limited"),
        (Kind::Btrfs, "ok", "limited"),
        (Kind::BtrfsQuota, "ok", "ok"),
    ] {
        let filesystem = Pool::new(kind, 320 * MIB);
        let home = filesystem.path().join("home");
        fs::create_dir(&home).unwrap();
        let before = listing(&home);
        let report = check_json(&home);
        assert_eq!(report.code, Some(0), "{kind:?}: {report:?}");
        assert_eq!(state(&report, "pool p: reflink"), reflink, "{kind:?}");
        assert_eq!(state(&report, "pool p: directory limits"), limits, "{kind:?}");
        assert_eq!(state(&report, "pool p: mount"), "limited", "{kind:?}");
        assert_eq!(state(&report, "pool p: direct I/O"), "ok", "{kind:?}");
        assert!(item(&report, "pool p")["meaning"].as_str().unwrap().contains("empty"), "{report:?}");
        assert_eq!(listing(&home), before, "{kind:?}");
        let lost_and_found = check_json(filesystem.path());
        // The filesystem's own root holds `home`, which is foreign there.
        assert!(lost_and_found.code == Some(1) && state(&lost_and_found, "pool p") == "missing");
    }
}

#[test]
fn a_pool_of_its_own_is_told_and_a_full_or_read_only_one_can_be_judged() {
    let filesystem = Pool::new(Kind::Xfs, 320 * MIB);
    let report = check_json(filesystem.path());
    assert_eq!((report.code, state(&report, "pool p: mount").as_str()), (Some(0), "ok"), "{report:?}");
    assert!(item(&report, "pool p: mount")["meaning"].as_str().unwrap().contains(",mounted"));

    let target = filesystem.path();
    support::host::run("mount", ["-o".as_ref(), "remount,ro".as_ref(), target.as_os_str()]);
    let report = check_json(target);
    assert_eq!((report.code, state(&report, "pool p").as_str()), (Some(1), "missing"), "{report:?}");
    assert!(item(&report, "pool p")["meaning"].as_str().unwrap().contains("read-only"));
    assert_eq!(state(&report, "pool p: reflink"), "ok");
}

#[test]
fn pools_that_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for (path, reason) in [
        (directory.path().join("absent"), "does not exist"),
        (file.clone(), "is no directory"),
        (directory.path().to_owned(), "is not empty"),
    ] {
        let report = check_json(&path);
        assert_eq!(report.code, Some(1), "{report:?}");
        assert!(item(&report, "pool p")["meaning"].as_str().unwrap().contains(reason), "{report:?}");
    }
    fs::remove_file(file).unwrap();
    let argument = format!("{},mounted", pool("p", directory.path()));
    let report = wharf(&["check", "--output", "json", "--pool", &argument]);
    assert!(item(&report, "pool p")["meaning"].as_str().unwrap().contains("no mountpoint"), "{report:?}");
    let table = wharf(&["check", "--pool", &argument]);
    assert!(
        table.code == Some(1) && table.out.contains("cannot serve local volumes; missing: pool p"),
        "{table:?}"
    );
}

#[test]
fn nothing_is_left_attached_or_mounted() {
    let directory = tempfile::tempdir().unwrap();
    let mut check = command(&["check"]);
    check.env("TMPDIR", directory.path());
    assert_eq!(finish(check).code, Some(0));
    // Another test's look at all loops may keep it for a moment.
    eventually("the scratch loop is gone", 10, || {
        loops().iter().all(|each| !each.backing.starts_with(directory.path()))
    });
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    // Others may mount meanwhile; none of theirs is below our directory.
    assert!(mounts().iter().all(|mount| !mount.point.starts_with(directory.path())));
}

#[test]
fn without_rights_the_host_is_not_ready_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Where the binary is built, others may not look.
    let binary = directory.path().join("wharf");
    fs::copy(env!("CARGO_BIN_EXE_wharf"), &binary).unwrap();
    let mut check = Command::new(binary);
    check.args(["check", "--output", "json"]).uid(65534).gid(65534);
    let report = finish(check);
    assert_eq!(
        (report.code, state(&report, "root, CAP_SYS_ADMIN").as_str()),
        (Some(1), "missing"),
        "{report:?}"
    );
    assert_eq!(state(&report, "mount API"), "missing");
}
