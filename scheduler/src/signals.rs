//! Which signals the threads take that the scheduler starts.
//!
//! A signal for the process goes to any thread that does not block it. Who expects it may read it from a descriptor;
//! the default action in another thread would forestall that. So our threads block them all, and begin so: a thread
//! begins with the mask of the one that starts it.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread::{self, Thread};

/// Starts a thread that takes no signals.
pub(crate) fn spawn_deaf(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let before = change_mask(libc::SIG_BLOCK, Some(&asynchronous()));
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    change_mask(libc::SIG_SETMASK, Some(&before));
    Ok(started?.thread().clone())
}

/// All signals but those by which a thread's own fault is reported.
pub(crate) fn asynchronous() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initializes the whole set; then it is only changed.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for fault in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGABRT,
            libc::SIGSYS,
        ] {
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
