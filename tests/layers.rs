//! The shape of the code, enforced: who may use whom, and what no code that ships may do.
//!
//! `rpc → service → {volume, store, backend, share} → os`; arrows never point back. ARCHITECTURE.md says why.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "layers/source.rs"]
mod source;

use source::{Named, Shipped, Token, paths, shipped, texts, tokens};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The modules of the crate from the ground up; a module uses its own rank and those before it.
const RANKS: [&[&str]; 8] = [
    &["os"],
    &["error", "failpoint"],
    &["volume", "store", "backend", "share"],
    &["service"],
    &["rpc"],
    &["server"],
    &["cluster"],
    &["main", "lib", "commands", "config", "telemetry"],
];
const SERVICE: usize = 3;

/// Crates, and parts of the standard library, that make system calls or start programs.
const SYSTEM: [&[&str]; 7] = [
    &["nix"],
    &["rustix"],
    &["libc"],
    &["sys_mount"],
    &["linux_raw_sys"],
    &["std", "process", "Command"],
    &["tokio", "process"],
];

/// Crates that speak gRPC or need a runtime.
const PROTOCOL: [&str; 8] =
    ["tonic", "tonic_prost", "prost", "prost_types", "tower", "tower_http", "tokio", "tokio_stream"];

/// Deletes through bind mounts. (Written in two parts: this file is searched, too.)
const FORBIDDEN: &str = concat!("remove_dir", "_all");

#[test]
fn the_sources_keep_the_rules() {
    let files = shipped_files();
    assert!(files.len() > 10, "only {} files were found below src", files.len());
    let found: Vec<String> = files.iter().flat_map(|file| violations(&relative(file), &read(file))).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn filesystems_are_made_in_one_place() {
    let calls: Vec<String> =
        shipped_files().iter().flat_map(|file| makes_filesystem(&relative(file), &read(file))).collect();
    assert_eq!(calls.len(), 1, "format::make has to be called from CreateVolume alone: {calls:?}");
}

#[test]
fn nothing_deletes_recursively() {
    let files = [rust_files("src"), rust_files("tests")].concat();
    let found: Vec<String> = files.iter().flat_map(|f| deletes_recursively(&relative(f), &read(f))).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn architecture_maps_every_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = read(&root.join("ARCHITECTURE.md"));
    let names: Vec<String> = shipped_files().iter().map(|file| relative(file)).collect();
    let missing: Vec<_> = names.iter().filter(|name| !mentions(&map, name)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not say what these are for: {missing:?}");
    let gone: Vec<_> = mentioned(&map)
        .into_iter()
        .filter(|p| !root.join(p).exists() && !root.join("src").join(p).exists())
        .collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md speaks of files that are not there: {gone:?}");
}

/// What one file, named relative to `src/`, does against the rules.
fn violations(file: &str, text: &str) -> Vec<String> {
    let module = module_of(file);
    let top = module.first().map_or_else(|| file.trim_end_matches(".rs"), String::as_str);
    let Some(rank) = rank(top) else {
        return vec![format!("src/{file}: the module {top} has no place in tests/layers.rs")];
    };
    let Shipped { tokens, .. } = shipped(&tokens(text));
    let mut found = Vec::new();
    for Named { path, line, .. } in paths(&tokens, &module) {
        let mut add = |what: String| found.push(format!("src/{file}:{line}: {what}"));
        let name = path.join("::");
        if path[0] == "crate" && path.len() > 1 {
            match self::rank(&path[1]) {
                Some(target) if target > rank => add(format!("{top} is below {}, but uses {name}", path[1])),
                None if rank < RANKS.len() - 1 => {
                    add(format!("{name} belongs to no layer: name the module in tests/layers.rs"));
                }
                _ => {}
            }
        }
        if top != "os" && SYSTEM.iter().any(|s| path.starts_with(&s.map_owned())) {
            add(format!("{name}: only os makes system calls and starts programs"));
        }
        if rank <= SERVICE && path.len() > 1 && PROTOCOL.contains(&path[0].as_str()) {
            add(format!("{name}: below rpc nothing knows gRPC or a runtime"));
        }
    }
    found.extend(words_against_rules(file, top, rank, &tokens));
    found
}

/// What single words show: panics, async below rpc, unsafe outside os.
fn words_against_rules(file: &str, top: &str, rank: usize, tokens: &[Token]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let word = token.text.as_str();
        let before = at.checked_sub(1).map_or("", |i| tokens[i].text.as_str());
        let called = texts(tokens, at + 1, &["("]);
        let what = match word {
            "unwrap" | "expect" | "unwrap_err" | "expect_err" if called && matches!(before, "." | "::") => {
                "a value that is not there is an error to report, not a panic"
            }
            "panic" | "todo" | "unimplemented" if texts(tokens, at + 1, &["!"]) => "the driver never panics",
            "async" | "await" if rank <= SERVICE => "below rpc everything is synchronous",
            "unsafe" if top != "os" => "unsafe stands in os alone",
            _ => continue,
        };
        found.push(format!("src/{file}:{}: {word}: {what}", token.line));
    }
    found
}

/// The calls of `os::format::make`, the one function that runs mkfs.
fn makes_filesystem(file: &str, text: &str) -> Vec<String> {
    let Shipped { tokens, .. } = shipped(&tokens(text));
    paths(&tokens, &module_of(file))
        .into_iter()
        .filter(|named| !named.imported && named.path.ends_with(&["os", "format", "make"].map_owned()))
        .map(|named| format!("src/{file}:{}", named.line))
        .collect()
}

fn deletes_recursively(file: &str, text: &str) -> Vec<String> {
    let found = tokens(text).into_iter().filter(|token| token.text == FORBIDDEN);
    found.map(|token| format!("{file}:{}: {FORBIDDEN} deletes through bind mounts", token.line)).collect()
}

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|modules| modules.contains(&module))
}

/// `os/mount.rs` is `os::mount`, `os/mod.rs` is `os`, `main.rs` and `lib.rs` are the root.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts
        .last()
        .is_some_and(|last| last == "mod" || (parts.len() == 1 && matches!(&last[..], "main" | "lib")))
    {
        parts.pop();
    }
    parts
}

/// Whether the map names a file: as `os/mount`, `os::mount` or `os/{mount,tree}.rs`; a `mod.rs` by its folder.
fn mentions(map: &str, file: &str) -> bool {
    let path = file.trim_end_matches("/mod.rs").trim_end_matches(".rs");
    let words: BTreeSet<String> = words(map).into_iter().map(|w| w.replace("::", "/")).collect();
    let names = |word: &str| {
        let word = word.trim_start_matches("src/").trim_end_matches('/').trim_end_matches(".rs");
        word == path
    };
    words.iter().any(|word| names(word))
}

/// The files that the map names.
fn mentioned(map: &str) -> Vec<String> {
    words(map).into_iter().filter(|word| word.ends_with(".rs")).collect()
}

/// Paths in a text, `a/{b,c}.rs` written out.
fn words(text: &str) -> Vec<String> {
    let belongs = |c: char| c.is_alphanumeric() || "_/:.-{},".contains(c);
    let trim = |word: &str| word.trim_matches(|c| ".,:-".contains(c)).to_owned();
    let raw = text.split(|c| !belongs(c));
    raw.flat_map(|word| match (word.split_once('{'), word.split_once('}')) {
        (Some((start, rest)), Some((_, end))) => {
            let inner = rest.split('}').next().unwrap_or_default();
            inner.split(',').map(|part| trim(&format!("{start}{part}{end}"))).collect()
        }
        _ => word.split(',').map(trim).collect::<Vec<_>>(),
    })
    .filter(|word| !word.is_empty())
    .collect()
}

/// The files below `src/` that ship: those are left out that a module declares as `#[cfg(test)] mod name;`,
/// with what is below them.
fn shipped_files() -> Vec<PathBuf> {
    let mut files = rust_files("src");
    let mut tests = BTreeSet::new();
    for file in &files {
        let below = match file.file_stem().unwrap().to_str().unwrap() {
            "mod" | "main" | "lib" => file.parent().unwrap().to_owned(),
            _ => file.with_extension(""),
        };
        tests.extend(shipped(&tokens(&read(file))).test_modules.into_iter().map(|name| below.join(name)));
    }
    files.retain(|file| !file.ancestors().any(|above| tests.contains(&above.with_extension(""))));
    files
}

fn rust_files(below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{} cannot be read: {error}", file.display()))
}

fn relative(file: &Path) -> String {
    let path = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
    path.strip_prefix("src").unwrap_or(path).to_str().unwrap().to_owned()
}

/// String slices as owned strings, to compare with paths.
trait MapOwned {
    fn map_owned(&self) -> Vec<String>;
}

impl MapOwned for [&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|&s| s.to_owned()).collect()
    }
}

// The checker itself: each rule, broken.

#[track_caller]
fn refused(file: &str, text: &str, because: &str) {
    let found = violations(file, text);
    assert!(found.iter().any(|v| v.contains(because)), "{text:?} in {file} gave {found:?}");
}

#[track_caller]
fn allowed(file: &str, text: &str) {
    assert_eq!(violations(file, text), Vec::<String>::new(), "{text:?} in {file}");
}

#[test]
fn an_arrow_back_is_refused() {
    refused("os/mount.rs", "use crate::service::Service;", "os is below service");
    refused("os/mount.rs", "use crate::error::Error;", "os is below error");
    refused("store/mod.rs", "fn f() { crate::rpc::run() }", "store is below rpc");
    refused("service/publish.rs", "use crate::{os, rpc::{status, parse}};", "service is below rpc");
    refused("service/publish.rs", "use super::super::server as s;", "service is below server");
    refused("volume/id.rs", "use crate::config::Config;", "volume is below config");
    refused("mystery.rs", "", "has no place");
    refused("service/mod.rs", "use crate::mystery::X;", "belongs to no layer");
    allowed("service/publish.rs", "use crate::{os::{self, mount}, store, volume::Id}; use super::Service;");
    allowed("commands/demo.rs", "use crate::{rpc, server}; use tonic::Status; async fn f() {}");
    allowed("main.rs", "use wharf::config::Config; fn main() {}");
}

#[test]
fn a_system_call_outside_os_is_refused() {
    for text in [
        "use rustix::fs::statx;",
        "fn f() { libc::kill(1, 9); }",
        "use std::process::{Command, ExitCode};",
        "use std::process; fn f() { process::Command::new(\"mkfs\"); }",
        "use std::process as p; fn f() { p::Command::new(\"mkfs\"); }",
        "use std::{io, process::Command as Run};",
        "use ::nix::unistd;",
    ] {
        refused("service/mod.rs", text, "only os makes system calls");
        refused("commands/demo.rs", text, "only os makes system calls");
        allowed("os/command.rs", text);
    }
    allowed("main.rs", "use std::process::ExitCode; use clap::Command;");
    refused("rpc/mod.rs", "fn f() { unsafe { g() } }", "unsafe stands in os alone");
}

#[test]
fn grpc_and_async_below_rpc_are_refused() {
    refused("service/mod.rs", "use tonic::Status;", "below rpc nothing knows gRPC");
    refused("backend/local.rs", "fn f(s: prost_types::Timestamp) {}", "below rpc nothing knows gRPC");
    refused("store/mod.rs", "fn f() { tokio::spawn(g()); }", "below rpc nothing knows gRPC");
    refused("os/mount.rs", "pub async fn mount() {}", "synchronous");
    refused("service/mod.rs", "fn f() { g().await; }", "synchronous");
    allowed("rpc/mod.rs", "use tonic::Status; async fn f() { g().await }");
}

#[test]
fn a_panic_in_code_that_ships_is_refused() {
    refused("rpc/mod.rs", "fn f() { g().unwrap(); }", "not a panic");
    refused("rpc/mod.rs", "fn f() { g()\n  .expect(\"x\"); }", "src/rpc/mod.rs:2");
    refused("rpc/mod.rs", "fn f() { x.map(Option::unwrap); Option::unwrap(x); }", "not a panic");
    refused("rpc/mod.rs", "fn f() { todo!() }", "never panics");
    refused("rpc/mod.rs", "fn f() { panic!(\"{x}\") }", "never panics");
    refused("rpc/mod.rs", "fn f() { unimplemented!() }", "never panics");
    refused("rpc/mod.rs", "#[cfg(test)] mod tests { fn t() {} } fn f() { todo!() }", "never panics");
    allowed(
        "rpc/mod.rs",
        "fn f() { g().unwrap_or_default(); } #[cfg(test)] mod tests { fn t() { g().unwrap() } }",
    );
    allowed("rpc/mod.rs", "#[cfg(test)] mod tests; #[cfg(test)] #[allow(x)] fn t() { panic!() } fn f() {}");
    allowed(
        "rpc/mod.rs",
        "// panic!()\n/* todo!() /* .unwrap() */ panic!() */ fn f() { \"panic!() \\\" todo!()\"; }",
    );
    allowed(
        "rpc/mod.rs",
        "fn f<'a>(c: &'a str) { ('\"', '\\'', r#\"\" panic!() \"#, b\"todo!()\", br\"panic!()\"); }",
    );
}

#[test]
fn each_call_of_make_is_counted() {
    let count = |text: &str| makes_filesystem("backend/image.rs", text).len();
    assert_eq!(count("use crate::os::format; fn f() { format::make(x); format::content(x); }"), 1);
    assert_eq!(count("use crate::os::format::make; fn f() { make(x); make(y); }"), 2);
    assert_eq!(count("use crate::os; fn f() { os::format::make(x) }"), 1);
    assert_eq!(count("fn f() { crate::os::format::make(x) }"), 1);
    assert_eq!(count("use crate::os::format::{make as build}; fn f() { build(x) }"), 1);
    assert_eq!(
        count("fn f() { make(x) } #[cfg(test)] mod tests { fn t() { crate::os::format::make(x) } }"),
        0
    );
}

#[test]
fn recursive_deletion_is_found_in_tests_too() {
    let text = format!("#[cfg(test)] mod tests {{ fn t() {{ std::fs::{FORBIDDEN}(x) }} }}");
    assert_eq!(deletes_recursively("src/os/tree.rs", &text).len(), 1);
    assert_eq!(deletes_recursively("src/os/tree.rs", &format!("// {FORBIDDEN}")).len(), 0);
}

#[test]
fn a_module_without_a_word_in_the_map_is_found() {
    let map = "`src/os/{mount,tree}.rs`, `store/record.rs`; volume::id; and os/ itself, see src/main.rs.";
    for known in ["os/mount.rs", "os/tree.rs", "store/record.rs", "volume/id.rs", "os/mod.rs", "main.rs"] {
        assert!(mentions(map, known), "{known}");
    }
    for unknown in ["os/mountinfo.rs", "record.rs", "store/mod.rs", "id.rs", "lib.rs"] {
        assert!(!mentions(map, unknown), "{unknown}");
    }
    assert_eq!(mentioned(map), ["src/os/mount.rs", "src/os/tree.rs", "store/record.rs", "src/main.rs"]);
}
