//! Row 9: calls over TCP, Lua to Lua, each side one loop in a separate process.
//!
//! A call is `echo(x)` with a small integer; the caller checks the answer. Throughput is measured in a closed loop (a
//! number of fibers that call again as soon as they are answered). Latency is measured in an open loop, by a raw
//! generator that is the same for every server ([`crate::load::open`]). CPU seconds per million calls come from the
//! processes' own clocks.
//!
//! The ceiling is a raw echo: a handwritten client and server that move exactly the bytes of these calls, in the same
//! numbers, and check only their count.

use crate::ceilings::epoll_echo::Reply;
use crate::ceilings::ping_pong::{self, Wait};
use crate::harness::lua::{Calls, Runtime, client_settings, measure_client, tarantool_note};
use crate::harness::process::Running;
use crate::harness::processors::{Processors, Side};
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};
use crate::load::protocol::{Iproto, MsgpackRpc, Protocol};
use crate::load::{closed, open};

use super::served_load;

/// The duration of each measurement at full effort.
const SECONDS: f64 = 2.0;
/// Calls per second of the open loop: half of what the slowest peer can do here.
const OPEN_RATE: f64 = 50_000.0;
/// `[0, number, "echo", [1]]` with a number of five bytes.
pub(super) const REQUEST_BYTES: usize = 14;
/// `[1, number, nil, 1]`, likewise.
pub(super) const RESPONSE_BYTES: usize = 9;

const URING: &str = "yue (io_uring)";
const MIO: &str = "yue (mio)";

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 9,
        title: "fiber RPC over TCP, Lua to Lua",
        method: "One unit: a call of echo(x) and its checked answer; client and server are one loop each.",
        cases: vec![
            one_at_a_time(),
            in_flight(64),
            in_flight(1_000),
            in_flight(10_000),
            many_connections(),
            open_loop(),
        ],
        notes: tarantool_note().into_iter().collect(),
    }
}

fn case(name: &str, calls: Calls) -> Case {
    let by = |runtime: Runtime| move |effort| lua_to_lua(runtime, calls, effort);
    let case = Case::new(name, Unit::rate("calls/s"))
        .ours(URING, by(Runtime::YueUring))
        .ours(MIO, by(Runtime::YueMio))
        .peer("Tarantool", by(Runtime::Tarantool));
    #[cfg(feature = "peers")]
    let case = case.peer("tarpc (Rust to Rust)", move |effort| {
        super::tarpc_peer::measure(calls, effort)
    });
    case
}

/// Adds the ceilings, which move the same number of bytes without processing them.
pub fn raw_echo(case: Case, calls: Calls) -> Case {
    case.ceiling("raw echo, epoll", move |effort| {
        raw("rpc-echo-epoll", calls, effort)
    })
    .ceiling("raw echo, io_uring", move |effort| {
        raw("rpc-echo-uring", calls, effort)
    })
}

fn one_at_a_time() -> Case {
    let ping_pong =
        |wait| move |effort| ping_pong::tcp(effort, wait, REQUEST_BYTES, RESPONSE_BYTES);
    let blocking = "blocking ping-pong";
    // "At most 1.15 x the time" is "at least 1 / 1.15 x the rate".
    case(
        "one call at a time",
        Calls {
            connections: 1,
            in_flight: 1,
            seconds: SECONDS,
        },
    )
    .ceiling(blocking, ping_pong(Wait::Blocking))
    .ceiling("spinning ping-pong", ping_pong(Wait::Spinning))
    .goal_against(URING, blocking, 0.87)
}

fn in_flight(in_flight: usize) -> Case {
    let calls = Calls {
        connections: 1,
        in_flight,
        seconds: SECONDS,
    };
    let name = format!(
        "{} in flight on one connection",
        crate::harness::table::count(in_flight)
    );
    let case = raw_echo(case(&name, calls), calls);
    if in_flight < 1_000 {
        return case;
    }
    let original = "the original yue (2013)";
    case.seen(original, 1_100_000.0)
        .goal(URING, Against::Absolute, 2_500_000.0)
        .goal_against(URING, "Tarantool", 10.0)
        .goal_against(URING, original, 2.0)
}

fn many_connections() -> Case {
    let calls = Calls {
        connections: 1_000,
        in_flight: 1,
        seconds: SECONDS,
    };
    let original = "the original yue (2013)";
    raw_echo(case("1 000 connections x 1", calls), calls)
        .seen(original, 80_000.0)
        .goal_against(URING, "raw echo, io_uring", 0.95)
        .goal_against(MIO, "raw echo, epoll", 0.95)
        .goal_against(URING, original, 1.0)
}

fn open_loop() -> Case {
    let by = |runtime: Runtime| move |effort| open_to_lua(runtime, effort);
    let name = format!(
        "open loop, {} calls/s on one connection",
        crate::harness::table::count(OPEN_RATE as usize)
    );
    Case::new(name, Unit::time("µs, 99th percentile"))
        .ours(URING, by(Runtime::YueUring))
        .ours(MIO, by(Runtime::YueMio))
        .peer("Tarantool", by(Runtime::Tarantool))
}

/// Starts a server. Returns its process and port.
fn start_server(runtime: Runtime) -> Result<(Running, String), Problem> {
    let port = match runtime {
        // Tarantool cannot choose a port by itself; this one was free a moment ago.
        Runtime::Tarantool => crate::epoll::listen()?.local_addr()?.port().to_string(),
        _ => String::new(),
    };
    let mut command = runtime.command("rpc_server.lua", &[("PORT", port)])?;
    // Tarantool writes files to its working directory.
    let folder = std::env::temp_dir().join(format!("yue-figures-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    command.current_dir(&folder);
    let mut server =
        Running::start_bound(command, Processors::detect()?, Side::Server)?.with_folder(folder);
    let port = server.line_after("ready")?;
    Ok((server, port))
}

pub(super) fn lua_to_lua(
    runtime: Runtime,
    calls: Calls,
    effort: Effort,
) -> Result<Sample, Problem> {
    let (server, port) = start_server(runtime)?;
    let client = runtime.command("rpc_client.lua", &client_settings(calls, &port, effort))?;
    measure_client(client, Some(&server))
}

fn open_to_lua(runtime: Runtime, effort: Effort) -> Result<Sample, Problem> {
    match runtime {
        Runtime::Tarantool => open_to::<Iproto>(runtime, effort),
        _ => open_to::<MsgpackRpc>(runtime, effort),
    }
}

fn open_to<P: Protocol>(runtime: Runtime, effort: Effort) -> Result<Sample, Problem> {
    let (server, port) = start_server(runtime)?;
    let port: u16 = port
        .parse()
        .map_err(|_| Problem::failed(format!("not a port: {port:?}")))?;
    Processors::detect()?.bind(Side::Client)?;
    let seconds = effort.seconds(SECONDS);
    let mut before = std::time::Duration::ZERO;
    let sample = open::run::<P>(port, OPEN_RATE, seconds, || {
        before = server.cpu()?;
        Ok(())
    })?;
    let cpu = server.cpu()?.saturating_sub(before);
    Ok(sample.with(
        "server_cpu_s_per_million",
        cpu.as_secs_f64() / (OPEN_RATE * seconds) * 1e6,
    ))
}

fn raw(server: &str, calls: Calls, effort: Effort) -> Result<Sample, Problem> {
    // Few large buffers suit one connection with much data in flight, many small ones suit many connections.
    let server = match (server, calls.connections) {
        ("rpc-echo-uring", 1) => "rpc-echo-uring-large",
        (server, _) => server,
    };
    let plan = closed::Plan {
        connections: calls.connections,
        in_flight: calls.in_flight,
        request: vec![b'q'; REQUEST_BYTES],
        response: vec![b'r'; RESPONSE_BYTES],
        seconds: effort.seconds(calls.seconds),
    };
    served_load::load(server, &plan)
}

/// Runs the server of this name until the process ends. Returns `None` if this row has no such server.
pub fn serve(server: &str) -> Option<Result<(), Problem>> {
    use crate::ceilings::{epoll_echo, uring_echo};
    let shape = match server {
        "rpc-echo-epoll" => None,
        "rpc-echo-uring" => Some(uring_echo::MANY_SMALL),
        "rpc-echo-uring-large" => Some(uring_echo::FEW_LARGE),
        #[cfg(feature = "peers")]
        "rpc-tarpc" => return Some(super::tarpc_peer::serve()),
        #[cfg(feature = "peers")]
        "ws-tungstenite" => return Some(super::websocket_peers::serve()),
        _ => return None,
    };
    let reply = Reply::Each {
        request: REQUEST_BYTES,
        response: vec![b'r'; RESPONSE_BYTES],
    };
    let by_hand = || {
        let listener = crate::epoll::listen()?;
        served_load::ready(listener.local_addr()?.port())?;
        match shape {
            Some(shape) => uring_echo::serve(&listener, &reply, shape)?,
            None => epoll_echo::serve(&listener, &reply)?,
        };
        Ok(())
    };
    Some(by_hand())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_raw_echo_moves_as_many_bytes_as_a_call() {
        let mut request = Vec::new();
        MsgpackRpc::request(u32::MAX, &mut request);
        assert_eq!(request.len(), REQUEST_BYTES);
        let response = [0x94, 1, 0xce, 0xff, 0xff, 0xff, 0xff, 0xc0, 1];
        assert_eq!(
            MsgpackRpc::answer(&response).ok(),
            Some(Some((u32::MAX, RESPONSE_BYTES)))
        );
    }
}
