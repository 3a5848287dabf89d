//! A socket: what all kinds of sockets do, on whichever driver the caller's loop has.
//!
//! Sending and receiving say `MSG_DONTWAIT` themselves where they are tried, so that the descriptor's mode does not
//! matter to them. Connecting is in `attempt.rs`, accepting in `listening.rs`.

use super::kind::Kind;
use crate::backoff::Backoff;
use crate::descriptor::{Descriptor, clamp, let_others_run, not_stopped};
use crate::driver::{Here, here};
use crate::readiness::Direction;
use crate::taken::Taken;
use crate::{sys, uring};
use io_uring::{opcode, squeue};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockRef, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

const READ: &str = "read from a socket";
const WRITE: &str = "write to a socket";

/// A descriptor that is a socket.
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
        let socket = socket2::Socket::new(domain, kind, protocol)?;
        let kind = Kind::new(domain, kind, protocol);
        Ok(Socket::with_kind(OwnedFd::from(socket), kind))
    }

    fn with_kind(fd: OwnedFd, kind: Kind) -> Socket {
        Socket {
            descriptor: Descriptor::from(fd),
            kind,
        }
    }

    /// A connection that this listener has accepted.
    pub(crate) fn accepted(&self, fd: OwnedFd) -> Socket {
        Socket::with_kind(fd, self.kind)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Has the socket count as readable while there is a connection here.
    pub(crate) fn set_ahead(&mut self, ahead: Arc<Taken>) {
        self.descriptor.ahead = Some(ahead);
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    /// A second handle on the same socket, with the same timeouts.
    pub(crate) fn try_clone(&self) -> io::Result<Socket> {
        let socket = Socket::with_kind(self.as_fd().try_clone_to_owned()?, self.kind);
        socket.read_limit.set(self.read_limit.get())?;
        socket.write_limit.set(self.write_limit.get())?;
        Ok(socket)
    }

    /// The descriptor; see [`Descriptor::into_fd`].
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        self.descriptor.into_fd()
    }

    /// Receives bytes of a stream.
    #[inline]
    pub(crate) fn recv(&self, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        if buffer.is_empty() {
            // The kernel would wait for a byte all the same.
            return not_stopped(READ).map(|()| 0);
        }
        self.read_limit.enforce(|| {
            not_stopped(READ)?;
            match here()? {
                Here::Uring(core) => self.recv_ring(&core, buffer, flags),
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
        // SAFETY: `buffer` is borrowed until the call is over.
        unsafe { self.ring_operation(core, Direction::Read, READ, entry) }
    }

    #[inline]
    fn recv_ready(&self, here: &Here, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        if let Here::Mio(core) = here
            && core.is_drained(self.identity())
        {
            core.wait(self.identity(), Direction::Read, READ)?;
        }
        let call = || sys::recv(self.raw(), buffer, flags);
        let count = self.when_ready(here, Direction::Read, READ, call)?;
        if let Here::Mio(core) = here
            && (1..buffer.len()).contains(&count)
            && flags == 0
            // A Unix socket also ends a read behind a message with descriptors, and no event tells of what follows.
            && self.kind.is_tcp()
        {
            core.set_drained(self.identity());
        }
        Ok(count)
    }

    #[inline]
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write_limit.enforce(|| {
            not_stopped(WRITE)?;
            let call = || sys::send(self.raw(), bytes);
            let (start, length) = (bytes.as_ptr(), clamp(bytes.len()));
            let entry = || {
                opcode::Send::new(self.entry_fd(), start, length)
                    .flags(self.send_flags())
                    .build()
            };
            if self.kind.has_messages() {
                // SAFETY: `bytes` is borrowed until the call is over.
                return unsafe { self.send_whole(bytes.len(), call, entry) };
            }
            let core = match here()? {
                Here::Uring(core) => core,
                other => return self.when_ready(&other, Direction::Write, WRITE, call),
            };
            if let Some(result) = directly(&core, call) {
                return result;
            }
            // SAFETY: `bytes` is borrowed until the call is over.
            unsafe { self.ring_operation(&core, Direction::Write, WRITE, entry) }
        })
    }

    /// Receives one datagram, cut to the buffer, which may be empty.
    pub(crate) fn recv_datagram(&self, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        let mut slice = [IoSliceMut::new(buffer)];
        let mut header = sys::read_header(&mut slice);
        // SAFETY: header and slice are in this frame, and the buffer is borrowed until the call is over.
        unsafe { self.recv_message(&mut header, flags) }
    }

    /// As [`Socket::recv_datagram`]; also tells where it came from.
    pub(crate) fn recv_from(&self, buffer: &mut [u8], flags: i32) -> io::Result<(usize, SockAddr)> {
        let mut slice = [IoSliceMut::new(buffer)];
        let mut header = sys::read_header(&mut slice);
        let mut storage = SockAddrStorage::zeroed();
        header.msg_name = (&raw mut storage).cast();
        header.msg_namelen = storage.size_of();
        // SAFETY: header, slice and address are in this frame, and the buffer is borrowed until the call is over.
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
        // SAFETY: header and slice are in this frame; address and bytes are borrowed until the call is over.
        unsafe { self.send_message(&header) }
    }

    pub(crate) fn recv_vectored(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut header = sys::read_header(slices);
        // SAFETY: the header is in this frame, and the slices it names are borrowed until the call is over.
        unsafe { self.recv_message(&mut header, 0) }
    }

    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.kind.has_messages() && slices.len() > sys::SLICES_MAX {
            // A stream's write is short then, and the rest follows; a message would be cut.
            let text = format!(
                "a message is sent from {} buffers at the most",
                sys::SLICES_MAX
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let header = sys::write_header(slices);
        // SAFETY: as above.
        unsafe { self.send_message(&header) }
    }

    /// Receives as `recvmsg(2)` does.
    ///
    /// # Safety
    /// All that the header names is valid, and writable, for as long as this call runs.
    pub(crate) unsafe fn recv_message(
        &self,
        header: &mut libc::msghdr,
        flags: i32,
    ) -> io::Result<usize> {
        self.read_limit.enforce(|| {
            not_stopped(READ)?;
            let header: *mut libc::msghdr = header;
            match here()? {
                Here::Uring(core) => {
                    let entry = || {
                        opcode::RecvMsg::new(self.entry_fd(), header)
                            .flags(flags as u32)
                            .build()
                    };
                    // SAFETY: passed on to the caller; the header is borrowed until the call is over.
                    unsafe { self.ring_operation(&core, Direction::Read, READ, entry) }
                }
                other => self.when_ready(&other, Direction::Read, READ, || {
                    // SAFETY: passed on to the caller.
                    unsafe { sys::recv_message(self.raw(), header, flags) }
                }),
            }
        })
    }

    /// Sends as `sendmsg(2)` does.
    ///
    /// # Safety
    /// All that the header names is valid for as long as this call runs.
    pub(crate) unsafe fn send_message(&self, header: &libc::msghdr) -> io::Result<usize> {
        self.write_limit.enforce(|| {
            not_stopped(WRITE)?;
            // SAFETY: passed on to the caller.
            let call = || unsafe { sys::send_message(self.raw(), header) };
            let entry = || {
                opcode::SendMsg::new(self.entry_fd(), header)
                    .flags(self.send_flags() as u32)
                    .build()
            };
            if self.kind.has_messages() {
                // SAFETY: passed on to the caller; the header is borrowed until the call is over.
                return unsafe { self.send_whole(length_of(header), call, entry) };
            }
            let core = match here()? {
                Here::Uring(core) => core,
                other => return self.when_ready(&other, Direction::Write, WRITE, call),
            };
            if let Some(result) = directly(&core, call) {
                return result;
            }
            // SAFETY: passed on to the caller; the header is borrowed until the call is over.
            unsafe { self.ring_operation(&core, Direction::Write, WRITE, entry) }
        })
    }

    /// Sends one message of a socket that keeps messages apart, by `call` or by the ring's `entry`.
    ///
    /// The ring must never retry such a send by itself: a kernel that has copied the bytes, and only then finds the
    /// receiver's queue full, would retry with the bytes used up, and send an empty message. So the entry must say
    /// `MSG_DONTWAIT`, and after `EAGAIN` we wait and make a fresh one.
    ///
    /// # Safety
    /// What the entries point to is valid for as long as this call runs.
    unsafe fn send_whole(
        &self,
        length: usize,
        mut call: impl FnMut() -> io::Result<usize>,
        entry: impl Fn() -> squeue::Entry,
    ) -> io::Result<usize> {
        let here = here()?;
        if !matches!(here, Here::Uring(_)) {
            let_others_run(&here)?;
        }
        let mut backoff = Backoff::default();
        loop {
            let sent = match &here {
                Here::Uring(core) => directly(core, &mut call).unwrap_or_else(|| {
                    // SAFETY: passed on to the caller.
                    unsafe { core.run(entry(), WRITE) }.map(|count| count as usize)
                }),
                _ => call(),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room(&here, &mut backoff)?
                }
                Ok(sent) if sent < length => return Err(cut(sent, length)),
                other => return other,
            }
        }
    }

    /// The flags of a send by the ring; for messages see [`Socket::send_whole`].
    fn send_flags(&self) -> i32 {
        match self.kind.has_messages() {
            true => libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            false => libc::MSG_NOSIGNAL,
        }
    }

    /// Waits until there may be room for a message that was refused with `EAGAIN`.
    ///
    /// On a Unix socket that error has two meanings. If the socket itself is full, or the receiver that it is connected
    /// to, the socket is not writable, and becomes so. If it is the receiver that a `send_to` names, the socket is
    /// writable all the time, and nothing tells when that receiver has room.
    fn wait_for_room(&self, here: &Here, backoff: &mut Backoff) -> io::Result<()> {
        if self.kind.is_unix() && sys::demand_ready(self.raw(), libc::POLLOUT).is_ok() {
            return backoff.pause(here, WRITE, self.write_limit.get());
        }
        *backoff = Backoff::default();
        self.wait_until_ready(here, Direction::Write, WRITE)
    }

    /// The next connection that is there. On an open file in blocking mode it would wait.
    pub(super) fn accept_now(&self) -> io::Result<(Socket, SockAddr)> {
        let (socket, address) = self.options().accept4(libc::SOCK_CLOEXEC)?;
        Ok((self.accepted(OwnedFd::from(socket)), address))
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

/// The bytes of a message that is to be sent.
///
/// # Safety
/// The header names live slices.
unsafe fn length_of(header: &libc::msghdr) -> usize {
    // SAFETY: passed on to the caller.
    let slices = unsafe { std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
    slices.iter().map(|slice| slice.iov_len).sum()
}

/// The error of a message that was sent in part: the receiver has got one that nobody meant.
pub(super) fn cut(sent: usize, length: usize) -> io::Error {
    let text = format!("the system sent {sent} bytes of a message of {length}");
    io::Error::other(text)
}
