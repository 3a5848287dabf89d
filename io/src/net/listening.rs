//! A socket that listens: one connection at a time, or all that come.
//!
//! On io_uring a multishot accept may have taken more connections than were asked for. They wait with the listener, and
//! with its clones, and go before those that are still with the kernel.

use super::socket::Socket;
use crate::descriptor::{let_others_run, not_stopped};
use crate::driver::{Here, here};
use crate::errors::{is_gone_client, is_shortage};
use crate::sys;
use crate::taken::Share;
use crate::uring::Accepting;
use socket2::{SockAddr, SockRef};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;
use yue_scheduler::{in_fiber, is_cancelled, may_suspend, sleep};

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
        patiently(|| self.read_limit.enforce(|| self.accept_one()))
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
        match patiently(|| listener.read_limit.enforce(|| self.take(listener))) {
            Err(_) if is_cancelled() => None,
            other => Some(other),
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

/// How long an accept waits before it reports that the process is out of something.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until there is a connection, or an error that is not the client's.
fn patiently<T>(mut accept: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match accept() {
            // The client has gone again; that is no concern of ours.
            Err(error) if is_gone_client(&error) => {}
            Err(error) if is_shortage(&error) => {
                say_so(&error);
                if in_fiber() {
                    if may_suspend().is_ok() {
                        sleep(PAUSE)?;
                    }
                } else if !yue_scheduler::this_loop::exists() {
                    std::thread::sleep(PAUSE);
                }
                return Err(error);
            }
            other => return other,
        }
    }
}

/// Says what is going on, once a process: whoever runs the server should know why clients wait.
fn say_so(error: &io::Error) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        yue_scheduler::say(format_args!(
            "no connection can be accepted: {error}; clients wait until there is room (the limit on open files is \
             `ulimit -n`)"
        ));
    });
}
