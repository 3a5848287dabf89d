//! Makes Lua's C functions part of the command's dynamic symbols, where C modules of Lua look for them. Lists the Lua
//! scripts that `tests/lua.rs` runs. Embeds the templates of `yue new`: `templates/` links to the repository's
//! examples, and a package has copies of them there.
//!
//! A changed example does not build the command again: whoever tries the README changes one, and would wait for
//! minutes. After a change that `yue new` should have, touch this file.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The package has no such folder.
const SCRIPTS: &str = "../yue/tests/lua";

const TEMPLATES: &str = "templates";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-rdynamic");
    println!("cargo:rerun-if-changed={SCRIPTS}");
    let folder = env::var("OUT_DIR").expect("Cargo sets OUT_DIR");
    let file = Path::new(&folder).join("scripts.rs");
    fs::write(file, tests()).expect("OUT_DIR can be written");
    let file = Path::new(&folder).join("templates.rs");
    fs::write(file, templates(Path::new(&folder))).expect("OUT_DIR can be written");
}

/// The source of the constant `TEMPLATES`: names, and for each the paths and contents of its files.
fn templates(out: &Path) -> String {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("Cargo sets it")).join(TEMPLATES);
    // Copies: the compiler would watch the files that it embeds.
    let copies = out.join(TEMPLATES);
    let _ = fs::remove_dir_all(&copies);
    let mut source = "type Files = &'static [(&'static str, &'static [u8])];\n".to_owned();
    source.push_str("const TEMPLATES: &[(&str, Files)] = &[\n");
    for (name, folder) in entries(&root) {
        let _ = writeln!(source, "    ({name:?}, &[");
        let copy = copies.join(&name);
        fs::create_dir_all(&copy).expect("OUT_DIR can be written");
        add_files(&folder, &copy, "", &ignored(&folder), &mut source);
        source.push_str("    ]),\n");
    }
    source.push_str("];\n");
    source
}

/// The names and paths in a folder, sorted; links are followed.
fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let found =
        found.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    let mut found: Vec<_> = found.filter(|(_, path)| path.exists()).collect();
    found.sort_unstable();
    found
}

/// The beginnings of the paths that a template's `.gitignore` names: an example that has run leaves such files behind.
/// Only patterns like `/scores.json*` are understood.
fn ignored(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join(".gitignore")).unwrap_or_default();
    let patterns = text.lines().filter_map(|line| line.strip_prefix('/'));
    patterns
        .map(|pattern| pattern.trim_end_matches('*').to_owned())
        .collect()
}

/// Copies the files of a folder, and of those in it, and adds them to the source. `before` is the folder's path in its
/// template.
fn add_files(folder: &Path, copy: &Path, before: &str, ignored: &[String], source: &mut String) {
    for (name, path) in entries(folder) {
        let inner = format!("{before}{name}");
        if ignored.iter().any(|beginning| inner.starts_with(beginning)) {
            continue;
        }
        let copy = copy.join(&name);
        if path.is_dir() {
            fs::create_dir_all(&copy).expect("OUT_DIR can be written");
            add_files(&path, &copy, &format!("{inner}/"), ignored, source);
        } else {
            fs::copy(&path, &copy).expect("OUT_DIR can be written");
            let _ = writeln!(source, "        ({inner:?}, include_bytes!({copy:?})),");
        }
    }
}

/// The source of one test for each script.
fn tests() -> String {
    let mut names: Vec<String> = match fs::read_dir(SCRIPTS) {
        Ok(files) => files
            .filter_map(|file| file.ok()?.file_name().into_string().ok())
            .filter_map(|file| file.strip_suffix(".lua").map(str::to_owned))
            .collect(),
        Err(_) => Vec::new(),
    };
    names.sort_unstable();
    let tests = names
        .iter()
        .map(|name| format!("#[test]\nfn {name}() {{\n    check(\"{name}\");\n}}\n"));
    tests.collect()
}
