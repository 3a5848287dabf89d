//! A socket, and its operations on whichever driver the caller's loop has.
//!
//! Every operation borrows the socket and its memory until it is over, so that dropping a socket is a plain close. A
//! socket may be used from any loop, from several at once, and from threads without a loop, which it blocks.
//!
//! The descriptor's mode: sending and receiving say `MSG_DONTWAIT` themselves, so the mode does not matter to them.
//! io_uring waits by itself on a blocking descriptor only; on a non-blocking one it answers `EAGAIN`, and we poll and
//! try again. Accepting and connecting on mio need the non-blocking mode, and set it for good.

use crate::driver::{Here, here, mio_here};
use crate::readiness::{Direction, Identity};
use crate::{sys, uring};
use io_uring::{opcode, squeue, types};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockRef, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use yue_scheduler::{is_cancelled, park, prepare_park, yield_now};

/// A socket that its loops know by a number that is never reused.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    id: u64,
    /// Whether the non-blocking mode was set here. It never goes back, so that a stale `false` costs a call only.
    nonblocking: AtomicBool,
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: only the numbers' being different matters; it pairs with nothing.
        Socket {
            fd,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            nonblocking: AtomicBool::new(false),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(core) = mio_here() {
            core.forget(self.identity());
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An operation's turn, unless its fiber has been told to stop: it does not begin another then.
#[inline]
fn not_stopped(reason: &'static str) -> io::Result<()> {
    if is_cancelled() {
        prepare_park();
        park(reason)?;
    }
    Ok(())
}

impl Socket {
    pub(crate) fn new(domain: Domain, protocol: Option<Protocol>) -> io::Result<Socket> {
        let socket = socket2::Socket::new(domain, Type::STREAM, protocol)?;
        Ok(Socket::from(OwnedFd::from(socket)))
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            fd: self.raw(),
            id: self.id,
        }
    }

    /// The descriptor, in blocking mode as the standard library expects it, and registered nowhere on this loop.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        let duplicate = self.fd.try_clone()?;
        if let Some(core) = mio_here() {
            core.deregister(self.identity());
        }
        SockRef::from(&duplicate).set_nonblocking(false)?;
        Ok(duplicate)
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        // Relaxed: the mode is the kernel's to order; this only saves the call.
        if !self.nonblocking.load(Ordering::Relaxed) {
            self.options().set_nonblocking(true)?;
            self.nonblocking.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sets the blocking mode, on which the ring's multishot operations wait by themselves.
    pub(crate) fn set_blocking(&self) -> io::Result<()> {
        self.options().set_nonblocking(false)
    }

    fn entry_fd(&self) -> types::Fd {
        types::Fd(self.raw())
    }

    /// Tries `call`, and again whenever the descriptor is ready, until it says something else than WouldBlock.
    fn when_ready<T>(
        &self,
        here: &Here,
        direction: Direction,
        reason: &'static str,
        mut call: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        if let Here::Mio(core) = here
            && core.had_its_share()
        {
            yield_now()?;
        }
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            match here {
                Here::Callback => return Err(io::ErrorKind::WouldBlock.into()),
                Here::Thread => sys::block_until_ready(self.raw(), poll_events(direction))?,
                Here::Mio(core) => core.wait(self.identity(), direction, reason)?,
                Here::Uring(core) => self.poll_ring(core, direction, reason)?,
            }
        }
    }

    /// Waits for readiness through the ring.
    fn poll_ring(
        &self,
        core: &uring::Core,
        direction: Direction,
        reason: &'static str,
    ) -> io::Result<()> {
        let entry = opcode::PollAdd::new(self.entry_fd(), poll_events(direction) as u32).build();
        // SAFETY: the entry points to no memory.
        unsafe { core.run(entry, reason) }.map(drop)
    }

    /// Does an operation through the ring; if the descriptor is non-blocking, polls and tries again.
    ///
    /// # Safety
    /// What the entries point to is valid for as long as this call runs.
    unsafe fn ring_operation(
        &self,
        core: &uring::Core,
        direction: Direction,
        reason: &'static str,
        mut entry: impl FnMut() -> squeue::Entry,
    ) -> io::Result<u32> {
        loop {
            // SAFETY: passed on to the caller.
            match unsafe { core.run(entry(), reason) } {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.poll_ring(core, direction, reason)?
                }
                other => return other,
            }
        }
    }

    pub(crate) fn recv(&self, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        const REASON: &str = "read from a socket";
        not_stopped(REASON)?;
        if buffer.is_empty() {
            // The kernel would wait for a byte all the same.
            return Ok(0);
        }
        match here()? {
            Here::Uring(core) => {
                let (start, length) = (buffer.as_mut_ptr(), clamp(buffer.len()));
                let entry = || {
                    opcode::Recv::new(self.entry_fd(), start, length)
                        .flags(flags)
                        .build()
                };
                // SAFETY: `buffer` is borrowed until the call is over.
                unsafe { self.ring_operation(&core, Direction::Read, REASON, entry) }
                    .map(|count| count as usize)
            }
            other => {
                if let Here::Mio(core) = &other
                    && core.is_drained(self.identity())
                {
                    core.wait(self.identity(), Direction::Read, REASON)?;
                }
                let call = || sys::recv(self.raw(), buffer, flags);
                let count = self.when_ready(&other, Direction::Read, REASON, call)?;
                if let Here::Mio(core) = &other
                    && (1..buffer.len()).contains(&count)
                    && flags == 0
                {
                    core.set_drained(self.identity());
                }
                Ok(count)
            }
        }
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        const REASON: &str = "write to a socket";
        not_stopped(REASON)?;
        match here()? {
            Here::Uring(core) => {
                if let Some(result) = directly(&core, || sys::send(self.raw(), bytes)) {
                    return result;
                }
                let (start, length) = (bytes.as_ptr(), clamp(bytes.len()));
                let entry = || {
                    opcode::Send::new(self.entry_fd(), start, length)
                        .flags(libc::MSG_NOSIGNAL)
                        .build()
                };
                // SAFETY: `bytes` is borrowed until the call is over.
                unsafe { self.ring_operation(&core, Direction::Write, REASON, entry) }
                    .map(|count| count as usize)
            }
            other => self.when_ready(&other, Direction::Write, REASON, || {
                sys::send(self.raw(), bytes)
            }),
        }
    }

    pub(crate) fn recv_vectored(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        const REASON: &str = "read from a socket";
        not_stopped(REASON)?;
        match here()? {
            Here::Uring(core) => {
                let mut header = sys::read_header(slices);
                let header: *mut libc::msghdr = &mut header;
                let entry = || opcode::RecvMsg::new(self.entry_fd(), header).build();
                // SAFETY: the header is in this frame, and the slices it names are borrowed until the call is over.
                unsafe { self.ring_operation(&core, Direction::Read, REASON, entry) }
                    .map(|count| count as usize)
            }
            other => self.when_ready(&other, Direction::Read, REASON, || {
                sys::recv_vectored(self.raw(), slices)
            }),
        }
    }

    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        const REASON: &str = "write to a socket";
        not_stopped(REASON)?;
        match here()? {
            Here::Uring(core) => {
                if let Some(result) = directly(&core, || sys::send_vectored(self.raw(), slices)) {
                    return result;
                }
                let header = sys::write_header(slices);
                let header: *const libc::msghdr = &header;
                let flags = libc::MSG_NOSIGNAL as u32;
                let entry = || {
                    opcode::SendMsg::new(self.entry_fd(), header)
                        .flags(flags)
                        .build()
                };
                // SAFETY: the header is in this frame, and the slices it names are borrowed until the call is over.
                unsafe { self.ring_operation(&core, Direction::Write, REASON, entry) }
                    .map(|count| count as usize)
            }
            other => self.when_ready(&other, Direction::Write, REASON, || {
                sys::send_vectored(self.raw(), slices)
            }),
        }
    }

    pub(crate) fn accept(&self) -> io::Result<(Socket, SockAddr)> {
        const REASON: &str = "accept a connection";
        not_stopped(REASON)?;
        match here()? {
            Here::Uring(core) => self.accept_ring(&core, REASON),
            other => {
                self.set_nonblocking()?;
                self.when_ready(&other, Direction::Read, REASON, || {
                    let (socket, address) = self.options().accept4(libc::SOCK_CLOEXEC)?;
                    Ok((Socket::from(OwnedFd::from(socket)), address))
                })
            }
        }
    }

    fn accept_ring(
        &self,
        core: &uring::Core,
        reason: &'static str,
    ) -> io::Result<(Socket, SockAddr)> {
        let mut storage = SockAddrStorage::zeroed();
        let mut length = storage.size_of();
        let (address_at, length_at) =
            ((&raw mut storage).cast::<libc::sockaddr>(), &raw mut length);
        let entry = || {
            let accept = opcode::Accept::new(self.entry_fd(), address_at, length_at);
            accept.flags(libc::SOCK_CLOEXEC).build()
        };
        // SAFETY: address and length are in this frame.
        let fd = unsafe { self.ring_operation(core, Direction::Read, reason, entry)? };
        let fd = sys::own_fd(fd);
        // SAFETY: the kernel has filled in an address of that length.
        Ok((Socket::from(fd), unsafe { SockAddr::new(storage, length) }))
    }

    pub(crate) fn connect(&self, address: &SockAddr) -> io::Result<()> {
        const REASON: &str = "connect";
        not_stopped(REASON)?;
        match here()? {
            Here::Uring(core) => {
                let (start, length) = (address.as_ptr().cast::<libc::sockaddr>(), address.len());
                let entry = opcode::Connect::new(self.entry_fd(), start, length).build();
                // SAFETY: `address` is borrowed until the call is over.
                unsafe { core.run(entry, REASON) }.map(drop)
            }
            Here::Thread => self.options().connect(address),
            other => {
                self.set_nonblocking()?;
                let mut asked = false;
                self.when_ready(&other, Direction::Write, REASON, || {
                    self.connect_step(address, &mut asked)
                })
            }
        }
    }

    /// One step of a non-blocking connect: ask once, then look how it went.
    fn connect_step(&self, address: &SockAddr, asked: &mut bool) -> io::Result<()> {
        if !std::mem::replace(asked, true) {
            return match self.options().connect(address) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                other => other,
            };
        }
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
}

/// Tries to send by a system call of its own, where that is cheaper than a turn of the ring; `None` if the ring must do
/// it. Receiving is not tried: who asks mostly has to wait.
#[inline]
fn directly(
    core: &uring::Core,
    call: impl FnOnce() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    if !core.may_call_directly() {
        return None;
    }
    match call() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        result => Some(result),
    }
}

fn poll_events(direction: Direction) -> i16 {
    match direction {
        Direction::Read => libc::POLLIN,
        Direction::Write => libc::POLLOUT,
    }
}

/// The ring counts bytes in 32 bits, and answers in 31; what is more takes another call, as a short read would.
fn clamp(length: usize) -> u32 {
    length.min(1 << 30) as u32
}
