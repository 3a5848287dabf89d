//! Signal masks for the threads that the runtime starts, and how its signal handlers are installed.
//!
//! The kernel delivers a signal for the process to any thread that does not block it, and the handler may interrupt a
//! system call there. A helper thread must not be that thread. A program may block a signal in its own threads, to read
//! it from a descriptor or with `sigwait`; if a helper thread then took the signal, the default action would end the
//! program. So helper threads block all signals from their first instruction on: a thread inherits the mask of the
//! thread that starts it.

use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::thread::{self, JoinHandle};

/// The signals by which the kernel reports a thread's fault to that thread. No other thread can act on them, so helper
/// threads do not block them, and the runtime neither waits for them nor forwards them.
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

/// Spawns a thread with all signals blocked except [`FAULT_SIGNALS`]. A library's helper threads must not take the
/// program's signals.
///
/// A child process that such a thread starts inherits the mask, so the thread should start none.
///
/// ```
/// let helper = yue_scheduler::spawn_with_signals_blocked("helper", || ()).unwrap();
/// helper.join().unwrap();
/// ```
///
/// # Errors
/// When the system cannot start a thread.
pub fn spawn_with_signals_blocked(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let before = change_mask(libc::SIG_BLOCK, Some(&asynchronous_signals()));
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    change_mask(libc::SIG_SETMASK, Some(&before));
    started
}

/// Installs a handler the way all handlers of the runtime are installed. It runs on the thread's alternate stack where
/// there is one, because a fiber's stack is small, and alone, because the alternate stack has room for two or three
/// signal frames and several signals may be due at once. Interrupted system calls are restarted.
///
/// ```
/// extern "C" fn do_nothing(_signal: i32) {}
///
/// const SIGUSR1: i32 = 10;
/// // SAFETY: the handler does nothing.
/// unsafe { yue_scheduler::set_signal_handler(SIGUSR1, do_nothing as *const (), 0) }.unwrap();
/// ```
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

/// Returns all signals except those that report a thread's own fault.
pub(crate) fn asynchronous_signals() -> libc::sigset_t {
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

/// Changes the signal mask of the calling thread. Returns the previous mask.
pub(crate) fn change_mask(how: libc::c_int, set: Option<&libc::sigset_t>) -> libc::sigset_t {
    let mut before = MaybeUninit::zeroed();
    let set = set.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `set` is null or points to a valid set; `before` has room for one, and all zeros is a valid value too.
    unsafe {
        libc::pthread_sigmask(how, set, before.as_mut_ptr());
        before.assume_init()
    }
}
