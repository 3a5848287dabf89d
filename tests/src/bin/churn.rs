//! A server, or its clients, whose connections come and go in every way: what `tests/tests/churn.rs` starts and kills.
//!
//! `churn serve` prints `serving at ADDRESS`. `churn connect ADDRESS…` prints `ready`. Then each does what its standard
//! input says, a line at a time, and answers every line with what its loop has now; at the end of input it exits.
//!
//! | line | what it does |
//! |---|---|
//! | `count` | nothing |
//! | `begin` | the clients begin |
//! | `at N ADDRESS` | the clients' address of that number is now this one |
//! | `quiet` | no client connects again; the answer comes when the last has ended |

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, TcpStream};
use yue_scheduler::{JoinHandle, sleep, spawn, this_loop, timeout, yield_now};

/// Fibers of one process that connect, one connection after the other.
const CLIENTS: usize = 8;
/// How long a client rests between two connections at most: the test is to load the machine lightly.
const REST_MS_MAX: u64 = 40;
/// No answer may take so long, on however slow a machine.
const SILENCE_MAX: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = yue_io::run(move || match arguments.split_first() {
        Some((role, [])) if role == "serve" => serve(),
        Some((role, addresses)) if role == "connect" => connect(addresses),
        _ => Err(io::Error::other("churn serve | churn connect ADDRESS...")),
    });
    match outcome.and_then(|outcome| outcome) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("churn: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A small generator of random numbers (xorshift); each process has a program of its own.
struct Random(Cell<u64>);

impl Random {
    fn new() -> Random {
        Random(Cell::new(
            u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ))
    }

    fn below(&self, limit: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x % limit
    }
}

/// Does what standard input says until it ends. `ended` counts the connections that are over.
fn obey(ended: &Cell<u64>, mut command: impl FnMut(&[&str]) -> io::Result<()>) -> io::Result<()> {
    let mut input = BufReader::new(yue_io::stdio::stdin());
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        command(&line.split_whitespace().collect::<Vec<_>>())?;
        line.clear();
        let counters = this_loop::counters();
        let (fibers, operations) = (counters.fibers, counters.operations);
        println!(
            "fibers {fibers} operations {operations} timers {} ended {}",
            counters.timers,
            ended.get()
        );
    }
    Ok(())
}

fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("serving at {}", listener.local_addr()?);
    let ended = Rc::new(Cell::new(0));
    let count = ended.clone();
    let accepting = spawn(move || accept_all(&listener, &count));
    obey(&ended, |_| Ok(()))?;
    accepting.cancel();
    Ok(())
}

/// Serves some connections by a fiber, some without, and resets the rest.
fn accept_all(listener: &TcpListener, ended: &Rc<Cell<u64>>) -> io::Result<()> {
    let random = Random::new();
    for stream in listener.incoming() {
        // A connection that is gone before it is served is one of the ways to come and go.
        let Ok(stream) = stream else { continue };
        stream.set_nodelay(true)?;
        match random.below(10) {
            0 => {
                reset(stream)?;
                ended.set(ended.get() + 1);
            }
            1..5 => {
                let echo = Rc::new(Echo(Cell::new(None), ended.clone()));
                let connection = Connection::start(stream, echo.clone())?;
                if random.below(8) == 0 {
                    connection.close();
                }
                echo.0.set(Some(connection));
            }
            chance => {
                let ended = ended.clone();
                drop(spawn(move || {
                    // However it ends, the client looks at what it got.
                    let _ = echo(&stream, chance == 9);
                    ended.set(ended.get() + 1);
                }));
            }
        }
    }
    Ok(())
}

/// Sends back what comes, once only if so asked, and then resets.
fn echo(stream: &TcpStream, once: bool) -> io::Result<()> {
    if once {
        let mut buffer = [0; 4096];
        let count = (&*stream).read(&mut buffer)?;
        (&*stream).write_all(&buffer[..count])?;
        return stream.set_linger(Some(Duration::ZERO));
    }
    io::copy(&mut &*stream, &mut &*stream).map(drop)
}

/// Closes a connection so that the peer sees an error.
fn reset(stream: TcpStream) -> io::Result<()> {
    stream.set_linger(Some(Duration::ZERO))
}

/// An echo without a fiber.
struct Echo(Cell<Option<Connection>>, Rc<Cell<u64>>);

impl Sink for Echo {
    fn data(&self, bytes: &[u8]) {
        if let Some(connection) = self.0.take() {
            connection.send(bytes.to_vec());
            self.0.set(Some(connection));
        }
    }

    fn sent(&self, _: Vec<u8>) {}

    fn closed(&self, _: io::Result<()>) {
        self.0.take();
        self.1.set(self.1.get() + 1);
    }
}

/// What the clients of a process have in common.
struct Clients {
    addresses: RefCell<Vec<SocketAddr>>,
    random: Random,
    ended: Cell<u64>,
    quiet: Cell<bool>,
}

fn connect(addresses: &[String]) -> io::Result<()> {
    let clients = Rc::new(Clients {
        addresses: RefCell::new(
            addresses
                .iter()
                .map(|text| address(text))
                .collect::<io::Result<_>>()?,
        ),
        random: Random::new(),
        ended: Cell::new(0),
        quiet: Cell::new(false),
    });
    println!("ready");
    let mut fibers: Vec<JoinHandle<io::Result<()>>> = Vec::new();
    obey(&clients.ended, |words| match words {
        ["begin"] => {
            fibers.extend((0..CLIENTS).map(|_| {
                let clients = clients.clone();
                spawn(move || clients.come_and_go())
            }));
            Ok(())
        }
        ["at", number, text] => {
            let number: usize = number.parse().map_err(io::Error::other)?;
            clients.addresses.borrow_mut()[number] = address(text)?;
            Ok(())
        }
        ["quiet"] => {
            clients.quiet.set(true);
            for fiber in fibers.drain(..) {
                fiber
                    .join()
                    .map_err(|error| io::Error::other(error.to_string()))??;
            }
            Ok(())
        }
        _ => Ok(()),
    })
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(io::Error::other)
}

impl Clients {
    /// One connection after the other, until it is to be quiet.
    ///
    /// # Errors
    /// When bytes come that were not sent, or no end comes at all. What a dead or resetting server does is none.
    fn come_and_go(&self) -> io::Result<()> {
        while !self.quiet.get() {
            let which = self.random.below(self.addresses.borrow().len() as u64) as usize;
            let address = self.addresses.borrow()[which];
            // Some give up in the middle of whatever it is.
            let (patience, gives_up) = match self.random.below(6) {
                0 => (Duration::from_micros(self.random.below(2_000)), true),
                _ => (SILENCE_MAX, false),
            };
            match timeout(patience, || self.converse(address)) {
                Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => return Err(error),
                Err(elapsed) if !gives_up => return Err(io::Error::other(elapsed)),
                _ => {}
            }
            self.ended.set(self.ended.get() + 1);
            sleep(Duration::from_millis(self.random.below(REST_MS_MAX)))?;
        }
        Ok(())
    }

    /// One connection.
    fn converse(&self, address: SocketAddr) -> io::Result<()> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        match self.random.below(8) {
            // Comes and goes.
            0 => return Ok(()),
            1 => return reset(stream),
            // Says something and goes without listening.
            2 => return (&stream).write_all(&[7; 300]),
            3 => {
                (&stream).write_all(&[7; 20_000])?;
                return reset(stream);
            }
            // Says all, and then hears all.
            4 => {
                let sent = vec![9; 1 + self.random.below(50_000) as usize];
                (&stream).write_all(&sent)?;
                stream.shutdown(Shutdown::Write)?;
                let mut got = Vec::new();
                (&stream).read_to_end(&mut got)?;
                return demand(sent.starts_with(&got));
            }
            _ => {}
        }
        for round in 0..1 + self.random.below(6) {
            let sent = vec![round as u8; 1 + self.random.below(2_000) as usize];
            (&stream).write_all(&sent)?;
            let mut got = vec![0; sent.len()];
            (&stream).read_exact(&mut got)?;
            demand(got == sent)?;
            if self.random.below(4) == 0 {
                yield_now()?;
            }
        }
        Ok(())
    }
}

fn demand(same: bool) -> io::Result<()> {
    match same {
        true => Ok(()),
        false => Err(io::Error::new(
            ErrorKind::InvalidData,
            "the echo is not what was sent",
        )),
    }
}
