//! The ends of an agent, of its owners and its nodes: nothing is left, and whoever lives learns of it.

mod common;

use common::agents::{Agent, Home, YUE, assert_has, eventually, is_alive};
use common::drivers;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Stdio};

/// Starts an owner with a node; returns the owner's process and the node's.
fn owner_with_node(
    driver: &str,
    owner: &Home,
    place: &str,
    then: &str,
) -> (Child, u32, u32, BufReader<ChildStdout>) {
    let code = format!(
        "local kvs = yue.nalloc(target, 'kvs.lua', {{ lease = 30 }})
         say(yue.conn(kvs).node.pid) say(kvs.orphan()) {then}"
    );
    let mut child = owner
        .owner_command(YUE, driver, place, &code)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("an owner");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut number = || {
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        line.trim().parse().expect("a number")
    };
    let (node, orphan) = (number(), number());
    assert!(is_alive(node) && is_alive(orphan));
    (child, node, orphan, lines)
}

/// Reports the errors of the owner's pending call and of its next one.
const REPORT: &str = "
    local ok, e = pcall(kvs.block) say(e.type, e.msg)
    local ok, e = pcall(kvs.get, 1) say(e.type, e.msg)";

#[test]
fn a_killed_node_is_reported_by_its_agent_and_leaves_nothing() {
    for driver in drivers() {
        let owner = Home::new();
        let agent = Agent::known(&driver, &owner, &[]);
        let (mut child, node, orphan, mut lines) =
            owner_with_node(&driver, &owner, &agent.place, REPORT);
        // SAFETY: no memory is passed.
        unsafe { libc::kill(node as i32, libc::SIGKILL) };
        let mut text = String::new();
        lines.read_to_string(&mut text).expect("lines");
        assert_eq!(text.lines().count(), 2, "{text}");
        for line in text.lines() {
            assert_has(line, "ConnectionLostError");
            assert_has(line, "was killed by signal 9");
        }
        child.wait().expect("the owner ends");
        eventually("nothing is left", || {
            !is_alive(orphan) && agent.nodes() == 0
        });
        assert_has(&agent.log(), "was killed by signal 9");
    }
}

#[test]
fn a_killed_owner_leaves_nothing() {
    for driver in drivers() {
        let owner = Home::new();
        let agent = Agent::known(&driver, &owner, &[]);
        let (mut child, node, orphan, _lines) =
            owner_with_node(&driver, &owner, &agent.place, REPORT);
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
        eventually("nothing is left", || {
            !is_alive(node) && !is_alive(orphan) && agent.nodes() == 0
        });
    }
}

#[test]
fn a_killed_agent_leaves_nothing_and_its_owners_hear_of_it() {
    for driver in drivers() {
        let owner = Home::new();
        let mut agent = Agent::known(&driver, &owner, &[]);
        let (mut child, node, orphan, mut lines) =
            owner_with_node(&driver, &owner, &agent.place, REPORT);
        agent.child.kill().expect("it runs");
        agent.child.wait().expect("it has ended");
        eventually("nothing is left", || !is_alive(node) && !is_alive(orphan));
        let mut text = String::new();
        lines.read_to_string(&mut text).expect("lines");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.lines()
                .all(|line| line.starts_with("ConnectionLostError")),
            "{text}"
        );
        child.wait().expect("the owner ends");
    }
}

#[test]
fn an_agent_that_is_told_to_end_ends_its_nodes() {
    for driver in drivers() {
        let owner = Home::new();
        let mut agent = Agent::known(&driver, &owner, &[]);
        let (mut child, node, orphan, mut lines) =
            owner_with_node(&driver, &owner, &agent.place, REPORT);
        agent.signal(libc::SIGTERM);
        let status = agent.child.wait().expect("it ends");
        assert_eq!((status.code(), status.signal()), (Some(0), None));
        eventually("nothing is left", || !is_alive(node) && !is_alive(orphan));
        let mut text = String::new();
        lines.read_to_string(&mut text).expect("lines");
        assert!(
            text.lines()
                .all(|line| line.starts_with("ConnectionLostError")),
            "{text}"
        );
        child.wait().expect("the owner ends");
    }
}
