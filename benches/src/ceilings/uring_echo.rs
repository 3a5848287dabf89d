//! A handwritten echo server on io_uring: one thread, one ring, and `io_uring_enter` as the only system call.
//!
//! One multishot accept puts connections into the ring's descriptor table. One multishot receive per connection takes
//! buffers from a ring shared with the kernel. Each response is one send. The next wait submits all responses to the
//! completions of the previous one.
//!
//! ```text
//!   user_data   tag (8 bits) | buffer (24 bits) | connection's index in the ring's table (32 bits)
//! ```

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::epoll_echo::Reply;

const RING_ENTRIES: u32 = 2048;
/// Slots in the ring's file table: more than the connections of any row.
const CONNECTIONS_MAX: u32 = 12_288;
const GROUP: u16 = 0;

const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1 << 56;
const SEND: u64 = 2 << 56;
const CLOSE: u64 = 3 << 56;
const TAG_MASK: u64 = 0xff << 56;

/// The receive buffers. Many small ones suit many connections with short messages; few large ones suit one connection
/// with much data in flight.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The number of buffers; a power of two.
    pub buffers: u16,
    /// Bytes per buffer.
    pub bytes: usize,
}

/// Buffers for many connections with one short message each.
pub const MANY_SMALL: Shape = Shape {
    buffers: 2048,
    bytes: 512,
};
/// Buffers for one connection with much data in flight.
pub const FEW_LARGE: Shape = Shape {
    buffers: 64,
    bytes: 32 * 1024,
};

/// Serves until an error occurs.
///
/// # Errors
///
/// When the kernel refuses io_uring, or the listener fails. A broken connection is closed and is not an error.
pub fn serve(listener: &TcpListener, reply: &Reply, shape: Shape) -> io::Result<Infallible> {
    crate::epoll::allow_descriptors(CONNECTIONS_MAX as usize)?;
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(4 * RING_ENTRIES);
    let ring = builder.build(RING_ENTRIES)?;
    ring.submitter().register_files_sparse(CONNECTIONS_MAX)?;
    let buffers = BufferRing::register(&ring, shape)?;
    let answers = match reply {
        Reply::Same => Vec::new(),
        Reply::Each { request, response } => response.repeat(shape.bytes / request + 2),
    };
    let partial = vec![0; CONNECTIONS_MAX as usize];
    let mut server = Server {
        ring,
        buffers,
        reply,
        answers,
        partial,
        found: Vec::new(),
    };
    let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true);
    server.push(accept.build().user_data(ACCEPT))?;
    loop {
        server.turn()?;
    }
}

struct Server<'a> {
    ring: IoUring,
    buffers: BufferRing,
    reply: &'a Reply,
    /// As many responses as one buffer can require.
    answers: Vec<u8>,
    /// Bytes of incomplete requests, by connection.
    partial: Vec<usize>,
    found: Vec<(u64, i32, u32)>,
}

impl Server<'_> {
    fn turn(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut found = std::mem::take(&mut self.found);
        found.extend(
            self.ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result(), entry.flags())),
        );
        for (user_data, result, flags) in found.drain(..) {
            let connection = user_data as u32;
            match user_data & TAG_MASK {
                ACCEPT if result < 0 => return Err(io::Error::from_raw_os_error(-result)),
                ACCEPT => self.receive(result as u32)?,
                RECEIVE => self.received(connection, result, flags)?,
                SEND => self.buffers.give_back((user_data >> 32) as u16),
                _ => {}
            }
        }
        self.buffers.publish();
        self.found = found;
        Ok(())
    }

    fn receive(&mut self, connection: u32) -> io::Result<()> {
        let receive = opcode::RecvMulti::new(Fixed(connection), GROUP).build();
        self.push(receive.user_data(RECEIVE | u64::from(connection)))
    }

    fn received(&mut self, connection: u32, result: i32, flags: u32) -> io::Result<()> {
        let Some(buffer) = cqueue::buffer_select(flags).filter(|_| result > 0) else {
            if result == -libc::ENOBUFS {
                return self.receive(connection);
            }
            self.partial[connection as usize] = 0;
            return self.push(
                opcode::Close::new(Fixed(connection))
                    .build()
                    .user_data(CLOSE),
            );
        };
        if !cqueue::more(flags) {
            self.receive(connection)?;
        }
        self.answer(connection, buffer, result as usize)
    }

    fn answer(&mut self, connection: u32, buffer: u16, count: usize) -> io::Result<()> {
        // The kernel itself continues after a short send.
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        match self.reply {
            Reply::Same => {
                let bytes = self.buffers.address(buffer);
                let send = opcode::Send::new(Fixed(connection), bytes, count as u32)
                    .flags(flags)
                    .build();
                self.push(send.user_data(SEND | u64::from(buffer) << 32 | u64::from(connection)))
            }
            Reply::Each { request, response } => {
                self.buffers.give_back(buffer);
                let bytes = self.partial[connection as usize] + count;
                self.partial[connection as usize] = bytes % request;
                let length = bytes / request * response.len();
                if length == 0 {
                    return Ok(());
                }
                let send =
                    opcode::Send::new(Fixed(connection), self.answers.as_ptr(), length as u32);
                let silent = squeue::Flags::SKIP_SUCCESS;
                self.push(
                    send.flags(flags)
                        .build()
                        .flags(silent)
                        .user_data(CLOSE | u64::from(connection)),
                )
            }
        }
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: the memory that an entry points to (the receive buffers, the responses) lives as long as the ring.
        // Receive buffers are not written before the completion; the responses never are.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }
}

/// Buffers that the kernel takes from a ring and that we return.
struct BufferRing {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    shape: Shape,
    tail: u16,
}

impl BufferRing {
    fn register(ring: &IoUring, shape: Shape) -> io::Result<BufferRing> {
        let entries: *mut BufRingEntry =
            map(usize::from(shape.buffers) * size_of::<BufRingEntry>())?.cast();
        let memory = map(usize::from(shape.buffers) * shape.bytes)?;
        // SAFETY: the entries are a page-aligned mapping of the right size that is never unmapped.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                entries as u64,
                shape.buffers,
                GROUP,
                0,
            )?;
        }
        let mut buffers = BufferRing {
            entries,
            memory,
            shape,
            tail: 0,
        };
        (0..shape.buffers).for_each(|buffer| buffers.give_back(buffer));
        buffers.publish();
        Ok(buffers)
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        // SAFETY: all buffer numbers in use are valid, so this stays within the mapping.
        unsafe { self.memory.add(usize::from(buffer) * self.shape.bytes) }
    }

    /// Returns a buffer. The kernel sees it after `publish`.
    fn give_back(&mut self, buffer: u16) {
        let index = self.tail & (self.shape.buffers - 1);
        let address = self.address(buffer) as u64;
        // SAFETY: the index is below the number of entries, and the kernel does not read entries at or past the tail.
        let entry = unsafe { &mut *self.entries.add(usize::from(index)) };
        entry.set_addr(address);
        entry.set_len(self.shape.bytes as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the ring's tail is a u16 inside the mapping, and the kernel only reads it.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        // Release: pairs with the kernel's acquiring load of the tail; it sees the entries written before.
        tail.store(self.tail, Ordering::Release);
    }
}

/// Maps zeroed pages that are never unmapped: the process ends with the server.
fn map(bytes: usize) -> io::Result<*mut u8> {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a fresh anonymous mapping at an address that the kernel chooses.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
    if memory == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(memory.cast())
    }
}
