//! Guard pages: a touch below a stack must be a fault, never a write into the neighbour.
//!
//! Linux 6.13 has `MADV_GUARD_INSTALL`, which marks pages in the page table and costs no mapping; a million guarded
//! stacks then share a few mappings. On an older kernel each guard is an `mprotect`, which splits the mapping, and the
//! number of mappings of a process is limited (`vm.max_map_count`), so there the number of stacks is, too.

use super::PAGE;
use std::cell::Cell;
use std::fs;
use std::io;

/// From `include/uapi/asm-generic/mman-common.h`; not in libc yet.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Mappings that are left to the rest of the program (libraries, heaps, files).
const MAPPINGS_SPARED: usize = 8_192;

/// How this kernel guards a stack.
#[derive(Debug)]
pub(super) enum Guard {
    /// By page-table markers.
    Marker,
    /// By protection; so many more can be made.
    Protect { left: Cell<usize> },
}

/// How this kernel guards stacks, in words. For reports.
pub fn guard_kind() -> String {
    match Guard::detect() {
        Guard::Marker => {
            "page-table markers (MADV_GUARD_INSTALL): as many stacks as memory allows".to_owned()
        }
        Guard::Protect { left } => {
            format!(
                "mprotect: at most {} stacks; vm.max_map_count is the limit",
                left.get()
            )
        }
    }
}

impl Guard {
    /// Asks the kernel, once a pool, by guarding a page of its own.
    pub(super) fn detect() -> Guard {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping of one page at an address of the kernel's choice, unmapped again below.
        let installed = unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            let installed =
                page != libc::MAP_FAILED && libc::madvise(page, PAGE, MADV_GUARD_INSTALL) == 0;
            if page != libc::MAP_FAILED {
                libc::munmap(page, PAGE);
            }
            installed
        };
        if installed && std::env::var_os("YUE_STACK_GUARD").is_none_or(|value| value != "mprotect")
        {
            Guard::Marker
        } else {
            Guard::Protect {
                left: Cell::new(protect_limit()),
            }
        }
    }

    /// Makes the `bytes` from `address` on a guard.
    ///
    /// # Errors
    /// When the kernel refuses, or the limit on mappings is near.
    pub(super) fn install(&self, address: usize, bytes: usize) -> io::Result<()> {
        let memory = address as *mut libc::c_void;
        let result = match self {
            // SAFETY: the range is the unused bottom of a slot that the calling pool mapped.
            Guard::Marker => unsafe { libc::madvise(memory, bytes, MADV_GUARD_INSTALL) },
            Guard::Protect { left } => {
                let Some(rest) = left.get().checked_sub(1) else {
                    return Err(io::Error::new(
                        io::ErrorKind::OutOfMemory,
                        "no more guarded stacks: this kernel needs two mappings for each; raise vm.max_map_count",
                    ));
                };
                left.set(rest);
                // SAFETY: as above.
                unsafe { libc::mprotect(memory, bytes, libc::PROT_NONE) }
            }
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Stacks that `mprotect` can guard: each takes two mappings.
fn protect_limit() -> usize {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let limit = limit
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap_or(65_530);
    limit.saturating_sub(MAPPINGS_SPARED) / 2
}
