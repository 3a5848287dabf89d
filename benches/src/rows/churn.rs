//! Row 7, short connections: accept, one message of 64 bytes back, close.
//!
//! All servers do the same: accept, read once, write that back, and close. The generator (`load/churn.rs`) keeps 64
//! connections open. Connecting costs the generator more than accepting costs any server, so rates would measure the
//! generator. The figure is therefore the server's CPU time, from its process's clock.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use yue_io::Choice;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, TcpStream};
use yue_scheduler::{Config, Loop, spawn};

use super::echo_yue::Way;
use super::served_load::{MESSAGE_BYTES, SECONDS, ready};
use crate::epoll::{Epoll, Moved, receive, send};
use crate::harness::process::{Running, own_program};
use crate::harness::processors::{Processors, Side};
use crate::harness::{Against, Case, Effort, Problem, Sample, Unit};
use crate::load::churn;

const AT_ONCE: usize = 64;
const BUFFER_BYTES: usize = 4096;

/// Returns the case.
pub fn case() -> Case {
    const URING: &str = "yue (io_uring)";
    const MIO: &str = "yue (mio)";
    let by = |server: &'static str| move |effort| measure(server, effort);
    let case = Case::new(
        "a connection for each message, 64 at once",
        Unit::time("µs of the server's CPU / connection"),
    )
    .ours(URING, by("churn-yue-uring"))
    .ours(MIO, by("churn-yue-mio"))
    .ours("yue, no fiber (io_uring)", by("churn-yue-owned-uring"))
    .ours("yue, no fiber (mio)", by("churn-yue-owned-mio"));
    #[cfg(feature = "peers")]
    let case = case
        .peer("tokio (current thread)", by("churn-tokio"))
        .peer("may (one worker)", by("churn-may"))
        .peer("monoio (io_uring)", by("churn-monoio"))
        .peer("compio (io_uring)", by("churn-compio"))
        .peer("glommio (io_uring)", by("churn-glommio"));
    case.ceiling("epoll by hand", by("churn-epoll"))
        .goal_against(MIO, "epoll by hand", 1.05)
        .goal(URING, Against::EveryPeer, 1.0)
        .goal(MIO, Against::EveryPeer, 1.0)
}

fn measure(server: &str, effort: Effort) -> Result<Sample, Problem> {
    let processors = Processors::detect()?;
    let program = own_program(&["serve", server])?;
    let mut running = Running::start_bound(program, processors, Side::Server)?;
    processors.bind(Side::Client)?;
    let port = running.port()?;
    let plan = churn::Plan {
        at_once: AT_ONCE,
        message: (0..MESSAGE_BYTES as u8).collect(),
        seconds: effort.seconds(SECONDS),
    };
    let mut cpu_before = Duration::ZERO;
    let seen = churn::run(port, &plan, || {
        cpu_before = running.cpu()?;
        Ok(())
    })?;
    let cpu = running.cpu()?.saturating_sub(cpu_before);
    let each_us = cpu.as_secs_f64() / seen.messages as f64 * 1e6;
    Ok(Sample::of(each_us).with("connections_per_s", seen.rate()))
}

/// Runs the server of this name until the process ends. Returns `None` if this case has no such server.
pub fn serve(server: &str) -> Option<Result<(), Problem>> {
    match server {
        "churn-yue-uring" => Some(serve_ours(Choice::Uring, Way::Fiber)),
        "churn-yue-mio" => Some(serve_ours(Choice::Mio, Way::Fiber)),
        "churn-yue-owned-uring" => Some(serve_ours(Choice::Uring, Way::Owned)),
        "churn-yue-owned-mio" => Some(serve_ours(Choice::Mio, Way::Owned)),
        "churn-epoll" => Some(by_hand().map_err(Problem::from)),
        _ => peer(server.strip_prefix("churn-")?),
    }
}

fn serve_ours(choice: Choice, way: Way) -> Result<(), Problem> {
    let config = Config {
        driver: yue_io::driver(choice)?,
        ..Config::default()
    };
    Loop::new(config)?.run(move || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        ready(listener.local_addr()?.port())?;
        for stream in listener.incoming() {
            let stream = stream?;
            match way {
                Way::Fiber => drop(spawn(move || answer(&stream))),
                Way::Owned => EchoOnce::start(stream)?,
            }
        }
        Ok(())
    })
}

fn answer(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; BUFFER_BYTES];
    let count = stream.read(&mut buffer)?;
    stream.write_all(&buffer[..count])
}

/// A sink that echoes one message and closes.
struct EchoOnce(RefCell<Option<Connection>>);

impl EchoOnce {
    fn start(stream: TcpStream) -> io::Result<()> {
        let sink = Rc::new(EchoOnce(RefCell::new(None)));
        let connection = Connection::start(stream, Rc::clone(&sink) as Rc<dyn Sink>)?;
        *sink.0.borrow_mut() = Some(connection);
        Ok(())
    }
}

impl Sink for EchoOnce {
    fn data(&self, bytes: &[u8]) {
        // Taken out, because the connection holds this sink: the two would keep each other alive forever.
        if let Some(connection) = self.0.borrow_mut().take() {
            connection.send(bytes.to_vec());
            connection.close_when_sent();
        }
    }

    fn sent(&self, _: Vec<u8>) {}

    fn closed(&self, _: io::Result<()>) {
        self.0.borrow_mut().take();
    }
}

/// Serves on one thread with epoll. A new connection is tried at once, because its message has often arrived with it.
fn by_hand() -> io::Result<()> {
    const LISTENER: u64 = u64::MAX;
    let listener = crate::epoll::listen()?;
    listener.set_nonblocking(true)?;
    println!("ready {}", listener.local_addr()?.port());
    let mut epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd(), LISTENER, false)?;
    let mut ready = Vec::new();
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        epoll.wait(None, |event| {
            ready.push(event.token);
            Ok(())
        })?;
        for token in ready.drain(..) {
            if token != LISTENER {
                try_to_answer(token as RawFd, &mut buffer);
                continue;
            }
            // Accept until none is left: the edge comes only once.
            while let Ok((stream, _)) = listener.accept() {
                let descriptor = stream.into_raw_fd();
                if !try_to_answer(descriptor, &mut buffer) {
                    epoll.add(descriptor, descriptor as u64, false)?;
                }
            }
        }
    }
}

/// Answers if the message has arrived. Returns whether the connection is finished.
fn try_to_answer(descriptor: RawFd, buffer: &mut [u8]) -> bool {
    match receive(descriptor, buffer) {
        Ok(Moved::Later) => return false,
        Ok(Moved::Bytes(count)) => {
            // A new connection's buffer has room for it; an error means that the client has left.
            let _ = send(descriptor, &buffer[..count]);
        }
        Ok(Moved::Ended) | Err(_) => {}
    }
    // SAFETY: the descriptor came from `into_raw_fd` and is closed once; a registration ends with it.
    drop(unsafe { <std::net::TcpStream as std::os::fd::FromRawFd>::from_raw_fd(descriptor) });
    true
}

#[cfg(feature = "peers")]
fn peer(name: &str) -> Option<Result<(), Problem>> {
    super::echo_peers::serve(name, super::echo_peers::Life::OneMessage)
}

#[cfg(not(feature = "peers"))]
fn peer(_: &str) -> Option<Result<(), Problem>> {
    None
}
