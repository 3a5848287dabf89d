//! A listening socket: accepts one connection, or all connections as they arrive.
//!
//! On io_uring a multishot accept may have accepted more connections than were asked for. They wait with the listener
//! and its clones, and are returned before those that are still in the kernel.

use super::options::Options;
use super::socket::Socket;
use crate::accept_queue::{AcceptQueue, QueueHandle};
use crate::descriptor::{check_not_stopped, yield_if_over_budget};
use crate::driver::{Backend, Caller, caller};
use crate::errors::{cannot_wait, is_of_one_client, is_shortage};
use crate::identity::Direction;
use crate::readiness::{ReadinessBranch, ReadySource};
use crate::simulated;
use crate::sys;
use crate::uring::AcceptOperation;
use socket2::SockAddr;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue_scheduler::{
    Instant, RemoteWaker, in_fiber, is_cancelled, may_suspend, park, prepare_park, sleep, this_loop,
};

const REASON: &str = "accept a connection";

/// A listening socket, and its reference to the connections accepted in advance.
#[derive(Debug)]
pub(crate) struct ListeningSocket {
    socket: Socket,
    queue: QueueHandle,
}

impl From<Socket> for ListeningSocket {
    fn from(socket: Socket) -> Self {
        ListeningSocket {
            socket,
            queue: QueueHandle::new(),
        }
    }
}

impl From<OwnedFd> for ListeningSocket {
    fn from(fd: OwnedFd) -> Self {
        ListeningSocket::from(Socket::from(fd))
    }
}

impl Deref for ListeningSocket {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl ListeningSocket {
    /// Returns a second handle, which also returns the connections that this one accepted.
    pub(crate) fn try_clone(&self) -> io::Result<ListeningSocket> {
        Ok(ListeningSocket {
            socket: self.socket.try_clone()?,
            queue: self.queue.clone(),
        })
    }

    /// See [`Descriptor::into_fd`](crate::descriptor::Descriptor::into_fd).
    ///
    /// # Errors
    /// Fails also when connections accepted in advance would be lost.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.queue.try_release().map_err(|left| {
            let text = format!(
                "{left} connections that `incoming` accepted would be lost; take them with \
                 `accept_queued` before converting the listener"
            );
            io::Error::other(text)
        })?;
        self.socket.into_fd()
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> io::Result<(Socket, SockAddr)> {
        let accepted = self.read_limit.enforce(|| {
            let mut failures = ClientFailures::default();
            loop {
                match self.accept_one() {
                    Err(error) if is_of_one_client(&error) => failures.record(error)?,
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
        check_not_stopped(REASON)?;
        let caller = caller()?;
        let Caller::Uring(core) = &caller else {
            return self.accept_ready(&caller);
        };
        let queue = self.queue.share_queue();
        let ring = StopOnDrop(AcceptOperation::new(core.clone(), self.raw(), queue, false));
        loop {
            let connection = self.next_from_ring(&caller, &ring.0)?;
            if let Some(accepted) = self.with_peer_address(connection) {
                return Ok(accepted);
            }
        }
    }

    /// Accepts with a system call when the listener is ready.
    fn accept_ready(&self, caller: &Caller) -> io::Result<(Socket, SockAddr)> {
        yield_if_over_budget(caller)?;
        loop {
            match self.accept_now() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.wait_for_connection(caller, REASON)?;
        }
    }

    /// Returns the next available connection, or `WouldBlock` if there is none.
    pub(crate) fn accept_now(&self) -> io::Result<(Socket, SockAddr)> {
        while let Some(connection) = self.queue.pop() {
            if let Some(accepted) = self.with_peer_address(connection) {
                return Ok(accepted);
            }
        }
        self.set_nonblocking()?;
        self.socket.accept_now()
    }

    /// Returns a connection accepted in advance, if there is one.
    pub(crate) fn accept_queued(&self) -> Option<(Socket, SockAddr)> {
        loop {
            let connection = self.queue.pop()?;
            if let Some(accepted) = self.with_peer_address(connection) {
                return Some(accepted);
            }
        }
    }

    /// Returns a connection and its peer's address. A connection without an address is broken, and is dropped.
    fn with_peer_address(&self, connection: OwnedFd) -> Option<(Socket, SockAddr)> {
        let address = Options::of(&connection).last_peer_addr().ok()?;
        Some((self.accepted(connection), address))
    }

    /// Waits until there is a connection to accept. Accepts nothing.
    pub(crate) fn wait_ready(&self, direction: Direction) -> io::Result<()> {
        const REASON: &str = "wait until readable";
        debug_assert_eq!(direction, Direction::Read, "a listener is never writable");
        self.read_limit.enforce(|| {
            check_not_stopped(REASON)?;
            let caller = caller()?;
            yield_if_over_budget(&caller)?;
            while !self.queue.has_connection() {
                match sys::check_ready(self.raw(), direction.poll_events()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                }
                self.wait_for_connection(&caller, REASON)?;
            }
            Ok(())
        })
    }

    pub(crate) fn ready_branch(&self, direction: Direction) -> ReadinessBranch<'_> {
        self.socket.ready_branch_with(direction, Some(&*self.queue))
    }

    /// Waits until there may be a connection: in the kernel, or in the queue, where another fiber's operation puts it.
    fn wait_for_connection(&self, caller: &Caller, reason: &'static str) -> io::Result<()> {
        let backend = match caller {
            Caller::Callback => return Err(io::ErrorKind::WouldBlock.into()),
            Caller::Unwinding => return Err(cannot_wait()),
            Caller::Thread if simulated::is_on() => {
                let limit = self.read_limit.get();
                return sys::block_until_ready(self.raw(), libc::POLLIN, limit);
            }
            Caller::Thread => {
                return self
                    .queue
                    .block_thread(&self.as_fd(), self.read_limit.get());
            }
            Caller::Uring(core) => Backend::Uring(core.clone()),
            Caller::Mio(core) => Backend::Mio(core.clone()),
        };
        let waker = prepare_park();
        let Some(_queue_wait) = self.queue.add_fiber(waker.remote()) else {
            return Ok(());
        };
        let _kernel_wait = self.start_kernel_wait(&backend, Direction::Read, waker)?;
        Ok(park(reason)?)
    }

    /// Waits for the next connection through the ring.
    fn next_from_ring(&self, caller: &Caller, ring: &Rc<AcceptOperation>) -> io::Result<OwnedFd> {
        loop {
            match ring.next_connection(REASON)? {
                Some(connection) => return Ok(connection),
                None => self.wait_for_connection(caller, REASON)?,
            }
        }
    }
}

/// A connection in the queue makes the listener readable, whatever the kernel says.
impl ReadySource for AcceptQueue {
    fn is_ready(&self) -> bool {
        self.has_connection()
    }

    fn add_waiter(&self, waker: RemoteWaker) -> Option<u64> {
        self.add_fiber_ticket(waker)
    }

    fn remove_waiter(&self, ticket: u64) {
        AcceptQueue::remove_waiter(self, ticket);
    }
}

/// Stops an accept operation when dropped.
struct StopOnDrop(Rc<AcceptOperation>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// An iterator over a listener's connections, for one fiber.
#[derive(Default)]
pub(crate) struct IncomingSockets {
    /// The multishot accept, once it was needed.
    ring: Option<Rc<AcceptOperation>>,
}

impl IncomingSockets {
    /// Waits for the next connection. Returns `None` when the fiber was cancelled.
    pub(crate) fn next(&mut self, listener: &ListeningSocket) -> Option<io::Result<Socket>> {
        // One limit covers the whole wait, including pauses.
        match listener
            .read_limit
            .enforce(|| self.next_or_fatal_error(listener))
        {
            Err(_) if is_cancelled() => None,
            other => Some(other),
        }
    }

    /// Waits for the next connection, retrying after temporary errors.
    fn next_or_fatal_error(&mut self, listener: &ListeningSocket) -> io::Result<Socket> {
        let mut failures = ClientFailures::default();
        loop {
            match self.try_next(listener) {
                Err(error) if is_of_one_client(&error) => failures.record(error)?,
                Err(error) if is_shortage(&error) && !cannot_pause() => pause(&error)?,
                other => return other,
            }
        }
    }

    fn try_next(&mut self, listener: &ListeningSocket) -> io::Result<Socket> {
        check_not_stopped(REASON)?;
        let caller = caller()?;
        let Caller::Uring(core) = &caller else {
            return listener.accept_ready(&caller).map(|(socket, _)| socket);
        };
        let ring = match &self.ring {
            Some(ring) if ring.runs_on(core) => ring,
            // The first accept, or the first on this loop.
            _ => {
                let queue = listener.queue.share_queue();
                let ring = AcceptOperation::new(core.clone(), listener.raw(), queue, true);
                &*self.ring.insert(ring)
            }
        };
        let connection = listener.next_from_ring(&caller, ring)?;
        Ok(listener.accepted(connection))
    }
}

impl Drop for IncomingSockets {
    fn drop(&mut self) {
        // The listener may be closed next; the operation must not keep the port listening.
        if let Some(ring) = &self.ring {
            ring.stop();
        }
    }
}

impl fmt::Debug for IncomingSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingSockets")
            .field("multishot", &self.ring.is_some())
            .finish()
    }
}

/// The pause of an accept when the process is short of a resource.
const PAUSE: Duration = Duration::from_millis(50);

/// Consecutive errors that concern one client each, after which the next attempt waits.
const CLIENTS_AT_ONCE: u32 = 64;

/// Counts clients that could not be accepted. A system that refuses every client must not keep the loop busy.
#[derive(Default)]
struct ClientFailures(u32);

impl ClientFailures {
    /// Records a failure, and pauses if there were many in a row.
    ///
    /// # Errors
    /// When the fiber is cancelled or its deadline passes; `error` itself where the caller cannot wait.
    fn record(&mut self, error: io::Error) -> io::Result<()> {
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

/// Whether the caller cannot wait: in a callback, or in a destructor during a panic.
pub(super) fn cannot_pause() -> bool {
    match in_fiber() {
        true => may_suspend().is_err(),
        false => this_loop::exists(),
    }
}

/// Waits before the next attempt to accept, and logs the reason unless it was logged lately.
///
/// # Errors
/// When the fiber is cancelled or its deadline passes.
fn pause(error: &io::Error) -> io::Result<()> {
    if is_shortage(error) {
        log_shortage(error);
    }
    match in_fiber() {
        _ if cannot_pause() => {}
        true => sleep(PAUSE)?,
        false => std::thread::sleep(PAUSE),
    }
    Ok(())
}

/// The minimum time between two log lines, in nanoseconds.
const LOG_INTERVAL_NS: u64 = 60_000_000_000;

/// Logs a shortage, at most once a minute per process: the operator should know why clients wait.
fn log_shortage(error: &io::Error) {
    /// The time of the next log line. Relaxed: the number stands alone.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (now, next) = (Instant::system().as_nanos(), NEXT.load(Ordering::Relaxed));
    let later = now.saturating_add(LOG_INTERVAL_NS);
    let order = Ordering::Relaxed;
    if now < next || NEXT.compare_exchange(next, later, order, order).is_err() {
        return;
    }
    yue_scheduler::log(
        yue_scheduler::LogLevel::Warn,
        format_args!(
            "cannot accept connections: {error}; clients wait until resources are available (the limit on open files \
         is `ulimit -n`)"
        ),
    );
}
