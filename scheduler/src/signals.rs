//! Threads that take no signals.
//!
//! The kernel gives a signal for the process to any thread that does not block it, and a handler there may interrupt a
//! system call. A helper thread must not be that thread: a program that blocks a signal in its own threads, to read it
//! from a descriptor or by `sigwait`, would be ended by the default action in ours. So helper threads block all signals
//! from their first instruction on: a thread inherits the mask of the thread that starts it.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread::{self, JoinHandle};

/// The signals by which the kernel reports a fault of a thread to that thread itself. Nobody else can do anything about
/// them, so they are not blocked in helper threads, waited for, or passed on.
///
/// ```
/// const SIGSEGV: i32 = 11;
/// assert!(yue_scheduler::FAULT_SIGNALS.contains(&SIGSEGV));
/// ```
pub const FAULT_SIGNALS: [libc::c_int; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGSYS,
];

/// Starts a thread that has all signals blocked, except [`FAULT_SIGNALS`]: for helper threads of a library, which must
/// not take the signals of the program.
///
/// A child process that such a thread starts inherits the mask; the thread should start none.
///
/// ```
/// let helper = yue_scheduler::spawn_with_signals_blocked("helper", || ()).unwrap();
/// helper.join().unwrap();
/// ```
///
/// # Errors
/// When the system gives no thread.
pub fn spawn_with_signals_blocked(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let before = change_mask(libc::SIG_BLOCK, Some(&asynchronous()));
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    change_mask(libc::SIG_SETMASK, Some(&before));
    started
}

/// All signals but those by which a thread's own fault is reported.
pub(crate) fn asynchronous() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initializes the whole set; then it is only changed.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for fault in FAULT_SIGNALS {
            libc::sigdelset(&mut set, fault);
        }
        set
    }
}

/// Changes which signals the calling thread has blocked; returns which it had.
pub(crate) fn change_mask(how: libc::c_int, set: Option<&libc::sigset_t>) -> libc::sigset_t {
    let mut before = MaybeUninit::zeroed();
    let set = set.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `set` is null or a valid set, `before` has room for one; it is valid as zeros, too.
    unsafe {
        libc::pthread_sigmask(how, set, before.as_mut_ptr());
        before.assume_init()
    }
}
