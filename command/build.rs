//! Makes Lua's C functions part of the command's dynamic symbols: C modules of Lua look for them there.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-rdynamic");
}
