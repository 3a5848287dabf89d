//! The minimum cost of a parked stack: one touched page in its own slot of address space.
//!
//! No scheduler, guard or header. The only other cost is a share of the page table: eight slots of 256 KiB share one
//! page of it, or two slots of 1 MiB.

use std::ptr;

use crate::harness::{Problem, Sample, memory};

const PAGE: usize = 4096;

/// Touches one page in each of `slots` slots of `slot_bytes`, and returns the bytes used per slot.
///
/// # Errors
///
/// When the machine lacks the memory or address space.
pub fn touch(slots: usize, slot_bytes: usize) -> Result<Sample, Problem> {
    memory::require_free(slots * (PAGE + PAGE / 2))?;
    let before = memory::used_bytes("self")?;
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
    let used = memory::used_bytes("self")? - before;
    Ok(Sample::of(used as f64 / slots as f64))
}
