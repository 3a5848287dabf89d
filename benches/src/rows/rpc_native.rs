//! Row 11: calls over TCP, Rust to Rust, each side one loop in a separate process: the cost of the RPC layer without
//! Lua.
//!
//! Handler and caller decode and encode the integer themselves, as the Lua side does. Otherwise like row 9.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use yue_io::Choice;
use yue_rpc::session::{Call, Reply, Service, Session};
use yue_rpc::{Address, Error, ErrorKind, Listener, Options, Timeout, transport};
use yue_scheduler::{Config, Loop, sleep, spawn};

use super::served_load::ready;
use crate::harness::lua::Calls;
use crate::harness::process::{Running, cpu_of, own_program};
use crate::harness::processors::{Processors, Side};
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

/// The duration of each measurement at full effort.
const SECONDS: f64 = 2.0;

const URING: &str = "yue (io_uring)";
const MIO: &str = "yue (mio)";

/// Returns the row.
pub fn row() -> Row {
    Row {
        number: 11,
        title: "fiber RPC over TCP, Rust to Rust",
        method: "One unit: a call of echo(x) and its checked answer; client and server are one loop each.",
        cases: vec![
            case("64 in flight on one connection", 1, 64),
            thousand(),
            case("1 000 connections x 1", 1_000, 1),
        ],
        notes: Vec::new(),
    }
}

fn thousand() -> Case {
    case("1 000 in flight on one connection", 1, 1_000).goal(URING, Against::Absolute, 4_000_000.0)
}

fn case(name: &str, connections: usize, in_flight: usize) -> Case {
    let calls = Calls {
        connections,
        in_flight,
        seconds: SECONDS,
    };
    let case = Case::new(name, Unit::rate("calls/s"))
        .ours(URING, move |effort| {
            measure(Choice::Uring, "tcp", calls, effort)
        })
        .ours(MIO, move |effort| {
            measure(Choice::Mio, "tcp", calls, effort)
        });
    #[cfg(feature = "peers")]
    let case = case.peer("tarpc", move |effort| {
        super::tarpc_peer::measure(calls, effort)
    });
    super::rpc_tcp::raw_echo(case, calls)
}

/// Runs the server of this name until the process ends. Returns `None` if this row has no such server.
pub fn serve(server: &str) -> Option<Result<(), Problem>> {
    let (driver, scheme) = server.strip_prefix("rpc-native-")?.split_once('-')?;
    match driver {
        "uring" => Some(serve_on(Choice::Uring, scheme)),
        "mio" => Some(serve_on(Choice::Mio, scheme)),
        _ => None,
    }
}

fn serve_on(choice: Choice, scheme: &str) -> Result<(), Problem> {
    let address = address(scheme, 0)?;
    let config = Config {
        driver: yue_io::driver(choice)?,
        ..Config::default()
    };
    Loop::new(config)?.run(move || {
        let service = Service::new(Rc::new(|call: &mut Call, reply: Reply| {
            match integer(call.params().bytes) {
                Ok(value) => reply.results(|out| write_integer(out, value)),
                Err(_) => reply.no_method(call),
            }
        }));
        let listener = Listener::bind(&address, service, Options::default()).map_err(failed)?;
        match listener.address().host_and_port() {
            Some((_, port)) => ready(port)?,
            None => {
                return Err(Problem::failed(format!(
                    "an address without a port: {address}"
                )));
            }
        }
        loop {
            sleep(Duration::from_secs(3_600))
                .map_err(|stopped| Problem::failed(stopped.to_string()))?;
        }
    })
}

fn address(scheme: &str, port: u16) -> Result<Address, Problem> {
    format!("{scheme}://127.0.0.1:{port}")
        .parse()
        .map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::failed(error.to_string())
}

fn integer(bytes: &[u8]) -> Result<i64, Error> {
    let mut rest = bytes;
    rmp::decode::read_int(&mut rest).map_err(|_| Error::new(ErrorKind::Argument, "not an integer"))
}

fn write_integer(out: &mut Vec<u8>, value: i64) -> Result<u32, Error> {
    let written = rmp::encode::write_sint(out, value);
    written
        .map(|_| 1)
        .map_err(|_| Error::new(ErrorKind::Argument, "not an integer"))
}

/// Measures calls per second over the transport of that scheme.
pub(super) fn measure(
    choice: Choice,
    scheme: &'static str,
    calls: Calls,
    effort: Effort,
) -> Result<Sample, Problem> {
    let driver = if choice == Choice::Mio {
        "mio"
    } else {
        "uring"
    };
    let name = format!("rpc-native-{driver}-{scheme}");
    let processors = Processors::detect()?;
    let mut server =
        Running::start_bound(own_program(&["serve", &name])?, processors, Side::Server)?;
    processors.bind(Side::Client)?;
    let port = server.port()?;
    let config = Config {
        driver: yue_io::driver(choice)?,
        ..Config::default()
    };
    let address = address(scheme, port)?;
    Loop::new(config)?.run(move || load(&address, calls, effort.seconds(calls.seconds), &server))
}

fn load(
    address: &Address,
    calls: Calls,
    seconds: f64,
    server: &Running,
) -> Result<Sample, Problem> {
    let answered = Rc::new(Cell::new(0_u64));
    let connector = transport::connector(address);
    for connection in 0..calls.connections {
        let session = Session::open(Rc::clone(&connector), Service::none(), Options::default());
        // The first call connects; all sessions are connected before calls count.
        echo(&session, 1).map_err(failed)?;
        for index in 0..calls.in_flight {
            let (session, answered) = (session.clone(), Rc::clone(&answered));
            drop(spawn(move || {
                caller(&session, ((connection + index) % 100) as i64, &answered)
            }));
        }
    }
    let pause = |seconds| sleep(Duration::from_secs_f64(seconds)).map_err(failed);
    pause(seconds / 4.0)?;
    let (before, own_before, server_before) = (answered.get(), cpu_of(0)?, server.cpu()?);
    let start = Instant::now();
    pause(seconds)?;
    let elapsed = start.elapsed();
    let count = (answered.get() - before) as f64;
    if count == 0.0 {
        return Err(Problem::failed("no call was answered"));
    }
    let per_million = |cpu: Duration| cpu.as_secs_f64() / count * 1e6;
    Ok(Sample::of(count / elapsed.as_secs_f64())
        .with(
            "client_cpu_s_per_million",
            per_million(cpu_of(0)?.saturating_sub(own_before)),
        )
        .with(
            "server_cpu_s_per_million",
            per_million(server.cpu()?.saturating_sub(server_before)),
        ))
}

/// Calls until a call fails or returns a wrong answer. A figure without answers is rejected.
fn caller(session: &Session, value: i64, answered: &Cell<u64>) {
    while echo(session, value).is_ok_and(|answer| answer == value) {
        answered.set(answered.get() + 1);
    }
}

fn echo(session: &Session, value: i64) -> Result<i64, Error> {
    let response = session.call("echo", Timeout::Default, |out| write_integer(out, value))?;
    integer(response.bytes())
}
