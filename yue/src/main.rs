//! The `yue` command.
fn main() {}
