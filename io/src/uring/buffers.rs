//! Receive buffers that the kernel picks from when data arrives, so that an idle connection holds none.
//!
//! ```text
//!   one mapping:  [ ring of (address, length, number) entries ][ buffer 0 ][ buffer 1 ] …
//!
//!   we:      provide(number) ── writes an entry at the tail, moves the tail
//!   kernel:  takes the entry at the head, fills the buffer, puts its number in the completion
//! ```
//!
//! A buffer belongs to the kernel while its entry is between head and tail. It belongs to us from the completion with
//! its number until it is provided again. When no buffer is left, a receive ends with `ENOBUFS`. Its owner restarts it,
//! and by then the buffers have been provided again. See [`io_uring_register_buf_ring(3)`].
//!
//! [`io_uring_register_buf_ring(3)`]: https://man7.org/linux/man-pages/man3/io_uring_register_buf_ring.3.html

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue};
use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The id of the ring's only buffer group.
pub(crate) const GROUP: u16 = 0;

/// The number of buffers in a ring: a power of two, somewhat more than the completions that one system call delivers.
const COUNT: u16 = 64;

/// Bytes in a buffer: what a busy connection usually receives at once.
const SIZE: usize = 16 * 1024;

/// Bytes of the ring's entries: a whole number of pages, so that the buffers start on a page.
const RING_BYTES: usize = (COUNT as usize * size_of::<BufRingEntry>()).next_multiple_of(4096);

const TOTAL_BYTES: usize = RING_BYTES + COUNT as usize * SIZE;

pub(crate) struct BufferRing {
    base: NonNull<u8>,
    tail: Cell<u16>,
}

impl BufferRing {
    /// Allocates and registers the buffers.
    pub(super) fn new(ring: &IoUring) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping touches no existing memory.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), TOTAL_BYTES, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let buffers = BufferRing {
            base,
            tail: Cell::new(0),
        };
        // SAFETY: the entries are page-aligned and stay mapped until the ring is closed: `Core` drops the ring first.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(base.as_ptr() as u64, COUNT, GROUP, 0)?
        };
        // The kernel has none of the buffers until the tail has moved past their entries.
        for number in 0..COUNT {
            buffers.provide(number);
        }
        Ok(buffers)
    }

    /// Lends the bytes of a completion to `f`, then returns the buffer to the kernel.
    pub(crate) fn lend(&self, flags: u32, length: usize, f: impl FnOnce(&[u8])) {
        let Some(number) = cqueue::buffer_select(flags) else {
            return;
        };
        debug_assert!(number < COUNT, "the kernel has only our buffers");
        if number >= COUNT {
            return;
        }
        // Returned even if `f` panics: otherwise the buffer would be lost permanently.
        let _return = ReturnBuffer { ring: self, number };
        // The kernel never reports more. A broken one must not lead a read past the buffer.
        let length = length.min(SIZE);
        // SAFETY: the buffer lies in the mapping, and is ours until it is returned, after the borrow.
        f(unsafe {
            std::slice::from_raw_parts(
                self.base
                    .as_ptr()
                    .add(RING_BYTES + usize::from(number) * SIZE),
                length,
            )
        });
    }

    fn provide(&self, number: u16) {
        debug_assert!(number < COUNT, "only our buffers are provided");
        let tail = self.tail.get();
        let entries = self.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the index is below COUNT; the entry at the tail is ours until the tail moves.
        let entry = unsafe { &mut *entries.add(usize::from(tail % COUNT)) };
        entry
            .set_addr(self.base.as_ptr() as u64 + (RING_BYTES + usize::from(number) * SIZE) as u64);
        entry.set_len(SIZE as u32);
        entry.set_bid(number);
        self.tail.set(tail.wrapping_add(1));
        // The tail shares memory with the last field of the first entry, which `set_addr`, `set_len` and `set_bid`
        // leave alone. SAFETY: the tail lies in the first entry, which is mapped; only this thread writes it.
        let shared = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        // Release: pairs with the kernel's acquire of the tail; the entry is complete before the kernel sees it.
        shared.store(self.tail.get(), Ordering::Release);
    }
}

struct ReturnBuffer<'a> {
    ring: &'a BufferRing,
    number: u16,
}

impl Drop for ReturnBuffer<'_> {
    fn drop(&mut self) {
        self.ring.provide(self.number);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: we own the mapping; the ring is closed (`Core`'s field order), and no operation was in flight.
        unsafe { libc::munmap(self.base.as_ptr().cast(), TOTAL_BYTES) };
    }
}
