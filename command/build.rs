//! Makes Lua's C functions part of the command's dynamic symbols, where C modules of Lua look for them. Lists the Lua
//! scripts that `tests/lua.rs` runs.

use std::path::Path;
use std::{env, fs};

/// The package has no such folder.
const SCRIPTS: &str = "../yue/tests/lua";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-rdynamic");
    println!("cargo:rerun-if-changed={SCRIPTS}");
    let folder = env::var("OUT_DIR").expect("Cargo sets OUT_DIR");
    let file = Path::new(&folder).join("scripts.rs");
    fs::write(file, tests()).expect("OUT_DIR can be written");
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
