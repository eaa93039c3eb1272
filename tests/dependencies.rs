//! Every dependency is explained in `docs/dependencies.md`, and its licence is one that `deny.toml` allows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path, process::Command};

#[test]
fn every_dependency_is_explained() {
    let declared = declared(&read("Cargo.toml"));
    let explained = explained(&read("docs/dependencies.md"));
    assert!(declared.len() > 20, "only {declared:?} were found in Cargo.toml");
    let missing: Vec<_> = declared.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/dependencies.md does not say what these are for: {missing:?}");
    let gone: Vec<_> = explained.difference(&declared).collect();
    assert!(gone.is_empty(), "docs/dependencies.md explains what Cargo.toml no longer has: {gone:?}");
}

#[test]
fn every_crate_has_an_allowed_licence_and_none_is_banned() {
    let deny = read("deny.toml");
    let allowed = list(&deny, "allow");
    let banned: BTreeSet<String> = deny.split("crate = \"").skip(1).map(until_quote).collect();
    assert!(allowed.contains("MIT") && banned.contains("bindgen"), "deny.toml was not understood");
    let packages = packages();
    assert!(packages.len() > 50, "only {} crates are in the graph", packages.len());
    for (name, licence) in packages {
        assert!(!banned.contains(&name), "{name} is in the graph: deny.toml says why it must not be");
        assert!(permits(&licence, &allowed), "{name} is under {licence}, which deny.toml does not allow");
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()]);
    for good in
        ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "(GPL-2.0 OR MIT) AND MIT", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(permits(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR GPL-3.0) AND GPL-3.0", "Apache-2.0"] {
        assert!(!permits(bad, &allowed), "{bad}");
    }
}

#[test]
fn declarations_of_each_section_are_found() {
    let text = "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\n# c\nb = { version = \"1\" }\n\n[features]\nf = []\n\
                [dev-dependencies]\nd = \"1\"\n[target.'cfg(unix)'.dependencies.e]\nversion = \"1\"\n";
    assert_eq!(declared(text).into_iter().collect::<Vec<_>>(), ["a", "b", "d", "e"]);
}

/// The names in all `dependencies` sections of a manifest.
fn declared(manifest: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            if let Some((_, name)) = section.rsplit_once("dependencies.") {
                found.insert(name.to_owned());
            }
        } else if inside
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once('=')
        {
            found.insert(name.trim().to_owned());
        }
    }
    found
}

/// The names in the first column of the page's tables.
fn explained(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.filter(|(_, why)| why.len() > 10).map(|(name, _)| name.to_owned()).collect()
}

/// Name and licence of each crate that a build for this platform uses.
fn packages() -> Vec<(String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo could not be started");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let used: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|n| n["id"].as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    packages
        .filter(|p| used.contains(p["id"].as_str().unwrap()))
        .map(|p| (text(&p["name"]), text(&p["license"])))
        .collect()
}

/// Whether an SPDX expression can be satisfied: each part joined by AND needs one allowed part joined by OR.
/// Parentheses in crates' expressions only ever group an OR, so AND may bind last.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    expression
        .replace(['(', ')'], "")
        .split(" AND ")
        .all(|part| part.replace('/', " OR ").split(" OR ").any(|licence| allowed.contains(licence.trim())))
}

/// The quoted strings of `key = [ … ]` on one line.
fn list(text: &str, key: &str) -> BTreeSet<String> {
    let start = format!("{key} = [");
    let line = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default();
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

fn until_quote(text: &str) -> String {
    text.split('"').next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}
