//! Row 14: one message to a group of 10 000 connections.
//!
//! The measuring process has one loop and the group. A separate process holds the other ends, and reads and drops what
//! arrives (epoll by hand). Each side has its own processor if there are two. A round notifies the group a number of
//! times and lets the loop send, as a game does in a tick; the next one begins when the kernel has taken everything. At
//! the end all connections are closed, and the reader reports the bytes that it has read: a figure whose messages did
//! not all arrive is rejected.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use yue_io::Choice;
use yue_rpc::group::Group;
use yue_rpc::session::{EncodedCall, Service, Session};
use yue_rpc::{Address, Error, Listener, Options, WhenFull};
use yue_scheduler::{Config, Loop, sleep, yield_now};

use crate::epoll::{Epoll, Moved, allow_descriptors, connect, receive, send};
use crate::harness::process::{Running, cpu_of, own_program};
use crate::harness::processors::{Processors, Side};
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

/// The members of the group.
const MEMBERS: usize = 10_000;

/// The duration of each measurement at full effort.
const SECONDS: f64 = 3.0;

/// The sends per second that a group must reach.
const GOAL: f64 = 2_000_000.0;

const URING: &str = "yue (io_uring)";
const MIO: &str = "yue (mio)";
const BY_HAND: &str = "send() by hand";

/// The argument of the notification, as a game sends it: a name, two coordinates.
const ARGUMENTS: &[u8] =
    b"\xa5frodo\xcb\x40\x45\x00\x00\x00\x00\x00\x00\xcb\x40\x45\x00\x00\x00\x00\x00\x00";

/// Returns the row.
pub fn row() -> Row {
    let mut cases = Vec::new();
    for transport in [Transport::Unix, Transport::Tcp] {
        cases.extend([1, 8, 32].map(|burst| case(transport, burst)));
    }
    Row {
        number: 14,
        title: "a message to a group of 10 000 connections",
        method: "One unit: a notification of 33 bytes to one member. A round notifies the group and waits until the \
                 kernel has everything.",
        cases,
        notes: Vec::new(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Unix,
    Tcp,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Transport::Unix => "unix",
            Transport::Tcp => "tcp",
        }
    }

    /// An address to listen at that nobody uses.
    fn address(self) -> Result<Address, Problem> {
        let text = match self {
            Transport::Unix => {
                let path = std::env::temp_dir().join(format!("yue-figures-{}", std::process::id()));
                format!("unix://{}", path.display())
            }
            Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
        };
        text.parse().map_err(failed)
    }
}

fn case(transport: Transport, burst: usize) -> Case {
    let by = |choice| move |effort| measure(choice, transport, burst, effort);
    let name = match burst {
        1 => format!("{} sockets, one message per round", transport.name()),
        _ => format!("{} sockets, {burst} messages per round", transport.name()),
    };
    let case = Case::new(name, Unit::rate("sends/s"))
        .ours(URING, by(Choice::Uring))
        .ours(MIO, by(Choice::Mio))
        .ceiling(BY_HAND, move |effort| by_hand(transport, burst, effort));
    match burst {
        1 => case.goal_against(MIO, BY_HAND, 0.7),
        8 => case.goal(URING, Against::Absolute, GOAL),
        _ => case
            .goal(URING, Against::Absolute, GOAL)
            .goal(MIO, Against::Absolute, GOAL),
    }
}

/// Runs the reader until its connections have ended. Returns `None` if the name is not this row's.
pub fn serve(server: &str) -> Option<Result<(), Problem>> {
    let address = server.strip_prefix("group-reader=")?;
    Some(read_all(address))
}

/// Connects to the address, reads everything, and reports the number of bytes.
fn read_all(address: &str) -> Result<(), Problem> {
    allow_descriptors(MEMBERS)?;
    let mut epoll = Epoll::new()?;
    for _ in 0..MEMBERS {
        let descriptor = match address.strip_prefix("unix://") {
            Some(path) => UnixStream::connect(path)?.into_raw_fd(),
            None => {
                let port = address
                    .rsplit(':')
                    .next()
                    .and_then(|port| port.parse().ok());
                let port = port.ok_or_else(|| Problem::failed("an address without a port"))?;
                connect(port)?.into_raw_fd()
            }
        };
        // The registration owns the descriptor until its stream has ended.
        epoll.add(descriptor, descriptor as u64, false)?;
    }
    println!("ready");
    io::stdout().flush()?;
    let (mut bytes, mut open, mut buffer) = (0_u64, MEMBERS, vec![0; 64 * 1024]);
    while open > 0 {
        epoll.wait(None, |ready| {
            let descriptor = ready.token as i32;
            loop {
                match receive(descriptor, &mut buffer) {
                    Ok(Moved::Bytes(count)) => {
                        bytes += count as u64;
                        if count < buffer.len() && !ready.ended {
                            return Ok(());
                        }
                    }
                    Ok(Moved::Later) => return Ok(()),
                    Ok(Moved::Ended) | Err(_) => {
                        open -= 1;
                        // SAFETY: the descriptor is open, and nothing else uses it.
                        unsafe { libc::close(descriptor) };
                        return Ok(());
                    }
                }
            }
        })?;
    }
    println!("bytes {bytes}");
    io::stdout().flush()?;
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::failed(error.to_string())
}

fn start_reader(processors: Processors, address: &str) -> Result<Running, Problem> {
    let name = format!("group-reader={address}");
    Running::start_bound(own_program(&["serve", &name])?, processors, Side::Client)
}

/// Compares what arrived with what was sent.
fn check_arrived(reader: &mut Running, sent_bytes: u64) -> Result<(), Problem> {
    let read = reader.line_after("bytes")?;
    if read == sent_bytes.to_string() {
        return Ok(());
    }
    Err(Problem::failed(format!(
        "{sent_bytes} bytes were sent, {read} have arrived"
    )))
}

fn measure(
    choice: Choice,
    transport: Transport,
    burst: usize,
    effort: Effort,
) -> Result<Sample, Problem> {
    allow_descriptors(MEMBERS)?;
    let processors = Processors::detect()?;
    processors.bind(Side::Server)?;
    let config = Config {
        driver: yue_io::driver(choice)?,
        ..Config::default()
    };
    let address = transport.address()?;
    let seconds = effort.seconds(SECONDS);
    Loop::new(config)?.run(move || notify(processors, &address, burst, seconds))
}

fn notify(
    processors: Processors,
    address: &Address,
    burst: usize,
    seconds: f64,
) -> Result<Sample, Problem> {
    let mut options = Options {
        when_full: WhenFull::Drop,
        ..Options::default()
    };
    options.limits.connections_max = MEMBERS + 1;
    let listener = Listener::bind(address, Service::none(), options).map_err(failed)?;
    let mut reader = start_reader(processors, &listener.address().to_string())?;
    // The reader's output cannot be read while the loop must accept.
    let limit = Instant::now() + Duration::from_secs(60);
    while listener.connections().len() < MEMBERS {
        sleep(Duration::from_millis(20)).map_err(failed)?;
        if Instant::now() > limit {
            return Err(Problem::failed("the reader did not connect"));
        }
    }
    reader.line_after("ready")?;
    let group = Group::new();
    let sessions = listener.connections();
    for session in &sessions {
        group.join(session);
    }
    let call = EncodedCall::new("moved", |out| {
        out.extend_from_slice(ARGUMENTS);
        Ok(3)
    });
    let rounds = Rounds {
        group: &group,
        sessions: &sessions,
        call: call.map_err(failed)?,
        sent: Cell::new(0),
    };
    rounds.run(burst, seconds / 4.0)?;
    let (before, cpu_before) = (rounds.sent.get(), cpu_of(0)?);
    let start = Instant::now();
    rounds.run(burst, seconds)?;
    let elapsed = start.elapsed();
    let cpu = cpu_of(0)?.saturating_sub(cpu_before);
    let count = rounds.sent.get() - before;
    let sent_bytes = rounds.sent.get() * rounds.call.bytes() as u64;
    listener.close();
    listener.close_connections();
    while !listener.connections().is_empty() {
        sleep(Duration::from_millis(5)).map_err(failed)?;
    }
    drop(sessions);
    check_arrived(&mut reader, sent_bytes)?;
    Ok(sample(count, elapsed, cpu))
}

struct Rounds<'a> {
    group: &'a Group,
    sessions: &'a [Session],
    call: EncodedCall,
    sent: Cell<u64>,
}

impl Rounds<'_> {
    /// Notifies the group, `burst` times in each round, until the time has passed.
    fn run(&self, burst: usize, seconds: f64) -> Result<(), Problem> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            for _ in 0..burst {
                let taken = self
                    .group
                    .notify(&self.call)
                    .map_err(|error: Error| failed(error))?;
                self.sent.set(self.sent.get() + taken as u64);
            }
            // One of many is enough: looking at each would cost as much as a message to it.
            self.wait_until_sent(64)?;
        }
        self.wait_until_sent(1)
    }

    /// Lets the loop run until the kernel has taken every message of each `step`-th session.
    fn wait_until_sent(&self, step: usize) -> Result<(), Problem> {
        yield_now().map_err(failed)?;
        for session in self.sessions.iter().step_by(step) {
            while session.queued_bytes() > 0 {
                yield_now().map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// The rate of `count` sends, and the CPU time of this process for a million of them.
fn sample(count: u64, elapsed: Duration, cpu: Duration) -> Sample {
    let count = count as f64;
    Sample::of(count / elapsed.as_secs_f64())
        .with("server_cpu_s_per_million", cpu.as_secs_f64() / count * 1e6)
}

/// Sends a round's bytes to each connection by one system call, in one thread without a loop.
fn by_hand(transport: Transport, burst: usize, effort: Effort) -> Result<Sample, Problem> {
    allow_descriptors(MEMBERS)?;
    let processors = Processors::detect()?;
    processors.bind(Side::Server)?;
    let message = {
        let mut message = b"\x93\x02\xa5moved\x93".to_vec();
        message.extend_from_slice(ARGUMENTS);
        message
    };
    let (mut reader, streams) = match transport {
        Transport::Unix => {
            let Address::Unix { path } = transport.address()? else {
                return Err(Problem::failed("not the address of a Unix socket"));
            };
            let listener = std::os::unix::net::UnixListener::bind(&path)?;
            let reader = start_reader(processors, &format!("unix://{path}"))?;
            let accept = |_| Ok(listener.accept()?.0.into());
            let streams: io::Result<Vec<std::os::fd::OwnedFd>> = (0..MEMBERS).map(accept).collect();
            std::fs::remove_file(&path)?;
            (reader, streams?)
        }
        Transport::Tcp => {
            let listener = crate::epoll::listen()?;
            let address = listener.local_addr()?;
            let reader = start_reader(processors, &format!("tcp://{address}"))?;
            let accept = |_| Ok(listener.accept()?.0.into());
            let streams: io::Result<Vec<std::os::fd::OwnedFd>> = (0..MEMBERS).map(accept).collect();
            (reader, streams?)
        }
    };
    reader.line_after("ready")?;
    let bytes = message.repeat(burst);
    let sent = Rc::new(Cell::new(0_u64));
    let run = |seconds: f64| -> Result<(), Problem> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            for stream in &streams {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    match send(stream.as_raw_fd(), rest)? {
                        Moved::Bytes(count) => rest = &rest[count..],
                        Moved::Later => std::thread::yield_now(),
                        Moved::Ended => return Err(Problem::failed("the reader has ended")),
                    }
                }
                sent.set(sent.get() + burst as u64);
            }
        }
        Ok(())
    };
    let seconds = effort.seconds(SECONDS);
    run(seconds / 4.0)?;
    let (before, cpu_before) = (sent.get(), cpu_of(0)?);
    let start = Instant::now();
    run(seconds)?;
    let elapsed = start.elapsed();
    let cpu = cpu_of(0)?.saturating_sub(cpu_before);
    let count = sent.get() - before;
    drop(streams);
    check_arrived(&mut reader, sent.get() * message.len() as u64)?;
    Ok(sample(count, elapsed, cpu))
}
