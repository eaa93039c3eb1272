//! Controllers that are killed between any two side effects.
//!
//! With the feature `failpoints`: a child process does one operation and is killed at each point that it
//! reaches, one after the other; another controller then repeats the same, and nothing may be left.

use super::*;

const STORY: [(&str, &str); 9] = [
    ("make the store", ""),
    ("create", ""),
    ("adopt", "mkdir"),
    ("clone", "volume"),
    ("snapshot", "volume"),
    ("restore", "snapshot"),
    ("delete", "volume"),
    ("archive", "archived"),
    ("delete snapshot", "snapshot"),
];

fn prepare(root: &Path, what: &str) {
    if what.is_empty() {
        return;
    }
    let share = open(root);
    match what {
        "mkdir" => fs::create_dir_all(root.join("new/dir")).unwrap(),
        _ => {
            let on_delete = if what == "archived" { OnDelete::Archive } else { OnDelete::Delete };
            create(&share, &volume("old", "old/dir", on_delete)).unwrap();
            fs::create_dir(root.join("old/dir/sub")).unwrap();
            fs::write(root.join("old/dir/sub/f"), b"data").unwrap();
        }
    }
    if what == "snapshot" {
        cut(&share, &snapshot("s", "old")).unwrap();
    }
}

fn act(share: &Share, operation: &str) -> Result<()> {
    match operation {
        "make the store" => Ok(()),
        "create" | "adopt" => create(share, &volume("new", "new/dir", OnDelete::Delete)).map(drop),
        "clone" => create(share, &copy_of("new", "new/dir", Source::Volume(key("old")))).map(drop),
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
        "create" | "adopt" => assert_eq!(names(&root.join("new/dir")), [""; 0]),
        "clone" | "restore" => assert_eq!(names(&root.join("new/dir/sub")), ["f"]),
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
        process::{Command, Stdio},
    };

    const OPERATION: &str = "WHARF_TEST_SHARE_OPERATION";
    const ROOT: &str = "WHARF_TEST_SHARE_ROOT";
    const INSTANCE: &str = "WHARF_TEST_SHARE_INSTANCE";

    /// The child: one operation, then a sweep.
    #[test]
    fn child() {
        let Ok(operation) = env::var(OPERATION) else { return };
        let instance = Uuid::parse_str(&env::var(INSTANCE).unwrap()).unwrap();
        let identity = Identity { instance, ..identity("c") };
        let root = env::var(ROOT).unwrap();
        let share = Share::open_or_make(Path::new(&root), &identity).unwrap();
        act(&share, &operation).unwrap();
        share.sweep(&mut |_| {}).unwrap();
    }

    fn run(root: &Path, operation: &str, instance: Uuid, with: &[(&str, String)]) {
        let this = module_path!().split_once("::").unwrap().1;
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", &format!("{this}::child"), "--nocapture"]);
        child.env(OPERATION, operation).env(ROOT, root).env(INSTANCE, instance.to_string());
        child.envs(with.iter().map(|(name, value)| (*name, value.as_str())));
        child.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    }

    /// Each point that a whole run reaches, with the number of its hit.
    fn hits(operation: &str, before: &str) -> Vec<(String, u64)> {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path(), before);
        let log = home.path().with_extension("log");
        run(home.path(), operation, Uuid::new_v4(), &[("WHARF_FAILPOINT_LOG", log.display().to_string())]);
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

    #[test]
    fn at_every_point() {
        let mut reached = BTreeSet::new();
        for (operation, before) in STORY {
            for (point, number) in hits(operation, before) {
                let home = tempfile::tempdir().unwrap();
                prepare(home.path(), before);
                let dead = Uuid::new_v4();
                let armed = ("WHARF_FAILPOINT", format!("{point}@{number}=kill"));
                run(home.path(), operation, dead, &[armed]);
                let share = successor(home.path(), dead);
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
                let dead = Uuid::new_v4();
                run(home.path(), operation, dead, &[("WHARF_FAILPOINT", format!("{point}@{number}=kill"))]);
                sound(&successor(home.path(), dead));
            }
        }
        println!("{} points", reached.len());
        for must in [
            "share.published",
            "share.claimed",
            "share.placed",
            "share.ready",
            "share.binned",
            "share.purged",
        ] {
            assert!(reached.contains(must), "{must} was never reached: {reached:?}");
        }
    }
}
