//! The commands of docs/install.md, as they stand there.

use crate::{
    bed::{
        Bed,
        kubectl::run_quietly,
        plane::{NODE, program},
    },
    release,
    scene::{SHELL, Scene},
};
use std::{
    fs,
    os::unix::fs::symlink,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::{Command, Stdio},
};

/// For the commands of one block, in seconds.
const LIMIT: &str = "180";

#[test]
#[ignore = "started by scenarios_pass_and_nothing_is_left_of_their_machine"]
fn the_commands_of_the_page_install_use_and_remove() {
    let scene = Scene::alone("pages");
    let reader = Reader::new(scene.bed());
    // As a registry would have it.
    run_quietly(Command::new("ctr").args([
        "--namespace",
        "k8s.io",
        "images",
        "tag",
        "--force",
        SHELL,
        "docker.io/library/busybox:1.37",
    ]));
    release::helm_uninstall(scene.bed());
    let followed = catch_unwind(AssertUnwindSafe(|| follow(&reader)));
    // The other scenarios need theirs, whatever became of this one.
    release::install(scene.bed());
    followed.unwrap_or_else(|panic| resume_unwind(panic));
}

fn follow(reader: &Reader) {
    let (install, use_it, remove) = (blocks("Install"), blocks("The first volume"), blocks("Uninstall"));
    let [with_helm, with_manifests, until_ready] = install.try_into().unwrap();
    let [make, look] = use_it.try_into().unwrap();
    let [helm_uninstall, delete, be_rid_of_all] = remove.try_into().unwrap();
    // A cluster of one node is this, and the page says what it needs.
    let one = "--set controller.replicas=1";
    assert!(page().contains(&format!("add `{one}`")));
    let scale = "kubectl --namespace wharf scale deployment/wharf-controller --replicas 1";
    assert!(page().contains(&format!("`{scale}`")));
    for (install, uninstall) in [
        (format!("{} {one}", with_helm.trim_end()), helm_uninstall),
        (format!("{with_manifests}{scale}"), delete),
    ] {
        reader.run(&install);
        let told = reader.run(&until_ready);
        assert!(told.contains(NODE), "no StorageNode:\n{told}");
        reader.run(&make);
        let told = reader.run(&look);
        let line =
            told.lines().find(|line| line.starts_with("localvolume.")).unwrap_or_else(|| panic!("{told}"));
        let columns: Vec<_> = line.split_whitespace().collect();
        assert_eq!(columns[1..6], [NODE, "default", "1.0", "GiB", "Ready"], "{told}");
        assert!(told.contains("Bound"), "{told}");
        reader.run(&uninstall);
    }
    for take_off in blocks("When objects do not go away") {
        reader.run(&take_off.replace("worker-3", NODE));
    }
    reader.run(&be_rid_of_all);
}

/// Somebody at a shell, in a checkout.
struct Reader {
    programs: tempfile::TempDir,
    kubeconfig: String,
}

impl Reader {
    fn new(bed: &Bed) -> Self {
        let programs = tempfile::tempdir_in(bed.directory()).unwrap();
        for name in ["kubectl", "helm"] {
            symlink(program(name).get_program(), programs.path().join(name)).unwrap();
        }
        Self { programs, kubeconfig: bed.kubeconfig().to_str().unwrap().to_owned() }
    }

    /// Pastes a block of commands; panics with what they say when one fails.
    fn run(&self, commands: &str) -> String {
        let mut shell = Command::new("timeout");
        shell.arg(LIMIT).args(["sh", "-euxc", commands]).current_dir(env!("CARGO_MANIFEST_DIR"));
        shell.env_clear().env("KUBECONFIG", &self.kubeconfig).env("HOME", self.programs.path());
        shell.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.path().display()));
        let output = shell.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let problems = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?} of\n{commands}\n{said}{problems}", output.status);
        said
    }
}

fn page() -> String {
    fs::read_to_string(release::file("docs/install.md")).unwrap()
}

/// What is to be typed below a heading.
fn blocks(heading: &str) -> Vec<String> {
    let page = page();
    let after = page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no ## {heading}")).1;
    let section = after.split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}
