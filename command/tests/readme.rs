//! The example in the README, run by the command.

use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs, process};

/// The text of the README's first block of Lua.
fn example() -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("the README can be read");
    let (_, after) = readme.split_once("```lua\n").expect("a block of Lua");
    let (block, _) = after.split_once("```").expect("the end of the block");
    block.to_owned()
}

#[test]
fn the_example_says_hello() {
    let script = env::temp_dir().join(format!("yue-readme-{}.lua", process::id()));
    fs::write(&script, example()).expect("the example can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_yue"))
        .arg(&script)
        .stdin(Stdio::null())
        .output()
        .expect("the yue command runs");
    fs::remove_file(&script).expect("the example can be removed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), &*output.stdout, &*stderr),
        (Some(0), &b"hello world\n"[..], "")
    );
}
