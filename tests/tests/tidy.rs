//! Rules of style that a machine can check.

use std::fs;
use std::path::{Path, PathBuf};

/// A file past this has more than one subject.
const LINES_MAX: usize = 800;
/// What fits beside a second window.
const COLUMNS_MAX: usize = 120;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                files(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root(), &[".rs", ".lua", ".c", ".h"], &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Collects `path:line: what` for every line that breaks a rule.
fn complaints(rule: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut all = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if let Some(what) = rule(line) {
                all.push(format!("{}:{}: {what}", path.display(), number + 1));
            }
        }
    }
    all
}

fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn no_line_is_too_long() {
    assert_none(complaints(|line| {
        let columns = line.chars().count();
        (columns > COLUMNS_MAX).then(|| format!("{columns} columns"))
    }));
}

#[test]
fn no_file_is_too_long() {
    let long = sources()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, n)| *n > LINES_MAX);
    assert_none(
        long.map(|(path, lines)| format!("{}: {lines} lines", path.display()))
            .collect(),
    );
}

#[test]
fn every_file_begins_by_saying_what_it_is_about() {
    let silent = sources().into_iter().filter(|(_, text)| {
        let first = text
            .lines()
            .find(|line| !line.starts_with("#!") && !line.is_empty())
            .unwrap_or("");
        !["//!", "--", "/*"]
            .iter()
            .any(|opening| first.starts_with(opening))
    });
    assert_none(silent.map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn nothing_unfinished_is_left() {
    // In two parts, so that this file does not find itself.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["dbg", "!("],
    ]
    .map(|w| w.concat());
    assert_none(complaints(|line| {
        words.iter().find(|word| line.contains(*word)).cloned()
    }));
}

#[test]
fn only_the_clock_asks_the_system_for_the_time() {
    let word = ["Instant", "::now()"].concat();
    let crates = [
        "queue/src",
        "scheduler/src",
        "io/src",
        "luajit-bind/src",
        "rpc/src",
    ]
    .map(|name| root().join(name));
    let found = sources()
        .into_iter()
        .filter(|(path, _)| crates.iter().any(|folder| path.starts_with(folder)));
    let found = found.filter(|(_, text)| text.contains(&word));
    assert_none(found.map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn one_file_knows_the_stack_switch() {
    let word = ["corosensei", "::"].concat();
    let users: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| path.starts_with(root().join("scheduler")) && text.contains(&word))
        .map(|(path, _)| path.strip_prefix(root()).unwrap().to_path_buf())
        .collect();
    assert_eq!(users, [Path::new("scheduler/src/fiber/switch.rs")]);
}

#[test]
fn the_readme_shows_the_rust_example_as_it_is() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let example = fs::read_to_string(root().join("examples/echo.rs")).unwrap();
    let code: Vec<&str> = example
        .lines()
        .skip_while(|line| line.starts_with("//!"))
        .collect();
    let block = format!("```rust,no_run\n{}\n```", code.join("\n").trim());
    assert!(
        readme.contains(&block),
        "README.md shows another program than examples/echo.rs"
    );
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut pages = Vec::new();
    files(&root(), &[".md"], &mut pages);
    let mut dead = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or("");
            if file.is_empty() || file.contains("://") {
                continue;
            }
            if !page.parent().unwrap().join(file).exists() {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert_none(dead);
}
