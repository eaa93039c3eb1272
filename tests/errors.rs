//! docs/errors.md, row by row: the code of each row is what the real driver answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::needless_pass_by_value,
    clippy::needless_update
)]

#[path = "errors/any.rs"]
mod any;
#[path = "errors/calls.rs"]
mod calls;
#[path = "errors/controller.rs"]
mod controller;
#[path = "errors/create.rs"]
mod create;
#[path = "errors/node.rs"]
mod node;
#[path = "errors/publish.rs"]
mod publish;
#[path = "errors/snapshot.rs"]
mod snapshot;
#[path = "errors/stage.rs"]
mod stage;
mod support;
#[path = "errors/world.rs"]
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};
use tonic::{Code, Status};
use wharf::error::panic_text;
use world::{Answer, World};

/// Name in the table, and what makes the rule's condition true. OK rows also look at the answer.
type Case = (&'static str, fn(&mut World) -> Answer);

struct Row {
    rpc: String,
    condition: String,
    code: Code,
    case: String,
}

#[test]
fn every_row_is_answered_as_it_says() {
    let rows = rows(&fs::read_to_string("docs/errors.md").unwrap());
    let cases = cases();
    let in_table: BTreeSet<_> = rows.iter().map(|row| row.case.as_str()).collect();
    let in_code: BTreeSet<_> = cases.keys().copied().collect();
    let untested: Vec<_> = in_table.difference(&in_code).collect();
    let unwritten: Vec<_> = in_code.difference(&in_table).collect();
    assert!(untested.is_empty(), "rows without a case: {untested:?}");
    assert!(unwritten.is_empty(), "cases without a row: {unwritten:?}");

    let only = std::env::var("WHARF_TEST_CASE").ok();
    let mut world = World::new();
    let mut failures = Vec::new();
    let mut ran = 0;
    for row in rows.iter().filter(|row| only.as_deref().is_none_or(|only| row.case.contains(only))) {
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| cases[row.case.as_str()](&mut world)));
        if began.elapsed().as_secs() >= 2 {
            println!("{}: {:.1} s", row.case, began.elapsed().as_secs_f64());
        }
        let failure = match outcome {
            Ok(answer) => judge(row, answer).err(),
            Err(panic) => Some(panic_text(&*panic).to_owned()),
        };
        ran += 1;
        failures.extend(failure.map(|failure| format!("{} ({}): {failure}", row.case, row.condition)));
    }
    println!("{ran} rows of docs/errors.md");
    assert!(failures.is_empty(), "{} of {ran} rows are wrong:\n{}", failures.len(), failures.join("\n"));
}

fn cases() -> BTreeMap<&'static str, fn(&mut World) -> Answer> {
    let all = [
        any::CASES,
        create::CASES,
        controller::CASES,
        snapshot::CASES,
        stage::CASES,
        publish::CASES,
        node::CASES,
    ];
    let mut cases = BTreeMap::new();
    for (name, case) in all.into_iter().flatten() {
        assert!(cases.insert(*name, *case).is_none(), "two cases are called {name}");
    }
    cases
}

/// The code, and what every error owes its caller.
fn judge(row: &Row, answer: Answer) -> Result<(), String> {
    let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
    if code != row.code {
        return Err(format!("{code:?} instead of {:?}: {:?}", row.code, answer.err()));
    }
    let Err(status) = answer else { return Ok(()) };
    let message = status.message();
    if !status.details().is_empty() {
        return Err("the details are not empty".into());
    }
    // Of a method that is not there the library below answers.
    if code != Code::Unimplemented && (message.len() < 15 || message.contains('\n')) {
        return Err(format!("the message does not help: {message:?}"));
    }
    if message.starts_with(char::is_uppercase) && code != Code::Unimplemented {
        return Err(format!("the message does not begin as all others: {message:?}"));
    }
    Ok(())
}

/// The rules: lines that begin with a number.
fn rows(document: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in document.lines() {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", number, rpc, condition, code, next, case, ""] = columns.as_slice() else { continue };
        let Ok(number) = number.parse::<usize>() else { continue };
        assert_eq!(number, rows.len() + 1, "rows are numbered in order: {line}");
        assert!(!next.is_empty() && !condition.is_empty(), "an empty column: {line}");
        assert!(rows.iter().all(|row| row.case != *case), "two rows are called {case}");
        rows.push(Row {
            rpc: (*rpc).to_owned(),
            condition: (*condition).to_owned(),
            code: code_of(code),
            case: (*case).to_owned(),
        });
    }
    assert!(rows.len() > 200, "only {} rows were found", rows.len());
    for row in &rows {
        let rpc = row.case.split('.').next().unwrap();
        let expected = if row.rpc == "every RPC" { "any".into() } else { kebab(&row.rpc) };
        assert_eq!(rpc, expected, "a case begins with its RPC");
    }
    rows
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

fn code_of(name: &str) -> Code {
    match name {
        "OK" => Code::Ok,
        "INVALID_ARGUMENT" => Code::InvalidArgument,
        "NOT_FOUND" => Code::NotFound,
        "ALREADY_EXISTS" => Code::AlreadyExists,
        "RESOURCE_EXHAUSTED" => Code::ResourceExhausted,
        "FAILED_PRECONDITION" => Code::FailedPrecondition,
        "ABORTED" => Code::Aborted,
        "OUT_OF_RANGE" => Code::OutOfRange,
        "UNIMPLEMENTED" => Code::Unimplemented,
        "INTERNAL" => Code::Internal,
        "UNAVAILABLE" => Code::Unavailable,
        other => panic!("the table knows a code {other:?}"),
    }
}
