//! The container image that `deploy/image/build` makes of this machine's files: the same each time, complete, and
//! without anything that is not needed.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod support;

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use support::host::{self, run};
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What a machine pulls. 25 MiB is the whole, of which the release binary may be 10 MiB.
const TOOLS_MOST: u64 = 15 << 20;

/// Programs that a break-in would like to find.
const UNWANTED: [&str; 10] =
    ["sh", "bash", "dash", "busybox", "env", "dpkg", "apt", "apt-get", "perl", "python3"];

/// An image that was built and unpacked.
struct Image {
    _directory: TempDir,
    digest: String,
    manifest: Value,
    config: Value,
    blobs: PathBuf,
    /// Of each layer: its files, unpacked over each other.
    root: PathBuf,
}

/// In place of wharf where it is not run: smaller.
const STAND_IN: &str = "/usr/bin/timeout";

impl Image {
    fn build(binary: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("wharf.tar");
        let unpacked = directory.path().join("unpacked");
        let root = directory.path().join("root");
        fs::create_dir(&unpacked).unwrap();
        fs::create_dir(&root).unwrap();
        build(binary, &["--output", text(&archive)]);
        run("tar", ["--extract", "--directory", text(&unpacked), "--file", text(&archive)]);
        let blobs = unpacked.join("blobs/sha256");
        let index: Value = serde_json::from_slice(&fs::read(unpacked.join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        let read = |what: &Value| -> Value {
            serde_json::from_slice(&fs::read(blob(&blobs, what)).unwrap()).unwrap()
        };
        let manifest = read(&index["manifests"][0]);
        let config = read(&manifest["config"]);
        for layer in manifest["layers"].as_array().unwrap() {
            run("tar", ["--extract", "--directory", text(&root), "--file", text(&blob(&blobs, layer))]);
        }
        Self { _directory: directory, digest, manifest, config, blobs, root }
    }

    fn files(&self) -> BTreeMap<PathBuf, fs::Metadata> {
        let (mut files, mut rest) = (BTreeMap::new(), vec![self.root.clone()]);
        while let Some(directory) = rest.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    rest.push(path);
                } else {
                    files.insert(Path::new("/").join(path.strip_prefix(&self.root).unwrap()), metadata);
                }
            }
        }
        files
    }
}

fn build(binary: &str, arguments: &[&str]) -> String {
    run(&format!("{ROOT}/deploy/image/build"), ["--binary", binary].iter().chain(arguments))
}

fn blob(blobs: &Path, descriptor: &Value) -> PathBuf {
    blobs.join(descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_same_files_make_the_same_image() {
    let one = Image::build(STAND_IN);
    // What differs between two builds and must not count.
    let other = tempfile::tempdir().unwrap();
    let copy = other.path().join("wharf");
    fs::copy(STAND_IN, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&copy).unwrap().set_modified(long_ago).unwrap();
    let archive = other.path().join("wharf.tar");
    let program = format!(
        "umask 077; cd /; exec {ROOT}/deploy/image/build --binary {} --output {}",
        text(&copy),
        text(&archive)
    );
    let said = run("bash", ["-c", &program]);
    assert!(said.contains(&one.digest), "{said} instead of {}", one.digest);
}

#[test]
fn another_binary_is_another_image_with_the_same_tools() {
    let one = Image::build(STAND_IN);
    let other = tempfile::tempdir().unwrap();
    let (copy, archive) = (other.path().join("wharf"), other.path().join("wharf.tar"));
    fs::copy(STAND_IN, &copy).unwrap();
    let mut longer = fs::OpenOptions::new().append(true).open(&copy).unwrap();
    std::io::Write::write_all(&mut longer, b"more").unwrap();
    drop(longer);
    build(text(&copy), &["--output", text(&archive)]);
    let index = run("tar", ["--extract", "--to-stdout", "--file", text(&archive), "index.json"]);
    assert!(!index.contains(&one.digest));
    let tools = one.manifest["layers"][0]["digest"].as_str().unwrap().replace(':', "/");
    let member = format!("blobs/{tools}");
    run("tar", ["--list", "--file", text(&archive), &member]);
}

#[test]
fn every_digest_is_right() {
    let image = Image::build(STAND_IN);
    let mut layers = image.manifest["layers"].as_array().unwrap().clone();
    let ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    assert_eq!(image.config["rootfs"]["diff_ids"], Value::from(ids), "layers are not compressed");
    layers.push(image.manifest["config"].clone());
    for descriptor in layers {
        let content = fs::read(blob(&image.blobs, &descriptor)).unwrap();
        assert_eq!(descriptor["size"], content.len());
        assert_eq!(descriptor["digest"], format!("sha256:{:x}", Sha256::digest(&content)));
    }
    assert_eq!(image.config["os"], "linux");
    assert_eq!(image.config["config"]["Entrypoint"][0], "/wharf");
}

#[test]
fn it_holds_the_tools_that_wharf_starts_and_nothing_to_play_with() {
    let image = Image::build(STAND_IN);
    let files = image.files();
    let command = fs::read_to_string(format!("{ROOT}/src/os/command.rs")).unwrap();
    let names = command.split("pub fn name(self)").nth(1).unwrap().split("    }\n").next().unwrap();
    let tools: Vec<&str> = names.split('"').skip(1).step_by(2).collect();
    assert!(tools.len() >= 6, "{tools:?}");
    let executable = |path: &Path| path.to_str().unwrap().contains("bin/") || path == Path::new("/wharf");
    let found: Vec<_> = files.keys().filter(|path| executable(path)).collect();
    assert_eq!(found.len(), tools.len() + 1, "{found:?} should be wharf and {tools:?}");
    for tool in tools {
        assert!(found.iter().any(|path| path.ends_with(tool)), "{tool} is missing");
    }
    for (path, metadata) in &files {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(!UNWANTED.contains(&name) && !path.ends_with("passwd"), "{path:?}");
        let expected = if executable(path) || path.starts_with("/lib") || path.starts_with("/lib64") {
            0o755
        } else {
            0o644
        };
        assert_eq!(
            metadata.mode() & 0o7777,
            expected,
            "{path:?}: nothing is set-user-id, nothing is writable"
        );
        assert!(metadata.is_file(), "{path:?}");
    }
    for package in ["e2fsprogs", "xfsprogs", "libc6"] {
        assert!(files.contains_key(Path::new(&format!("/usr/share/doc/{package}/copyright"))), "{package}");
        assert!(files.contains_key(Path::new(&format!("/var/lib/dpkg/status.d/{package}"))), "{package}");
    }
}

#[test]
fn it_is_small() {
    let image = Image::build(STAND_IN);
    let size = image.manifest["layers"][0]["size"].as_u64().unwrap();
    println!("the tools are {:.1} MiB", size as f64 / f64::from(1 << 20));
    assert!(size <= TOOLS_MOST, "{size} bytes");
}

/// Every program starts, finds its libraries and does its work: a volume's whole life with nothing but the image.
#[test]
fn a_volume_lives_in_it() {
    let image = Image::build(env!("CARGO_BIN_EXE_wharf"));
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    for directory in ["proc", "sys", "dev", "scratch"] {
        fs::create_dir(image.root.join(directory)).unwrap();
    }
    // The namespace, and with it every mount, ends with the program.
    let program = r#"
        set -eu
        mount --bind "$1" "$1"
        for each in proc sys dev; do mount --rbind "/$each" "$1/$each"; done
        mount --bind "$2" "$1/scratch"
        mount -o remount,bind,ro "$1"
        exec chroot "$1" /wharf demo --directory /scratch
    "#;
    let own = [
        "--mount",
        "--propagation",
        "private",
        "setpriv",
        "--pdeathsig",
        "KILL",
        "bash",
        "-c",
        program,
        "bash",
    ];
    let said = run("unshare", own.into_iter().chain([text(&image.root), text(scratch.path())]));
    assert!(said.contains("left behind: nothing"), "{said}");
    for step in ["with ext4 inside", "restored from the snapshot"] {
        assert!(said.contains(step), "{said}");
    }
    assert!(host::loops_below(scratch.path()).is_empty());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left");
}

/// What a Dockerfile copies is what the archive holds.
#[test]
fn a_directory_can_be_had_instead() {
    let image = Image::build(STAND_IN);
    let directory = tempfile::tempdir().unwrap();
    build(STAND_IN, &["--directory", text(directory.path())]);
    run("diff", ["--recursive", text(&image.root), text(directory.path())]);
}
