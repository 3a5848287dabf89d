//! How a signal gets from the kernel to our thread: one handler for the process, and the thread that it wakes.
//!
//! ```text
//!   any thread of the process     on_signal: PENDING[n] = true, sem_post       a handler: async-signal-safe calls only
//!   the thread "yue signals"      sem_wait ──▶ PENDING[n].swap(false) ──▶ announce(n) to the subscribers
//! ```
//!
//! Invariants:
//! - From the return of [`acquire`] to the last [`release`] of a signal its action is `on_signal`, for every thread of
//!   the process: those that compute, and those that C libraries started. So the default action cannot strike. Nothing
//!   is blocked for it, and `exec` resets handlers, so children start clean whoever starts them.
//! - Our thread blocks all signals but the subscribed ones. It takes one that all other threads block (perhaps because
//!   the process was started so). It blocks a signal again *before* the old action comes back, so that it is never the
//!   thread on which a default action ends a process whose own threads all block the signal.
//! - `TABLE`'s lock is held for every change of an action; the handler needs no lock. `OLD[n]` is written before
//!   `INSTALLED[n]` is set, and read when it is set.
//! - A child between `fork` and `exec` has the handler, but not the thread: a signal sent to it would be swallowed. So
//!   all signals are blocked over a `fork`, and the child puts the old actions back before it unblocks them.
//!   (`posix_spawn`, which `popen` and `system` use, does the like by itself.)

use super::Signal;
use crate::sys;
use std::cell::{Cell, UnsafeCell};
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use yue_scheduler::spawn_with_signals_blocked;

/// One more than the largest signal's number.
const SIGNALS: usize = 65;

struct Table {
    /// Our thread, once it was started. It never ends.
    thread: Option<ThreadId>,
    /// Subscriptions, by signal.
    wanted: [u32; SIGNALS],
    /// Counts the changes of `wanted` from and to zero; `applied` is how many of them our thread has acted on.
    changes: u64,
    applied: u64,
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    thread: None,
    wanted: [0; SIGNALS],
    changes: 0,
    applied: 0,
});

/// Tells of a new `Table::applied`.
static APPLIED: Condvar = Condvar::new();

static PENDING: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];
static INSTALLED: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];
static OLD: [Shared<libc::sigaction>; SIGNALS] = [const { Shared::new() }; SIGNALS];
static BELL: Shared<libc::sem_t> = Shared::new();

/// This process is a fork of the one with the thread.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Memory that the module's invariants guard.
struct Shared<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: a semaphore is made to be shared; an action is written under `TABLE`'s lock, before `INSTALLED` tells of it.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    const fn new() -> Shared<T> {
        Shared(UnsafeCell::new(MaybeUninit::uninit()))
    }

    fn get(&self) -> *mut T {
        self.0.get().cast()
    }
}

/// No code of the program's runs under the lock, so a poisoned one still holds a whole value.
fn lock() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numbers of those signals, each once.
fn numbers(signals: &[Signal]) -> impl Iterator<Item = usize> {
    let index = |signal: &Signal| signal.number() as usize;
    (1..SIGNALS).filter(move |number| signals.iter().any(|signal| index(signal) == *number))
}

/// Has those signals announced from now on, instead of what they did.
///
/// # Errors
/// The system gives no thread, or refuses the handler. Nothing is changed then.
pub(super) fn acquire(signals: &[Signal]) -> io::Result<()> {
    let mut table = lock();
    table.start_thread()?;
    let installed = INSTALLED.each_ref().map(is_set);
    for number in numbers(signals).filter(|number| !installed[*number]) {
        if let Err(error) = install(number) {
            // Those of them that nobody wanted before.
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

/// Undoes an [`acquire`]. A signal that nobody wants any more has its old action again when this returns.
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
    // Our thread never waits for a lock or a loop, other than in a callback; see `subscribe_off_loop`.
    drop(APPLIED.wait_while(table, |table| table.applied < change));
}

impl Table {
    fn start_thread(&mut self) -> io::Result<()> {
        static PREPARED: AtomicBool = AtomicBool::new(false);
        if is_set(&FORKED) {
            return Err(io::Error::other(
                "a fork of a process that had signals bound cannot bind any before it executes a program",
            ));
        }
        if self.thread.is_some() {
            return Ok(());
        }
        // Under the table's lock: once.
        if !is_set(&PREPARED) {
            // SAFETY: the memory is static and nobody uses it yet; the three functions call what a fork allows.
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

    /// On our thread: takes the signals that are wanted, and gives the others their old action back.
    fn apply(&mut self) {
        let wanted = (1..SIGNALS).filter(|number| self.wanted[*number] > 0);
        let wanted = sys::signal_set(wanted.map(|number| number as i32));
        let unwanted = (1..SIGNALS).filter(|number| self.wanted[*number] == 0);
        let unwanted: Vec<usize> = unwanted.filter(|n| is_set(&INSTALLED[*n])).collect();
        // In this order: see the invariants. A set of ours is never refused.
        let _ = sys::mask_signals(
            libc::SIG_BLOCK,
            &sys::signal_set(unwanted.iter().map(|number| *number as i32)),
        );
        unwanted.into_iter().for_each(restore);
        let _ = sys::mask_signals(libc::SIG_UNBLOCK, &wanted);
        self.applied = self.changes;
        APPLIED.notify_all();
    }
}

/// Acquire: pairs with the Release of whoever sets it, so that what was written before is seen.
fn is_set(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire)
}

/// Our thread's life.
fn run() {
    loop {
        // SAFETY: the semaphore was made before this thread. An interrupted wait is one more look at the flags.
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
    // SAFETY: `start_thread` has made the semaphore. It overflows only when the thread has enough to do.
    unsafe { libc::sem_post(BELL.get()) };
}

extern "C" fn on_signal(number: libc::c_int) {
    let Some(pending) = PENDING.get(number as usize) else {
        return;
    };
    // Release: pairs with the thread's swap. One that is pending already has rung the bell.
    if !pending.swap(true, Ordering::Release) {
        // SAFETY: sem_post is async-signal-safe; errno, which it may change, is put back.
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
    // SAFETY: an all-zero action is valid; the handler is async-signal-safe; `OLD` is ours, by the lock.
    unsafe {
        let old = OLD[number].get();
        // If it is our own, left over (see `give_back`), the old one is known.
        if sys::signal_action(number as i32) != on_signal as *const () as usize
            && libc::sigaction(number as i32, ptr::null(), old) != 0
        {
            return Err(io::Error::last_os_error());
        }
        // Release: pairs with `is_set`; before the handler is there, for a fork may come in between.
        INSTALLED[number].store(true, Ordering::Release);
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        // On the alternate stack, where a thread has one: a fiber's own stack is small.
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        if libc::sigaction(number as i32, &action, ptr::null_mut()) != 0 {
            INSTALLED[number].store(false, Ordering::Relaxed);
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Gives a signal the action back that it had before `install`, unless somebody has set another one meanwhile. Makes
/// async-signal-safe calls only.
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

/// Has a signal that came, and that nobody subscribes to any more, do what it does without us.
///
/// It came while the last subscription was ended. Or our handler is there though nobody wants it: code that sets an
/// action for a while and puts back what it found (C's `system`, with SIGINT and SIGQUIT) has found it while it was
/// wanted, and put it back later.
pub(super) fn give_back(signal: Signal) {
    let (table, number) = (lock(), signal.number() as usize);
    let ours = sys::signal_action(signal.number()) == on_signal as *const () as usize;
    // SAFETY: our handler was there, so that `OLD` is written; then a signal to this very process.
    unsafe {
        if ours && table.wanted[number] == 0 {
            libc::sigaction(signal.number(), OLD[number].get(), ptr::null_mut());
        }
        libc::kill(libc::getpid(), signal.number());
    }
}

thread_local! {
    /// The mask of a thread that forks.
    static MASK: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
}

extern "C" fn before_fork() {
    let mut before = MaybeUninit::uninit();
    // SAFETY: both sets are live; the first is filled before it is used, the second by the call.
    unsafe {
        let mut all = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, before.as_mut_ptr());
        MASK.set(Some(before.assume_init()));
    }
}

extern "C" fn after_fork() {
    if let Some(mask) = MASK.take() {
        let _ = sys::mask_signals(libc::SIG_SETMASK, &mask);
    }
}

extern "C" fn in_fork() {
    FORKED.store(true, Ordering::Release);
    (1..SIGNALS).for_each(restore);
    after_fork();
}
