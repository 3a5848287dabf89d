//! The threads that look on.

use std::io;
use std::{mem, ptr, thread};

/// Starts a thread that takes no signals, so that those for the process go to who expects them: to a thread that reads
/// them from a descriptor, it may be, which the default action in this one would forestall.
pub(crate) fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<thread::Thread> {
    // SAFETY: the sets are initialized by the calls that fill them; the mask is this thread's, and is put back.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        // A thread begins with the mask of the one that starts it.
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let started = thread::Builder::new().name(name.to_owned()).spawn(work);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        Ok(started?.thread().clone())
    }
}
