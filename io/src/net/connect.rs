//! Connects to the first of several addresses that answers ("happy eyeballs", RFC 8305).
//!
//! ```text
//!   0 ms     attempt at address 1 ─────────────────────✗ (no answer)
//!   250 ms   attempt at address 2 ────────✓ wins; the others are cancelled and waited for
//!   …        a failed attempt starts the next at once
//! ```
//!
//! Each attempt is a fiber of the caller's loop. No attempt outlives the call.

use super::tcp::TcpStream;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::{
    Instant, JoinHandle, LocalWaker, Stopped, deadline_after, in_fiber, park_uninterruptible,
    park_unrefused, prepare_park, refuse_call, spawn,
};

/// Options for [`TcpStream::connect_with`].
///
/// ```
/// use std::time::Duration;
/// use yue_io::net::{ConnectOptions, TcpListener, TcpStream};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let options = ConnectOptions {
///         local: Some("127.0.0.2:0".parse().unwrap()),
///         attempt_delay: Duration::from_millis(100),
///         ..ConnectOptions::default()
///     };
///     let stream = TcpStream::connect_with(listener.local_addr()?, &options)?;
///     let (_, from) = listener.accept()?;
///     assert_eq!(from.ip().to_string(), "127.0.0.2");
///     assert_eq!(from, stream.local_addr()?);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The local address; `None` lets the system choose. If set, peer addresses of the other family are not tried.
    pub local: Option<SocketAddr>,
    /// The time that an attempt runs alone before the next address is tried in parallel.
    pub attempt_delay: Duration,
    /// Sends the first bytes along with the connection request (`TCP_FASTOPEN_CONNECT`). Connecting then returns at
    /// once, and the first read or write reports its error. Ignored where the kernel does not support it.
    pub fast_open: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions {
            local: None,
            // Recommended by RFC 8305, section 8.
            attempt_delay: Duration::from_millis(250),
            fast_open: false,
        }
    }
}

/// State shared by the attempts and the fiber that waits for them.
#[derive(Default)]
struct Race {
    winner: RefCell<Option<TcpStream>>,
    last_error: Cell<Option<io::Error>>,
    running: Cell<usize>,
    /// The number of failed attempts.
    failed: Cell<usize>,
    waiter: Cell<Option<LocalWaker>>,
}

/// Connects to one of the addresses. Earlier addresses are preferred.
pub(super) fn connect(
    addresses: Vec<SocketAddr>,
    options: &ConnectOptions,
) -> io::Result<TcpStream> {
    // An unwinding fiber cannot wait for attempts: the first one that would have to wait fails.
    if addresses.len() < 2 || !in_fiber() || std::thread::panicking() {
        return super::tcp::first_of(&addresses[..], |address| {
            TcpStream::connect_one(address, options)
        });
    }
    let race = Rc::new(Race::default());
    let mut attempts = Vec::new();
    let stopped = run(&race, interleaved(addresses), options, &mut attempts).err();
    attempts.iter().for_each(JoinHandle::cancel);
    while race.running.get() > 0 {
        race.waiter.set(Some(prepare_park()));
        park_uninterruptible("cancelled attempts to connect");
    }
    if let Some(stream) = race.winner.take() {
        return Ok(stream);
    }
    match (stopped, race.last_error.take()) {
        // Only now is the call refused for certain: no attempt won in the meantime.
        (Some(stopped), _) => Err(refuse_call(stopped).into()),
        (None, Some(error)) => Err(error),
        (None, None) => Err(io::Error::other(
            "an attempt to connect ended without a result",
        )),
    }
}

/// Starts attempts until one wins or all have failed. An error here does not refuse the call yet.
fn run(
    race: &Rc<Race>,
    mut addresses: VecDeque<SocketAddr>,
    options: &ConnectOptions,
    attempts: &mut Vec<JoinHandle<()>>,
) -> Result<(), Stopped> {
    while let Some(address) = addresses.pop_front() {
        let failed = race.failed.get();
        attempts.push(race.start(address, *options));
        let next = match addresses.is_empty() {
            true => Instant::NEVER,
            false => deadline_after(options.attempt_delay),
        };
        while race.winner.borrow().is_none() && race.failed.get() == failed {
            race.waiter.set(Some(prepare_park()));
            let end = park_unrefused("connect", next)?;
            if end == yue_scheduler::Wakeup::TimedOut {
                break;
            }
        }
        if race.winner.borrow().is_some() {
            return Ok(());
        }
    }
    while race.winner.borrow().is_none() && race.running.get() > 0 {
        race.waiter.set(Some(prepare_park()));
        park_unrefused("connect", Instant::NEVER)?;
    }
    Ok(())
}

impl Race {
    fn start(self: &Rc<Self>, address: SocketAddr, options: ConnectOptions) -> JoinHandle<()> {
        self.running.set(self.running.get() + 1);
        let attempt = Attempt(self.clone());
        spawn(move || {
            let race = &attempt.0;
            match TcpStream::connect_one(address, &options) {
                Ok(stream) if race.winner.borrow().is_none() => {
                    race.winner.replace(Some(stream));
                }
                Ok(_) => {}
                Err(error) => race.last_error.set(Some(error)),
            }
        })
    }
}

/// An attempt's entry in the race. Dropped however the attempt ends.
struct Attempt(Rc<Race>);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.failed.set(self.0.failed.get() + 1);
        if let Some(waiter) = self.0.waiter.take() {
            waiter.wake();
        }
    }
}

/// Returns the addresses with the two families alternating, starting with the family of the first (RFC 8305, section
/// 4).
fn interleaved(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = VecDeque::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return mixed;
        }
        mixed.extend(pair.0);
        mixed.extend(pair.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_and_the_first_address_stays_first() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let given = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let wanted = parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(interleaved(given), wanted);
        let only = parse(&["1.1.1.1:1", "2.2.2.2:1"]);
        assert_eq!(interleaved(only.clone()), only);
        assert!(interleaved(Vec::new()).is_empty());
    }
}
