//! A socket: the operations common to all kinds of sockets, on either driver.
//!
//! A send or receive that is tried sets `MSG_DONTWAIT` itself, so the descriptor's mode does not matter to it.
//! Connecting is in `attempt.rs`, accepting in `listening_socket.rs`.

use super::kind::Kind;
use super::options::Options;
use crate::backoff::Backoff;
use crate::descriptor::{Descriptor, check_not_stopped, clamp, yield_if_over_budget};
use crate::driver::{Caller, caller};
use crate::identity::Direction;
use crate::simulated;
use crate::{sys, uring};
use io_uring::{opcode, squeue};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const READ: &str = "read from a socket";
const WRITE: &str = "write to a socket";

/// A socket's descriptor and kind.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: Descriptor,
    kind: Kind,
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        let kind = Kind::of(&fd);
        Socket::with_kind(fd, kind)
    }
}

impl Deref for Socket {
    type Target = Descriptor;

    #[inline]
    fn deref(&self) -> &Descriptor {
        &self.descriptor
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Socket {
    pub(crate) fn new(
        domain: Domain,
        kind: Type,
        protocol: Option<Protocol>,
    ) -> io::Result<Socket> {
        let fd = match simulated::is_on() {
            true => simulated::open_socket(domain, kind)?,
            false => OwnedFd::from(socket2::Socket::new(domain, kind, protocol)?),
        };
        Ok(Socket::with_kind(fd, Kind::new(domain, kind, protocol)))
    }

    fn with_kind(fd: OwnedFd, kind: Kind) -> Socket {
        Socket {
            descriptor: Descriptor::from(fd),
            kind,
        }
    }

    /// Wraps a connection that this listener accepted.
    pub(crate) fn accepted(&self, fd: OwnedFd) -> Socket {
        Socket::with_kind(fd, self.kind)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn options(&self) -> Options<'_> {
        Options::of(self)
    }

    /// Returns a second handle on the same socket, with the same timeouts.
    pub(crate) fn try_clone(&self) -> io::Result<Socket> {
        let fd = self.as_fd().try_clone_to_owned()?;
        if simulated::is_on() {
            simulated::duplicate(self.raw(), fd.as_raw_fd())?;
        }
        let socket = Socket::with_kind(fd, self.kind);
        socket.read_limit.set(self.read_limit.get())?;
        socket.write_limit.set(self.write_limit.get())?;
        Ok(socket)
    }

    /// Returns the descriptor; see [`Descriptor::into_fd`].
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.descriptor.into_fd()
    }

    /// Receives bytes from a stream.
    #[inline]
    pub(crate) fn recv(&self, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        if buffer.is_empty() {
            // The kernel would wait for a byte even so.
            return check_not_stopped(READ).map(|()| 0);
        }
        self.read_limit.enforce(|| {
            check_not_stopped(READ)?;
            match caller()? {
                Caller::Uring(core) => self.recv_ring(&core, buffer, flags),
                other => self.recv_ready(&other, buffer, flags),
            }
        })
    }

    #[inline]
    fn recv_ring(&self, core: &uring::Core, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        let (start, length) = (buffer.as_mut_ptr(), clamp(buffer.len()));
        let entry = || {
            opcode::Recv::new(self.entry_fd(), start, length)
                .flags(flags)
                .build()
        };
        // SAFETY: `buffer` is borrowed until the call returns.
        unsafe { self.ring_operation(core, Direction::Read, READ, entry) }
    }

    #[inline]
    fn recv_ready(&self, caller: &Caller, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        if let Caller::Mio(core) = caller
            && core.is_drained(self.identity())
        {
            core.park_until_ready(self.identity(), Direction::Read, READ)?;
        }
        let call = || sys::recv(self.raw(), buffer, flags);
        let count = self.when_ready(caller, Direction::Read, READ, call)?;
        if let Caller::Mio(core) = caller
            && (1..buffer.len()).contains(&count)
            && flags == 0
            // A Unix socket also ends a read after a message with descriptors, and no event announces what follows.
            && self.kind.is_tcp()
        {
            core.set_drained(self.identity());
        }
        Ok(count)
    }

    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write_limit.enforce(|| {
            check_not_stopped(WRITE)?;
            let call = || sys::send(self.raw(), bytes);
            let (start, length) = (bytes.as_ptr(), clamp(bytes.len()));
            let entry = || {
                opcode::Send::new(self.entry_fd(), start, length)
                    .flags(self.send_flags())
                    .build()
            };
            if self.kind.has_messages() {
                // SAFETY: `bytes` is borrowed until the call returns.
                return unsafe { self.send_whole(bytes.len(), call, entry) };
            }
            let core = match caller()? {
                Caller::Uring(core) => core,
                other => return self.when_ready(&other, Direction::Write, WRITE, call),
            };
            if let Some(result) = try_direct(&core, call) {
                return result;
            }
            // SAFETY: `bytes` is borrowed until the call returns.
            unsafe { self.ring_operation(&core, Direction::Write, WRITE, entry) }
        })
    }

    /// Receives one datagram, truncated to the buffer, which may be empty.
    pub(crate) fn recv_datagram(&self, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        let mut slice = [IoSliceMut::new(buffer)];
        let mut header = sys::read_header(&mut slice);
        // SAFETY: header and slice live in this frame, and the buffer is borrowed until the call returns.
        unsafe { self.recv_message(&mut header, flags) }
    }

    /// Like [`Socket::recv_datagram`]; also returns the sender's address.
    pub(crate) fn recv_from(&self, buffer: &mut [u8], flags: i32) -> io::Result<(usize, SockAddr)> {
        let mut slice = [IoSliceMut::new(buffer)];
        let mut header = sys::read_header(&mut slice);
        let mut storage = SockAddrStorage::zeroed();
        header.msg_name = (&raw mut storage).cast();
        header.msg_namelen = storage.size_of();
        // SAFETY: header, slice and address live in this frame, and the buffer is borrowed until the call returns.
        let count = unsafe { self.recv_message(&mut header, flags)? };
        // SAFETY: the kernel has filled in an address of that length.
        Ok((count, unsafe { SockAddr::new(storage, header.msg_namelen) }))
    }

    /// Sends one datagram to an address.
    pub(crate) fn send_to(&self, bytes: &[u8], address: &SockAddr) -> io::Result<usize> {
        let slice = [IoSlice::new(bytes)];
        let mut header = sys::write_header(&slice);
        header.msg_name = address.as_ptr().cast_mut().cast();
        header.msg_namelen = address.len();
        // SAFETY: header and slice live in this frame; address and bytes are borrowed until the call returns.
        unsafe { self.send_message(&header) }
    }

    pub(crate) fn recv_vectored(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut header = sys::read_header(slices);
        // SAFETY: the header lives in this frame, and its slices are borrowed until the call returns.
        unsafe { self.recv_message(&mut header, 0) }
    }

    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.kind.has_messages() && slices.len() > sys::SLICES_MAX {
            // A stream would write a part, and the rest would follow; a message would be truncated.
            let text = format!(
                "cannot send a message from {} buffers; join some of them, so that at most {} remain",
                slices.len(),
                sys::SLICES_MAX
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let header = sys::write_header(slices);
        // SAFETY: as above.
        unsafe { self.send_message(&header) }
    }

    /// Receives like `recvmsg(2)`.
    ///
    /// # Safety
    /// All memory that the header names stays valid and writable for as long as this call runs.
    pub(crate) unsafe fn recv_message(
        &self,
        header: &mut libc::msghdr,
        flags: i32,
    ) -> io::Result<usize> {
        self.read_limit.enforce(|| {
            check_not_stopped(READ)?;
            let header: *mut libc::msghdr = header;
            match caller()? {
                Caller::Uring(core) => {
                    let entry = || {
                        opcode::RecvMsg::new(self.entry_fd(), header)
                            .flags(flags as u32)
                            .build()
                    };
                    // SAFETY: the caller upholds the contract; the header is borrowed until the call returns.
                    unsafe { self.ring_operation(&core, Direction::Read, READ, entry) }
                }
                other => self.when_ready(&other, Direction::Read, READ, || {
                    // SAFETY: the caller upholds the contract.
                    unsafe { sys::recv_message(self.raw(), header, flags) }
                }),
            }
        })
    }

    /// Sends like `sendmsg(2)`.
    ///
    /// # Safety
    /// All memory that the header names stays valid for as long as this call runs.
    pub(crate) unsafe fn send_message(&self, header: &libc::msghdr) -> io::Result<usize> {
        self.write_limit.enforce(|| {
            check_not_stopped(WRITE)?;
            // SAFETY: the caller upholds the contract.
            let call = || unsafe { sys::send_message(self.raw(), header) };
            let entry = || {
                opcode::SendMsg::new(self.entry_fd(), header)
                    .flags(self.send_flags() as u32)
                    .build()
            };
            if self.kind.has_messages() {
                // SAFETY: the caller upholds the contract; the header is borrowed until the call returns.
                return unsafe { self.send_whole(length_of(header), call, entry) };
            }
            let core = match caller()? {
                Caller::Uring(core) => core,
                other => return self.when_ready(&other, Direction::Write, WRITE, call),
            };
            if let Some(result) = try_direct(&core, call) {
                return result;
            }
            // SAFETY: the caller upholds the contract; the header is borrowed until the call returns.
            unsafe { self.ring_operation(&core, Direction::Write, WRITE, entry) }
        })
    }

    /// Sends one message on a socket that preserves message boundaries, with `call` or the ring's `entry`.
    ///
    /// The ring must never retry such a send by itself: a kernel that has copied the bytes, and only then finds the
    /// receiver's queue full, would retry with no bytes left and send an empty message. So the entry must set
    /// `MSG_DONTWAIT`, and after `EAGAIN` we wait and submit a new one.
    ///
    /// # Safety
    /// The memory that the entries point to stays valid for as long as this call runs.
    unsafe fn send_whole(
        &self,
        length: usize,
        mut call: impl FnMut() -> io::Result<usize>,
        entry: impl Fn() -> squeue::Entry,
    ) -> io::Result<usize> {
        let caller = caller()?;
        if !matches!(caller, Caller::Uring(_)) {
            yield_if_over_budget(&caller)?;
        }
        let mut backoff = Backoff::default();
        loop {
            let sent = match &caller {
                Caller::Uring(core) => try_direct(core, &mut call).unwrap_or_else(|| {
                    // SAFETY: the caller upholds the contract.
                    unsafe { core.run_operation(entry(), WRITE) }.map(|count| count as usize)
                }),
                _ => call(),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room(&caller, &mut backoff)?
                }
                Ok(sent) if sent < length => return Err(cut(sent, length)),
                other => return other,
            }
        }
    }

    /// Returns the flags of a send through the ring; for messages see [`Socket::send_whole`].
    fn send_flags(&self) -> i32 {
        match self.kind.has_messages() {
            true => libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            false => libc::MSG_NOSIGNAL,
        }
    }

    /// Waits until there may be room for a message that was refused with `EAGAIN`.
    ///
    /// On a Unix socket that error has two meanings. If the socket itself or its connected receiver is full, the socket
    /// is not writable until there is room. If the receiver named by `send_to` is full, the socket is writable all the
    /// time, and no event announces when that receiver has room.
    fn wait_for_room(&self, caller: &Caller, backoff: &mut Backoff) -> io::Result<()> {
        if self.kind.is_unix() && sys::check_ready(self.raw(), libc::POLLOUT).is_ok() {
            return backoff.pause(caller, WRITE, self.write_limit.get());
        }
        *backoff = Backoff::default();
        self.wait_until_ready(caller, Direction::Write, WRITE)
    }

    /// Returns the next available connection. Waits if the open file is in blocking mode.
    pub(super) fn accept_now(&self) -> io::Result<(Socket, SockAddr)> {
        let (fd, address) = self.options().accept()?;
        Ok((self.accepted(fd), address))
    }
}

/// Tries to send with a direct system call, where that is cheaper than a turn of the ring. Returns `None` if the ring
/// must do it. Receiving is not tried directly, because it usually has to wait.
#[inline]
fn try_direct(
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

/// Returns the length of a message to send, in bytes.
///
/// # Safety
/// The header names live slices.
unsafe fn length_of(header: &libc::msghdr) -> usize {
    // SAFETY: the caller upholds the contract.
    let slices = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
    slices.iter().map(|slice| slice.iov_len).sum()
}

/// The error of a partly sent message: the receiver got a message that nobody meant to send.
pub(super) fn cut(sent: usize, length: usize) -> io::Error {
    let text = format!("the system sent only {sent} of a message's {length} bytes");
    io::Error::other(text)
}
