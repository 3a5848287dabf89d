//! Two threads that hand the turn to each other: through a cache line, an eventfd, a TCP connection.
//!
//! Each of these measures a round trip between two threads of this process and gives what the rows need of it. The
//! threads are not pinned: the contestants are not either.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_utils::CachePadded;

use crate::harness::processors::{Processors, Side};
use crate::harness::{Effort, Problem, Sample};

/// Round trips that spin, at full effort.
const SPIN_TRIPS: usize = 2_000_000;
/// Round trips that sleep in the kernel, at full effort.
const SLEEP_TRIPS: usize = 20_000;

/// The time of one cache line's way from one thread to another, in ns: half of a spinning round trip.
pub fn cache_line(effort: Effort) -> Sample {
    let trips = effort.count(SPIN_TRIPS);
    Sample::of(spin_round_trip_ns(trips) / 2.0)
}

/// A round trip between two threads that spin, in ns.
pub fn spin(effort: Effort) -> Sample {
    Sample::of(spin_round_trip_ns(effort.count(SPIN_TRIPS)))
}

fn spin_round_trip_ns(trips: usize) -> f64 {
    let turn = CachePadded::new(AtomicU64::new(0));
    let warm_up = trips as u64 / 10;
    let all = warm_up + trips as u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for trip in 0..all {
                wait_for(&turn, 2 * trip + 1);
                // Release: pairs with the Acquire of `wait_for` on the other thread.
                turn.store(2 * trip + 2, Ordering::Release);
            }
        });
        let mut start = Instant::now();
        for trip in 0..all {
            if trip == warm_up {
                start = Instant::now();
            }
            // Release: pairs with the Acquire of `wait_for` on the other thread.
            turn.store(2 * trip + 1, Ordering::Release);
            wait_for(&turn, 2 * trip + 2);
        }
        start.elapsed().as_nanos() as f64 / trips as f64
    })
}

fn wait_for(turn: &AtomicU64, value: u64) {
    let mut spins = 0_u32;
    // Acquire: pairs with the Release store that hands the turn over.
    while turn.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
        spins += 1;
        // With fewer free processors than threads the other one may not be running at all.
        if spins.is_multiple_of(1 << 14) {
            std::thread::yield_now();
        }
    }
}

/// Where the two threads of a ping-pong run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the kernel puts them; when they take turns anyway that may be one processor.
    Anywhere,
    /// Each on a processor of its own.
    Apart,
}

/// A round trip between two threads that sleep in `read` on an eventfd each, in ns.
pub fn eventfd(effort: Effort, place: Place) -> Result<Sample, Problem> {
    let trips = effort.count(SLEEP_TRIPS);
    let (there, back) = (event()?, event()?);
    let warm_up = trips / 10;
    let processors = Processors::detect()?;
    if place == Place::Apart && !processors.are_two() {
        return Err(Problem::failed("this process may use one processor only"));
    }
    let bind = |side| match place {
        Place::Apart => processors.bind(side),
        Place::Anywhere => Ok(()),
    };
    let elapsed = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            bind(Side::Server)?;
            (0..trips + warm_up).try_for_each(|_| {
                take(&there)?;
                ring(&back)
            })
        });
        bind(Side::Client)?;
        let mut start = Instant::now();
        for trip in 0..trips + warm_up {
            if trip == warm_up {
                start = Instant::now();
            }
            ring(&there)?;
            take(&back)?;
        }
        let elapsed = start.elapsed();
        other
            .join()
            .map_err(|_| io::Error::other("the other thread panicked"))??;
        Ok::<_, io::Error>(elapsed)
    })?;
    Ok(Sample::of(elapsed.as_nanos() as f64 / trips as f64))
}

fn event() -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor; no memory is passed.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn ring(event: &OwnedFd) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: writes from eight bytes that are there.
    let wrote = unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
    if wrote == 8 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn take(event: &OwnedFd) -> io::Result<()> {
    let mut count = 0_u64;
    // SAFETY: reads into eight bytes that are there.
    let got = unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), 8) };
    if got == 8 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How the two sides of a TCP ping-pong wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// In the kernel.
    Blocking,
    /// By trying again.
    Spinning,
}

/// Round trips per second over TCP between two threads: `request` bytes there, `response` bytes back.
pub fn tcp(effort: Effort, wait: Wait, request: usize, response: usize) -> Result<Sample, Problem> {
    let trips = effort.count(SLEEP_TRIPS);
    let warm_up = trips / 10;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(wait == Wait::Spinning)?;
    }
    let processors = Processors::detect()?;
    let elapsed = std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            processors.bind(Side::Server)?;
            let (mut input, output) = (vec![0; request], vec![b'r'; response]);
            (0..trips + warm_up).try_for_each(|_| {
                read_exact(&mut server, &mut input)?;
                server.write_all(&output)
            })
        });
        processors.bind(Side::Client)?;
        let (output, mut input) = (vec![b'q'; request], vec![0; response]);
        let mut start = Instant::now();
        for trip in 0..trips + warm_up {
            if trip == warm_up {
                start = Instant::now();
            }
            client.write_all(&output)?;
            read_exact(&mut client, &mut input)?;
        }
        let elapsed = start.elapsed();
        other
            .join()
            .map_err(|_| io::Error::other("the other thread panicked"))??;
        Ok::<_, io::Error>(elapsed)
    })?;
    Ok(Sample::of(trips as f64 / elapsed.as_secs_f64()))
}

/// `read_exact` that tries again when nothing is there yet (a blocking stream never says so).
fn read_exact(stream: &mut TcpStream, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
