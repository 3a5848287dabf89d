//! Forwards signals from the kernel to our thread: one handler for the process, and the thread that it wakes.
//!
//! ```text
//!   any thread of the process     on_signal: PENDING[n] = true, sem_post       a handler: async-signal-safe calls only
//!   the thread "yue signals"      sem_wait ──▶ PENDING[n].swap(false) ──▶ announce(n) to the subscribers
//! ```
//!
//! Invariants:
//! - From the return of [`acquire`] to the last [`release`] of a signal, its action is `on_signal` for every thread of
//!   the process, including threads that compute and threads that C libraries started. So the default action cannot
//!   run. No signal is blocked for this, and `exec` resets handlers, so children start clean, whoever starts them.
//! - Our thread blocks all signals except the subscribed ones. It takes a signal that all other threads block (perhaps
//!   because the process was started that way). It blocks a signal again *before* the old action is restored. So it is
//!   never the thread on which a default action ends a process whose other threads all block the signal.
//! - Every change of an action holds `TABLE`'s lock; the handler needs no lock. `OLD[n]` is written before
//!   `INSTALLED[n]` is set, and read only when it is set.
//! - A child between `fork` and `exec` has the handler, but not the thread: it would swallow a signal sent to it. So
//!   all signals are blocked during a `fork`, and the child restores the old actions before it unblocks them.
//!   (`posix_spawn`, which `popen` and `system` use, does the same by itself.)

use super::Signal;
use crate::sys;
use std::cell::{Cell, UnsafeCell};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use yue_scheduler::{SignalSet, set_signal_handler, spawn_with_signals_blocked};

/// One more than the largest signal number.
const SIGNALS: usize = 65;

struct Table {
    /// Our thread, once it has started. It never ends.
    thread: Option<ThreadId>,
    /// The number of subscriptions, by signal.
    wanted: [u32; SIGNALS],
    /// Counts the changes of `wanted` from and to zero. `applied` is the number of them that our thread has applied.
    changes: u64,
    applied: u64,
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    thread: None,
    wanted: [0; SIGNALS],
    changes: 0,
    applied: 0,
});

/// Signals a new value of `Table::applied`.
static APPLIED: Condvar = Condvar::new();

static PENDING: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];
static INSTALLED: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];
static OLD: [StaticMemory<libc::sigaction>; SIGNALS] = [const { StaticMemory::new() }; SIGNALS];
static BELL: StaticMemory<libc::sem_t> = StaticMemory::new();

/// Whether this process is a fork of the one with the thread.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Memory protected by the module's invariants.
struct StaticMemory<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: a semaphore is made to be shared; an action is written under `TABLE`'s lock, before `INSTALLED` is set.
unsafe impl<T> Sync for StaticMemory<T> {}

impl<T> StaticMemory<T> {
    const fn new() -> StaticMemory<T> {
        StaticMemory(UnsafeCell::new(MaybeUninit::uninit()))
    }

    fn get(&self) -> *mut T {
        self.0.get().cast()
    }
}

/// Locks the table. None of the program's code runs under the lock, so a poisoned lock still holds a consistent value.
fn lock() -> MutexGuard<'static, Table> {
    yue_scheduler::lock(&TABLE)
}

/// The numbers of these signals, each once.
fn numbers(signals: &[Signal]) -> impl Iterator<Item = usize> {
    let index = |signal: &Signal| signal.number() as usize;
    (1..SIGNALS).filter(move |number| signals.iter().any(|signal| index(signal) == *number))
}

/// Announces these signals from now on, instead of running their previous actions.
///
/// # Errors
/// When the system refuses a thread or the handler. Nothing has then changed.
pub(super) fn acquire(signals: &[Signal]) -> io::Result<()> {
    let mut table = lock();
    table.start_thread()?;
    let installed = INSTALLED.each_ref().map(is_set);
    for number in numbers(signals).filter(|number| !installed[*number]) {
        if let Err(error) = install(number) {
            // Restore the signals that had no subscription before.
            for number in numbers(signals).filter(|number| !installed[*number]) {
                restore(number);
            }
            return Err(error);
        }
    }
    for number in numbers(signals) {
        table.wanted[number] += 1;
        table.changes += u64::from(table.wanted[number] == 1);
    }
    ring();
    Ok(())
}

/// Undoes an [`acquire`]. When it returns, a signal without subscriptions has its old action again.
pub(super) fn release(signals: &[Signal]) {
    if is_set(&FORKED) {
        return;
    }
    let mut table = lock();
    let before = table.changes;
    for number in numbers(signals) {
        table.wanted[number] -= 1;
        table.changes += u64::from(table.wanted[number] == 0);
    }
    if table.changes == before {
        return;
    }
    if table.thread == Some(thread::current().id()) {
        return table.apply();
    }
    ring();
    let change = table.changes;
    // Our thread waits for a lock or a loop only in a callback; see `subscribe_off_loop`.
    drop(APPLIED.wait_while(table, |table| table.applied < change));
}

impl Table {
    fn start_thread(&mut self) -> io::Result<()> {
        static PREPARED: AtomicBool = AtomicBool::new(false);
        if is_set(&FORKED) {
            return Err(io::Error::other(
                "a forked child of a process with bound signals cannot bind signals before it calls exec",
            ));
        }
        if self.thread.is_some() {
            return Ok(());
        }
        // The table's lock ensures that this runs once.
        if !is_set(&PREPARED) {
            // SAFETY: the memory is static and not in use yet; the functions call only what is allowed around a fork.
            unsafe {
                libc::sem_init(BELL.get(), 0, 0);
                match libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_fork)) {
                    0 => PREPARED.store(true, Ordering::Relaxed),
                    error => return Err(io::Error::from_raw_os_error(error)),
                }
            }
        }
        let started = spawn_with_signals_blocked("yue signals", run)?;
        self.thread = Some(started.thread().id());
        Ok(())
    }

    /// Unblocks the wanted signals and restores the old action of the others. Runs on our thread.
    fn apply(&mut self) {
        let wanted = (1..SIGNALS).filter(|number| self.wanted[*number] > 0);
        let wanted = SignalSet::of(wanted.map(|number| number as i32));
        let unwanted = (1..SIGNALS).filter(|number| self.wanted[*number] == 0);
        let unwanted: Vec<usize> = unwanted.filter(|n| is_set(&INSTALLED[*n])).collect();
        // The order matters: see the invariants.
        SignalSet::of(unwanted.iter().map(|number| *number as i32)).block();
        unwanted.into_iter().for_each(restore);
        wanted.unblock();
        self.applied = self.changes;
        APPLIED.notify_all();
    }
}

/// Returns the flag. Acquire: pairs with the Release of the store that sets it, so that earlier writes are visible.
fn is_set(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire)
}

/// The main function of our thread.
fn run() {
    loop {
        // SAFETY: the semaphore was initialized before this thread started. An interrupted wait just rechecks flags.
        unsafe { libc::sem_wait(BELL.get()) };
        let mut table = lock();
        if table.applied != table.changes {
            table.apply();
        }
        drop(table);
        for (number, pending) in PENDING.iter().enumerate() {
            // Acquire: pairs with the handler's swap.
            if pending.swap(false, Ordering::Acquire) {
                super::announce(Signal(number as i32));
            }
        }
    }
}

fn ring() {
    // SAFETY: `start_thread` has initialized the semaphore. It overflows only when the thread has plenty to do anyway.
    unsafe { libc::sem_post(BELL.get()) };
}

extern "C" fn on_signal(number: libc::c_int) {
    let Some(pending) = PENDING.get(number as usize) else {
        return;
    };
    // Release: pairs with the thread's swap. If it was pending already, the bell has been rung.
    if !pending.swap(true, Ordering::Release) {
        // SAFETY: sem_post is async-signal-safe; errno, which it may change, is restored.
        unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            ring();
            *errno = before;
        }
    }
}

/// Makes `on_signal` the action of a signal. Under the table's lock.
fn install(number: usize) -> io::Result<()> {
    // SAFETY: the handler is async-signal-safe; the lock protects `OLD`.
    unsafe {
        let old = OLD[number].get();
        // If our handler is still installed (see `give_back`), `OLD` already has the old action.
        if sys::signal_action(number as i32) != on_signal as *const () as usize
            && libc::sigaction(number as i32, ptr::null(), old) != 0
        {
            return Err(io::Error::last_os_error());
        }
        // Release: pairs with `is_set`; set before the handler is installed, because a fork may come in between.
        INSTALLED[number].store(true, Ordering::Release);
        set_signal_handler(number as i32, on_signal as *const (), 0)
            .inspect_err(|_| INSTALLED[number].store(false, Ordering::Relaxed))
    }
}

/// Restores the action that a signal had before `install`, unless other code has set another one meanwhile. Makes only
/// async-signal-safe calls.
fn restore(number: usize) {
    if !is_set(&INSTALLED[number]) {
        return;
    }
    if sys::signal_action(number as i32) == on_signal as *const () as usize {
        // SAFETY: `OLD` was written before `INSTALLED` was set.
        unsafe { libc::sigaction(number as i32, OLD[number].get(), ptr::null_mut()) };
    }
    INSTALLED[number].store(false, Ordering::Relaxed);
}

/// Runs the previous action for a signal that arrived without a subscriber.
///
/// There are two cases. The signal arrived while its last subscription was ending. Or our handler is installed though
/// nobody wants the signal: code that sets an action temporarily and restores what it found (C's `system`, with SIGINT
/// and SIGQUIT) found our handler while the signal was wanted, and restored it later.
pub(super) fn run_previous_action(signal: Signal) {
    let (table, number) = (lock(), signal.number() as usize);
    let ours = sys::signal_action(signal.number()) == on_signal as *const () as usize;
    // SAFETY: our handler was installed, so `OLD` is written; the signal goes to this process.
    unsafe {
        if ours && table.wanted[number] == 0 {
            libc::sigaction(signal.number(), OLD[number].get(), ptr::null_mut());
        }
        libc::kill(libc::getpid(), signal.number());
    }
}

thread_local! {
    /// The signal mask of a thread during a fork.
    static MASK: Cell<Option<SignalSet>> = const { Cell::new(None) };
}

extern "C" fn before_fork() {
    MASK.set(Some(SignalSet::all().set_mask()));
}

extern "C" fn after_fork() {
    if let Some(mask) = MASK.take() {
        mask.set_mask();
    }
}

extern "C" fn in_fork() {
    FORKED.store(true, Ordering::Release);
    (1..SIGNALS).for_each(restore);
    after_fork();
}
