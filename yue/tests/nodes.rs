//! The example `nodes`, a program that allocates nodes of itself.

use std::path::PathBuf;
use std::process::Command;

/// The example, which Cargo builds together with the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.parent().and_then(|deps| deps.parent());
    let path = folder.expect("a target folder").join("examples/nodes");
    assert!(
        path.exists(),
        "`cargo build --workspace --example nodes` makes {}",
        path.display()
    );
    path
}

#[test]
fn a_program_allocates_nodes_of_itself_and_outlives_them() {
    for driver in ["uring", "mio"] {
        let output = Command::new(example())
            .env("YUE_IO", driver)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        if driver == "uring" && errors.contains("io_uring") {
            continue; // This machine refuses it.
        }
        assert!(output.status.success(), "{text}{errors}");
        let expected = [
            "9592 primes below 100000",
            "the connection was lost before the answer came: node 5 (primes on this machine) was killed by signal 6",
            "node 2 counts 4",
            "cannot allocate a node for nothing on this machine, while waiting for the node's first message: node 6 \
             (nothing on this machine) ended with status 1",
            "Its last lines:",
            "  yue: this process cannot be a node: this program has no entry 'nothing'",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
