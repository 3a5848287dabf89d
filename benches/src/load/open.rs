//! An open loop: calls are due at fixed times, whether or not earlier calls were answered, and a call's latency counts
//! from the time when it was *due*. So a stalling server is charged for all calls that would have waited meanwhile.
//! (Omitting that is a mistake known as coordinated omission.)
//!
//! One connection, one thread that never sleeps: a sleeping generator would wake late and blame the server. When idle
//! it yields its processor, so that a server with several threads is not starved.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::protocol::Protocol;
use crate::epoll::{Moved, connect, receive, send};
use crate::harness::{Problem, Sample};

/// The maximum bytes of one receive.
const CHUNK: usize = 64 * 1024;
/// If a call is not answered for this long, the server hangs or cannot keep up with the rate.
const LATENCY_MAX: Duration = Duration::from_secs(5);
/// The first 1/5 of the calls is not counted.
const WARM_UP_SHARE: usize = 5;

/// Measures percentiles of latency at `rate` calls per second for `seconds`. The sample's value is the 99th percentile
/// in µs.
///
/// `at_start` is called when the counted calls begin.
///
/// # Errors
///
/// When the connection breaks, an answer cannot be parsed, or the server cannot keep up.
pub fn run<P: Protocol>(
    port: u16,
    rate: f64,
    seconds: f64,
    at_start: impl FnOnce() -> Result<(), Problem>,
) -> Result<Sample, Problem> {
    let stream = connect(port)?;
    stream.set_nonblocking(true)?;
    let counted = (rate * seconds) as usize;
    let warm_up = counted / WARM_UP_SHARE;
    let mut load = Load {
        descriptor: stream.as_raw_fd(),
        interval: Duration::from_secs_f64(1.0 / rate),
        start: Instant::now(),
        latencies: vec![None; counted + warm_up],
        requested: 0,
        answered: 0,
        output: Vec::new(),
        input: Vec::new(),
        chunk: vec![0; CHUNK],
    };
    load.greeting(P::GREETING_BYTES)?;
    load.start = Instant::now();
    let mut at_start = Some(at_start);
    while load.answered < load.latencies.len() {
        if load.requested >= warm_up
            && let Some(at_start) = at_start.take()
        {
            at_start()?;
        }
        load.ask::<P>()?;
        if !load.take::<P>()? {
            std::thread::yield_now();
        }
        load.check_age()?;
    }
    load.percentiles(warm_up)
}

struct Load {
    descriptor: i32,
    interval: Duration,
    /// The time when call 0 was due.
    start: Instant,
    /// The latency of each call.
    latencies: Vec<Option<Duration>>,
    requested: usize,
    answered: usize,
    /// Requests that are not sent yet.
    output: Vec<u8>,
    /// Bytes of an incomplete answer.
    input: Vec<u8>,
    chunk: Vec<u8>,
}

impl Load {
    fn due(&self, call: usize) -> Instant {
        self.start + self.interval.mul_f64(call as f64)
    }

    fn greeting(&mut self, bytes: usize) -> Result<(), Problem> {
        let start = Instant::now();
        while self.input.len() < bytes {
            if start.elapsed() > LATENCY_MAX {
                return Err(Problem::failed("the server does not greet"));
            }
            self.receive()?;
        }
        self.input.drain(..bytes);
        Ok(())
    }

    /// Sends all calls that are due.
    fn ask<P: Protocol>(&mut self) -> Result<(), Problem> {
        let now = Instant::now();
        while self.requested < self.latencies.len() && self.due(self.requested) <= now {
            P::request(self.requested as u32, &mut self.output);
            self.requested += 1;
        }
        if self.output.is_empty() {
            return Ok(());
        }
        match send(self.descriptor, &self.output)? {
            Moved::Bytes(count) => drop(self.output.drain(..count)),
            Moved::Later => {}
            Moved::Ended => return Err(Problem::failed("the server closed the connection")),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<bool, Problem> {
        match receive(self.descriptor, &mut self.chunk)? {
            Moved::Bytes(count) => {
                self.input.extend_from_slice(&self.chunk[..count]);
                Ok(true)
            }
            Moved::Later => Ok(false),
            Moved::Ended => Err(Problem::failed("the server closed the connection")),
        }
    }

    /// Records all answers that have arrived. Returns `false` if there were none.
    fn take<P: Protocol>(&mut self) -> Result<bool, Problem> {
        if !self.receive()? {
            return Ok(false);
        }
        let now = Instant::now();
        let mut position = 0;
        while let Some((number, length)) = P::answer(&self.input[position..])? {
            position += length;
            let latency = now.saturating_duration_since(self.due(number as usize));
            match self.latencies.get_mut(number as usize) {
                Some(unanswered @ None) => *unanswered = Some(latency),
                _ => {
                    return Err(Problem::failed(format!(
                        "an answer to call {number}, which was not waiting"
                    )));
                }
            }
            self.answered += 1;
        }
        self.input.drain(..position);
        Ok(true)
    }

    fn check_age(&self) -> Result<(), Problem> {
        let waiting = self.requested - self.answered;
        if waiting > 0 && Instant::now() > self.due(self.requested) + LATENCY_MAX {
            return Err(Problem::failed("the server does not answer"));
        }
        if self.interval.mul_f64(waiting as f64) > LATENCY_MAX {
            return Err(Problem::failed("the server cannot keep up with the rate"));
        }
        Ok(())
    }

    fn percentiles(&self, warm_up: usize) -> Result<Sample, Problem> {
        let mut latencies: Vec<Duration> = self.latencies[warm_up..]
            .iter()
            .flatten()
            .copied()
            .collect();
        latencies.sort_unstable();
        let last = latencies
            .len()
            .checked_sub(1)
            .ok_or_else(|| Problem::failed("no calls were made"))?;
        let at = |share: f64| latencies[(last as f64 * share) as usize].as_secs_f64() * 1e6;
        Ok(Sample::of(at(0.99))
            .with("p50_us", at(0.5))
            .with("p99_9_us", at(0.999)))
    }
}
