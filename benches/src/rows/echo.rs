//! Row 7: TCP echo of 64-byte messages over 1, 100 and 1 000 connections, and over a new connection for each message
//! (`churn.rs`).
//!
//! The server is a separate process with one loop (one working thread). The load generator is the same raw epoll client
//! for all servers. It runs in the measuring process, with one message in flight per connection, and checks every byte.
//! Each side has its own processor if there are two. The server's CPU time per message comes from its process's clock.

use yue_io::Choice;

use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

use super::echo_yue::{self, Way};
use super::served_load::{SECONDS, load, plan, ready};

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 7,
        title: "TCP echo, one loop",
        method: "One unit: 64 bytes to the server and back; one message in flight per connection.",
        cases: vec![
            case("1 connection", 1),
            case("100 connections", 100),
            case("1 000 connections", 1_000),
            super::churn::case(),
        ],
        notes: Vec::new(),
    }
}

fn case(name: &str, connections: usize) -> Case {
    const URING: &str = "yue (io_uring)";
    const MIO: &str = "yue (mio)";
    let by = |server: &'static str| move |effort| measure(server, connections, effort);
    let case = Case::new(name, Unit::rate("messages/s"))
        .ours(URING, by("echo-yue-uring"))
        .ours(MIO, by("echo-yue-mio"))
        .ours("yue, no fiber (io_uring)", by("echo-yue-owned-uring"))
        .ours("yue, no fiber (mio)", by("echo-yue-owned-mio"));
    #[cfg(feature = "peers")]
    let case = case
        .peer("tokio (current thread)", by("echo-tokio"))
        .peer("may (one worker)", by("echo-may"))
        .peer("monoio (io_uring)", by("echo-monoio"))
        .peer("compio (io_uring)", by("echo-compio"))
        .peer("glommio (io_uring)", by("echo-glommio"));
    case.ceiling("epoll by hand", by("echo-epoll"))
        .ceiling("io_uring by hand", by("echo-uring"))
        .goal_against(URING, "io_uring by hand", 0.95)
        .goal_against(MIO, "epoll by hand", 0.95)
        .goal(URING, Against::EveryPeer, 1.0)
        .goal(MIO, Against::EveryPeer, 1.0)
}

/// Loads one server of this row, in a separate process.
fn measure(server: &str, connections: usize, effort: Effort) -> Result<Sample, Problem> {
    load(server, &plan(connections, effort.seconds(SECONDS)))
}

/// Runs the server of this name until the process ends. Returns `None` if this row has no such server.
pub fn serve(server: &str) -> Option<Result<(), Problem>> {
    use crate::ceilings::{epoll_echo, uring_echo};
    let by_hand = |uring: bool| {
        let listener = crate::epoll::listen()?;
        ready(listener.local_addr()?.port())?;
        let same = epoll_echo::Reply::Same;
        match uring {
            true => uring_echo::serve(&listener, &same, uring_echo::MANY_SMALL)?,
            false => epoll_echo::serve(&listener, &same)?,
        };
        Ok(())
    };
    let ours = |choice, way| Some(echo_yue::serve(choice, way));
    match server {
        "echo-yue-uring" => ours(Choice::Uring, Way::Fiber),
        "echo-yue-mio" => ours(Choice::Mio, Way::Fiber),
        "echo-yue-owned-uring" => ours(Choice::Uring, Way::Owned),
        "echo-yue-owned-mio" => ours(Choice::Mio, Way::Owned),
        "echo-epoll" => Some(by_hand(false)),
        "echo-uring" => Some(by_hand(true)),
        _ => peer(server.strip_prefix("echo-")?),
    }
}

#[cfg(feature = "peers")]
fn peer(name: &str) -> Option<Result<(), Problem>> {
    super::echo_peers::serve(name, super::echo_peers::Life::Long)
}

#[cfg(not(feature = "peers"))]
fn peer(_: &str) -> Option<Result<(), Problem>> {
    None
}
