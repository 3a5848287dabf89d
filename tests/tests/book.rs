//! The Lua programs of the book and of the README run, on both drivers, and print what they show.
//!
//! A block that begins with ` ```lua ` is a whole program. Each comment `--> text` in it is one line of its output, in
//! order; `…` in the text stands for anything. A block that begins with ` ```lua,fragment ` cannot run alone: it is
//! only compiled.

mod common;

use common::{Program, drivers, root, run};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// A block of Lua, with its location for messages.
struct Block {
    location: String,
    is_fragment: bool,
    code: String,
}

/// All pages of the book, in folders too.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
}

fn book() -> Vec<PathBuf> {
    let mut found = Vec::new();
    pages(&root().join("docs/src"), &mut found);
    found.sort();
    found
}

/// The blocks of Lua of a page.
fn blocks(page: &Path) -> Vec<Block> {
    let text = fs::read_to_string(page).unwrap();
    let name = page.strip_prefix(root()).unwrap().display().to_string();
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let opening = line.strip_prefix("```lua");
        if let (false, Some(kind @ ("" | ",fragment"))) = (inside, opening) {
            inside = true;
            found.push(Block {
                location: format!("{name}:{}", number + 1),
                is_fragment: !kind.is_empty(),
                code: String::new(),
            });
        } else if inside && line == "```" {
            inside = false;
        } else if inside {
            let code = &mut found.last_mut().unwrap().code;
            code.push_str(line);
            code.push('\n');
        } else {
            assert!(opening.is_none(), "{name}:{}: {line}", number + 1);
        }
    }
    assert!(!inside, "{name}: a block does not end");
    found
}

/// The lines that the program should print.
fn expected_lines(code: &str) -> Vec<&str> {
    code.lines()
        .filter_map(|line| line.split_once("-->"))
        .map(|(_, text)| text)
        .collect()
}

/// Whether `line` is what `expected` shows. `print` separates values by tabs, the book by spaces.
fn is_shown(line: &str, expected: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, expected) = (words(line), words(expected));
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some(part) => part.is_empty() || line.ends_with(part),
    }
}

/// What is wrong with a run of the block; nothing if it printed what it shows.
fn fault(block: &Block, number: usize) -> Option<String> {
    if block.is_fragment {
        let program = Program::new(&format!("fragment-{number}"), &block.code);
        let check = format!("assert(loadfile('{}'))", program.name());
        let outcome = run(common::yue().args(["-e", &check]));
        return (outcome.code() != 0).then(|| outcome.stderr.clone());
    }
    let program = Program::new(&format!("book-{number}"), &block.code);
    let expected = expected_lines(&block.code);
    drivers().into_iter().find_map(|driver| {
        let outcome = run(program.command().env("YUE_IO", driver));
        let printed: Vec<&str> = outcome.stdout.lines().collect();
        let is_same = printed.len() == expected.len()
            && printed
                .iter()
                .zip(&expected)
                .all(|(line, expected)| is_shown(line, expected));
        let is_fine = outcome.code() == 0 && is_same;
        (!is_fine).then(|| format!("on {driver} it shows {expected:#?}, but {outcome:#?}"))
    })
}

#[test]
fn every_lua_program_of_the_book_prints_what_it_shows() {
    let mut number = 0;
    let mut faults = Vec::new();
    for page in book() {
        for block in blocks(&page) {
            number += 1;
            if let Some(fault) = fault(&block, number) {
                faults.push(format!("{}: {fault}", block.location));
            }
        }
    }
    assert!(number > 20, "the programs were not found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The README's first program is a server and a client. Here both run in one process, at a free port.
#[test]
fn the_readmes_first_program_prints_its_greeting() {
    let readme = root().join("README.md");
    let first = blocks(&readme).remove(0);
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert!(first.code.contains("127.0.0.1:8080"));
    let code = first.code.replace(":8080", &format!(":{port}"));
    let code = format!("{code}\nyue.die()\n");
    let outcome = run(&mut Program::new("readme", &code).command());
    let expected = expected_lines(&first.code);
    assert_eq!(expected.len(), 1, "{}", first.code);
    let lines = outcome.lines();
    assert!(
        lines.len() == 1 && is_shown(lines[0], expected[0]),
        "{outcome:#?}"
    );
}

#[test]
fn expected_output_is_compared_word_by_word_and_an_ellipsis_stands_for_anything() {
    for (line, expected) in [
        ("false\tNoMethodError: x", " false NoMethodError: …"),
        ("a client has gone: it left", "a client has gone: …"),
        ("1\t2", "1 2"),
        ("a b c", "a … c"),
    ] {
        assert!(is_shown(line, expected), "{line} {expected}");
    }
    for (line, expected) in [("1\t2", "1"), ("a b c", "a … d"), ("", "x"), ("ab", "a")] {
        assert!(!is_shown(line, expected), "{line} {expected}");
    }
    assert_eq!(
        expected_lines("print(1)  --> 1\n-- no\n--> 2"),
        [" 1", " 2"]
    );
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let folder = root().join("docs/src");
    let summary = fs::read_to_string(folder.join("SUMMARY.md")).unwrap();
    for page in book() {
        let name = page.strip_prefix(&folder).unwrap().display().to_string();
        let count = summary.matches(&format!("]({name})")).count();
        let expected = usize::from(name != "SUMMARY.md");
        assert_eq!(count, expected, "{name} in SUMMARY.md");
    }
}
