//! Links the command under test as the command itself is linked (see `command/build.rs`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bin=yue-under-test=-rdynamic");
}
