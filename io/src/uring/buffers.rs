//! Receive buffers that the kernel picks from when data comes, so that an idle connection holds none.
//!
//! ```text
//!   one mapping:  [ ring of (address, length, number) entries ][ buffer 0 ][ buffer 1 ] …
//!
//!   we:      give(number) ── writes an entry at the tail, moves the tail
//!   kernel:  takes the entry at the head, fills the buffer, names it in the completion
//! ```
//!
//! A buffer belongs to the kernel while its entry is between head and tail, and to us from the completion that names it
//! to its return. When none is left, a receive ends with `ENOBUFS`; its owner starts it again, by which time the
//! buffers have been given back.

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue};
use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The number of the buffer group that the ring feeds; there is one.
pub(crate) const GROUP: u16 = 0;

/// Buffers in a ring: a power of two, and some more than the completions that one system call works out.
const COUNT: u16 = 64;

/// Bytes in a buffer: what a busy connection receives at once, mostly.
const SIZE: usize = 16 * 1024;

/// Bytes of the ring's entries: a whole number of pages, so that the buffers start on one.
const RING_BYTES: usize = (COUNT as usize * size_of::<BufRingEntry>()).next_multiple_of(4096);

const TOTAL_BYTES: usize = RING_BYTES + COUNT as usize * SIZE;

pub(crate) struct BufferRing {
    base: NonNull<u8>,
    tail: Cell<u16>,
}

impl BufferRing {
    /// Makes the buffers and registers them.
    pub(super) fn new(ring: &IoUring) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping touches no memory of ours.
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
        // SAFETY: the entries are page-aligned and stay mapped until the ring is gone: `Core` drops the ring first.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(base.as_ptr() as u64, COUNT, GROUP, 0)?
        };
        for number in 0..COUNT {
            buffers.give(number);
        }
        Ok(buffers)
    }

    /// Lends the bytes of a completion to `f`, then gives the buffer back to the kernel.
    pub(crate) fn lend(&self, flags: u32, length: usize, f: impl FnOnce(&[u8])) {
        let Some(number) = cqueue::buffer_select(flags) else {
            return;
        };
        if number >= COUNT {
            return;
        }
        // Given back also if `f` panics: a lost buffer would be lost for good.
        let _back = GiveBack { ring: self, number };
        let length = length.min(SIZE);
        // SAFETY: the buffer lies in the mapping, and is ours until it is given back, after the borrow.
        f(unsafe {
            std::slice::from_raw_parts(
                self.base
                    .as_ptr()
                    .add(RING_BYTES + usize::from(number) * SIZE),
                length,
            )
        });
    }

    fn give(&self, number: u16) {
        let tail = self.tail.get();
        let entries = self.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the index is below COUNT; the entry at the tail is ours until the tail moves.
        let entry = unsafe { &mut *entries.add(usize::from(tail % COUNT)) };
        entry
            .set_addr(self.base.as_ptr() as u64 + (RING_BYTES + usize::from(number) * SIZE) as u64);
        entry.set_len(SIZE as u32);
        entry.set_bid(number);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: the tail lies in the first entry, which is mapped; only this thread writes it.
        let shared = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()) };
        // Release: pairs with the kernel's acquire of the tail; the entry is whole before it is seen.
        shared.store(self.tail.get(), Ordering::Release);
    }
}

struct GiveBack<'a> {
    ring: &'a BufferRing,
    number: u16,
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.ring.give(self.number);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; the kernel's ring is closed (`Core`'s field order), and nothing was in flight.
        unsafe { libc::munmap(self.base.as_ptr().cast(), TOTAL_BYTES) };
    }
}
