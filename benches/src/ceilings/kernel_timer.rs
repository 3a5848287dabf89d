//! The kernel's timer: a thread that sleeps until an instant of the monotonic clock, and how late it wakes.

use std::io;

use yue_scheduler::Instant;

/// Sleeps until `at`.
///
/// # Errors
///
/// When the kernel refuses.
pub fn sleep_until(at: Instant) -> io::Result<()> {
    let at = libc::timespec {
        tv_sec: (at.as_nanos() / 1_000_000_000) as libc::time_t,
        tv_nsec: (at.as_nanos() % 1_000_000_000) as libc::c_long,
    };
    loop {
        // SAFETY: the call reads the given time; an absolute sleep writes no remainder.
        let result = unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &at,
                std::ptr::null_mut(),
            )
        };
        match result {
            0 => return Ok(()),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}
