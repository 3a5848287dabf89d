//! Two threads that alternate, through a cache line, an eventfd, or a TCP connection.
//!
//! Each function measures a round trip between two threads of this process and returns the figure that its rows need.
//! The threads are not pinned, because the contestants are not pinned either.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_utils::CachePadded;

use crate::harness::processors::{Processors, Side};
use crate::harness::{Effort, Problem, Sample};

/// Spinning round trips at full effort.
const SPIN_TRIPS: usize = 2_000_000;
/// Round trips through the kernel at full effort.
const SLEEP_TRIPS: usize = 20_000;

/// Measures the transfer of one cache line between two threads in ns: half of a spinning round trip.
pub fn cache_line(effort: Effort) -> Sample {
    let trips = effort.count(SPIN_TRIPS);
    Sample::of(spin_round_trip_ns(trips) / 2.0)
}

/// Measures a round trip between two spinning threads in ns.
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
    // Acquire: pairs with the Release store that passes the turn.
    while turn.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
        spins += 1;
        // With fewer free processors than threads, the other thread may not be running at all.
        if spins.is_multiple_of(1 << 14) {
            std::thread::yield_now();
        }
    }
}

/// The placement of the two threads of a ping-pong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the kernel puts them; alternating threads may share one processor.
    Anywhere,
    /// On two different processors.
    Apart,
}

/// Measures a round trip in ns between two threads that each sleep in `read` on an eventfd.
pub fn eventfd(effort: Effort, placement: Placement) -> Result<Sample, Problem> {
    let trips = effort.count(SLEEP_TRIPS);
    let (there, back) = (event()?, event()?);
    let warm_up = trips / 10;
    let processors = Processors::detect()?;
    if placement == Placement::Apart && !processors.are_two() {
        return Err(Problem::failed("this process may use only one processor"));
    }
    let bind = |side| match placement {
        Placement::Apart => processors.bind(side),
        Placement::Anywhere => Ok(()),
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
    // SAFETY: creates a new descriptor; no memory is passed.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn ring(event: &OwnedFd) -> io::Result<()> {
    let one = 1_u64;
    // SAFETY: the call reads eight live bytes.
    let wrote = unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
    if wrote == 8 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn take(event: &OwnedFd) -> io::Result<()> {
    let mut count = 0_u64;
    // SAFETY: the call writes to eight live bytes.
    let got = unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), 8) };
    if got == 8 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The way in which the two ends of a TCP ping-pong wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Blocking in the kernel.
    Blocking,
    /// Retrying until data arrives.
    Spinning,
}

/// Measures round trips per second over TCP between two threads: `request` bytes there, `response` bytes back.
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

/// Like `read_exact`, but retries when no bytes are available yet (a blocking stream never reports that).
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
