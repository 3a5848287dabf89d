//! The kernel's number of a thread.

/// Returns the kernel's number of the calling thread, as `top -H` and `/proc/PID/task` show it. It may be called in a
/// signal handler.
///
/// By the system call: glibc has a function `gettid` only from 2.30 on, and a program that needs it would not start on
/// older systems.
///
/// ```
/// let main = yue_scheduler::thread_id();
/// assert_ne!(std::thread::spawn(yue_scheduler::thread_id).join().unwrap(), main);
/// ```
pub fn thread_id() -> libc::pid_t {
    // SAFETY: a query that cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as libc::pid_t }
}
