//! Compiles the prelude, the part of the API that is written in Lua, to bytecode, and writes the table of its files.
//!
//! Parsing it takes 10 ms at the start of each VM, loading its bytecode 1 ms. The compiler is LuaJIT's own command,
//! which `yue-luajit` has built beside the library, with the same settings. Where it does not run, because this build
//! is for another machine, the table has the sources: the API is the same, and starts later.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Reads source, and writes bytecode with lines and names of variables, so that tracebacks are the same. The name is
/// that of the chunk.
const COMPILE: &str = "
local from, to, name = ...
local file = assert(io.open(from, 'rb'))
local code = string.dump(assert(loadstring(file:read '*a', name)))
file:close()
local out = assert(io.open(to, 'wb'))
out:write(code)
assert(out:close())
";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_LUA").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed=lua");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets it"));
    let compiler = env::var_os("DEP_YUE_LUAJIT_COMMAND").map(PathBuf::from);
    let entries = fs::read_dir(root.join("lua")).expect("the folder of the prelude");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "lua"));
    files.sort();
    let arms = files.iter().map(|path| {
        let name = path.file_stem().expect("a name").to_string_lossy();
        let code = out.join(format!("{name}.code"));
        if !compile(
            compiler.as_deref(),
            path,
            &code,
            &format!("=[yue]/{name}.lua"),
        ) {
            fs::copy(path, &code).expect("the build's folder can be written");
        }
        format!("    ({name:?}, include_bytes!({code:?})),\n")
    });
    let text = format!("&[\n{}]\n", arms.collect::<String>());
    fs::write(out.join("prelude.rs"), text).expect("the build's folder can be written");
}

/// Compiles a file; returns whether that was possible.
fn compile(compiler: Option<&Path>, from: &Path, to: &Path, name: &str) -> bool {
    let Some(compiler) = compiler else {
        return false;
    };
    let script = to.with_file_name("compile.lua");
    fs::write(&script, COMPILE).expect("the build's folder can be written");
    let ended = Command::new(compiler)
        .arg(&script)
        .arg(from)
        .arg(to)
        .arg(name)
        .output();
    match ended {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            println!(
                "cargo:warning=the prelude is parsed at each start: {}",
                text.trim()
            );
            false
        }
        // It is for another machine.
        Err(_) => false,
    }
}
