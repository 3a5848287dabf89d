//! A server in a process of its own under load: how it reports its port, and what echo rows send to it.

use crate::harness::process::{Running, own_program};
use crate::harness::processors::{Processors, Side};
use crate::harness::{Problem, Sample};
use crate::load::closed;

/// The length of an echo message.
pub(super) const MESSAGE_BYTES: usize = 64;

/// The duration of each measurement at full effort.
pub(super) const SECONDS: f64 = 2.0;

/// Returns a plan with one echo message in flight per connection.
pub fn plan(connections: usize, seconds: f64) -> closed::Plan {
    let message: Vec<u8> = (0..MESSAGE_BYTES as u8).collect();
    closed::Plan {
        connections,
        in_flight: 1,
        request: message.clone(),
        response: message,
        seconds,
    }
}

/// Starts a server of this program and applies the planned load. Returns messages per second, and the server's CPU
/// time.
pub fn load(server: &str, plan: &closed::Plan) -> Result<Sample, Problem> {
    let processors = Processors::detect()?;
    let mut running =
        Running::start_bound(own_program(&["serve", server])?, processors, Side::Server)?;
    processors.bind(Side::Client)?;
    let port = running.port()?;
    let mut cpu_before = std::time::Duration::ZERO;
    let seen = closed::run(port, plan, || {
        cpu_before = running.cpu()?;
        Ok(())
    })?;
    let cpu = running.cpu()?.saturating_sub(cpu_before);
    let per_million_s = cpu.as_secs_f64() / seen.messages as f64 * 1e6;
    Ok(Sample::of(seen.rate()).with("server_cpu_s_per_million", per_million_s))
}

/// Reports the port to the measuring process.
pub fn ready(port: u16) -> Result<(), Problem> {
    use std::io::Write;
    let mut out = std::io::stdout();
    writeln!(out, "ready {port}")?;
    out.flush()?;
    Ok(())
}
