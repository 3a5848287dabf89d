//! Interrupting threads that run code of another language: at the end of a program, when their time has passed.
//!
//! ```text
//!   asker:    a place for each thread: 0 ──▶ its number ── tgkill ─ ─ ─ waits ─ ─ ─ ─ ─ ─ ─ ─▶ 0: interrupted
//!   handler:                                  finds its own number ──▶ runs what was set ──▶ 0
//! ```
//!
//! The threads are asked together and waited for together, for a time that is measured by the clock: if they are many
//! and the processors few, each takes a while to get to its handler, and who asks has other things to do.
//!
//! Invariants:
//! - One asker at a time (a lock). An asker that gives up empties its places; a handler that comes later finds nothing.
//! - The handler makes async-signal-safe calls only.

use super::capture::{LOOK_AGAIN, install, send};
use crate::lock::lock;
use crate::time::Instant;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Duration;
use std::{mem, ptr, thread};

/// Threads that are asked at once.
const AT_ONCE: usize = 256;

static ASKERS: Mutex<()> = Mutex::new(());
/// The threads that are to be interrupted, until their handlers have run; 0 is none.
static PLACES: [AtomicI32; AT_ONCE] = [const { AtomicI32::new(0) }; AT_ONCE];
static ARGUMENT: AtomicUsize = AtomicUsize::new(0);
static INTERRUPTION: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// The function that [`interrupt_threads`] runs in a thread, in a signal handler: it must not allocate, take a lock, or
/// rely on data that may be half changed. Its argument is the number passed to `interrupt_threads`.
pub type Interruption = unsafe extern "C" fn(argument: usize);

/// Sets what [`interrupt_threads`] does: for a layer that runs code of another language on fibers, and can end it.
///
/// # Safety
/// `interruption` calls async-signal-safe functions only, on any thread that has a loop, at any instruction.
pub unsafe fn set_interruption(interruption: Interruption) {
    // Release: pairs with the Acquire in the handler.
    INTERRUPTION.store(interruption as *mut (), Ordering::Release);
}

/// Interrupts threads of this process, by their numbers, with the signal that the watchdog uses; what was set by
/// [`set_interruption`] runs there. Returns how many have run it: when all have, or when `patience` has passed. Those
/// that have not by then are left alone: they have ended, block the signal, or got no processor.
///
/// # Errors
/// Why no thread can be interrupted at all.
pub fn interrupt_threads(
    threads: &[libc::pid_t],
    argument: usize,
    patience: Duration,
) -> Result<usize, &'static str> {
    install()?;
    let _one_at_a_time = lock(&ASKERS);
    ARGUMENT.store(argument, Ordering::Relaxed);
    let batches = threads.chunks(AT_ONCE);
    let patience = patience / (batches.len().max(1) as u32);
    Ok(batches.map(|batch| interrupt_batch(batch, patience)).sum())
}

fn interrupt_batch(threads: &[libc::pid_t], patience: Duration) -> usize {
    let until = Instant::system().saturating_add(patience);
    let places = &PLACES[..threads.len()];
    let mut gone = 0;
    for (place, thread) in places.iter().zip(threads) {
        // Release: pairs with the handler's Acquire; it sees ARGUMENT.
        place.store(*thread, Ordering::Release);
        if send(*thread).is_err() {
            place.store(0, Ordering::Relaxed);
            gone += 1;
        }
    }
    let is_asked = |place: &AtomicI32| place.load(Ordering::Relaxed) != 0;
    while places.iter().any(is_asked) && Instant::system() < until {
        thread::sleep(LOOK_AGAIN);
    }
    let asked = places.iter();
    let left = asked.filter(|place| place.swap(0, Ordering::Relaxed) != 0);
    threads.len() - gone - left.count()
}

/// The part of the signal's handler, on `thread`.
pub(super) fn on_signal(thread: libc::pid_t) {
    for place in &PLACES {
        // Acquire: pairs with the Release in `interrupt_batch`.
        if place.load(Ordering::Acquire) != thread {
            continue;
        }
        let interruption = INTERRUPTION.load(Ordering::Acquire);
        if !interruption.is_null() {
            let argument = ARGUMENT.load(Ordering::Relaxed);
            // SAFETY: `set_interruption` stored an `Interruption`, whose contract allows this call.
            unsafe { mem::transmute::<*mut (), Interruption>(interruption)(argument) };
        }
        // The asker may have given up meanwhile, and ask another thread.
        let _ = place.compare_exchange(thread, 0, Ordering::Relaxed, Ordering::Relaxed);
        return;
    }
}
