//! A closed loop: each connection keeps a fixed number of messages in flight, and each answer triggers the next
//! message.
//!
//! It measures how many messages per second a server can answer. It does not measure latency under a given load,
//! because a slow server is asked less often: see `open` for that.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::epoll::{Epoll, Moved, connect, receive, send};
use crate::harness::Problem;

/// The maximum bytes of one receive.
const CHUNK: usize = 64 * 1024;
/// If no answer arrives for this long, the server hangs.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The settings of the load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The number of connections.
    pub connections: usize,
    /// The number of messages in flight per connection.
    pub in_flight: usize,
    /// The bytes of a message.
    pub request: Vec<u8>,
    /// The bytes of its answer; answers are checked.
    pub response: Vec<u8>,
    /// The measured time in seconds. A warm-up of a fifth of it comes first.
    pub seconds: f64,
}

/// The result of a load.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Messages answered while the clock ran.
    pub messages: u64,
    /// The length of that time.
    pub elapsed: Duration,
}

impl Seen {
    /// Messages per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }
}

struct Connection {
    stream: TcpStream,
    /// The number of bytes of an incomplete answer.
    partial: usize,
    /// The number of bytes of requests that could not be sent yet.
    unsent: usize,
}

struct Buffers {
    input: Vec<u8>,
    /// Requests, repeated, and one more, so that any number of them can start at any byte of the first.
    requests: Vec<u8>,
    /// Answers, repeated in the same way.
    responses: Vec<u8>,
}

/// Loads the server on `port`. `at_start` is called when the clock starts, after warming up.
///
/// # Errors
///
/// When a connection breaks, an answer is wrong, or no answer arrives.
pub fn run(
    port: u16,
    plan: &Plan,
    at_start: impl FnOnce() -> Result<(), Problem>,
) -> Result<Seen, Problem> {
    let mut epoll = Epoll::new()?;
    let mut buffers = Buffers::new(plan);
    let mut connections = Vec::with_capacity(plan.connections);
    for token in 0..plan.connections {
        let stream = connect(port)?;
        stream.set_nonblocking(true)?;
        epoll.add(stream.as_raw_fd(), token as u64, true)?;
        connections.push(Connection {
            stream,
            partial: 0,
            unsent: plan.in_flight * plan.request.len(),
        });
    }
    for connection in &mut connections {
        connection.flush(&buffers, plan)?;
    }
    let mut all = Load {
        epoll: &mut epoll,
        connections: &mut connections,
        buffers: &mut buffers,
        plan,
    };
    all.for_seconds(plan.seconds / 5.0)?;
    at_start()?;
    all.for_seconds(plan.seconds)
}

struct Load<'a> {
    epoll: &'a mut Epoll,
    connections: &'a mut [Connection],
    buffers: &'a mut Buffers,
    plan: &'a Plan,
}

impl Load<'_> {
    fn for_seconds(&mut self, seconds: f64) -> Result<Seen, Problem> {
        let start = Instant::now();
        let (mut messages, mut last_answer) = (0, start);
        loop {
            let before = messages;
            let (connections, buffers, plan) =
                (&mut *self.connections, &mut *self.buffers, self.plan);
            self.epoll.wait(Some(Duration::from_secs(1)), |ready| {
                messages += connections[ready.token as usize].on_ready(buffers, plan)?;
                Ok(())
            })?;
            let now = Instant::now();
            if messages > before {
                last_answer = now;
            } else if now - last_answer > SILENCE_MAX {
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
}

impl Connection {
    /// Receives the available bytes and sends one request per completed answer. Returns the number of answers.
    fn on_ready(&mut self, buffers: &mut Buffers, plan: &Plan) -> io::Result<u64> {
        let mut answers = 0;
        loop {
            let count = match receive(self.stream.as_raw_fd(), &mut buffers.input)? {
                Moved::Bytes(count) => count,
                Moved::Later => break,
                Moved::Ended => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            if buffers.input[..count] != buffers.responses[self.partial..][..count] {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "an answer has wrong bytes",
                ));
            }
            answers += (self.partial + count) / plan.response.len();
            self.partial = (self.partial + count) % plan.response.len();
            if count < CHUNK {
                // A short receive took all available bytes; later bytes cause a new edge.
                break;
            }
        }
        self.unsent += answers * plan.request.len();
        self.flush(buffers, plan)?;
        Ok(answers as u64)
    }

    fn flush(&mut self, buffers: &Buffers, plan: &Plan) -> io::Result<()> {
        let request = plan.request.len();
        while self.unsent > 0 {
            // The unsent bytes end with a whole request, so this is their offset within a request.
            let first = (request - self.unsent % request) % request;
            let length = self.unsent.min(CHUNK);
            match send(
                self.stream.as_raw_fd(),
                &buffers.requests[first..first + length],
            )? {
                Moved::Bytes(count) => self.unsent -= count,
                Moved::Later => return Ok(()),
                Moved::Ended => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(())
    }
}

impl Buffers {
    fn new(plan: &Plan) -> Buffers {
        let repeat = |bytes: &[u8]| {
            bytes
                .iter()
                .copied()
                .cycle()
                .take(CHUNK + bytes.len())
                .collect::<Vec<u8>>()
        };
        Buffers {
            input: vec![0; CHUNK],
            requests: repeat(&plan.request),
            responses: repeat(&plan.response),
        }
    }
}
