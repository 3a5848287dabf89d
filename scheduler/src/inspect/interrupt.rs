//! Interruption of threads that run code of another language: at the end of a program, when their time has passed.
//!
//! ```text
//!   caller:   a slot for each thread: 0 ──▶ its number ── tgkill ─ ─ ─ waits ─ ─ ─ ─ ─ ─ ─ ─▶ 0: interrupted
//!   handler:                                finds its own number ──▶ runs the interruption ──▶ 0
//! ```
//!
//! All threads are signalled first and then waited for together, for a limited time: if they are many and the
//! processors few, each takes a while to get to its handler, and the caller has other things to do.
//!
//! Invariants:
//! - One caller at a time (a lock). A caller whose patience ends empties its slots; a handler that comes later finds
//!   nothing.
//! - The handler makes async-signal-safe calls only.

use super::capture::{CHECK_INTERVAL, install, send};
use crate::lock::lock;
use crate::time::Instant;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::time::Duration;
use std::{mem, ptr, thread};

/// The number of threads that are signalled together.
const AT_ONCE: usize = 256;

/// Held by the caller.
static CALLERS: Mutex<()> = Mutex::new(());
/// The threads whose handlers have not run yet; 0 marks an empty slot.
static SLOTS: [AtomicI32; AT_ONCE] = [const { AtomicI32::new(0) }; AT_ONCE];
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

/// Interrupts threads of this process, by their numbers, with the signal that the watchdog uses: the function set by
/// [`set_interruption`] runs there. Returns when all threads have run it or `patience` has passed, with the number of
/// those that have. The others have ended, block the signal, or got no processor; they are left alone.
///
/// # Errors
/// The reason why no thread can be interrupted at all.
pub fn interrupt_threads(
    threads: &[libc::pid_t],
    argument: usize,
    patience: Duration,
) -> Result<usize, &'static str> {
    install()?;
    let _one_at_a_time = lock(&CALLERS);
    ARGUMENT.store(argument, Ordering::Relaxed);
    let batches = threads.chunks(AT_ONCE);
    let patience = patience / (batches.len().max(1) as u32);
    Ok(batches.map(|batch| interrupt_batch(batch, patience)).sum())
}

fn interrupt_batch(threads: &[libc::pid_t], patience: Duration) -> usize {
    let until = Instant::system().saturating_add(patience);
    let slots = &SLOTS[..threads.len()];
    let mut gone = 0;
    for (slot, thread) in slots.iter().zip(threads) {
        // Release: pairs with the handler's Acquire, which then sees ARGUMENT.
        slot.store(*thread, Ordering::Release);
        if send(*thread).is_err() {
            slot.store(0, Ordering::Relaxed);
            gone += 1;
        }
    }
    let is_pending = |slot: &AtomicI32| slot.load(Ordering::Relaxed) != 0;
    while slots.iter().any(is_pending) && Instant::system() < until {
        thread::sleep(CHECK_INTERVAL);
    }
    let pending = slots.iter();
    let left = pending.filter(|slot| slot.swap(0, Ordering::Relaxed) != 0);
    threads.len() - gone - left.count()
}

/// The part of the signal's handler, on `thread`.
pub(super) fn on_signal(thread: libc::pid_t) {
    for slot in &SLOTS {
        // Acquire: pairs with the Release in `interrupt_batch`.
        if slot.load(Ordering::Acquire) != thread {
            continue;
        }
        let interruption = INTERRUPTION.load(Ordering::Acquire);
        if !interruption.is_null() {
            let argument = ARGUMENT.load(Ordering::Relaxed);
            // SAFETY: `set_interruption` stored an `Interruption`, whose contract allows this call.
            unsafe { mem::transmute::<*mut (), Interruption>(interruption)(argument) };
        }
        // The caller may have given up meanwhile, and the slot may hold another thread.
        let _ = slot.compare_exchange(thread, 0, Ordering::Relaxed, Ordering::Relaxed);
        return;
    }
}
