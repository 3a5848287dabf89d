//! One attempt to connect a socket, on whichever driver the caller's loop has.
//!
//! ```text
//!   connect(2), non-blocking:  0            connected
//!                              EINPROGRESS  under way: the socket becomes writable, and then knows the outcome
//!                              EAGAIN       AF_UNIX: the listener's backlog is full, nothing has begun, and no event
//!                                           will follow: ask again after a pause
//! ```
//!
//! io_uring does all of that in the kernel.

use super::socket::Socket;
use crate::backoff::Backoff;
use crate::descriptor::not_stopped;
use crate::driver::{Here, here};
use crate::readiness::Direction;
use crate::sys;
use io_uring::opcode;
use socket2::SockAddr;
use std::io;
use std::time::Duration;

const REASON: &str = "connect";

impl Socket {
    /// Connects to an address, and waits for the outcome.
    pub(crate) fn connect(&self, address: &SockAddr) -> io::Result<()> {
        not_stopped(REASON)?;
        match here()? {
            Here::Uring(core) => {
                let (start, length) = (address.as_ptr().cast::<libc::sockaddr>(), address.len());
                let entry = opcode::Connect::new(self.entry_fd(), start, length).build();
                // SAFETY: `address` is borrowed until the call is over.
                unsafe { core.run(entry, REASON) }.map(drop)
            }
            Here::Thread => self.connect_blocking(address),
            other => {
                self.set_nonblocking()?;
                self.connect_ready(&other, address)
            }
        }
    }

    /// Connects on a thread that may be blocked. A signal interrupts the wait, not the attempt: asked again, the system
    /// goes on with it, or tells that it has succeeded meanwhile.
    fn connect_blocking(&self, address: &SockAddr) -> io::Result<()> {
        let mut interrupted = false;
        loop {
            match self.options().connect(address) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => interrupted = true,
                Err(error) if interrupted && error.raw_os_error() == Some(libc::EISCONN) => {
                    return Ok(());
                }
                other => return other,
            }
        }
    }

    fn connect_ready(&self, here: &Here, address: &SockAddr) -> io::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            match self.options().connect(address) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => break,
                Err(error) if self.kind().is_unix() && is_full_backlog(&error) => {
                    backoff.pause(here, REASON, None)?
                }
                other => return other,
            }
        }
        self.when_ready(here, Direction::Write, REASON, || self.outcome())
    }

    /// How the attempt that is under way has ended; WouldBlock if it has not.
    fn outcome(&self) -> io::Result<()> {
        if let Some(error) = self.options().take_error()? {
            return Err(error);
        }
        match self.options().peer_addr() {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Refuses a TCP connection that has been made to itself.
    ///
    /// Whoever tries a port of this machine that nobody listens on may be given that very port as its own, and then TCP
    /// connects the socket to itself (a simultaneous open, RFC 9293, 3.5). The program talks to itself, and keeps the
    /// server that it waits for from starting. Go's net refuses it as well.
    ///
    /// # Errors
    /// `ConnectionRefused`, which is what the port would have answered.
    pub(crate) fn refuse_self_connection(&self) -> io::Result<()> {
        let local = self.options().local_addr()?;
        // Also of a socket that only connects when it sends (fast open).
        match sys::peer_address(self.options()) {
            Ok(peer) if peer == local => {
                // A reset, so that the port is free at once and not only after TIME_WAIT.
                let _ = self.options().set_linger(Some(Duration::ZERO));
                Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
            }
            // Another peer; or none any more, which reading and writing will tell.
            _ => Ok(()),
        }
    }
}

fn is_full_backlog(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}
