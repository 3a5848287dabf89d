//! The callbacks of a connection.

use std::io;

/// Receives the events of a [`Connection`]. The loop calls it outside fibers; it must not wait.
///
/// A callback that panics closes its connection, and no other: it may have left its input half processed.
/// [`Sink::closed`] follows with an error.
///
/// [`Connection`]: super::Connection
///
/// ```
/// use std::cell::RefCell;
/// use std::io::Write;
/// use std::rc::Rc;
/// use yue_io::net::UnixStream;
/// use yue_io::connection::{Connection, Sink};
/// use yue_scheduler::sync::local::Notify;
///
/// /// Gathers the peer's bytes, and signals the end of input.
/// struct Gather {
///     received: RefCell<Vec<u8>>,
///     done: Notify,
/// }
///
/// impl Sink for Gather {
///     fn data(&self, bytes: &[u8]) {
///         self.received.borrow_mut().extend_from_slice(bytes);
///     }
///
///     fn sent(&self, _buffer: Vec<u8>) {}
///
///     fn closed(&self, _result: std::io::Result<()>) {
///         self.done.notify_one();
///     }
/// }
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let (mut here, there) = UnixStream::pair()?;
///     let sink = Rc::new(Gather { received: RefCell::default(), done: Notify::new() });
///     Connection::start_unix(there, sink.clone())?;
///     here.write_all(b"hello")?;
///     drop(here);
///     sink.done.notified()?;
///     assert_eq!(*sink.received.borrow(), b"hello");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Sink {
    /// Receives bytes, in order. They are valid only during the call.
    fn data(&self, bytes: &[u8]);

    /// Returns a buffer of [`Connection::send`] after the kernel has taken all of it. The buffer still holds its bytes;
    /// the program may clear and reuse it.
    ///
    /// [`Connection::send`]: super::Connection::send
    fn sent(&self, buffer: Vec<u8>);

    /// Called when the peer has finished sending. Returning `true` keeps the connection open for sending, until it is
    /// closed or [shut down](super::Connection::shutdown_write). By default the queued bytes are sent and the
    /// connection is closed.
    fn end_of_input(&self) -> bool {
        false
    }

    /// Called when the connection has ended and its socket is closed: with `Ok` after [`Connection::close`] and after
    /// the end of input, otherwise with the error. Unsent bytes are dropped. Called exactly once, as the last callback.
    ///
    /// [`Connection::close`]: super::Connection::close
    fn closed(&self, result: io::Result<()>);
}
