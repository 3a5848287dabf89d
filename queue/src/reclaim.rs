//! When a block's memory may be freed: crossbeam's epoch, and a gauge of what waits for it.
//!
//! Who reaches a block without owning a ticket in it (a producer that looks for its block, a consumer of the injector)
//! does so under a pin; a block is retired after no shared pointer leads to it, and freed once every pin of that time
//! is gone. Under loom the memory is kept until the queue is dropped: the epoch's own correctness is crossbeam's to
//! prove (it has loom models of its own, and running them inside ours would leave no time for the queues), while what
//! *we* promise about retired blocks is checked by `Block::assert_alive`.

use crate::block::Block;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of retired blocks that the epoch has not freed yet, over all queues of the process. Only a figure to look at,
/// never a condition, so std's atomic under loom too and Relaxed everywhere: it pairs with nothing.
static GARBAGE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Runs `f` while this thread holds the epoch: memory that was reachable when `f` began is not freed before it ends.
///
/// A pin keeps memory of the *whole process* from being freed, so `f` must be short and must neither block nor suspend
/// a fiber. It may be nested; an inner pin costs next to nothing.
pub fn pin<R>(f: impl FnOnce(&crossbeam_epoch::Guard) -> R) -> R {
    f(&crossbeam_epoch::pin())
}

/// Hands what this thread retired to the process-wide collector and frees what is old enough.
///
/// A loop calls it once per tick, and before it sleeps: a sleeping thread would otherwise sit on its garbage.
pub fn flush() {
    crossbeam_epoch::pin().flush();
}

/// Bytes of queue blocks that were retired and are not freed yet, over all queues of the process.
///
/// It stays small (some hundred KiB) unless a pin is held for long or a thread sleeps without [`flush`].
pub fn garbage_bytes() -> usize {
    GARBAGE_BYTES.load(Ordering::Relaxed)
}

/// A held pin, for this crate's own use.
pub(crate) struct Pin {
    #[cfg(not(loom))]
    guard: crossbeam_epoch::Guard,
}

impl Pin {
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(not(loom))]
            guard: crossbeam_epoch::pin(),
        }
    }
}

/// Where one queue's retired blocks go: to the epoch; under loom, to a list.
#[derive(Debug)]
pub(crate) struct Graveyard<T> {
    #[cfg(loom)]
    blocks: std::sync::Mutex<Vec<*mut Block<T>>>,
    _blocks: std::marker::PhantomData<*mut Block<T>>,
}

impl<T> Graveyard<T> {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(loom)]
            blocks: std::sync::Mutex::default(),
            _blocks: std::marker::PhantomData,
        }
    }

    /// Frees `block` once nobody can be looking at it.
    ///
    /// # Safety
    ///
    /// Every slot's value was taken, no shared pointer leads to the block any more, and it is retired once.
    pub(crate) unsafe fn retire(&self, block: *mut Block<T>, pin: &Pin) {
        // SAFETY: not yet retired, so alive.
        unsafe { (*block).assert_abandoned() };
        #[cfg(not(loom))]
        {
            GARBAGE_BYTES.fetch_add(size_of::<Block<T>>(), Ordering::Relaxed);
            // SAFETY: unreachable for pins that begin from now on. The closure touches no value of T (all are taken),
            // so T need neither be `Send` nor outlive the queue.
            unsafe {
                pin.guard.defer_unchecked(move || {
                    Block::free(block);
                    GARBAGE_BYTES.fetch_sub(size_of::<Block<T>>(), Ordering::Relaxed);
                });
            }
        }
        #[cfg(loom)]
        {
            let _ = pin;
            self.blocks
                .lock()
                .expect("no panic while locked")
                .push(block);
        }
    }
}

#[cfg(loom)]
impl<T> Drop for Graveyard<T> {
    fn drop(&mut self) {
        for block in self
            .blocks
            .get_mut()
            .expect("no panic while locked")
            .drain(..)
        {
            // SAFETY: retired once, and with the queue every user is gone.
            unsafe { Block::free(block) };
        }
    }
}
