//! A socket that listens: one connection at a time, or all that come.
//!
//! On io_uring a multishot accept may have taken more connections than were asked for. They wait with the listener, and
//! with its clones, and go before those that are still with the kernel.

use super::socket::Socket;
use crate::driver::{Here, here};
use crate::errors::{is_gone_client, is_shortage};
use crate::uring::{Accepting, Taken};
use socket2::{SockAddr, SockRef};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::time::Duration;
use yue_scheduler::{in_fiber, is_cancelled, may_suspend, sleep};

const REASON: &str = "accept a connection";

/// A listening socket, and what was taken from it too early.
#[derive(Debug)]
pub(crate) struct Listening {
    socket: Socket,
    taken: Arc<Taken>,
}

impl From<Socket> for Listening {
    fn from(socket: Socket) -> Self {
        Listening::with(socket, Arc::default())
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
    fn with(mut socket: Socket, taken: Arc<Taken>) -> Listening {
        socket.set_ahead(taken.clone());
        Listening { socket, taken }
    }

    /// A second handle, which also accepts what this one has taken.
    pub(crate) fn try_clone(&self) -> io::Result<Listening> {
        Ok(Listening::with(
            self.socket.try_clone()?,
            self.taken.clone(),
        ))
    }

    /// See [`Descriptor::into_fd`](crate::descriptor::Descriptor::into_fd).
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.socket.into_fd()
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> io::Result<(Socket, SockAddr)> {
        patiently(|| self.accept_one(Socket::accept))
    }

    /// The next connection that is there; WouldBlock if there is none.
    pub(crate) fn accept_now(&self) -> io::Result<(Socket, SockAddr)> {
        self.accept_one(Socket::accept_now)
    }

    fn accept_one(
        &self,
        accept: impl FnOnce(&Socket) -> io::Result<(Socket, SockAddr)>,
    ) -> io::Result<(Socket, SockAddr)> {
        while let Some(connection) = self.taken.pop() {
            // One that is broken by now has no address, and is no use either.
            if let Ok(address) = SockRef::from(&connection).peer_addr() {
                return Ok((self.socket.accepted(connection), address));
            }
        }
        accept(&self.socket)
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
        match patiently(|| self.take(listener)) {
            Err(_) if is_cancelled() => None,
            other => Some(other),
        }
    }

    fn take(&mut self, listener: &Listening) -> io::Result<Socket> {
        let alone = || {
            listener
                .accept_one(Socket::accept)
                .map(|(socket, _)| socket)
        };
        let Here::Uring(core) = here()? else {
            return alone();
        };
        let ring = match &self.ring {
            Some(ring) if ring.is_of(&core) => ring,
            // The first use, or the first on this loop.
            _ => {
                let ring = Accepting::new(core, listener.raw(), listener.taken.clone());
                &*self.ring.insert(ring)
            }
        };
        match listener.read_limit.enforce(|| ring.next(REASON))? {
            Some(connection) => Ok(listener.accepted(connection)),
            None => alone(),
        }
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
