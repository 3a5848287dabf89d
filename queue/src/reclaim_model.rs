//! A model of the epoch for loom, which checks every access that relies on the epoch.
//!
//! Our models do not run crossbeam's algorithm: it has its own loom models, and its states would leave no time for
//! ours. They keep its contract. A pin begins with a sequentially consistent fence, and so does a retirement. A retired
//! block lives until the pins held at that moment are dropped. From then on it is *freed*: it is marked, and any access
//! by a pinned thread panics (`Block::assert_not_freed`). The memory itself is released with the queue, so that the
//! mark can still be read.

use crate::block::Block;
use loom::sync::atomic::{Ordering, fence};
use std::sync::Mutex;

/// A held pin.
pub(crate) struct Pin<'a> {
    number: usize,
    release: &'a dyn Unpin,
}

/// Releases a pin by its number.
trait Unpin {
    fn unpin(&self, number: usize);
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.release.unpin(self.number);
    }
}

/// One queue's pins and retired blocks. The mutex is std's: it is never held at a point where loom switches threads.
pub(crate) struct Graveyard<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    pins_made: usize,
    pinned: Vec<usize>,
    /// Each block with the pins that were held when it was retired.
    retired: Vec<(*mut Block<T>, Vec<usize>)>,
}

impl<T> Graveyard<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                pins_made: 0,
                pinned: Vec::new(),
                retired: Vec::new(),
            }),
        }
    }

    pub(crate) fn pin(&self) -> Pin<'_> {
        let mut state = self.state.lock().expect("no panic while locked");
        let number = state.pins_made;
        state.pins_made += 1;
        state.pinned.push(number);
        drop(state);
        // As in crossbeam: a value loaded under the pin is at least as new as the pin.
        fence(Ordering::SeqCst);
        Pin {
            number,
            release: self,
        }
    }

    /// Like `reclaim.rs`.
    ///
    /// # Safety
    ///
    /// As in `reclaim.rs`.
    pub(crate) unsafe fn retire(&self, block: *mut Block<T>, _pin: &Pin<'_>) {
        // SAFETY: not retired yet, so alive.
        unsafe { (*block).assert_abandoned() };
        // Every pin that begins from now on sees the unlinking.
        fence(Ordering::SeqCst);
        let mut state = self.state.lock().expect("no panic while locked");
        let held = state.pinned.clone();
        state.retired.push((block, held));
    }
}

impl<T> Unpin for Graveyard<T> {
    fn unpin(&self, number: usize) {
        let mut state = self.state.lock().expect("no panic while locked");
        state.pinned.retain(|held| *held != number);
        for (block, held) in &mut state.retired {
            held.retain(|held| *held != number);
            if held.is_empty() {
                // SAFETY: the memory lives as long as the graveyard.
                unsafe { (**block).mark_freed() };
            }
        }
    }
}

impl<T> Drop for Graveyard<T> {
    fn drop(&mut self) {
        let state = self.state.get_mut().expect("no panic while locked");
        for (block, _) in state.retired.drain(..) {
            // SAFETY: retired once, and every user is gone with the queue.
            unsafe { Block::free(block) };
        }
    }
}
