//! Signal masks for the threads that the runtime starts, and how its signal handlers are installed.
//!
//! The kernel delivers a signal for the process to any thread that does not block it, and the handler may interrupt a
//! system call there. A helper thread must not be that thread. A program may block a signal in its own threads, to read
//! it from a descriptor or with `sigwait`; if a helper thread then took the signal, the default action would end the
//! program. So helper threads block all signals from their first instruction on: a thread inherits the mask of the
//! thread that starts it.

use std::fmt;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::thread::{self, JoinHandle};

/// The signals by which the kernel reports a thread's fault to that thread. No other thread can act on them, so helper
/// threads do not block them, and the runtime neither waits for them nor forwards them.
pub const FAULT_SIGNALS: [libc::c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
];

/// A set of signals, and its use as the calling thread's mask. All functions are async-signal-safe.
///
/// ```
/// use yue_scheduler::SignalSet;
///
/// const SIGUSR1: i32 = 10;
/// let before = SignalSet::of([SIGUSR1]).block();
/// // … code that SIGUSR1 must not interrupt …
/// before.set_mask();
/// ```
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Returns the set of these signals. Numbers that belong to no signal are left out.
    pub fn of(signals: impl IntoIterator<Item = libc::c_int>) -> SignalSet {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initializes the whole set.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set is live; an invalid number is refused.
            unsafe { libc::sigaddset(&mut set, signal) };
        }
        SignalSet(set)
    }

    /// Returns the set of all signals.
    pub fn all() -> SignalSet {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigfillset` initializes the whole set.
        SignalSet(unsafe {
            libc::sigfillset(set.as_mut_ptr());
            set.assume_init()
        })
    }

    /// Returns the set of all signals except [`FAULT_SIGNALS`].
    pub fn asynchronous() -> SignalSet {
        let mut set = SignalSet::all();
        for fault in FAULT_SIGNALS {
            // SAFETY: the set is live, and the number is a signal's.
            unsafe { libc::sigdelset(&mut set.0, fault) };
        }
        set
    }

    /// Returns the mask of the calling thread: the signals that it blocks.
    pub fn mask() -> SignalSet {
        SignalSet::of([]).block()
    }

    /// Adds the set to the mask of the calling thread. Returns the previous mask.
    pub fn block(&self) -> SignalSet {
        self.change_mask(libc::SIG_BLOCK)
    }

    /// Removes the set from the mask of the calling thread. Returns the previous mask.
    pub fn unblock(&self) -> SignalSet {
        self.change_mask(libc::SIG_UNBLOCK)
    }

    /// Makes the set the mask of the calling thread. Returns the previous mask.
    pub fn set_mask(&self) -> SignalSet {
        self.change_mask(libc::SIG_SETMASK)
    }

    /// Returns the set in the form that system calls take.
    pub fn as_raw(&self) -> &libc::sigset_t {
        &self.0
    }

    fn change_mask(&self, how: libc::c_int) -> SignalSet {
        let mut before = MaybeUninit::zeroed();
        // SAFETY: `self` is a valid set; `before` has room for one, and all zeros is a valid set too. The call fails
        // only if `how` is invalid.
        unsafe {
            libc::pthread_sigmask(how, &self.0, before.as_mut_ptr());
            SignalSet(before.assume_init())
        }
    }
}

impl fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: the set is live; a number that belongs to no signal is not in it.
        let is_member = |signal: &libc::c_int| unsafe { libc::sigismember(&self.0, *signal) } == 1;
        let signals = (1..=libc::SIGRTMAX()).filter(is_member);
        f.debug_set().entries(signals).finish()
    }
}

/// Spawns a thread with all signals blocked except [`FAULT_SIGNALS`]. A library's helper threads must not take the
/// program's signals.
///
/// A child process that such a thread starts inherits the mask, so the thread should start none.
///
/// # Errors
/// When the system cannot start a thread.
pub fn spawn_with_signals_blocked(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let before = SignalSet::asynchronous().block();
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    before.set_mask();
    started
}

/// Installs a handler the way all handlers of the runtime are installed. It runs on the thread's alternate stack where
/// there is one, because a fiber's stack is small, and alone, because the alternate stack has room for two or three
/// signal frames and several signals may be due at once. Interrupted system calls are restarted.
///
/// # Safety
/// `handler` is an `extern "C"` function with the parameters that `flags` (further `SA_` flags) call for. It makes only
/// async-signal-safe calls.
///
/// # Errors
/// When the system refuses a handler for that signal.
pub unsafe fn set_signal_handler(
    signal: libc::c_int,
    handler: *const (),
    flags: libc::c_int,
) -> io::Result<()> {
    // SAFETY: an all-zero action is valid; the rest is the caller's promise.
    let set = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK | flags;
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(signal, &action, ptr::null_mut())
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
