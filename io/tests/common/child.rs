//! Runs a test's body in a child process: the test binary, started again for that one test.

#![allow(dead_code)] // Each test binary uses only a part of this module.

use std::process::{Command, Output};

const MARK: &str = "YUE_TEST_CHILD";

/// Whether this is the child that runs `test`.
fn is_child(test: &str) -> bool {
    std::env::var(MARK).as_deref() == Ok(test)
}

fn command(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, test);
    command
}

/// Runs `body` in the child. In the parent, starts the child and requires that it succeeds.
pub fn in_child(test: &str, body: impl FnOnce()) {
    child_output(test, |_| {}, body);
}

/// Like [`in_child`]; `prepare` may change how the child is started. Returns the child's standard error in the parent,
/// and `None` in the child.
pub fn child_output(
    test: &str,
    prepare: impl FnOnce(&mut Command),
    body: impl FnOnce(),
) -> Option<String> {
    if is_child(test) {
        body();
        return None;
    }
    let mut command = command(test);
    prepare(&mut command);
    let Output {
        status,
        stderr,
        stdout,
    } = command.output().unwrap();
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert!(
        status.success(),
        "{status}: {text}{}",
        String::from_utf8_lossy(&stdout)
    );
    Some(text)
}
