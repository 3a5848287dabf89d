//! When a block's memory may be freed: crossbeam's epoch, and a gauge of what waits for it.
//!
//! Who reaches a block without owning a ticket in it (a producer that looks for its block, a consumer of the injector)
//! does so under a pin. A block is retired when no shared pointer leads to it any more, and freed when every pin of
//! that time is gone. Under loom `reclaim_model.rs` takes this file's place: the same promise, and a check of each
//! access.
//!
//! # Threads
//!
//! Any. A pin stays on its thread.

#[cfg(not(loom))]
pub(crate) use epoch::{Graveyard, Pin};

#[cfg(loom)]
pub(crate) use crate::reclaim_model::{Graveyard, Pin};

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of retired blocks that the epoch has not freed yet, over all queues of the process. Only a figure to look at,
/// never a condition, so Relaxed everywhere: it pairs with nothing.
static GARBAGE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// After each such growth of the garbage the thread that retires asks the collector to work. Crossbeam alone counts
/// objects, not bytes: it may keep 64 blocks per thread, which is little for small values and megabytes for large ones.
#[cfg(not(loom))]
const COLLECT_EVERY_BYTES: usize = 256 * 1024;

/// Runs `f` while this thread holds the epoch: memory that was reachable when `f` began is not freed before it ends.
///
/// A pin keeps memory of the *whole process* from being freed, so `f` must be short and must neither block nor suspend
/// a fiber. It may be nested; an inner pin costs next to nothing.
pub fn pin<R>(f: impl FnOnce(&crossbeam_epoch::Guard) -> R) -> R {
    f(&crossbeam_epoch::pin())
}

/// Hands what this thread retired to the process-wide collector and frees what is old enough.
///
/// A loop calls it when it ends, because its thread may never pin again and would keep its garbage. While it runs it
/// need not: a thread holds back at most 64 blocks, and all threads together some 256 KiB before one of them collects.
pub fn flush() {
    crossbeam_epoch::pin().flush();
}

/// Bytes of queue blocks that were retired and are not freed yet, over all queues of the process.
///
/// It stays at some hundred KiB (with large values, at some blocks of 128 values) unless a pin is held for long; a
/// steady rise names such a pin.
pub fn garbage_bytes() -> usize {
    GARBAGE_BYTES.load(Ordering::Relaxed)
}

#[cfg(not(loom))]
mod epoch {
    use super::{COLLECT_EVERY_BYTES, GARBAGE_BYTES};
    use crate::block::Block;
    use std::{marker::PhantomData, sync::atomic::Ordering};

    /// A held pin, for this crate's own use.
    pub(crate) struct Pin<'a> {
        guard: crossbeam_epoch::Guard,
        _graveyard: PhantomData<&'a ()>,
    }

    /// Where one queue's retired blocks go: to the epoch.
    pub(crate) struct Graveyard<T> {
        _blocks: PhantomData<*mut Block<T>>,
    }

    impl<T> Graveyard<T> {
        pub(crate) fn new() -> Self {
            Self {
                _blocks: PhantomData,
            }
        }

        /// Keeps this queue's memory (in fact every queue's) until the pin is dropped.
        #[inline]
        pub(crate) fn pin(&self) -> Pin<'_> {
            Pin {
                guard: crossbeam_epoch::pin(),
                _graveyard: PhantomData,
            }
        }

        /// Frees `block` once nobody can be looking at it.
        ///
        /// # Safety
        ///
        /// Every value was taken or belongs to a thread that holds a pin, no shared pointer leads to the block any
        /// more, and it is retired once.
        pub(crate) unsafe fn retire(&self, block: *mut Block<T>, pin: &Pin<'_>) {
            let bytes = size_of::<Block<T>>();
            let before = GARBAGE_BYTES.fetch_add(bytes, Ordering::Relaxed);
            // SAFETY: unreachable for pins that begin from now on. The closure touches no value of T, so T need
            // neither be `Send` nor outlive the queue.
            unsafe {
                pin.guard.defer_unchecked(move || {
                    Block::free(block);
                    GARBAGE_BYTES.fetch_sub(bytes, Ordering::Relaxed);
                });
            }
            if before / COLLECT_EVERY_BYTES != (before + bytes) / COLLECT_EVERY_BYTES {
                pin.guard.flush();
            }
        }
    }
}
