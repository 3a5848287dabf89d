//! Guard pages: an access below a stack must fault, and never write into the neighbouring stack.
//!
//! Linux 6.13 has `MADV_GUARD_INSTALL`, which marks pages in the page table and needs no extra mapping, so a million
//! guarded stacks share a few mappings. On an older kernel each guard is an `mprotect`, which splits the mapping. The
//! number of mappings of a process is limited (`vm.max_map_count`), so there the number of stacks of all loops together
//! is limited too, such that the program's own allocations keep working.

use super::PAGE;
use std::fs;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From `include/uapi/asm-generic/mman-common.h`; not in libc yet.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Mappings reserved for the rest of the program (libraries, heaps, files).
const MAPPINGS_SPARED: usize = 8_192;

/// The way in which this kernel guards a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// Page-table markers.
    Marker,
    /// Memory protection, which is limited per process.
    Protect,
}

/// Describes how this kernel guards stacks. For reports.
pub fn guard_kind() -> String {
    match Guard::detect() {
        Guard::Marker => {
            "page-table markers (MADV_GUARD_INSTALL): as many stacks as memory allows".to_owned()
        }
        Guard::Protect => {
            // Relaxed: only the number matters.
            let left = mprotect_budget().load(Ordering::Relaxed);
            format!("mprotect: {left} more stacks at most; vm.max_map_count is the limit")
        }
    }
}

impl Guard {
    /// Detects what the kernel supports, once per process.
    pub(super) fn detect() -> Guard {
        static FOUND: OnceLock<Guard> = OnceLock::new();
        *FOUND.get_or_init(Guard::probe_kernel)
    }

    /// Tries to guard a test page.
    fn probe_kernel() -> Guard {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping of one page at an address of the kernel's choice, which is unmapped below.
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
            Guard::Protect
        }
    }

    /// Makes `bytes` bytes from `address` on a guard.
    ///
    /// # Errors
    /// When the kernel refuses, or the limit on mappings is near.
    pub(super) fn install(self, address: usize, bytes: usize) -> io::Result<()> {
        let memory = address as *mut libc::c_void;
        let result = match self {
            // SAFETY: the range is the unused bottom of a slot that the calling pool mapped.
            Guard::Marker => unsafe { libc::madvise(memory, bytes, MADV_GUARD_INSTALL) },
            Guard::Protect => {
                // Relaxed: only the number matters.
                let taken =
                    mprotect_budget().fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    });
                if taken.is_err() {
                    return Err(io::Error::new(
                        io::ErrorKind::OutOfMemory,
                        "no more guarded stacks: this kernel needs two mappings for each; raise vm.max_map_count",
                    ));
                }
                // SAFETY: as above.
                let result = unsafe { libc::mprotect(memory, bytes, libc::PROT_NONE) };
                if result != 0 {
                    let error = io::Error::last_os_error();
                    self.uninstalled(1);
                    return Err(error);
                }
                result
            }
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Returns the budget of `count` guards that were unmapped with their arena.
    pub(super) fn uninstalled(self, count: usize) {
        if self == Guard::Protect {
            // Relaxed: only the number matters.
            mprotect_budget().fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// The number of further stacks of this process that `mprotect` may guard.
fn mprotect_budget() -> &'static AtomicUsize {
    static LEFT: OnceLock<AtomicUsize> = OnceLock::new();
    LEFT.get_or_init(|| AtomicUsize::new(protect_limit()))
}

/// Returns how many stacks `mprotect` can guard: each takes two mappings.
fn protect_limit() -> usize {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let limit = limit
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap_or(65_530);
    limit.saturating_sub(MAPPINGS_SPARED) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a page to guard, which is never unmapped.
    fn page() -> usize {
        let layout = std::alloc::Layout::from_size_align(PAGE, PAGE).unwrap();
        // SAFETY: the layout is not empty; the page is leaked, so nothing else ever touches it.
        unsafe { std::alloc::alloc(layout) as usize }
    }

    #[test]
    fn all_loops_of_a_process_share_one_budget_of_mprotect_guards() {
        let all = mprotect_budget().swap(1, Ordering::Relaxed);
        Guard::Protect.install(page(), PAGE).unwrap();
        let error = Guard::Protect.install(page(), PAGE).unwrap_err();
        assert!(error.to_string().contains("vm.max_map_count"), "{error}");
        Guard::Protect.uninstalled(1);
        Guard::Protect.install(page(), PAGE).unwrap();
        // A guard that the kernel refuses takes nothing from the budget.
        Guard::Protect.uninstalled(1);
        assert!(Guard::Protect.install(1, PAGE).is_err());
        assert_eq!(mprotect_budget().swap(all, Ordering::Relaxed), 1);
    }
}
