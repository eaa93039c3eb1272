//! Controllers that are killed between any two side effects.
//!
//! With the feature `failpoints`: a child process does one operation and is killed at each point that it
//! reaches, one after the other; another controller then repeats the same, and nothing may be left.

use super::*;
use std::time::{Duration, SystemTime};

const STORY: [(&str, &str); 12] = [
    ("make the store", ""),
    ("create", ""),
    ("adopt", "mkdir"),
    ("clone", "volume"),
    ("snapshot", "volume"),
    ("restore", "snapshot"),
    ("delete", "volume"),
    ("archive", "archived"),
    ("delete snapshot", "snapshot"),
    ("resize", "volume"),
    ("take over", "unfinished"),
    ("take a dead claim's place", "dead claim"),
];

fn prepare(root: &Path, what: &str) {
    if what.is_empty() {
        return;
    }
    // What an unfinished one has left must age: nobody here sees its process end.
    let share = if what == "unfinished" { open_elsewhere(root) } else { open(root) };
    match what {
        "mkdir" => fs::create_dir_all(root.join("new/dir")).unwrap(),
        _ => {
            let on_delete = if what == "archived" { OnDelete::Archive } else { OnDelete::Delete };
            create(&share, &volume("old", "old/dir", on_delete)).unwrap();
            fs::create_dir(root.join("old/dir/sub")).unwrap();
            fs::write(root.join("old/dir/sub/f"), b"data").unwrap();
        }
    }
    match what {
        "snapshot" => drop(cut(&share, &snapshot("s", "old")).unwrap()),
        "unfinished" => {
            let clone = copy_of("new", "new/dir", Source::Volume(key("old")));
            share.create_volume(&clone, Abilities::default(), &mut |_| false).unwrap_err();
            let beat = root.join(".wharf/tmp").join(share.worker.heartbeat());
            let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
            fs::File::options().write(true).open(beat).unwrap().set_modified(long_ago).unwrap();
        }
        "dead claim" => {
            let record = share.volume(key("old")).unwrap().unwrap();
            share.make_dead_claim(&VolumeRecord {
                root: place("new/dir"),
                incarnation: Uuid::new_v4(),
                ..record
            });
        }
        _ => {}
    }
}

fn act(share: &Share, operation: &str) -> Result<()> {
    match operation {
        "make the store" => Ok(()),
        "resize" => share.resize_volume(key("old"), 7, 8).map(drop),
        "create" | "adopt" | "take a dead claim's place" => {
            create(share, &volume("new", "new/dir", OnDelete::Delete)).map(drop)
        }
        "clone" | "take over" => {
            create(share, &copy_of("new", "new/dir", Source::Volume(key("old")))).map(drop)
        }
        "restore" => create(share, &copy_of("new", "new/dir", Source::Snapshot(key("s")))).map(drop),
        "snapshot" => cut(share, &snapshot("t", "old")).map(drop),
        "delete" | "archive" => share.delete_volume(key("old")),
        "delete snapshot" => share.delete_snapshot(key("s")),
        other => panic!("{other}"),
    }
}

/// What must be there once the operation was repeated.
fn verify(share: &Share, operation: &str) {
    let root = share.root();
    match operation {
        "resize" => assert_eq!(share.volume(key("old")).unwrap().unwrap().size_bytes, 8),
        "create" | "adopt" | "take a dead claim's place" => assert_eq!(names(&root.join("new/dir")), [""; 0]),
        "clone" | "restore" | "take over" => assert_eq!(names(&root.join("new/dir/sub")), ["f"]),
        "snapshot" => assert!(share.snapshot(key("t")).unwrap().is_some()),
        "delete" => assert_eq!(names(&root.join("old")), [""; 0]),
        "archive" => assert_eq!(names(&root.join("old")).len(), 1),
        "delete snapshot" => assert_eq!(share.snapshots(None, 9).unwrap().entries, []),
        _ => {}
    }
}

#[test]
fn repeating_finishes_what_was_begun() {
    for (operation, before) in STORY {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path(), before);
        for _ in 0..2 {
            let share = open(home.path());
            act(&share, operation).unwrap();
            verify(&share, operation);
        }
        sound(&open(home.path()));
    }
}

#[cfg(feature = "failpoints")]
mod killed {
    use super::*;
    use std::{
        collections::BTreeMap,
        env,
        process::{Child, Command, Stdio},
        thread,
    };

    const OPERATION: &str = "WHARF_TEST_SHARE_OPERATION";
    const ROOT: &str = "WHARF_TEST_SHARE_ROOT";

    /// The child: one operation, then a sweep.
    #[test]
    fn child() {
        let Ok(operation) = env::var(OPERATION) else { return };
        let share = open(Path::new(&env::var(ROOT).unwrap()));
        act(&share, &operation).unwrap();
        share.sweep(&mut |_| {}).unwrap();
    }

    fn run(root: &Path, operation: &str, with: &[(&str, String)]) {
        start(root, operation, with).wait().unwrap();
    }

    fn start(root: &Path, operation: &str, with: &[(&str, String)]) -> Child {
        let this = module_path!().split_once("::").unwrap().1;
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", &format!("{this}::child"), "--nocapture"]);
        child.env(OPERATION, operation).env(ROOT, root);
        child.envs(with.iter().map(|(name, value)| (*name, value.as_str())));
        child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What is stopped, in the third field of its stat, or has ended.
    fn await_stop(child: &mut Child) {
        for _ in 0..3000 {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            if stat.rsplit_once(") ").unwrap().1.starts_with('T') {
                return;
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended and never stopped");
            thread::sleep(Duration::from_millis(10));
        }
        panic!("it never stopped");
    }

    /// The last step of a change of the record, which another controller has begun before.
    #[test]
    fn a_record_that_comes_while_its_volume_is_deleted_goes_too() {
        for point in ["share.root-gone", "share.record-removed", "share.record-gone"] {
            let home = tempfile::tempdir().unwrap();
            prepare(home.path(), "volume");
            let (late, directory) =
                (home.path().join("late"), home.path().join(".wharf/volumes").join(key("old").to_string()));
            fs::copy(directory.join("record.json"), &late).unwrap();
            let mut child = start(home.path(), "delete", &[("WHARF_FAILPOINT", format!("{point}=stop"))]);
            await_stop(&mut child);
            // Into a directory that is gone it cannot come any more.
            assert_eq!(
                fs::rename(&late, directory.join("record.json")).is_ok(),
                point != "share.record-gone",
                "{point}"
            );
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child.id().try_into().unwrap()),
                nix::sys::signal::Signal::SIGCONT,
            )
            .unwrap();
            assert!(child.wait().unwrap().success(), "{point}");
            let share = open(home.path());
            assert_eq!(share.volume(key("old")).unwrap(), None, "{point}");
            sound(&share);
        }
    }

    /// Each point that a whole run reaches, with the number of its hit.
    fn hits(operation: &str, before: &str) -> Vec<(String, u64)> {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path(), before);
        let log = home.path().with_extension("log");
        run(home.path(), operation, &[("WHARF_FAILPOINT_LOG", log.display().to_string())]);
        let text = fs::read_to_string(&log).unwrap();
        fs::remove_file(log).unwrap();
        sound(&open(home.path()));
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        text.lines()
            .map(|point| {
                let number = seen.entry(point).or_default();
                *number += 1;
                (point.to_owned(), *number)
            })
            .collect()
    }

    /// As long as a record stands, nobody else gets its directory.
    #[test]
    fn an_unfinished_record_goes_before_its_claim() {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path(), "unfinished");
        run(home.path(), "take over", &[("WHARF_FAILPOINT", "share.released@1=kill".to_owned())]);
        let share = open(home.path());
        assert_eq!(names(&home.path().join(".wharf/claims/new/dir")), [""; 0]);
        let directory = home.path().join(".wharf/volumes").join(key("new").to_string());
        assert_eq!(names(&directory), [""; 0]);
        sound(&share);
    }

    #[test]
    fn at_every_point() {
        let mut reached = BTreeSet::new();
        for (operation, before) in STORY {
            for (point, number) in hits(operation, before) {
                let home = tempfile::tempdir().unwrap();
                prepare(home.path(), before);
                let armed = ("WHARF_FAILPOINT", format!("{point}@{number}=kill"));
                run(home.path(), operation, &[armed]);
                let share = open(home.path());
                let outcome = act(&share, operation);
                assert!(outcome.is_ok(), "{operation}, killed at {point}@{number}: {outcome:?}");
                verify(&share, operation);
                sound(&share);
                reached.insert(point);
            }
        }
        // And where nobody repeats it, the sweep leaves nothing half done.
        for (operation, before) in STORY {
            for (point, number) in hits(operation, before) {
                let home = tempfile::tempdir().unwrap();
                prepare(home.path(), before);
                run(home.path(), operation, &[("WHARF_FAILPOINT", format!("{point}@{number}=kill"))]);
                let share = open(home.path());
                if matches!(operation, "delete" | "archive") {
                    // The directory is gone and the volume is not: that wish must come again.
                    share.sweep(&mut |_| {}).unwrap();
                    act(&share, operation).unwrap();
                }
                sound(&share);
            }
        }
        let missing: Vec<_> = in_source().into_iter().filter(|point| !reached.contains(point)).collect();
        assert!(missing.is_empty(), "no operation reaches {missing:?}");
    }

    /// Every point in the protocol on a share.
    fn in_source() -> BTreeSet<String> {
        let (mut found, mut rest) =
            (BTreeSet::new(), vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/share")]);
        while let Some(path) = rest.pop() {
            if path.is_dir() {
                rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let points = text.split("failpoint!(\"share.").skip(1);
            found.extend(points.map(|rest| format!("share.{}", rest.split('"').next().unwrap())));
        }
        assert!(found.len() > 30, "only {found:?}");
        found
    }
}
