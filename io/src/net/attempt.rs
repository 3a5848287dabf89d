//! One attempt to connect a socket, on either driver.
//!
//! ```text
//!   connect(2), non-blocking:  0            connected
//!                              EINPROGRESS  in progress: the socket becomes writable, and then has the outcome
//!                              EAGAIN       AF_UNIX: the backlog is full, no attempt has begun, and no event will
//!                                           follow: retry after a pause
//! ```
//!
//! io_uring does all of that in the kernel.

use super::socket::Socket;
use crate::backoff::Backoff;
use crate::descriptor::check_not_stopped;
use crate::driver::{Caller, caller};
use crate::identity::Direction;
use crate::simulated;
use io_uring::opcode;
use socket2::SockAddr;
use std::io;
use std::time::Duration;

const REASON: &str = "connect";

impl Socket {
    /// Connects to an address and waits for the outcome.
    pub(crate) fn connect(&self, address: &SockAddr) -> io::Result<()> {
        check_not_stopped(REASON)?;
        match caller()? {
            Caller::Uring(core) => {
                let (start, length) = (address.as_ptr().cast::<libc::sockaddr>(), address.len());
                let entry = opcode::Connect::new(self.entry_fd(), start, length).build();
                // SAFETY: `address` is borrowed until the call returns.
                unsafe { core.run_operation(entry, REASON) }.map(drop)
            }
            Caller::Thread if !simulated::is_on() => self.connect_blocking(address),
            other => {
                self.set_nonblocking()?;
                self.connect_ready(&other, address)
            }
        }
    }

    /// Connects on a thread that may block. A signal interrupts the wait, not the attempt: called again, the system
    /// continues it, or reports that it has succeeded meanwhile.
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

    fn connect_ready(&self, caller: &Caller, address: &SockAddr) -> io::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            match self.options().connect(address) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => break,
                Err(error) if self.kind().is_unix() && is_full_backlog(&error) => {
                    backoff.pause(caller, REASON, None)?
                }
                other => return other,
            }
        }
        self.when_ready(caller, Direction::Write, REASON, || self.outcome())
    }

    /// Returns the outcome of the attempt, or `WouldBlock` while it is in progress.
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

    /// Refuses a TCP connection of a socket to itself.
    ///
    /// A client that tries a local port without a listener may be assigned that very port as its own. TCP then connects
    /// the socket to itself (a simultaneous open, RFC 9293, 3.5). The program talks to itself, and keeps the server
    /// that it waits for from starting. Go's net package refuses such connections as well.
    ///
    /// # Errors
    /// `ConnectionRefused`, as a port without a listener would answer.
    pub(crate) fn refuse_self_connection(&self) -> io::Result<()> {
        let local = self.options().local_addr()?;
        // `last_peer_addr` also works for a socket that connects only when it sends (fast open).
        match self.options().last_peer_addr() {
            Ok(peer) if peer == local => {
                // Reset the connection, so that the port is free at once instead of after TIME_WAIT.
                let _ = self.options().set_linger(Some(Duration::ZERO));
                Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
            }
            // Another peer, or the peer has left: then reads and writes report it.
            _ => Ok(()),
        }
    }
}

fn is_full_backlog(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}
