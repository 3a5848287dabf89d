//! The book's table of behaviours and transports is what the suite tests.

mod common;

use common::Kind;
use common::behaviours::{Behaviour, SECTIONS, of_test};
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- The rest is written by rpc/tests/table.rs. -->\n";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/transports.md")
}

/// The columns, by scheme.
const COLUMNS: &[(&str, Kind)] = &[
    ("tcp", Kind::Tcp),
    ("tls", Kind::Tls),
    ("unix", Kind::Unix),
    ("ws", Kind::Ws),
    ("wss", Kind::Wss),
    ("thread", Kind::Thread),
    ("udp", Kind::Udp),
];

fn table() -> String {
    let mut text = String::new();
    let mut notes: Vec<&str> = Vec::new();
    let schemes: String = COLUMNS
        .iter()
        .map(|(scheme, _)| format!(" `{scheme}://` |"))
        .collect();
    let head = format!(
        "| behaviour |{schemes} test |\n|---{}|---|\n",
        "|---".repeat(COLUMNS.len())
    );
    for section in SECTIONS {
        text += &format!("\n### {}\n\n{head}", section.title);
        for behaviour in section.behaviours {
            let cells = COLUMNS
                .iter()
                .map(|(_, kind)| cell(behaviour, *kind, &mut notes));
            let cells: Vec<String> = cells.collect();
            let (file, name) = behaviour.test.split_once("::").unwrap();
            text += &format!(
                "| {} | {} | `{file}.rs`: `{name}` |\n",
                behaviour.description,
                cells.join(" | ")
            );
        }
    }
    for (number, note) in notes.iter().enumerate() {
        text += &format!("\n({}) {note}\n", number + 1);
    }
    text
}

fn cell(behaviour: &Behaviour, kind: Kind, notes: &mut Vec<&'static str>) -> String {
    let Some(why) = behaviour.fault_over(kind) else {
        return "yes".to_owned();
    };
    let known = notes.iter().position(|note| *note == why);
    let number = known.unwrap_or_else(|| {
        notes.push(why);
        notes.len() - 1
    });
    format!("no ({})", number + 1)
}

#[test]
fn the_books_table_is_what_the_suite_tests() {
    let path = page();
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text
        .split_once(BEGIN)
        .expect("the line that begins the table");
    let expected = table();
    if std::env::var_os("YUE_WRITE_TABLE").is_some() {
        return fs::write(&path, format!("{head}{BEGIN}{expected}")).unwrap();
    }
    assert!(
        rest == expected,
        "docs/src/transports.md differs from common/behaviours.rs; write it with: \
         YUE_WRITE_TABLE=1 cargo test -p yue-rpc --test table"
    );
}

/// Every test of the suite that runs over each transport, as `file::name`.
fn tests_over_each() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_none_or(|ending| ending != "rs") || file == "table" {
            continue;
        }
        let mut name = String::new();
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some(rest) = line.strip_prefix("fn ") {
                name = rest.split('(').next().unwrap().to_owned();
            }
            if line.trim_start().starts_with("over_each(") {
                found.push(format!("{file}::{name}"));
            }
        }
    }
    found
}

#[test]
fn every_behaviour_has_a_test_and_every_test_a_behaviour() {
    let found = tests_over_each();
    assert!(found.len() > 30, "the tests were not found: {found:?}");
    for test in &found {
        assert!(
            of_test(test).is_some(),
            "{test} is not in common/behaviours.rs"
        );
    }
    for behaviour in SECTIONS.iter().flat_map(|section| section.behaviours) {
        assert!(
            found.iter().any(|test| test == behaviour.test),
            "there is no test {} that runs over each transport",
            behaviour.test
        );
    }
}
