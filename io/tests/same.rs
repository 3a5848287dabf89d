//! Random programs, each run on both drivers: every fiber records what it saw, and both records must be equal.
//!
//! A fiber owns both ends of a stream, a pipe, a pair of datagram sockets or a file, and does one operation after
//! another. So the program alone determines what it sees, whatever the other fibers do. A failure prints the seed;
//! `YUE_SEED` repeats that program, and `YUE_PROGRAMS` sets how many are run.

mod common;
#[path = "same/sharing.rs"]
mod sharing;

use common::*;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use yue_io::Choice;
use yue_io::fs;
use yue_io::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixStream};
use yue_io::pipe::{PipeReader, PipeWriter, pipe};
use yue_scheduler::*;

const PROGRAMS: u64 = 150;
const FIBERS: u64 = 12;
const STEPS: u64 = 40;
/// The number of programs that run concurrently: they wait most of the time.
const AT_ONCE: usize = 8;
/// The maximum bytes in transit in one direction, so that no write ever waits.
const ON_THE_WAY: usize = 6_000;
/// The maximum datagrams in transit: a Unix socket queues ten.
const DATAGRAMS: usize = 6;

/// A small random number generator (xorshift): the same seed gives the same program.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}

/// One end of a stream, pipe or socket pair.
enum End {
    Tcp(TcpStream),
    Unix(UnixStream),
    Udp(UdpSocket),
    Datagram(UnixDatagram),
    Reader(PipeReader),
    Writer(PipeWriter),
}

impl End {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            End::Tcp(end) => (&*end).read(buffer),
            End::Unix(end) => (&*end).read(buffer),
            End::Reader(end) => (&*end).read(buffer),
            End::Udp(end) => end.recv(buffer),
            End::Datagram(end) => end.recv(buffer),
            End::Writer(_) => unreachable!("a pipe's writer is not read"),
        }
    }

    fn read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            End::Tcp(end) => (&*end).read_vectored(buffers),
            End::Unix(end) => (&*end).read_vectored(buffers),
            End::Reader(end) => (&*end).read_vectored(buffers),
            _ => unreachable!("not a stream"),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            End::Tcp(end) => (&*end).write(bytes),
            End::Unix(end) => (&*end).write(bytes),
            End::Writer(end) => (&*end).write(bytes),
            End::Udp(end) => end.send(bytes),
            End::Datagram(end) => end.send(bytes),
            End::Reader(_) => unreachable!("a pipe's reader is not written"),
        }
    }

    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            End::Tcp(end) => (&*end).write_vectored(slices),
            End::Unix(end) => (&*end).write_vectored(slices),
            End::Writer(end) => (&*end).write_vectored(slices),
            _ => unreachable!("not a stream"),
        }
    }

    fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            End::Tcp(end) => end.peek(buffer),
            End::Unix(end) => end.peek(buffer),
            End::Udp(end) => end.peek(buffer),
            End::Datagram(end) => end.peek(buffer),
            End::Reader(_) | End::Writer(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            End::Tcp(end) => end.shutdown(Shutdown::Write),
            End::Unix(end) => end.shutdown(Shutdown::Write),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn is_datagram(&self) -> bool {
        matches!(self, End::Udp(_) | End::Datagram(_))
    }
}

/// Creates two ends: bytes written to one are read from the other.
fn ends(kind: u64) -> (End, End) {
    match kind {
        0 => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (other, _) = listener.accept().unwrap();
            one.set_nodelay(true).unwrap();
            (End::Tcp(one), End::Tcp(other))
        }
        1 => {
            let (one, other) = UnixStream::pair().unwrap();
            (End::Unix(one), End::Unix(other))
        }
        2 => {
            let (reader, writer) = pipe().unwrap();
            (End::Writer(writer), End::Reader(reader))
        }
        3 => {
            let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
            let (one, other) = (bind(), bind());
            one.connect(other.local_addr().unwrap()).unwrap();
            other.connect(one.local_addr().unwrap()).unwrap();
            (End::Udp(one), End::Udp(other))
        }
        _ => {
            let (one, other) = UnixDatagram::pair().unwrap();
            (End::Datagram(one), End::Datagram(other))
        }
    }
}

/// A fiber's record: one line per operation.
#[derive(Default)]
struct Transcript(Vec<String>);

impl Transcript {
    fn note(&mut self, what: &str, result: io::Result<usize>, bytes: &[u8]) {
        let line = match result {
            Ok(count) => {
                let seen = bytes.get(..count).unwrap_or_default();
                let sum = seen
                    .iter()
                    .fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
                format!("{what}: {count} {sum:x}")
            }
            Err(error) => {
                let code = error.raw_os_error();
                format!("{what}: {:?} {code:?} {error}", error.kind())
            }
        };
        self.0.push(line);
    }
}

/// Bytes, or datagrams, that are written and not read yet.
#[derive(Default)]
struct Direction {
    lengths: Vec<usize>,
    ended: bool,
}

impl Direction {
    fn bytes(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn take(&mut self, datagram: bool, mut count: usize) {
        if datagram {
            self.lengths.remove(0);
            return;
        }
        while count > 0 {
            let first = self.lengths[0];
            if first > count {
                self.lengths[0] -= count;
                return;
            }
            count -= first;
            self.lengths.remove(0);
        }
    }
}

/// Writes at one end and reads at the other.
fn transfer(kind: u64, mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let (one, other) = ends(kind);
    let both_ways = kind != 2;
    let ends = [one, other];
    let mut ways = [Direction::default(), Direction::default()];
    for _ in 0..STEPS {
        let from = if both_ways {
            random.below(2) as usize
        } else {
            0
        };
        let (writer, reader, way) = (&ends[from], &ends[1 - from], &mut ways[from]);
        let datagram = writer.is_datagram();
        match random.below(14) {
            0..=4 => {
                let size = 1 + random.below(1500) as usize;
                let full = way.bytes() + size > ON_THE_WAY || way.lengths.len() >= DATAGRAMS;
                if full {
                    continue;
                }
                let bytes = random.bytes(size);
                let result = if datagram || random.below(2) == 0 {
                    writer.write(&bytes)
                } else {
                    let (first, rest) = bytes.split_at(random.below(size as u64) as usize);
                    writer.write_vectored(&[IoSlice::new(first), IoSlice::new(rest)])
                };
                if let Ok(count) = result {
                    way.lengths.push(count);
                }
                transcript.note("write", result, &bytes);
            }
            5..=9 => {
                let size = 1 + random.below(2500) as usize;
                let mut buffer = vec![0; size];
                let there = !way.lengths.is_empty() || way.ended;
                let vectored = !datagram && random.below(3) == 0;
                let read = |buffer: &mut [u8]| {
                    if !vectored {
                        return reader.read(buffer);
                    }
                    let (first, rest) = buffer.split_at_mut(size / 3);
                    reader.read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(rest)])
                };
                if !there {
                    let at = now().saturating_add(Duration::from_micros(300));
                    transcript.note("wait", with_deadline(at, || read(&mut buffer)), &buffer);
                    continue;
                }
                // Over TCP, one write may arrive in two pieces.
                let wanted = size.min(way.bytes());
                let result = match reader {
                    End::Tcp(_) if wanted > 0 => {
                        let mut got = 0;
                        loop {
                            match reader.read(&mut buffer[got..wanted]) {
                                Ok(count) if count > 0 && got + count < wanted => got += count,
                                Ok(count) => break Ok(got + count),
                                Err(error) => break Err(error),
                            }
                        }
                    }
                    _ => read(&mut buffer),
                };
                if let Ok(count) = result
                    && count > 0
                {
                    way.take(datagram, count);
                }
                transcript.note("read", result, &buffer);
            }
            10 if !way.lengths.is_empty() && kind != 2 => {
                // A byte is certainly available.
                let mut byte = [0];
                let result = reader.peek(&mut byte);
                transcript.note("peek", result, &byte);
            }
            11 if random.below(4) == 0 => {
                let result = writer.shutdown_write();
                way.ended |= result.is_ok();
                transcript.note("end", result.map(|()| 0), &[]);
            }
            12 => {
                let scope = CancelScope::new();
                scope.cancel();
                let mut buffer = [0; 8];
                let result = scope.enter(|| reader.read(&mut buffer));
                transcript.note("cancelled", result, &buffer);
            }
            13 => {
                let _ = yield_now();
            }
            _ => {}
        }
    }
    let [one, other] = ends;
    // The peer closes: the remaining bytes are read, then end of input.
    drop(one);
    if !other.is_datagram() && kind != 0 {
        let mut rest = Vec::new();
        let result = loop {
            let mut buffer = [0; 512];
            match other.read(&mut buffer) {
                Ok(0) => break Ok(rest.len()),
                Ok(count) => rest.extend(&buffer[..count]),
                Err(error) => break Err(error),
            }
        };
        transcript.note("rest", result, &rest);
    }
    if let End::Unix(end) = &other {
        transcript.note("write to a closed peer", (&*end).write(b"x"), b"x");
    }
    transcript.0
}

/// Passes descriptors through a Unix socket and uses them.
fn pass(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let (here, there) = UnixStream::pair().unwrap();
    for _ in 0..STEPS / 4 {
        let pipes: Vec<_> = (0..random.below(4)).map(|_| pipe().unwrap()).collect();
        let passed: Vec<_> = pipes.iter().map(|(_, writer)| writer.as_fd()).collect();
        let size = 1 + random.below(20) as usize;
        let bytes = random.bytes(size);
        transcript.note("pass", here.send_with_fds(&bytes, &passed), &bytes);
        let mut buffer = [0; 64];
        let got = there.recv_with_fds(&mut buffer).unwrap();
        transcript.note("take", Ok(got.count), &buffer);
        let readers: Vec<_> = pipes.into_iter().map(|(reader, _)| reader).collect();
        for fd in got.descriptors {
            PipeWriter::from(fd).write_all(&bytes).unwrap();
        }
        for mut reader in readers {
            let mut text = Vec::new();
            let result = reader.read_to_end(&mut text);
            transcript.note("through", result, &text);
        }
    }
    transcript.0
}

/// Operates on a file.
fn file(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let dir = fs::TempDir::new().unwrap();
    let (mut path, other) = (dir.path().join("a"), dir.path().join("b"));
    let mut file = fs::File::create_new(&path).unwrap();
    for _ in 0..STEPS / 2 {
        let offset = random.below(5000);
        let size = 1 + random.below(3000) as usize;
        let bytes = random.bytes(size);
        let mut buffer = vec![0; bytes.len()];
        match random.below(10) {
            0 => transcript.note("write", file.write(&bytes), &bytes),
            1 => transcript.note("write at", file.write_at(&bytes, offset), &bytes),
            2 => {
                let result = file.read(&mut buffer);
                transcript.note("read", result, &buffer);
            }
            3 | 4 => {
                let result = file.read_at(&mut buffer, offset);
                transcript.note("read at", result, &buffer);
            }
            5 => {
                let position = file.seek(SeekFrom::Start(offset));
                transcript.note("seek", position.map(|at| at as usize), &[]);
            }
            6 => transcript.note("cut", file.set_len(offset).map(|()| 0), &[]),
            7 => {
                let length = file.metadata().map(|known| known.len() as usize);
                transcript.note("length", length, &[]);
            }
            8 => {
                let to = if path == other {
                    dir.path().join("a")
                } else {
                    other.clone()
                };
                transcript.note("rename", fs::rename(&path, &to).map(|()| 0), &[]);
                path = to;
                transcript.note("sync", file.sync_data().map(|()| 0), &[]);
            }
            _ => {
                let scope = CancelScope::new();
                scope.cancel();
                let result = scope.enter(|| file.write_at(b"never", 0));
                transcript.note("cancelled", result, &[]);
            }
        }
    }
    drop(file);
    let all = fs::read(&path).unwrap();
    transcript.note("all", Ok(all.len()), &all);
    transcript.note(
        "gone",
        fs::remove_file(path.with_extension("none")).map(|()| 0),
        &[],
    );
    transcript.0
}

/// Runs one program: fibers of all kinds at once. Returns what they saw.
fn program(choice: Choice, seed: u64) -> Vec<Vec<String>> {
    run_on(choice, move || {
        let fibers: Vec<_> = (0..FIBERS)
            .map(|n| {
                let mut random = Random((seed ^ (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
                let work = move || match n {
                    kind @ 0..5 => transfer(kind, random),
                    5 => pass(random),
                    6 => file(random),
                    _ => {
                        let kind = random.below(sharing::KINDS);
                        sharing::run(kind, random)
                    }
                };
                // An operation that waits forever on one driver shows as a difference.
                spawn(move || with_deadline(now().saturating_add(LONG), work))
            })
            .collect();
        let seen = fibers
            .into_iter()
            .map(|fiber| {
                let seen = fiber.join();
                seen.unwrap_or_else(|error| panic!("YUE_SEED={seed} on {choice:?}: {error}"))
            })
            .collect();
        // A poll that a select left behind ends within the next turns.
        wait_until(|| operations() == 0);
        seen
    })
}

/// Ends the process, and names the program, if a program takes much longer than its fibers' deadline on both drivers: a
/// loop that is blocked by a call keeps no deadline.
struct Watchdog(#[allow(dead_code)] mpsc::Sender<()>);

impl Watchdog {
    fn start(seed: u64) -> Watchdog {
        let (alive, is_alive) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if is_alive.recv_timeout(3 * LONG) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Not with `eprintln!`, which the harness captures until the test ends.
                let output =
                    format!("YUE_SEED={seed}: a loop is blocked, or a fiber cannot be stopped\n");
                let _ = io::stderr().write_all(output.as_bytes());
                std::process::abort();
            }
        });
        Watchdog(alive)
    }
}

#[test]
fn both_drivers_behave_the_same() {
    // Run both, whatever the environment chooses for other tests.
    let (one, other) = (Choice::Uring, Choice::Mio);
    if let Err(error) = yue_io::driver(one) {
        eprintln!("skipped, because it needs both drivers: {error}");
        return;
    }
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seeds: Vec<u64> = match number("YUE_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("YUE_PROGRAMS").unwrap_or(PROGRAMS))
            .map(|n| n.wrapping_mul(0x2545_f491_4f6c_dd1d))
            .collect(),
    };
    let (next, operations) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let _watchdog = Watchdog::start(seed);
            let (seen, too) = (program(one, seed), program(other, seed));
            for (n, (one, other)) in seen.iter().zip(&too).enumerate() {
                assert_eq!(one, other, "YUE_SEED={seed}, fiber {n}");
                operations.fetch_add(one.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        (0..AT_ONCE).for_each(|_| drop(scope.spawn(work)));
    });
    assert!(operations.into_inner() > 0);
}
