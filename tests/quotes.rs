//! Messages that the pages quote are those of the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The first column of the table below this heading holds messages in backticks; `…` stands for what varies.
const TABLE: &str = "## What an error looks like";

#[test]
fn quoted_messages_are_in_the_code() {
    let code = code();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/nfs.md")).unwrap();
    let (_, table) = page.split_once(TABLE).expect("docs/nfs.md shows errors");
    let rows = table.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let messages: Vec<&str> = rows
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert!(messages.len() > 15, "only {messages:?} were found");
    let fragments = messages.iter().flat_map(|message| message.split('…')).map(str::trim);
    let invented: Vec<_> = fragments.filter(|text| !text.is_empty() && !code.contains(text)).collect();
    assert!(invented.is_empty(), "docs/nfs.md quotes what no message of src/ holds: {invented:#?}");
}

/// All of src/, with the texts that a backslash continues on the next line in one.
fn code() -> String {
    let mut all = String::new();
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let mut parts = text.split("\\\n");
                all.push_str(parts.next().unwrap_or_default());
                parts.for_each(|part| all.push_str(part.trim_start()));
            }
        }
    }
    all
}
