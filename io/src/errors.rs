//! Maps the kernel's results to errors, for both drivers. This is the only such table.
//!
//! | result | what the caller gets |
//! |---|---|
//! | `EAGAIN`, `EWOULDBLOCK` | nothing: the operation waits until the descriptor is ready, and is retried |
//! | the same, in a callback of a loop | kind `WouldBlock`: nothing can wait there |
//! | the same, in a destructor that runs during a panic | kind `Other`: the fiber cannot wait during the panic |
//! | `EINTR` of a call | nothing: the call is retried |
//! | `ECANCELED`, `EINTR` of a ring operation whose fiber was stopped | the reason of the stop: see below |
//! | a result of an operation whose fiber was stopped | the result; the next call returns the error |
//! | cancelled | kind `Other`, with [`Stopped::Cancelled`] inside |
//! | a deadline or a timeout has passed | kind `TimedOut`, in a fiber with [`Stopped::Deadline`] inside |
//! | `ECONNABORTED`, `EPROTO`, `EPERM`, `ENETDOWN`, … of an accept | nothing: that client is gone |
//! | `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`, `ENOSPC` of an accept | itself, after a pause, and a line on stderr |
//! | the same, in `incoming` | nothing: it waits until the resource is available again |
//! | `EAGAIN` of a connect to a Unix socket | nothing: the backlog is full; the connect is retried after a pause |
//! | `EAGAIN` of a datagram to a full Unix receiver | the same |
//! | `ENOBUFS` of a receive into the ring's buffers | nothing: the receive restarts when buffers are free again |
//! | `EINPROGRESS` of a connect | nothing: the operation waits for the outcome and returns its error |
//! | `ETIME` of a wait in the ring | nothing: the loop checks its timers |
//! | `EBUSY` of the ring | nothing: completions are reaped, and the ring is entered again |
//! | a short read or write | its length, as in the standard library; `read_exact` and `write_all` continue |
//! | the end of input | a length of 0 |
//! | any other error | [`io::Error::from_raw_os_error`], with the standard library's kind |
//!
//! So one `?` passes on both system errors and a stop, and the caller can tell them apart:
//!
//! ```
//! use std::io::Read;
//! use yue_io::net::UnixStream;
//!
//! yue_io::run(|| -> std::io::Result<()> {
//!     let (mut here, _silent) = UnixStream::pair()?;
//!     let reader = yue_scheduler::spawn(move || here.read(&mut [0; 16]));
//!     reader.cancel();
//!     let error = reader.join().unwrap().unwrap_err();
//!     assert_eq!(error.kind(), std::io::ErrorKind::Other);
//!     let inside = error.get_ref().and_then(|inner| inner.downcast_ref());
//!     assert_eq!(inside, Some(&yue_scheduler::Stopped::Cancelled));
//!     Ok(())
//! })??;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;
use yue_scheduler::Stopped;

/// Converts the result of a ring operation for the waiting fiber. `stopped` says that the fiber was stopped, and why.
pub(crate) fn of_operation(result: i32, stopped: Option<Stopped>) -> io::Result<u32> {
    match (u32::try_from(result), stopped) {
        (Ok(result), _) => Ok(result),
        (Err(_), Some(stopped)) if was_cancelled(-result) => Err(stopped.into()),
        (Err(_), _) => Err(io::Error::from_raw_os_error(-result)),
    }
}

/// The error of a call that would have to wait in an unwinding fiber. It is not a panic, because a panic that leaves a
/// destructor during unwinding ends the process.
#[cold]
pub(crate) fn cannot_wait() -> io::Error {
    io::Error::other("cannot wait while unwinding from a panic")
}

/// Whether a ring operation ended because it was cancelled. The kernel interrupts an operation that one of its worker
/// threads runs, so `EINTR` counts too.
pub(crate) fn was_cancelled(errno: i32) -> bool {
    matches!(errno, libc::ECANCELED | libc::EINTR)
}

/// Whether the process or the system is short of a resource that becomes available again.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        // epoll returns ENOSPC when the user watches too many descriptors.
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC)
    )
}

/// Whether an accept error concerns one client only, so that the next client can still be accepted: the client had left
/// before the accept, a firewall forbids it, or its socket's first event was a network error (see `accept(2)`, "Error
/// handling").
pub(crate) fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_wins_over_a_cancel_and_an_error_over_its_absence() {
        let stopped = Some(Stopped::Cancelled);
        assert_eq!(of_operation(5, stopped).unwrap(), 5);
        assert_eq!(of_operation(0, None).unwrap(), 0);
        for errno in [libc::ECANCELED, libc::EINTR] {
            let error = of_operation(-errno, stopped).unwrap_err();
            assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
            let error = of_operation(-errno, None).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno));
        }
        let error = of_operation(-libc::ECONNRESET, Some(Stopped::Deadline)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let deadline = of_operation(-libc::ECANCELED, Some(Stopped::Deadline)).unwrap_err();
        assert_eq!(deadline.kind(), io::ErrorKind::TimedOut);
    }
}
