//! A socket that listens: one connection at a time, or all that come.
//!
//! On io_uring a multishot accept may have taken more connections than were asked for. They wait with the listener, and
//! with its clones, and go before those that are still with the kernel.

use super::socket::Socket;
use crate::descriptor::{let_others_run, not_stopped};
use crate::driver::{Here, here};
use crate::errors::{is_of_one_client, is_shortage};
use crate::sys;
use crate::taken::Share;
use crate::uring::Accepting;
use socket2::{SockAddr, SockRef};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue_scheduler::{Instant, in_fiber, is_cancelled, may_suspend, sleep, this_loop};

const REASON: &str = "accept a connection";

/// A listening socket, and its share in what was taken from it too early.
#[derive(Debug)]
pub(crate) struct Listening {
    socket: Socket,
    share: Share,
}

impl From<Socket> for Listening {
    fn from(socket: Socket) -> Self {
        Listening::with(socket, Share::new())
    }
}

impl From<OwnedFd> for Listening {
    fn from(fd: OwnedFd) -> Self {
        Listening::from(Socket::from(fd))
    }
}

impl Deref for Listening {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl Listening {
    fn with(mut socket: Socket, share: Share) -> Listening {
        socket.set_ahead(share.taken().clone());
        Listening { socket, share }
    }

    /// A second handle, which also accepts what this one has taken.
    pub(crate) fn try_clone(&self) -> io::Result<Listening> {
        let socket = self.socket.try_clone()?;
        Ok(Listening::with(socket, self.share.clone()))
    }

    /// See [`Descriptor::into_fd`](crate::descriptor::Descriptor::into_fd).
    ///
    /// # Errors
    /// Also when connections that were taken ahead would be lost.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.share.give_up().map_err(|left| {
            let text = format!(
                "{left} connections that `incoming` took from the listener would be lost; accept them by \
                 `accept_taken` before it is converted"
            );
            io::Error::other(text)
        })?;
        self.socket.into_fd()
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> io::Result<(Socket, SockAddr)> {
        let accepted = self.read_limit.enforce(|| {
            let mut patience = Patience::default();
            loop {
                match self.accept_one() {
                    Err(error) if is_of_one_client(&error) => patience.forgive(error)?,
                    other => return other,
                }
            }
        });
        if let Err(error) = &accepted
            && is_shortage(error)
        {
            pause(error)?;
        }
        accepted
    }

    fn accept_one(&self) -> io::Result<(Socket, SockAddr)> {
        not_stopped(REASON)?;
        let here = here()?;
        let Here::Uring(core) = &here else {
            return self.accept_ready(&here);
        };
        let taken = self.share.taken().clone();
        let ring = Ended(Accepting::new(core.clone(), self.raw(), taken, false));
        loop {
            let connection = self.next_of_ring(&here, &ring.0)?;
            if let Some(accepted) = self.with_address(connection) {
                return Ok(accepted);
            }
        }
    }

    /// Accepts by a system call when the listener is ready.
    fn accept_ready(&self, here: &Here) -> io::Result<(Socket, SockAddr)> {
        let_others_run(here)?;
        loop {
            match self.accept_now() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.wait_for_connection(here, REASON)?;
        }
    }

    /// The next connection that is there; WouldBlock if there is none.
    pub(crate) fn accept_now(&self) -> io::Result<(Socket, SockAddr)> {
        while let Some(connection) = self.share.taken().pop() {
            if let Some(accepted) = self.with_address(connection) {
                return Ok(accepted);
            }
        }
        self.set_nonblocking()?;
        self.socket.accept_now()
    }

    /// A connection that was taken ahead, if there is one.
    pub(crate) fn accept_taken(&self) -> Option<(Socket, SockAddr)> {
        loop {
            let connection = self.share.taken().pop()?;
            if let Some(accepted) = self.with_address(connection) {
                return Some(accepted);
            }
        }
    }

    /// A connection and its peer's address. One without an address is no connection any more, and is dropped.
    fn with_address(&self, connection: OwnedFd) -> Option<(Socket, SockAddr)> {
        let address = sys::peer_address(SockRef::from(&connection)).ok()?;
        Some((self.accepted(connection), address))
    }

    /// Waits for the next connection through the ring.
    fn next_of_ring(&self, here: &Here, ring: &Rc<Accepting>) -> io::Result<OwnedFd> {
        loop {
            match ring.next(REASON)? {
                Some(connection) => return Ok(connection),
                None => self.wait_for_connection(here, REASON)?,
            }
        }
    }
}

/// An operation that ends with the call that began it.
struct Ended(Rc<Accepting>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The connections of a listener as they come, for one fiber.
#[derive(Default)]
pub(crate) struct Arrivals {
    /// The operation that takes them, once there was a use for it.
    ring: Option<Rc<Accepting>>,
}

impl Arrivals {
    /// Waits for the next one; `None` when the fiber has been told to stop.
    pub(crate) fn next(&mut self, listener: &Listening) -> Option<io::Result<Socket>> {
        // One limit for the whole wait, pauses included.
        match listener.read_limit.enforce(|| self.patiently(listener)) {
            Err(_) if is_cancelled() => None,
            other => Some(other),
        }
    }

    /// Waits for the next one, past all errors that may be over by then.
    fn patiently(&mut self, listener: &Listening) -> io::Result<Socket> {
        let mut patience = Patience::default();
        loop {
            match self.take(listener) {
                Err(error) if is_of_one_client(&error) => patience.forgive(error)?,
                Err(error) if is_shortage(&error) && !cannot_pause() => pause(&error)?,
                other => return other,
            }
        }
    }

    fn take(&mut self, listener: &Listening) -> io::Result<Socket> {
        not_stopped(REASON)?;
        let here = here()?;
        let Here::Uring(core) = &here else {
            return listener.accept_ready(&here).map(|(socket, _)| socket);
        };
        let ring = match &self.ring {
            Some(ring) if ring.is_of(core) => ring,
            // The first use, or the first on this loop.
            _ => {
                let taken = listener.share.taken().clone();
                let ring = Accepting::new(core.clone(), listener.raw(), taken, true);
                &*self.ring.insert(ring)
            }
        };
        let connection = listener.next_of_ring(&here, ring)?;
        Ok(listener.accepted(connection))
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        // The listener may go next, and then nothing must listen any more.
        if let Some(ring) = &self.ring {
            ring.end();
        }
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals")
            .field("multishot", &self.ring.is_some())
            .finish()
    }
}

/// How long an accept waits when the process is out of something.
const PAUSE: Duration = Duration::from_millis(50);

/// Errors in a row that concern one client each, after which the next attempt waits.
const CLIENTS_AT_ONCE: u32 = 64;

/// Counts clients that could not be accepted. A system that refuses each of them must not keep the loop busy.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    /// Lets the next attempt be made, after a pause if there were many.
    ///
    /// # Errors
    /// When the fiber is told to stop; the client's error where nothing can wait.
    fn forgive(&mut self, error: io::Error) -> io::Result<()> {
        self.0 += 1;
        if self.0 < CLIENTS_AT_ONCE {
            return Ok(());
        }
        self.0 = 0;
        match cannot_pause() {
            true => Err(error),
            false => pause(&error),
        }
    }
}

/// Whether nothing can wait here: in a callback, or in a destructor during a panic.
fn cannot_pause() -> bool {
    match in_fiber() {
        true => may_suspend().is_err(),
        false => this_loop::exists(),
    }
}

/// Waits before the next attempt to accept, and says why if that has not been said lately.
///
/// # Errors
/// When the fiber is told to stop.
fn pause(error: &io::Error) -> io::Result<()> {
    if is_shortage(error) {
        say_so(error);
    }
    match in_fiber() {
        _ if cannot_pause() => {}
        true => sleep(PAUSE)?,
        false => std::thread::sleep(PAUSE),
    }
    Ok(())
}

/// The least time between two remarks, in nanoseconds.
const SILENCE_NS: u64 = 60_000_000_000;

/// Says what is going on, once a minute at the most in a process: whoever runs the server should know why clients wait.
fn say_so(error: &io::Error) {
    /// When it may be said again. Relaxed: the number stands alone.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (now, next) = (Instant::system().as_nanos(), NEXT.load(Ordering::Relaxed));
    let later = now.saturating_add(SILENCE_NS);
    let order = Ordering::Relaxed;
    if now < next || NEXT.compare_exchange(next, later, order, order).is_err() {
        return;
    }
    yue_scheduler::say(format_args!(
        "no connection can be accepted: {error}; clients wait until there is room (the limit on open files is \
         `ulimit -n`)"
    ));
}
