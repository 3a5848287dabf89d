//! What a parked stack costs at least: one touched page, in a slot of address space of its own.
//!
//! No scheduler, no guard, no header. What is left besides the page is its share of the page table: eight slots of
//! 256 KiB share a page of it, two of 1 MiB do.

use std::ptr;

use crate::harness::{Problem, Sample, memory};

const PAGE: usize = 4096;

/// Bytes per slot when one page in each of `slots` slots of `slot_bytes` has been touched.
///
/// # Errors
///
/// When the machine has not so much memory or address space.
pub fn touch(slots: usize, slot_bytes: usize) -> Result<Sample, Problem> {
    memory::ask_for(slots * (PAGE + PAGE / 2))?;
    let before = memory::taken("self")?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping at an address that the kernel chooses; nothing else refers to it, and it stays
    // until the process ends, which is soon.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            slots * slot_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: advice on the mapping made above; without it a touch would make 2 MiB resident.
    unsafe { libc::madvise(base, slots * slot_bytes, libc::MADV_NOHUGEPAGE) };
    for slot in 1..=slots {
        // SAFETY: the last byte of a slot of the mapping.
        unsafe {
            base.cast::<u8>()
                .add(slot * slot_bytes - 1)
                .write_volatile(1)
        };
    }
    let taken = memory::taken("self")? - before;
    Ok(Sample::of(taken as f64 / slots as f64))
}
