//! The errors of channel operations.

use crate::fiber::Stopped;
use std::fmt;
use std::io;

/// The channel was closed, or all its senders or all its receivers were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the channel is closed")]
pub struct Closed;

/// The reason why a receive returned no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The channel is empty and no sender is left.
    #[error("the channel is closed")]
    Closed,
    /// The fiber was cancelled or a deadline passed. The values in the channel stay there.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The reason why `try_recv` returned no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TryRecvError {
    /// The channel is empty now.
    #[error("the channel is empty")]
    Empty,
    /// The channel is empty and no sender is left.
    #[error("the channel is closed")]
    Closed,
}

/// The reason why a value was not sent, with the value.
///
/// ```
/// use yue_scheduler::sync::{SendError, channel};
///
/// let (sender, receiver) = channel(1);
/// drop(receiver);
/// assert_eq!(sender.send("back").unwrap_err().into_value(), "back");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<T> {
    /// No receiver is left.
    Closed(T),
    /// The fiber was cancelled or a deadline passed.
    Stopped(T, Stopped),
}

/// The reason why a value was not sent at once, with the value.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrySendError<T> {
    /// The channel is full.
    Full(T),
    /// No receiver is left.
    Closed(T),
}

impl From<Closed> for RecvError {
    fn from(_: Closed) -> RecvError {
        RecvError::Closed
    }
}

impl From<Closed> for TryRecvError {
    fn from(_: Closed) -> TryRecvError {
        TryRecvError::Closed
    }
}

/// Implements the conversions for programs whose errors are all `io::Error`. The kinds are those of a pipe:
/// `BrokenPipe` if the channel is closed, `WouldBlock` if a `try_` call would have to wait. A stop converts like
/// [`Stopped`], and an unsent value is dropped.
macro_rules! into_io_error {
    ($([$($generics:tt)*] $error:ty { $($variant:pat => $cause:expr),+ })+) => {
        $(
            impl<$($generics)*> From<$error> for io::Error {
                fn from(error: $error) -> io::Error {
                    match error {
                        $($variant => $cause.into()),+
                    }
                }
            }
        )+
    };
}

into_io_error! {
    [] Closed { Closed => io::Error::new(io::ErrorKind::BrokenPipe, Closed) }
    [] RecvError { RecvError::Closed => Closed, RecvError::Stopped(stopped) => stopped }
    [] TryRecvError {
        TryRecvError::Closed => Closed,
        empty @ TryRecvError::Empty => io::Error::new(io::ErrorKind::WouldBlock, empty)
    }
    [T] SendError<T> { SendError::Closed(_) => Closed, SendError::Stopped(_, stopped) => stopped }
    [T] TrySendError<T> {
        TrySendError::Closed(_) => Closed,
        TrySendError::Full(_) => io::Error::new(io::ErrorKind::WouldBlock, "the channel is full")
    }
}

impl<T> SendError<T> {
    /// Returns the value that was not sent.
    pub fn into_value(self) -> T {
        match self {
            SendError::Closed(value) | SendError::Stopped(value, _) => value,
        }
    }

    fn reason(&self) -> &dyn fmt::Display {
        match self {
            SendError::Closed(_) => &Closed,
            SendError::Stopped(_, stopped) => stopped,
        }
    }
}

impl<T> TrySendError<T> {
    /// Returns the value that was not sent.
    pub fn into_value(self) -> T {
        match self {
            TrySendError::Full(value) | TrySendError::Closed(value) => value,
        }
    }

    fn reason(&self) -> &dyn fmt::Display {
        match self {
            TrySendError::Full(_) => &"the channel is full",
            TrySendError::Closed(_) => &Closed,
        }
    }
}

// Not derived, so that the value need not be `Debug`.
impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({self})")
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason().fmt(f)
    }
}

impl<T> std::error::Error for SendError<T> {}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrySendError({self})")
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason().fmt(f)
    }
}

impl<T> std::error::Error for TrySendError<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fiber::Elapsed;

    #[test]
    fn errors_have_the_kinds_of_a_pipe() {
        fn kind(error: impl Into<io::Error>) -> io::ErrorKind {
            error.into().kind()
        }
        assert_eq!(kind(Closed), io::ErrorKind::BrokenPipe);
        assert_eq!(kind(RecvError::Closed), io::ErrorKind::BrokenPipe);
        assert_eq!(kind(SendError::Closed(1)), io::ErrorKind::BrokenPipe);
        assert_eq!(kind(TryRecvError::Closed), io::ErrorKind::BrokenPipe);
        assert_eq!(kind(TrySendError::Closed(1)), io::ErrorKind::BrokenPipe);
        assert_eq!(kind(TryRecvError::Empty), io::ErrorKind::WouldBlock);
        assert_eq!(kind(TrySendError::Full(1)), io::ErrorKind::WouldBlock);
        let late = Stopped::Deadline;
        assert_eq!(kind(RecvError::Stopped(late)), io::ErrorKind::TimedOut);
        assert_eq!(kind(SendError::Stopped(1, late)), io::ErrorKind::TimedOut);
        assert_eq!(kind(Elapsed), io::ErrorKind::TimedOut);
    }
}
