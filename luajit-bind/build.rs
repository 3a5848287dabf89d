//! Builds LuaJIT and the C shim, and tells Cargo how to link both.
//!
//! LuaJIT's source comes from `luajit-src`; nothing has to be installed but a C compiler and make. The shim reads
//! LuaJIT's private headers, so it must see the same configuration as LuaJIT's own files: the assert build (chosen when
//! debug assertions are on, that is in the dev profile) changes nothing in the layout, but adds checks to both.
//!
//! `mlua-sys` is used with its feature `external`, which means that it declares Lua's functions and links nothing. Both
//! libraries are linked whole: `mlua-sys` refers to functions that nothing here mentions, and a linker that reads its
//! archives once, from left to right, would have passed LuaJIT's by then.

use std::env;
use std::path::{Path, PathBuf};

/// Lua modules of LuaJIT that are useful on the machine that runs it: its listings and profiler.
const JIT_MODULES: &[&str] = &[
    "bc",
    "dis_arm64",
    "dis_x64",
    "dis_x86",
    "dump",
    "p",
    "v",
    "vmdef",
    "zone",
];

/// Writes a Rust file with the sources of LuaJIT's Lua modules, which its makefile would install.
fn embed_jit_modules(out: &Path) {
    let folder = out.join("luajit-build/src/jit");
    let entries = JIT_MODULES.iter().map(|name| {
        let path = folder.join(format!("{name}.lua"));
        format!("    (\"jit.{name}\", include_bytes!({path:?})),\n")
    });
    let text = format!("&[\n{}]\n", entries.collect::<String>());
    std::fs::write(out.join("jit_modules.rs"), text).expect("the build's folder can be written");
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");
    for name in [
        "HOST_CC",
        "STATIC_CC",
        "TARGET_LD",
        "TARGET_AR",
        "TARGET_STRIP",
        "CC",
        "CFLAGS",
        "TARGET_CFLAGS",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let debug = env::var_os("CARGO_CFG_DEBUG_ASSERTIONS").is_some();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    set_flags_of_target(&out);
    let artifacts = luajit_src::Build::new().debug(debug).build();

    // Compiles Lua to bytecode for the libraries built here. It may not run on the machine that builds.
    let command = out.join("luajit-build/src/luajit");
    println!("cargo:command={}", command.display());

    embed_jit_modules(&out);
    let mut shim = cc::Build::new();
    shim.file("shim/shim.c")
        .file("shim/values.c")
        .file("shim/where.c")
        .file("shim/interrupt.c")
        .file("shim/simulated.c")
        .include("shim")
        .include(out.join("luajit-build/src"));
    // Lua errors unwind through the shim's frames, so they need unwind tables.
    shim.flag("-funwind-tables")
        .flag("-fomit-frame-pointer")
        .opt_level(2)
        .warnings(true);
    if debug {
        shim.define("LUA_USE_ASSERT", None)
            .define("LUA_USE_APICHECK", None);
    }
    shim.cargo_metadata(false).compile("yue_shim");

    println!("cargo:rustc-link-search=native={}", out.display());
    println!(
        "cargo:rustc-link-search=native={}",
        artifacts.lib_dir().display()
    );
    println!("cargo:rustc-link-lib=static:+whole-archive=yue_shim");
    for library in artifacts.libs() {
        println!("cargo:rustc-link-lib=static:+whole-archive={library}");
    }
    // LuaJIT's own needs: libm, and libdl for `ffi.load`.
    if env::var("CARGO_CFG_UNIX").is_ok() {
        println!("cargo:rustc-link-lib=m");
        println!("cargo:rustc-link-lib=dl");
    }
}

/// Sets two things in LuaJIT that its makefile uses for the target's files alone.
///
/// Compiled code checks for a debug hook at the start of each trace and loop: this interrupts code which never waits
/// (see `shim/interrupt.c`). It is one load and a predicted branch; measured, it costs nothing except 2 % of the
/// tightest FFI loops.
///
/// Unwind tables of compiled code are registered as `shim/unwind.h` says.
fn set_flags_of_target(out: &Path) {
    std::fs::copy("shim/unwind.h", out.join("unwind.h"))
        .expect("the build's folder can be written");
    let before = env::var("TARGET_CFLAGS").unwrap_or_default();
    // The path from the folder in which make runs: the whole one may have spaces in it.
    let flags = format!("{before} -DLUAJIT_ENABLE_CHECKHOOK -include ../../unwind.h");
    // SAFETY: a build script has one thread.
    unsafe { env::set_var("TARGET_CFLAGS", flags) };
}
