//! A key-value server that speaks Redis's protocol (RESP2), so that `redis-cli` and `redis-benchmark` can talk to it.
//!
//! `cargo run --release -p yue --example kvs -- 127.0.0.1:6380`, then `redis-cli -p 6380 set name frodo`, or
//! `redis-benchmark -p 6380 -t ping,set,get`. The data needs no lock: all connections are fibers of one loop, and no
//! command waits while it runs. Ctrl-C ends the program once the answers are sent.
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::rc::Rc;
use yue::net::{TcpListener, TcpStream};

const ARGUMENTS_MAX: usize = 1024;
const COMMAND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The maximum length of a line with a sign and a number.
const LINE_BYTES_MAX: u64 = 64;
/// The maximum length of an inline command, as in Redis.
const INLINE_BYTES_MAX: u64 = 64 * 1024;
const BUFFER_BYTES: usize = 16 * 1024;
/// The memory that a connection keeps after a large answer.
const SPARE_BYTES_MAX: usize = 4 * BUFFER_BYTES;

type Store = HashMap<Vec<u8>, Vec<u8>>;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:6380".to_owned());
    let runtime = yue::Runtime::builder().shutdown_on_signals(true).build()?;
    runtime.run(move || {
        let listener = TcpListener::bind(address)?;
        println!("serving at {}", listener.local_addr()?);
        let store = Rc::new(RefCell::new(Store::new()));
        drop(yue::spawn(move || -> io::Result<()> {
            for stream in listener.incoming() {
                let (stream, store) = (stream?, store.clone());
                drop(yue::spawn(move || converse(&stream, &store)));
            }
            Ok(())
        }));
        yue::wait_for_shutdown()?;
        // The remaining fibers are cancelled here: they end where they wait for a command.
        Ok(())
    })
}

/// Serves one connection. The answers to commands that arrived together are sent together.
fn converse(stream: &TcpStream, store: &RefCell<Store>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
    let mut command = Command::default();
    let mut output = Vec::with_capacity(BUFFER_BYTES);
    loop {
        if reader.buffer().is_empty() || output.len() >= BUFFER_BYTES {
            send(stream, &mut output)?;
        }
        if reader.fill_buf()?.is_empty() {
            return Ok(());
        }
        match command.read(&mut reader) {
            Ok(()) if command.is_quit() => {
                output.extend_from_slice(b"+OK\r\n");
                return send(stream, &mut output);
            }
            // The store is borrowed only for the command, and the answer goes to memory: nothing here waits.
            Ok(()) => execute(&command, &mut store.borrow_mut(), &mut output)?,
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                write!(output, "-ERR Protocol error: {error}\r\n")?;
                return send(stream, &mut output);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Sends answers, even while the program is being shut down.
fn send(mut stream: &TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    yue::shield(|| stream.write_all(output))?;
    output.clear();
    output.shrink_to(SPARE_BYTES_MAX);
    Ok(())
}

/// The words of a command in one buffer, with the end of each. Reused for the next command.
#[derive(Default)]
struct Command {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Command {
    fn read(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        self.bytes.clear();
        self.ends.clear();
        if from.fill_buf()?.first() != Some(&b'*') {
            return self.read_inline(from);
        }
        for _ in 0..self.number(b'*', ARGUMENTS_MAX, from)? {
            let length = self.number(b'$', COMMAND_BYTES_MAX - self.bytes.len(), from)?;
            let start = self.bytes.len();
            // Memory grows with the bytes received, not with the announced length.
            from.take(length as u64 + 2).read_to_end(&mut self.bytes)?;
            if self.bytes.get(start + length..) != Some(b"\r\n") {
                return Err(invalid("expected CRLF after a bulk string"));
            }
            self.bytes.truncate(start + length);
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    /// Reads a line of words, as typed by people and sent by health checks.
    fn read_inline(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        from.take(INLINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(invalid("too big inline request"));
        }
        let words = line.split(u8::is_ascii_whitespace);
        for word in words.filter(|word| !word.is_empty()) {
            self.bytes.extend_from_slice(word);
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    fn is_quit(&self) -> bool {
        self.ends.len() == 1 && self.bytes.eq_ignore_ascii_case(b"QUIT")
    }

    /// Reads a line with a sign and a number.
    fn number(&mut self, sign: u8, max: usize, from: &mut impl BufRead) -> io::Result<usize> {
        let start = self.bytes.len();
        from.take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut self.bytes)?;
        let line = std::str::from_utf8(&self.bytes[start..]).ok();
        let digits = line.and_then(|line| line.strip_prefix(sign as char)?.strip_suffix("\r\n"));
        // Digits only: Rust would also accept a sign.
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok());
        self.bytes.truncate(start);
        let wrong = || {
            invalid(format!(
                "expected {}, a number up to {max}, CRLF",
                sign as char
            ))
        };
        number.filter(|number| *number <= max).ok_or_else(wrong)
    }

    fn words(&self) -> Vec<&[u8]> {
        let starts = [0].iter().chain(&self.ends);
        let places = starts.zip(&self.ends);
        places
            .map(|(start, end)| &self.bytes[*start..*end])
            .collect()
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, text.into())
}

fn execute(command: &Command, store: &mut Store, out: &mut Vec<u8>) -> io::Result<()> {
    let words = command.words();
    let Some((name, arguments)) = words.split_first() else {
        return Ok(());
    };
    let count = |found: usize, out: &mut Vec<u8>| write!(out, ":{found}\r\n");
    match (name.to_ascii_uppercase().as_slice(), arguments) {
        (b"PING", []) => out.write_all(b"+PONG\r\n"),
        (b"PING" | b"ECHO", [text]) => bulk(out, text),
        (b"GET", [key]) => match store.get(*key) {
            Some(value) => bulk(out, value),
            None => out.write_all(b"$-1\r\n"),
        },
        (b"SET", [key, value]) => {
            store.insert(key.to_vec(), value.to_vec());
            out.write_all(b"+OK\r\n")
        }
        (b"DEL", keys) => count(
            keys.iter().filter_map(|key| store.remove(*key)).count(),
            out,
        ),
        (b"EXISTS", keys) => count(keys.iter().filter_map(|key| store.get(*key)).count(), out),
        (b"DBSIZE", []) => count(store.len(), out),
        (b"SELECT", [b"0"]) => out.write_all(b"+OK\r\n"),
        // Asked by redis-benchmark and redis-cli before they start.
        (b"CONFIG" | b"COMMAND", _) => out.write_all(b"*0\r\n"),
        (name, _) => {
            let (name, count) = (name.escape_ascii(), arguments.len());
            write!(out, "-ERR no command '{name}' of {count} arguments\r\n")
        }
    }
}

fn bulk(out: &mut Vec<u8>, value: &[u8]) -> io::Result<()> {
    write!(out, "${}\r\n", value.len())?;
    out.write_all(value)?;
    out.write_all(b"\r\n")
}
