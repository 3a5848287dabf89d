//! `yue bench`: a load generator for any msgpack-rpc server.
//!
//! Two kinds of load:
//!
//! - **closed loop** (the default): a fixed number of calls is in flight; the next one is sent when one is answered. It
//!   measures the throughput of a server.
//! - **open loop** (`--rate`): calls are sent by the clock, whatever the server does, and each latency is counted from
//!   the moment at which the call was *due*. So a stall of the server is visible (no coordinated omission). It measures
//!   how long users wait at that rate.
//!
//! ```text
//!   mod.rs      the command line      load.rs    the calls      report.rs    live display, table, JSON
//! ```

mod load;
mod report;

use crate::seconds;
use std::time::Duration;
use yue::Choice;
use yue_rpc::Address;
use yue_rpc::transport::{SocketOptions, TlsOptions};

const EXAMPLES: &str = "\
Examples:
  yue bench tcp://127.0.0.1:8080 -m hello -a '[\"world\"]'
  yue bench tcp://127.0.0.1:8080 -m math.add -a '[1, 2]' -c 10 -f 100 -d 30
  yue bench tcp://127.0.0.1:8080 -m hello --rate 5000 --json > result.json
  yue bench tcp://127.0.0.1:6666 -m nvim_get_mode --legacy";

/// Load a msgpack-rpc server and measure how fast it answers.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The server: tcp://host:port, tls://host:port, ws://host:port/path, wss://… or unix:///path.
    address: String,

    /// The function to call; dots separate nested names.
    #[arg(short, long, default_value = "hello")]
    method: String,

    /// The arguments of each call, as a JSON array.
    #[arg(short, long, default_value = "[]", value_name = "JSON")]
    args: String,

    /// The number of connections.
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,

    /// Closed loop: the number of calls that each connection has in flight.
    #[arg(short = 'f', long, default_value_t = 64, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=60_000))]
    in_flight: u32,

    /// Seconds of load that are counted.
    #[arg(short, long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds::parse_above_0)]
    duration: f64,

    /// Seconds of load before anything is counted.
    #[arg(short, long, default_value_t = 0.5, value_name = "SECONDS", value_parser = seconds::parse)]
    warmup: f64,

    /// Open loop: calls per second, over all connections together.
    #[arg(short, long, value_name = "CALLS", value_parser = parse_rate)]
    rate: Option<f64>,

    /// Seconds that a call may take.
    #[arg(short, long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds::parse_above_0)]
    timeout: f64,

    /// Speak plain msgpack-rpc: send neither a hello nor deadlines.
    #[arg(long)]
    legacy: bool,

    /// tls://, wss://: the PEM file of the authority that signed the server's certificate [default: the system's
    /// authorities].
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,

    /// tls://, wss://: accept every certificate.
    #[arg(long)]
    insecure: bool,

    /// Print one JSON object instead of the table, and no live display.
    #[arg(long)]
    json: bool,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.01..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number of calls per second from 0.01 to 10000000 is needed".to_owned()),
    }
}

/// The planned load.
#[derive(Debug, Clone)]
struct Plan {
    address: Address,
    method: String,
    /// The arguments in msgpack, one after the other.
    arguments: Vec<u8>,
    count: u32,
    connections: u32,
    in_flight: u32,
    warmup: Duration,
    duration: Duration,
    rate: Option<f64>,
    timeout: Duration,
    legacy: bool,
    sockets: SocketOptions,
    json: bool,
}

/// Runs the load and prints the report; returns the exit code.
pub(crate) fn main(arguments: Arguments) -> i32 {
    let plan = match plan(&arguments) {
        Ok(plan) => plan,
        Err(text) => {
            yue_scheduler::log_outcome(format_args!("{text}"));
            return 2;
        }
    };
    match load::run(&plan, Choice::Auto) {
        Ok(result) => {
            // Figures that count no call would be read as the server's.
            if let Some(signal) = result.stopped
                && result.latencies.is_empty()
                && result.errors.is_empty()
            {
                yue_scheduler::log_outcome(format_args!("interrupted before a call was counted"));
                return 128 + signal.number();
            }
            report::print(&plan, &result);
            if let Some(error) = &result.lost {
                yue_scheduler::log_outcome(format_args!("the server went away: {error}"));
                return 1;
            }
            if let Some(signal) = result.stopped {
                return 128 + signal.number();
            }
            if result.latencies.is_empty() {
                // A server that answers nothing, or nothing but errors, has not been measured.
                yue_scheduler::log_outcome(format_args!(
                    "no call was answered while it was counted"
                ));
                return 1;
            }
            0
        }
        Err(text) => {
            yue_scheduler::log_outcome(format_args!("{text}"));
            1
        }
    }
}

fn plan(arguments: &Arguments) -> Result<Plan, String> {
    let address = arguments
        .address
        .parse::<Address>()
        .map_err(|error| error.to_string())?;
    if let Address::Thread { .. } = address {
        return Err(
            "a thread can be called only from its own program; give a tcp://, tls://, ws:// or unix:// address"
                .to_owned(),
        );
    }
    let (bytes, count) = crate::json::encode(&arguments.args)?;
    Ok(Plan {
        address,
        method: arguments.method.clone(),
        arguments: bytes,
        count,
        connections: arguments.connections,
        in_flight: arguments.in_flight,
        warmup: Duration::from_secs_f64(arguments.warmup),
        duration: Duration::from_secs_f64(arguments.duration),
        rate: arguments.rate,
        timeout: Duration::from_secs_f64(arguments.timeout),
        legacy: arguments.legacy,
        sockets: SocketOptions {
            tls: TlsOptions {
                ca: arguments.ca.clone(),
                insecure: arguments.insecure,
                ..TlsOptions::default()
            },
            ..SocketOptions::default()
        },
        json: arguments.json,
    })
}
