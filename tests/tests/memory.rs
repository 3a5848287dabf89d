//! A client that opens everything it may and sends the worst of everything: what the server takes stays below the
//! figure that the book states (`docs/src/wire.md`, *Limits*).

mod common;

use common::wire::Raw;
use common::{Program, Server, drivers};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What the listener may hold.
const MEMORY_MAX: usize = 32 << 20;

/// The book's figure: so many times `memory_max`, beside what an idle program has.
const TIMES: usize = 6;

/// Connections of each attacker, and attackers: together all that the listener admits but a few.
const CONNECTIONS: usize = 16;

/// How long they go on.
const ATTACK: Duration = Duration::from_secs(6);

fn program() -> Program {
    let text = format!(
        "local yue = require 'yue'
        local never = yue.emitter()
        local listener = yue.listen('tcp://127.0.0.1:0', {{ memory_max = {MEMORY_MAX}, connections_max = 128 }}, {{
          keep = function(...) never:wait('never') return ... end,
          echo = function(...) return ... end,
          bytes = function(count) return ('x'):rep(count) end,
        }})
        io.stdout:write('serving at ' .. listener:addr() .. '\\n')
        io.stdout:flush()"
    );
    Program::new("memory", &text)
}

/// A request of `method` with these arguments, of which there are fewer than 16.
fn request(id: u32, method: &str, arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0x94, 0, 0xce];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.push(0xa0 | method.len() as u8);
    bytes.extend_from_slice(method.as_bytes());
    bytes.push(0x90 | arguments.len() as u8);
    arguments
        .iter()
        .for_each(|bytes_of_one| bytes.extend_from_slice(bytes_of_one));
    bytes
}

/// An array of so many values, each of these bytes.
fn array(count: u32, each: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xdd];
    bytes.extend_from_slice(&count.to_be_bytes());
    (0..count).for_each(|_| bytes.extend_from_slice(each));
    bytes
}

/// The beginning of a binary value of so many bytes.
fn binary(length: u32) -> Vec<u8> {
    [&[0xc6][..], &length.to_be_bytes()].concat()
}

/// What an attacker says, again and again, for each kind of attack.
fn worst(kind: usize, id: u32) -> Vec<u8> {
    match kind {
        // A byte on the wire becomes 64 in Lua, and is kept.
        0 => request(id, "keep", &[&array(60_000, &[0x90])]),
        // Handlers that never end.
        1 => (0..500)
            .flat_map(|n| request(id * 500 + n, "keep", &[]))
            .collect(),
        // Answers that are not read.
        2 => request(id, "bytes", &[&[0xce, 0, 0x20, 0, 0]]),
        // A message that never ends. (It is begun once; what follows is its inside.)
        3 if id == 0 => request(0, "echo", &[&binary(4_000_000)]),
        3 => vec![0; 64 << 10],
        // Maps, strings and large messages, kept.
        4 => request(
            id,
            "keep",
            &[&array(30_000, &[0x81, 0xa1, b'k', 0xa3, b'v', b'a', b'l'])],
        ),
        // Control messages whose answers are not read.
        _ => (0..2000_u32)
            .flat_map(|n| {
                let id = (n as u16).to_be_bytes();
                [&[0x94, 0, 0xcd, id[0], id[1]][..], b"\xa9$yue/ping\x90"].concat()
            })
            .collect(),
    }
}

/// One connection of an attacker: sends as much as is taken, and reads nothing.
struct Attacker {
    stream: Option<TcpStream>,
    kind: usize,
    id: u32,
    unsent: Vec<u8>,
}

impl Attacker {
    fn connect(&mut self, address: &str) {
        self.stream = TcpStream::connect(address).ok();
        if let Some(stream) = &self.stream {
            stream.set_nonblocking(true).unwrap();
        }
        (self.id, self.unsent) = (0, Vec::new());
    }

    /// Returns whether anything was taken.
    fn attack(&mut self, address: &str) -> bool {
        let Some(stream) = &mut self.stream else {
            self.connect(address);
            return false;
        };
        if self.unsent.is_empty() {
            self.unsent = worst(self.kind, self.id);
            self.id += 1;
        }
        match stream.write(&self.unsent) {
            Ok(count) => {
                self.unsent.drain(..count);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(_) => {
                self.stream = None;
                false
            }
        }
    }
}

#[test]
fn what_the_worst_of_clients_can_take_is_bounded() {
    for driver in drivers() {
        let program = program();
        let server = Server::of(program.command().env("YUE_IO", driver));
        let idle = server.running.memory();
        let address = server.host_and_port().to_owned();
        let mut bystander = Raw::connect(&address);
        assert!(bystander.call("echo", &[1.into()]).is_ok());
        let mut attackers: Vec<Attacker> = (0..6 * CONNECTIONS)
            .map(|n| Attacker {
                stream: None,
                kind: n % 6,
                id: 0,
                unsent: Vec::new(),
            })
            .collect();
        let (begin, mut most, mut served) = (Instant::now(), 0, 0);
        while begin.elapsed() < ATTACK {
            let taken = attackers
                .iter_mut()
                .map(|attacker| attacker.attack(&address))
                .filter(|taken| *taken)
                .count();
            most = most.max(server.running.memory());
            if taken == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            served += usize::from(bystander.call("echo", &[1.into()]).is_ok());
        }
        println!(
            "{driver}: {} MiB idle, {} MiB at most, {} MiB may be held; the bystander was served {served} times",
            idle >> 20,
            most >> 20,
            MEMORY_MAX >> 20
        );
        assert!(
            most < idle + TIMES * MEMORY_MAX,
            "{driver}: {} MiB, of which {} idle",
            most >> 20,
            idle >> 20
        );
        assert!(served > 0, "{driver}: the bystander was not served");
        // All of it was for nothing: the server goes on.
        for attacker in &mut attackers {
            if let Some(stream) = &mut attacker.stream {
                let _ = stream.read(&mut [0; 1024]);
            }
        }
        drop(attackers);
        assert!(bystander.call("echo", &[2.into()]).is_ok());
        let mut newcomer = Raw::connect(&address);
        assert!(newcomer.call("echo", &[3.into()]).is_ok());
    }
}
