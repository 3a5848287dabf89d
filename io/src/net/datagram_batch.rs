//! Sends and receives many datagrams in one system call (`recvmmsg(2)`, `sendmmsg(2)`).
//!
//! io_uring has no operation for a batch, so both drivers do the same: they try the call and wait for readiness.

use super::socket::{Socket, cut};
use super::tcp::inet;
use crate::identity::Direction;
use crate::sys;
use socket2::{SockAddr, SockAddrStorage};
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// The maximum number of messages that one system call sends. The kernel's limit is 1024.
const SEND_COUNT_MAX: usize = 64;

/// The maximum number of datagrams in a batch: the kernel's limit.
const COUNT_MAX: usize = 1024;

/// The maximum bytes of a UDP datagram: its length has 16 bits.
const SIZE_MAX: usize = 65_535;

const _: () = assert!(COUNT_MAX.checked_mul(SIZE_MAX).is_some());

/// A reusable batch of datagram buffers for [`UdpSocket::recv_batch`].
///
/// [`UdpSocket::recv_batch`]: super::UdpSocket::recv_batch
///
/// ```
/// use yue_io::net::{Datagrams, UdpSocket};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let server = UdpSocket::bind("127.0.0.1:0")?;
///     let client = UdpSocket::bind("127.0.0.1:0")?;
///     client.connect(server.local_addr()?)?;
///     client.send(b"one")?;
///     client.send(b"two")?;
///
///     let mut batch = Datagrams::new(32, 1500); // Reused for every batch.
///     let (mut count, mut bytes) = (0, 0);
///     while count < 2 {
///         server.recv_batch(&mut batch)?;
///         count += batch.len();
///         bytes += batch.iter().map(|datagram| datagram.bytes.len()).sum::<usize>();
///     }
///     assert_eq!((count, bytes), (2, 6));
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Datagrams {
    bytes: Vec<u8>,
    size: usize,
    addresses: Vec<SockAddrStorage>,
    /// For each datagram of the last batch: its length, the length of its address, and whether it was truncated.
    received: Vec<(usize, u32, bool)>,
}

/// One datagram of a batch.
///
/// ```
/// use yue_io::net::{Datagrams, UdpSocket};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let server = UdpSocket::bind("127.0.0.1:0")?;
///     let client = UdpSocket::bind("127.0.0.1:0")?;
///     client.send_to(b"too long", server.local_addr()?)?;
///
///     let mut batch = Datagrams::new(1, 3);
///     server.recv_batch(&mut batch)?;
///     let datagram = batch.iter().next().unwrap();
///     assert_eq!(datagram.bytes, b"too");
///     assert!(datagram.cut);
///     assert_eq!(datagram.from, client.local_addr()?);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The datagram's payload, up to the buffer size.
    pub bytes: &'a [u8],
    /// The sender's address.
    pub from: SocketAddr,
    /// Whether the datagram was longer than its buffer and was truncated.
    pub cut: bool,
}

impl Datagrams {
    /// Creates buffers for `count` datagrams of up to `size` bytes. `count` is clamped to the range 1 to 1024, and
    /// `size` to at most 65 535, the longest possible datagram.
    pub fn new(count: usize, size: usize) -> Datagrams {
        // Together the two limits also keep the product from overflowing.
        let (count, size) = (count.clamp(1, COUNT_MAX), size.min(SIZE_MAX));
        Datagrams {
            bytes: vec![0; count * size],
            size,
            addresses: (0..count).map(|_| SockAddrStorage::zeroed()).collect(),
            received: Vec::with_capacity(count),
        }
    }

    /// Returns the number of datagrams in the last batch.
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether no datagrams have been received yet.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// The datagrams of the last batch, in order. Skips a datagram whose sender has no internet address.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        let numbered = self.received.iter().enumerate();
        numbered.filter_map(|(n, &(length, address_length, cut))| {
            // SAFETY: any bytes are a valid storage, and so is a copy; the kernel filled in `address_length` of them.
            let address =
                unsafe { SockAddr::new(std::ptr::read(&self.addresses[n]), address_length) };
            Some(Datagram {
                bytes: &self.bytes[n * self.size..][..length],
                from: inet(&address).ok()?,
                cut,
            })
        })
    }

    pub(super) fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        self.received.clear();
        let count = self.addresses.len();
        let start = self.bytes.as_mut_ptr();
        let mut slices: Vec<libc::iovec> = (0..count)
            .map(|n| libc::iovec {
                iov_base: start.wrapping_add(n * self.size).cast(),
                iov_len: self.size,
            })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = slices
            .iter_mut()
            .zip(&mut self.addresses)
            .map(|(slice, address)| {
                let mut header = sys::header_of(slice, 1);
                header.msg_namelen = address.size_of();
                header.msg_name = std::ptr::from_mut(address).cast();
                message(header)
            })
            .collect();
        let received = socket.read_limit.enforce(|| {
            socket.by_readiness(Direction::Read, "receive datagrams", || {
                // SAFETY: the headers point to the slices, and the slices to parts of `bytes`; all outlive the call.
                unsafe { sys::recv_messages(socket.raw(), &mut headers) }
            })
        })?;
        self.received
            .extend(headers[..received].iter().map(|header| {
                let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
                let length = (header.msg_len as usize).min(self.size);
                (length, header.msg_hdr.msg_namelen, cut)
            }));
        Ok(received)
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn message(header: libc::msghdr) -> libc::mmsghdr {
    libc::mmsghdr {
        msg_hdr: header,
        msg_len: 0,
    }
}

/// Sends the first datagrams of `datagrams`, as many as the kernel accepts at once. Waits until it accepts the first.
pub(super) fn send(
    socket: &Socket,
    datagrams: &[(&[u8], Option<SocketAddr>)],
) -> io::Result<usize> {
    let datagrams = &datagrams[..datagrams.len().min(SEND_COUNT_MAX)];
    if datagrams.is_empty() {
        return Ok(0);
    }
    let addresses: Vec<Option<SockAddr>> = datagrams
        .iter()
        .map(|(_, address)| address.map(SockAddr::from))
        .collect();
    let mut slices: Vec<libc::iovec> = datagrams
        .iter()
        .map(|(bytes, _)| libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = slices
        .iter_mut()
        .zip(&addresses)
        .map(|(slice, address)| {
            let mut header = sys::header_of(slice, 1);
            if let Some(address) = address {
                header.msg_name = address.as_ptr().cast_mut().cast();
                header.msg_namelen = address.len();
            }
            message(header)
        })
        .collect();
    let sent = socket.write_limit.enforce(|| {
        socket.by_readiness(Direction::Write, "send datagrams", || {
            // SAFETY: the headers point to slices, addresses and bytes that outlive the call.
            unsafe { sys::send_messages(socket.raw(), &mut headers) }
        })
    })?;
    for (header, (bytes, _)) in headers[..sent].iter().zip(datagrams) {
        let sent = header.msg_len as usize;
        if sent < bytes.len() {
            return Err(cut(sent, bytes.len()));
        }
    }
    Ok(sent)
}
