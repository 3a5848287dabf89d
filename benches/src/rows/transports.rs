//! Row 15: calls over each transport, Lua to Lua, each side one loop in a separate process; and the memory of an idle
//! connection.
//!
//! The work is that of row 9: `echo(x)` with a small integer and a checked answer. The scripts are the same, with
//! another address. The peers over WebSocket answer each message with one of the same size: they have no calls, and no
//! Lua. They are compared with calls from Rust to Rust, as in row 11.

use crate::epoll::allow_descriptors;
use crate::harness::lua::{Calls, Runtime, client_settings, measure_client, tarantool_note};
use crate::harness::process::Running;
use crate::harness::processors::{Processors, Side};
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};
use std::path::PathBuf;
use yue_io::Choice;

/// The duration of each measurement at full effort.
const SECONDS: f64 = 2.0;

/// The number of connections whose memory is measured, at full effort.
const IDLE: usize = 10_000;

const TRANSPORTS: [&str; 5] = ["tcp", "unix", "tls", "ws", "wss"];

const DRIVERS: [(Runtime, &str); 2] = [(Runtime::YueUring, "io_uring"), (Runtime::YueMio, "mio")];

/// Returns the row.
pub fn row() -> Row {
    let mut cases: Vec<Case> = [1, 64, 1_000].map(in_flight).into();
    cases.push(idle());
    Row {
        number: 15,
        title: "fiber RPC over each transport, Lua to Lua",
        method: "One unit: a call of echo(x) and its checked answer; client and server are one loop each. Idle: the \
                 server's memory for a connection that has made one call.",
        cases,
        notes: tarantool_note().into_iter().collect(),
    }
}

fn name(transport: &str, driver: &str) -> String {
    format!("{transport} ({driver})")
}

/// The name of yue over WebSocket without Lua, for comparison with peers that have none.
fn native(driver: &str) -> String {
    format!("ws, Rust to Rust ({driver})")
}

/// Adds yue over each transport, on each driver.
fn with_transports(
    case: Case,
    measure: impl Fn(Runtime, &'static str, Effort) -> Result<Sample, Problem> + Copy + 'static,
) -> Case {
    let each = DRIVERS
        .iter()
        .flat_map(|driver| TRANSPORTS.map(|transport| (*driver, transport)));
    each.fold(case, |case, ((runtime, driver), transport)| {
        case.ours(name(transport, driver), move |effort| {
            measure(runtime, transport, effort)
        })
    })
}

fn in_flight(in_flight: usize) -> Case {
    let calls = Calls {
        connections: 1,
        in_flight,
        seconds: SECONDS,
    };
    let title = match in_flight {
        1 => "one call at a time".to_owned(),
        count => format!(
            "{} in flight on one connection",
            crate::harness::table::count(count)
        ),
    };
    let case = with_transports(
        Case::new(title, Unit::rate("calls/s")),
        move |runtime, transport, effort| lua_to_lua(runtime, transport, calls, effort),
    );
    let case = [(Choice::Uring, "io_uring"), (Choice::Mio, "mio")]
        .into_iter()
        .fold(case, |case, (choice, driver)| {
            case.ours(native(driver), move |effort| {
                super::rpc_native::measure(choice, "ws", calls, effort)
            })
        });
    let case = case.peer("Tarantool, tcp", move |effort| {
        super::rpc_tcp::lua_to_lua(Runtime::Tarantool, calls, effort)
    });
    #[cfg(feature = "peers")]
    let case = case
        .peer("tokio-tungstenite, ws", move |effort| {
            super::websocket_peers::measure(super::websocket_peers::tungstenite()?, calls, effort)
        })
        .peer("npm ws under tokio-tungstenite", move |effort| {
            super::websocket_peers::measure(super::websocket_peers::npm()?, calls, effort)
        });
    DRIVERS.iter().fold(case, |case, (_, driver)| {
        let (tcp, unix, ws) = (
            name("tcp", driver),
            name("unix", driver),
            name("ws", driver),
        );
        let case =
            case.goal_against(&unix, &tcp, 1.2)
                .goal(&native(driver), Against::EveryPeer, 1.0);
        match in_flight {
            1 => case,
            _ => case.goal_against(&ws, &tcp, 0.8),
        }
    })
}

fn idle() -> Case {
    let case = with_transports(
        Case::new("an idle connection", Unit::time("bytes")),
        idle_connections,
    );
    #[cfg(feature = "peers")]
    let case = case
        .peer("tokio-tungstenite, ws", |effort| {
            super::websocket_peers::idle(super::websocket_peers::tungstenite()?, effort.count(IDLE))
        })
        .peer("npm ws", |effort| {
            super::websocket_peers::idle(super::websocket_peers::npm()?, effort.count(IDLE))
        });
    DRIVERS.iter().fold(case, |case, (_, driver)| {
        case.goal(&name("ws", driver), Against::Absolute, 6.0 * 1024.0)
    })
}

/// A server of yue, and what a client needs to know of it.
struct Server {
    running: Running,
    address: String,
    /// The settings for the certificate.
    certificate: Vec<(&'static str, String)>,
}

fn start_server(runtime: Runtime, transport: &str) -> Result<Server, Problem> {
    let folder: PathBuf = std::env::temp_dir().join(format!("yue-figures-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let certificate = match transport {
        "tls" | "wss" => certificate(&folder)?,
        _ => Vec::new(),
    };
    let address = match transport {
        "unix" => format!("unix://{}", folder.join("socket").display()),
        transport => format!("{transport}://127.0.0.1:0"),
    };
    let mut settings = certificate.clone();
    settings.push(("ADDRESS", address));
    let command = runtime.command("rpc_server.lua", &settings)?;
    let mut running =
        Running::start_bound(command, Processors::detect()?, Side::Server)?.with_folder(folder);
    let address = running.line_after("ready")?;
    Ok(Server {
        running,
        address,
        certificate,
    })
}

/// Makes a certificate for this machine. A client trusts it by its file.
fn certificate(folder: &std::path::Path) -> Result<Vec<(&'static str, String)>, Problem> {
    let names = vec!["127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| Problem::failed(format!("no certificate: {error}")))?;
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    Ok(vec![
        ("CERT", cert.display().to_string()),
        ("KEY", key.display().to_string()),
    ])
}

fn lua_to_lua(
    runtime: Runtime,
    transport: &str,
    calls: Calls,
    effort: Effort,
) -> Result<Sample, Problem> {
    let server = start_server(runtime, transport)?;
    let mut settings = client_settings(calls, &server.address, effort);
    settings.extend(server.certificate);
    let client = runtime.command("rpc_client.lua", &settings)?;
    measure_client(client, Some(&server.running))
}

fn idle_connections(runtime: Runtime, transport: &str, effort: Effort) -> Result<Sample, Problem> {
    let count = effort.count(IDLE);
    allow_descriptors(count)?;
    let server = start_server(runtime, transport)?;
    let before = server.running.used_bytes()?;
    let mut settings = vec![("PORT", server.address), ("CONNECTIONS", count.to_string())];
    settings.extend(server.certificate);
    let client = runtime.command("rpc_idle.lua", &settings)?;
    let mut client = Running::start_bound(client, Processors::detect()?, Side::Client)?;
    client.line_after("connected")?;
    let grown = server.running.used_bytes()?.saturating_sub(before);
    Ok(Sample::of(grown as f64 / count as f64))
}
