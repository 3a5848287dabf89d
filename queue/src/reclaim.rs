//! Reclaims the memory of blocks: crossbeam's epoch, and a gauge of the bytes that wait for it.
//!
//! A thread that reaches a block without a ticket in it (a producer that looks for its block, a consumer of the
//! injector) does so under a pin. A block is retired when no shared pointer leads to it any more. It is freed when
//! every pin held at that time has been dropped. Under loom `reclaim_model.rs` replaces this file: it makes the same
//! promise and checks each access.
//!
//! # Threads
//!
//! Any. A pin stays on the thread that made it.

#[cfg(not(loom))]
pub(crate) use epoch::{Graveyard, Pin};

#[cfg(loom)]
pub(crate) use crate::reclaim_model::{Graveyard, Pin};

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of retired blocks that the epoch has not freed yet, over all queues of the process. It is only a metric, never
/// a condition, so every access is Relaxed: it pairs with nothing.
static GARBAGE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Each time the garbage has grown by this much, the retiring thread asks the collector to work. Crossbeam alone counts
/// objects, not bytes. It may keep 64 blocks per thread: little for small values, megabytes for large ones.
#[cfg(not(loom))]
const COLLECT_EVERY_BYTES: usize = 256 * 1024;

/// Runs `f` with the epoch pinned by this thread: memory that was reachable when `f` began is not freed before it ends.
///
/// A pin keeps memory of the *whole process* from being freed, so `f` must be short, and must neither block nor suspend
/// a fiber. Pins may be nested; an inner pin costs almost nothing.
pub fn pin<R>(f: impl FnOnce(&crossbeam_epoch::Guard) -> R) -> R {
    f(&crossbeam_epoch::pin())
}

/// Hands this thread's retired blocks to the process-wide collector, and frees what is old enough.
///
/// A loop calls it when it ends, because its thread may never pin again and would keep its garbage. While the loop runs
/// there is no need to: a thread holds back at most 64 blocks, and all threads together about 256 KiB before one of
/// them collects.
pub fn flush() {
    crossbeam_epoch::pin().flush();
}

/// Bytes of queue blocks that are retired and not freed yet, over all queues of the process.
///
/// The figure stays at a few hundred KiB (with large values, at a few blocks of 128 values) unless a pin is held for
/// long. If it rises steadily, look for such a pin.
pub fn garbage_bytes() -> usize {
    GARBAGE_BYTES.load(Ordering::Relaxed)
}

#[cfg(not(loom))]
mod epoch {
    use super::{COLLECT_EVERY_BYTES, GARBAGE_BYTES};
    use crate::block::Block;
    use std::{marker::PhantomData, sync::atomic::Ordering};

    /// A held pin, used inside this crate.
    pub(crate) struct Pin<'a> {
        guard: crossbeam_epoch::Guard,
        _graveyard: PhantomData<&'a ()>,
    }

    /// Hands one queue's retired blocks to the epoch.
    pub(crate) struct Graveyard<T> {
        _blocks: PhantomData<*mut Block<T>>,
    }

    impl<T> Graveyard<T> {
        pub(crate) fn new() -> Self {
            Self {
                _blocks: PhantomData,
            }
        }

        /// Keeps the queue's memory (in fact every queue's) until the pin is dropped.
        #[inline]
        pub(crate) fn pin(&self) -> Pin<'_> {
            Pin {
                guard: crossbeam_epoch::pin(),
                _graveyard: PhantomData,
            }
        }

        /// Frees `block` once no thread can be looking at it.
        ///
        /// # Safety
        ///
        /// Every value was taken or belongs to a thread that holds a pin, no shared pointer leads to the block any
        /// more, and the block is retired only once.
        pub(crate) unsafe fn retire(&self, block: *mut Block<T>, pin: &Pin<'_>) {
            let bytes = size_of::<Block<T>>();
            let before = GARBAGE_BYTES.fetch_add(bytes, Ordering::Relaxed);
            // SAFETY: pins that begin from now on cannot reach the block. The closure touches no value of T, so T need
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
