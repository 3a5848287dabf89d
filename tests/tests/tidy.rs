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
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
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

/// The folders whose text is plain English already (see CONTRIBUTING.md). Add a folder once its text is plain.
const PLAIN_FOLDERS: [&str; 11] = [
    "io",
    "benches",
    "command",
    "queue",
    "scheduler/src",
    "fuzz",
    "luajit-bind",
    "rpc",
    "wire",
    "yue/lua",
    "yue/src",
];

/// Words that do not begin the first line of an item's or a file's documentation: a noun or a verb does.
const HEADLESS: [&str; 10] = [
    "Has", "How", "Of", "So", "What", "When", "Where", "Which", "Who", "Why",
];

/// Phrases that have a plain counterpart in CONTRIBUTING.md.
const DRIFTED: [&str; 21] = [
    "all the same",
    "are no ",
    "are over",
    "as ever",
    "asked anew",
    "at the most",
    "for ever",
    "go on",
    "goes on",
    "is no ",
    "is over",
    "is through",
    "is to be had",
    "lets go of",
    "of ours",
    "passed on to the caller",
    "the most that",
    "the other side",
    "the own ",
    "told to stop",
    "was told",
];

/// Phrases that contain a drifted one and are plain.
const PLAIN: [&str; 6] = [
    "there is no ",
    "there are no ",
    "is no longer",
    "are no longer",
    "There is no ",
    "There are no ",
];

/// Says what is not plain about a line of a source file; `before` is the line above it.
fn what_is_drifted(before: &str, line: &str) -> Option<String> {
    let (before, line) = (before.trim(), line.trim());
    for marker in ["///", "//!"] {
        let Some(text) = line.strip_prefix(marker) else {
            continue;
        };
        let mut words = text.trim().split(' ');
        let (first_word, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        // "As [`read`], but…"; "As many as fit" is plain.
        let compares = first_word == "As" && !["many", "much"].contains(&second);
        if !before.starts_with(marker) && (compares || HEADLESS.contains(&first_word)) {
            return Some(format!("documentation begins with {first_word:?}"));
        }
    }
    let mut text = line.to_owned();
    for plain in PLAIN {
        text = text.replace(plain, "");
    }
    let found = DRIFTED.iter().find(|phrase| contains_phrase(&text, phrase));
    found.map(|phrase| format!("{:?} (see CONTRIBUTING.md)", phrase.trim()))
}

/// Whether `text` has the phrase at the boundaries of words.
fn contains_phrase(text: &str, phrase: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(phrase).any(|(at, _)| {
        let end = at + phrase.len();
        let follows = text[end..].chars().next();
        !is_letter(text[..at].chars().next_back()) && (phrase.ends_with(' ') || !is_letter(follows))
    })
}

#[test]
fn text_is_plain_english_where_it_is_so_already() {
    let folders = PLAIN_FOLDERS.map(|name| root().join(name));
    let mut all = Vec::new();
    for (path, text) in sources() {
        if !folders.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let mut before = "";
        for (number, line) in text.lines().enumerate() {
            if let Some(what) = what_is_drifted(before, line) {
                all.push(format!("{}:{}: {what}", path.display(), number + 1));
            }
            before = line;
        }
    }
    assert_none(all);
}

#[test]
fn drifted_lines_are_found_and_plain_ones_are_not() {
    for (before, line) in [
        ("", "/// Who waits for which completion."),
        ("struct A;", "    //! What the session says"),
        ("", "// a message of 64 bytes at the most"),
        ("", "\"the peer is no yue\""),
        ("", "// the loop goes on"),
        ("}", "/// As [`read`], with a limit."),
    ] {
        assert!(what_is_drifted(before, line).is_some(), "{line}");
    }
    for (before, line) in [
        ("", "/// Maps completions to waiting operations."),
        (
            "/// Serves until the listener is closed, and",
            "/// What follows is an error.",
        ),
        ("", "// there is no such file"),
        ("", "// it is no longer used"),
        ("", "/// As many answers as fit into one buffer."),
        ("", "// an algorithm that is nowhere overridden"),
        ("", "let ego_on = 1;"),
    ] {
        assert_eq!(what_is_drifted(before, line), None, "{line}");
    }
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
fn no_name_inside_the_prelude_has_two_meanings() {
    let mut seen = std::collections::HashMap::new();
    let mut complaints = Vec::new();
    for (path, text) in sources() {
        if path.parent() != Some(&root().join("yue/lua")) {
            continue;
        }
        for line in text.lines() {
            let rest = line.strip_prefix("function ").unwrap_or(line);
            let Some(rest) = rest.strip_prefix("internal.") else {
                continue;
            };
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            let (name, rest) = rest.split_at(end.unwrap_or(rest.len()));
            // A definition: an assignment, or a function; not a method of what the name stands for.
            let is_function = line.starts_with("function ") && rest.starts_with('(');
            if !is_function && !rest.starts_with(" =") {
                continue;
            }
            if let Some(other) = seen.insert(name.to_owned(), path.clone())
                && other != path
            {
                let (one, two) = (other.display(), path.display());
                complaints.push(format!("{one} and {two} both define internal.{name}"));
            }
        }
    }
    assert!(seen.len() > 50, "the definitions are found: {}", seen.len());
    assert_none(complaints);
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

/// All pages in Markdown, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&root(), &[".md"], &mut found);
    found
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// The name by which a link reaches a heading: lower case, hyphens for spaces, no punctuation.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading
        .chars()
        .filter(kept)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut dead = Vec::new();
    for (page, text) in pages() {
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => page.clone(),
                _ => page.parent().unwrap().join(file),
            };
            let is_alive = if heading.is_empty() {
                path.exists()
            } else {
                fs::read_to_string(&path).is_ok_and(|text| {
                    let mut headings = text.lines().filter(|line| line.starts_with('#'));
                    headings.any(|line| anchor(line) == heading)
                })
            };
            if !is_alive {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert_none(dead);
}

#[test]
fn pages_are_plain_english() {
    let mut all = Vec::new();
    for (path, text) in pages() {
        // It lists drifted phrases beside plain ones.
        if path.ends_with("CONTRIBUTING.md") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(what) = what_is_drifted("", line) {
                all.push(format!("{}:{}: {what}", path.display(), number + 1));
            }
        }
    }
    assert_none(all);
}

/// The folders of the crates that are published.
const PUBLISHED: [&str; 8] = [
    "queue",
    "scheduler",
    "io",
    "wire",
    "luajit-bind",
    "rpc",
    "yue",
    "command",
];

/// The manifests of all crates, with the names of their folders.
fn manifests() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root()).unwrap() {
        let folder = entry.unwrap().path();
        if let Ok(text) = fs::read_to_string(folder.join("Cargo.toml")) {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            found.push((name, text));
        }
    }
    assert!(found.len() > PUBLISHED.len(), "the crates were not found");
    found
}

#[test]
fn every_crate_supports_the_same_oldest_compiler() {
    let other = manifests()
        .into_iter()
        .filter(|(_, text)| !text.contains("rust-version.workspace = true\n"));
    assert_none(other.map(|(name, _)| name).collect());
}

#[test]
fn every_published_crate_has_what_a_registry_shows() {
    let fields = [
        "\ndescription = \"",
        "\nlicense.workspace = true\n",
        "\nrepository.workspace = true\n",
        "\nkeywords = [",
        "\ncategories = [",
    ];
    let mut missing = Vec::new();
    for (name, text) in manifests() {
        let published = PUBLISHED.contains(&name.as_str());
        if published == text.contains("\npublish = false\n") {
            missing.push(format!("{name}: published, or not?"));
        }
        if !published {
            continue;
        }
        let absent = fields.iter().filter(|field| !text.contains(**field));
        missing.extend(absent.map(|field| format!("{name}: no {}", field.trim())));
        let folder = root().join(&name);
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            if fs::read(folder.join(licence)).ok() != fs::read(root().join(licence)).ok() {
                missing.push(format!("{name}: {licence}"));
            }
        }
        let readme = fs::read_to_string(folder.join("README.md")).unwrap_or_default();
        if !readme.contains("\n```rust\n") && !readme.contains("\n```lua\n") {
            missing.push(format!("{name}: no README.md with an example"));
        }
    }
    assert_none(missing);
}
