//! What the kernel's answers become, on both drivers: the one table, and the code for it.
//!
//! | answer | what the caller gets |
//! |---|---|
//! | `EAGAIN`, `EWOULDBLOCK` | nothing: the operation waits until the descriptor is ready, and is tried again |
//! | the same, in a callback of a loop | kind `WouldBlock`: nothing can wait there |
//! | the same, in a destructor that runs during a panic | kind `Other`: the fiber cannot wait before that is over |
//! | `EINTR` of a call | nothing: the call is made again |
//! | `ECANCELED`, `EINTR` of an operation of the ring whose fiber was told to stop | why it was told to: see below |
//! | a result of an operation whose fiber was told to stop | the result; the next call gets the error |
//! | cancelled | kind `Other`, with [`Stopped::Cancelled`] inside |
//! | a deadline or a timeout has passed | kind `TimedOut`, with [`Stopped::Deadline`] inside (a fiber's) |
//! | `ECONNABORTED`, `EPROTO`, `EPERM`, `ENETDOWN`, … of an accept | nothing: that client is gone |
//! | `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`, `ENOSPC` of an accept | themselves, after a pause, and a line on stderr |
//! | the same, in `incoming` | nothing: it waits until there is room again |
//! | `EAGAIN` of a connect to a Unix socket | nothing: the backlog is full, and it is tried again after a pause |
//! | `EAGAIN` of a datagram for a Unix receiver that is full | the same |
//! | `ENOBUFS` of a receive into the ring's buffers | nothing: it is started again when buffers are back |
//! | `EINPROGRESS` of a connect | nothing: the end is waited for, and its error is the connect's |
//! | `ETIME` of a wait in the ring | nothing: the loop looks at its timers |
//! | `EBUSY` of the ring | nothing: completions are taken out, and it is entered again |
//! | a short read or write | its length, as the standard library has it; `read_exact` and `write_all` go on |
//! | the end of input | a length of 0 |
//! | all else | [`io::Error::from_raw_os_error`], whose kind is the standard library's |
//!
//! So one `?` passes on both what the system says and that the fiber is to stop, and the two can be told apart:
//!
//! ```
//! use std::io::Read;
//! use yue::net::UnixStream;
//!
//! yue::Runtime::new()?.run(|| -> std::io::Result<()> {
//!     let (mut here, _silent) = UnixStream::pair()?;
//!     let reader = yue::spawn(move || here.read(&mut [0; 16]));
//!     reader.cancel();
//!     let error = reader.join().unwrap().unwrap_err();
//!     assert_eq!(error.kind(), std::io::ErrorKind::Other);
//!     let inside = error.get_ref().and_then(|inner| inner.downcast_ref());
//!     assert_eq!(inside, Some(&yue::Stopped::Cancelled));
//!     Ok(())
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;
use yue_scheduler::Stopped;

/// What an operation of the ring ended with, for the fiber that waited for it; `stopped` if that was told to stop.
pub(crate) fn of_operation(result: i32, stopped: Option<Stopped>) -> io::Result<u32> {
    match (u32::try_from(result), stopped) {
        (Ok(result), _) => Ok(result),
        (Err(_), Some(stopped)) if was_cancelled(-result) => Err(stopped.into()),
        (Err(_), _) => Err(io::Error::from_raw_os_error(-result)),
    }
}

/// The error of a call that would have to wait in a fiber that unwinds. It is an error and not a panic, because a panic
/// that leaves a destructor then ends the process.
#[cold]
pub(crate) fn cannot_wait() -> io::Error {
    io::Error::other("cannot wait while unwinding from a panic")
}

/// Whether an operation of the ring ended because that was asked for. One that a thread of the kernel's works on is
/// interrupted.
pub(crate) fn was_cancelled(errno: i32) -> bool {
    matches!(errno, libc::ECANCELED | libc::EINTR)
}

/// Whether the process, or the system, is out of something that comes back.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        // ENOSPC is what epoll says when the user watches too many descriptors.
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC)
    )
}

/// Whether an error of an accept concerns one client, so that the next may be accepted all the same: the client was
/// gone before it was looked at, a firewall forbids it, or the network's error on its way was its socket's first news
/// (see `accept(2)`, "Error handling").
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
