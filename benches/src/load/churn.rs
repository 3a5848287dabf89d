//! Short connections: each sends one request, reads the answer until the end of the stream, and closes.
//!
//! The server closes first. So the sockets that linger for a minute (`TIME_WAIT`) linger at the server's end, whose
//! port is fixed, and this end does not run out of ports.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::closed::Seen;
use crate::epoll::{Epoll, Moved, connect, receive, send};
use crate::harness::Problem;

/// If no answer arrives for this long, the server hangs.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The settings of the load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The number of simultaneous connections.
    pub at_once: usize,
    /// The bytes of a request and of its answer; answers are checked.
    pub message: Vec<u8>,
    /// The measured time in seconds. A warm-up of a fifth of it comes first.
    pub seconds: f64,
}

struct Connection {
    stream: TcpStream,
    /// The number of bytes of the answer received so far.
    got: usize,
}

/// Loads the server on `port`. `at_start` is called when the clock starts, after warming up.
///
/// # Errors
///
/// When a connection is refused or breaks, an answer is wrong, or no answer arrives.
pub fn run(
    port: u16,
    plan: &Plan,
    at_start: impl FnOnce() -> Result<(), Problem>,
) -> Result<Seen, Problem> {
    let mut load = Load {
        port,
        plan,
        epoll: Epoll::new()?,
        connections: Vec::with_capacity(plan.at_once),
        buffer: vec![0; plan.message.len() + 1],
    };
    for token in 0..plan.at_once {
        let connection = load.open(token)?;
        load.connections.push(connection);
    }
    load.for_seconds(plan.seconds / 5.0)?;
    at_start()?;
    load.for_seconds(plan.seconds)
}

struct Load<'a> {
    port: u16,
    plan: &'a Plan,
    epoll: Epoll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

impl Load<'_> {
    /// Connects and sends a request at once. On the loopback the connection exists as soon as the call returns.
    fn open(&self, token: usize) -> Result<Connection, Problem> {
        let stream = connect(self.port)?;
        self.epoll.add(stream.as_raw_fd(), token as u64, false)?;
        match send(stream.as_raw_fd(), &self.plan.message)? {
            Moved::Bytes(count) if count == self.plan.message.len() => {}
            other => {
                return Err(Problem::failed(format!(
                    "a request was not sent: {other:?}"
                )));
            }
        }
        Ok(Connection { stream, got: 0 })
    }

    fn for_seconds(&mut self, seconds: f64) -> Result<Seen, Problem> {
        let start = Instant::now();
        let (mut messages, mut last_answer) = (0, start);
        let mut ready = Vec::new();
        loop {
            self.epoll.wait(Some(Duration::from_secs(1)), |event| {
                ready.push(event.token as usize);
                Ok(())
            })?;
            let now = Instant::now();
            for token in ready.drain(..) {
                if self.is_finished(token)? {
                    messages += 1;
                    last_answer = now;
                    // Replacing the old connection closes it.
                    self.connections[token] = self.open(token)?;
                }
            }
            if now - last_answer > SILENCE_MAX {
                return Err(Problem::failed("the server does not answer"));
            }
            if (now - start).as_secs_f64() >= seconds {
                return Ok(Seen {
                    messages,
                    elapsed: now - start,
                });
            }
        }
    }

    /// Receives the available bytes. Returns whether the stream has ended, after the whole answer.
    fn is_finished(&mut self, token: usize) -> Result<bool, Problem> {
        let connection = &mut self.connections[token];
        let message = &self.plan.message;
        loop {
            match receive(connection.stream.as_raw_fd(), &mut self.buffer)? {
                Moved::Bytes(count) => {
                    let rest = &message[connection.got..];
                    if rest.get(..count) != Some(&self.buffer[..count]) {
                        return Err(Problem::failed("an answer has wrong bytes"));
                    }
                    connection.got += count;
                }
                Moved::Later => return Ok(false),
                Moved::Ended if connection.got == message.len() => return Ok(true),
                Moved::Ended => return Err(Problem::failed("a connection ended early")),
            }
        }
    }
}
