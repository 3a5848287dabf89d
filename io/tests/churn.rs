//! Random programs on both drivers: connections start, end, are cancelled and time out, while others transfer bytes
//! that must arrive in order. A failure prints the seed; `YUE_SEED` repeats that program.

mod common;

use common::*;
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, TcpStream};
use yue_scheduler::*;

/// A small random number generator (xorshift): the same seed gives the same program.
#[derive(Clone)]
struct Random(Rc<Cell<u64>>);

impl Random {
    fn below(&self, limit: u64) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x % limit
    }
}

/// An echo without a fiber.
struct Echo(Cell<Option<Connection>>, Rc<Cell<usize>>);

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
        self.1.set(self.1.get() - 1);
    }
}

/// Serves every other connection with a fiber, the rest without.
fn serve(listener: &TcpListener, random: &Random, open: &Rc<Cell<usize>>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // Otherwise Nagle's algorithm and delayed acknowledgements stall the program for 40 ms now and then.
        stream.set_nodelay(true).unwrap();
        if random.below(2) == 0 {
            drop(spawn(move || io::copy(&mut &stream, &mut &stream)));
            continue;
        }
        let echo = Rc::new(Echo(Cell::new(None), open.clone()));
        let connection = Connection::start(stream, echo.clone()).unwrap();
        open.set(open.get() + 1);
        if random.below(4) == 0 {
            connection.set_reading(false);
            let later = connection.clone();
            drop(spawn(move || {
                let _ = yield_now();
                later.set_reading(true);
            }));
        }
        if random.below(8) == 0 {
            connection.close();
        }
        echo.0.set(Some(connection));
    }
}

/// Sends and receives until an error ends it. Received bytes must be the ones sent, in order.
fn client(address: SocketAddr, random: &Random) -> io::Result<()> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (&stream, &stream);
    let mut next = 0u8;
    for _ in 0..random.below(20) {
        let size = 1 + random.below(if random.below(10) == 0 { 100_000 } else { 300 }) as usize;
        let bytes: Vec<u8> = (0..size).map(|i| next.wrapping_add(i as u8)).collect();
        next = next.wrapping_add(size as u8);
        writer.write_all(&bytes)?;
        if random.below(30) == 0 {
            stream.shutdown(Shutdown::Write)?;
        }
        let mut got = vec![0; size];
        reader.read_exact(&mut got)?;
        assert!(got == bytes, "the echo differs from what was sent");
        if random.below(5) == 0 {
            yield_now()?;
        }
    }
    Ok(())
}

fn program(seed: u64) {
    let random = Random(Rc::new(Cell::new(seed | 1)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let open = Rc::new(Cell::new(0));
    let (dice, count) = (random.clone(), open.clone());
    let server = spawn(move || serve(&listener, &dice, &count));
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let random = random.clone();
            spawn(move || {
                let limit = Duration::from_micros(random.below(20_000));
                match random.below(3) {
                    0 => drop(timeout(limit, || client(address, &random))),
                    _ => drop(client(address, &random)),
                }
            })
        })
        .collect();
    for fiber in &clients {
        if random.below(4) == 0 {
            sleep(Duration::from_micros(random.below(300))).unwrap();
            fiber.cancel();
        }
    }
    for fiber in clients {
        // A panic in the fiber means a wrong byte.
        fiber.join().unwrap();
    }
    server.cancel();
    server.join().unwrap();
    wait_until(|| open.get() == 0 && operations() == 0);
}

#[test]
fn random_programs_lose_no_byte_and_leave_nothing_behind() {
    let seeds = match std::env::var("YUE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=60)
            .map(|n| 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(n))
            .collect::<Vec<u64>>(),
    };
    for choice in choices() {
        for &seed in &seeds {
            eprintln!("YUE_SEED={seed} on {choice:?}");
            run_on(choice, move || program(seed));
        }
    }
}
