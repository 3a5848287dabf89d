//! A socket: what all kinds of sockets do, on whichever driver the caller's loop has.
//!
//! Sending and receiving say `MSG_DONTWAIT` themselves where they are tried, so that the descriptor's mode does not
//! matter to them. Accepting and connecting on mio need the non-blocking mode, and set it for good.

use crate::descriptor::{Descriptor, clamp, not_stopped};
use crate::driver::{Here, here};
use crate::readiness::Direction;
use crate::{sys, uring};
use io_uring::opcode;
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
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Socket {
            descriptor: Descriptor::from(fd),
        }
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
        Ok(Socket::from(OwnedFd::from(socket)))
    }

    /// Has the socket count as readable while there is something here.
    pub(crate) fn set_ahead(&mut self, ahead: Arc<uring::Taken>) {
        self.descriptor.ahead = Some(ahead);
    }

    pub(crate) fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    /// A second handle on the same socket, with the same timeouts.
    pub(crate) fn try_clone(&self) -> io::Result<Socket> {
        let socket = Socket::from(self.as_fd().try_clone_to_owned()?);
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
            let core = match here()? {
                Here::Uring(core) => core,
                other => return self.when_ready(&other, Direction::Write, WRITE, call),
            };
            if let Some(result) = directly(&core, call) {
                return result;
            }
            let (start, length) = (bytes.as_ptr(), clamp(bytes.len()));
            let entry = || {
                opcode::Send::new(self.entry_fd(), start, length)
                    .flags(libc::MSG_NOSIGNAL)
                    .build()
            };
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
            let core = match here()? {
                Here::Uring(core) => core,
                other => return self.when_ready(&other, Direction::Write, WRITE, call),
            };
            if let Some(result) = directly(&core, call) {
                return result;
            }
            let entry = || {
                opcode::SendMsg::new(self.entry_fd(), header)
                    .flags(libc::MSG_NOSIGNAL as u32)
                    .build()
            };
            // SAFETY: passed on to the caller; the header is borrowed until the call is over.
            unsafe { self.ring_operation(&core, Direction::Write, WRITE, entry) }
        })
    }

    pub(crate) fn accept(&self) -> io::Result<(Socket, SockAddr)> {
        const REASON: &str = "accept a connection";
        self.read_limit.enforce(|| {
            not_stopped(REASON)?;
            match here()? {
                Here::Uring(core) => self.accept_ring(&core, REASON),
                other => {
                    self.set_nonblocking()?;
                    self.when_ready(&other, Direction::Read, REASON, || self.accept_now())
                }
            }
        })
    }

    /// The next connection that is there. The descriptor is in non-blocking mode.
    pub(crate) fn accept_now(&self) -> io::Result<(Socket, SockAddr)> {
        let (socket, address) = self.options().accept4(libc::SOCK_CLOEXEC)?;
        Ok((Socket::from(OwnedFd::from(socket)), address))
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
        let fd = sys::own_fd(fd as u32);
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
