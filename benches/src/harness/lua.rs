//! Lua programs of the figures, run by the `yue` command and by Tarantool.
//!
//! A script reads its settings from the environment and reports in lines on its standard output: `ready PORT`,
//! `started`, `result UNITS SECONDS`. The CPU clock of its process is read at those lines.

use std::process::Command;
use std::time::Duration;

use super::model::{Effort, Problem, Sample};
use super::process::{Running, on_path, script, yue_program};
use super::processors::{Processors, Side};

/// The program that runs a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// yue on io_uring.
    YueUring,
    /// yue on mio (epoll).
    YueMio,
    /// Tarantool.
    Tarantool,
}

impl Runtime {
    /// Returns the command that runs a script of `benches/lua` with these settings.
    pub fn command(self, name: &str, settings: &[(&str, String)]) -> Result<Command, Problem> {
        let program = match self {
            Runtime::Tarantool => {
                on_path("tarantool").ok_or_else(|| Problem::NotFound("tarantool".to_owned()))?
            }
            _ => yue_program().ok_or_else(|| {
                Problem::failed("no `yue` command (cargo build --release -p yue-cli)")
            })?,
        };
        let mut command = Command::new(program);
        match self {
            Runtime::YueUring => command.env("YUE_IO", "uring"),
            Runtime::YueMio => command.env("YUE_IO", "mio"),
            Runtime::Tarantool => &mut command,
        };
        command.arg(script(name)).env("FIGURES_LUA", script(""));
        command.envs(settings.iter().map(|(key, value)| (*key, value.as_str())));
        Ok(command)
    }
}

/// Returns a note for the row if Tarantool is not available.
pub fn tarantool_note() -> Option<String> {
    let missing = on_path("tarantool").is_none();
    missing.then(|| "Tarantool was not measured: `tarantool` is not on the PATH".to_owned())
}

/// Runs a script until its `result` line. Returns units and seconds (in row 3: and bytes).
pub fn run(
    runtime: Runtime,
    name: &str,
    settings: &[(&str, String)],
) -> Result<(f64, f64), Problem> {
    let mut running = Running::start(runtime.command(name, settings)?)?;
    parse_result(&running.line_after("result")?)
}

/// Parses the units and seconds of a `result` line.
pub fn parse_result(line: &str) -> Result<(f64, f64), Problem> {
    let numbers: Option<Vec<f64>> = line
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    match numbers.as_deref() {
        Some([units, seconds]) if *units > 0.0 && *seconds > 0.0 => Ok((*units, *seconds)),
        _ => Err(Problem::failed(format!("not a result: {line:?}"))),
    }
}

/// The settings of an RPC client.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// The number of connections.
    pub connections: usize,
    /// The number of calling fibers per connection.
    pub in_flight: usize,
    /// The duration in seconds at full effort.
    pub seconds: f64,
}

/// Returns the settings for a client's script.
pub fn client_settings(calls: Calls, port: &str, effort: Effort) -> Vec<(&'static str, String)> {
    let seconds = effort.seconds(calls.seconds);
    vec![
        ("PORT", port.to_owned()),
        ("CONNECTIONS", calls.connections.to_string()),
        ("IN_FLIGHT", calls.in_flight.to_string()),
        (
            "WARM_UP",
            (seconds / 4.0 + calls.connections as f64 / 2_000.0).to_string(),
        ),
        ("SECONDS", seconds.to_string()),
    ]
}

/// Runs a client's script from `started` to `result`. Returns calls per second, and CPU seconds per million calls.
///
/// A client with a separate server is bound to the client's processor. A client that is its own server is not bound.
pub fn measure_client(client: Command, server: Option<&Running>) -> Result<Sample, Problem> {
    let mut client = match server {
        Some(_) => Running::start_bound(client, Processors::detect()?, Side::Client)?,
        None => Running::start(client)?,
    };
    client.line_after("started")?;
    let cpu = |client: &Running| -> Result<(Duration, Duration), Problem> {
        Ok((
            client.cpu()?,
            server.map_or(Ok(Duration::ZERO), Running::cpu)?,
        ))
    };
    let before = cpu(&client)?;
    let (calls, seconds) = parse_result(&client.line_after("result")?)?;
    let after = cpu(&client)?;
    let per_million = |after: Duration, before: Duration| {
        after.saturating_sub(before).as_secs_f64() / calls * 1e6
    };
    let sample = Sample::of(calls / seconds);
    Ok(match server {
        Some(_) => sample
            .with("client_cpu_s_per_million", per_million(after.0, before.0))
            .with("server_cpu_s_per_million", per_million(after.1, before.1)),
        None => sample.with("cpu_s_per_million", per_million(after.0, before.0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_two_positive_numbers() {
        assert_eq!(parse_result("1000 0.5").ok(), Some((1000.0, 0.5)));
        assert!(parse_result("1000").is_err());
        assert!(parse_result("0 0.5").is_err());
        assert!(parse_result("ten 0.5").is_err());
    }
}
