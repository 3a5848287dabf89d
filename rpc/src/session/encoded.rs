//! Calls that are encoded once and sent over any number of sessions.

use super::call::{CallId, Route, Target};
use super::inner::{Inner, Session};
use super::options::{Timeout, count};
use crate::buffer::{self, Response};
use crate::error::{Error, ErrorKind};
use crate::proto::encode;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use yue_scheduler::{Instant, deadline_after};

/// The name of a method and its arguments, encoded once for any number of sessions, on any loop.
///
/// The arguments cannot contain functions, since each session counts the functions that cross it.
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::session::{EncodedCall, Service, Session};
/// use yue_rpc::typed::Server;
/// use yue_rpc::{Error, Options, transport};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let (sender, received) = yue_scheduler::sync::local::channel(2);
///     let server = Server::new().handler("tick", move |n: i64| Ok(drop(sender.try_send(n))));
///     let listener = server.listen("tcp://127.0.0.1:0")?;
///     let open = || Session::open(transport::connector(listener.address()), Service::none(), Options::default());
///     let tick = EncodedCall::new("tick", |out| {
///         out.push(7);
///         Ok(1)
///     })?;
///     for session in [open(), open()] {
///         session.notify_encoded(&tick)?;
///     }
///     assert_eq!((received.recv().unwrap(), received.recv().unwrap()), (7, 7));
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct EncodedCall {
    /// A whole notification.
    message: Arc<[u8]>,
    name: Range<u32>,
    /// The start of the arguments' values, behind the header of their array.
    params_at: u32,
    count: u32,
}

impl EncodedCall {
    /// Encodes a call of that name. `params` appends the arguments and returns their number.
    ///
    /// # Errors
    /// Those of `params`, and `MessageTooLargeError` if the message has 4 GiB or more.
    pub fn new(
        name: impl AsRef<[u8]>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<EncodedCall, Error> {
        let name = name.as_ref();
        let mut message = vec![0x93, 2];
        encode::str_or_bin(&mut message, name);
        let name_end = message.len();
        let count = encode::array(&mut message, params)?;
        let Ok(length) = u32::try_from(message.len()) else {
            let text = format!("a message of {} bytes is too large", message.len());
            return Err(Error::new(ErrorKind::MessageTooLarge, text));
        };
        let header = match count {
            0..=15 => 1,
            16..=0xffff => 3,
            _ => 5,
        };
        debug_assert!(name_end + header <= length as usize);
        Ok(EncodedCall {
            name: (name_end - name.len()) as u32..name_end as u32,
            params_at: (name_end + header) as u32,
            count,
            message: message.into(),
        })
    }

    /// The method's name.
    pub fn name(&self) -> &[u8] {
        &self.message[self.name.start as usize..self.name.end as usize]
    }

    /// The number of bytes of the notification.
    pub fn bytes(&self) -> usize {
        self.message.len()
    }

    fn target(&self) -> Target<'_> {
        Target::Name(self.name())
    }

    fn append_params(&self, out: &mut Vec<u8>) -> Result<u32, Error> {
        out.extend_from_slice(&self.message[self.params_at as usize..]);
        Ok(self.count)
    }
}

impl fmt::Debug for EncodedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedCall")
            .field("name", &String::from_utf8_lossy(self.name()))
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Like [`Session::notify`], for a call that is encoded already: its bytes are copied.
    ///
    /// # Errors
    /// Like [`Session::notify`].
    ///
    /// # Panics
    /// On another loop than the session's.
    #[inline]
    pub fn notify_encoded(&self, call: &EncodedCall) -> Result<(), Error> {
        let inner = &*self.inner;
        inner
            .notify_encoded(call)
            .inspect_err(|error| inner.note_not_taken(error))
    }

    /// Like [`Session::notify_within`], for a call that is encoded already.
    ///
    /// # Errors
    /// Like [`Session::notify_within`].
    ///
    /// # Panics
    /// On another loop than the session's.
    pub fn notify_encoded_within(
        &self,
        time: std::time::Duration,
        call: &EncodedCall,
    ) -> Result<(), Error> {
        self.notify_encoded_until(deadline_after(time), call)
    }

    pub(crate) fn notify_encoded_until(
        &self,
        deadline: Instant,
        call: &EncodedCall,
    ) -> Result<(), Error> {
        self.inner
            .notify_timed(deadline, call.target(), |out| call.append_params(out))
    }

    /// Like [`Session::call_async`], for a call that is encoded already.
    ///
    /// # Errors
    /// Like [`Session::call_async`].
    ///
    /// # Panics
    /// On another loop than the session's.
    pub fn call_encoded_async(
        &self,
        timeout: Timeout,
        call: &EncodedCall,
        done: impl FnOnce(Result<Response, Error>) + 'static,
    ) -> Result<CallId, Error> {
        self.call_async(call.target(), timeout, |out| call.append_params(out), done)
    }
}

impl Inner {
    #[inline]
    fn notify_encoded(&self, call: &EncodedCall) -> Result<(), Error> {
        match self.route_at_once(&call.target())? {
            Route::Write => self.write_encoded(&call.message)?,
            Route::Hold => {
                let method = self.method_of(call.target())?;
                let params = |out: &mut Vec<u8>| call.append_params(out);
                self.hold((None, Instant::NEVER), method, params)?;
            }
        }
        count(&self.counters.notifications);
        Ok(())
    }

    /// Appends a message that is encoded already, and holds no references.
    #[inline]
    fn write_encoded(&self, message: &[u8]) -> Result<(), Error> {
        if message.len() > self.options.limits.message_bytes_max {
            return Err(self.too_large(message.len()));
        }
        self.append(message.len(), |buffer| buffer.extend_from_slice(message));
        self.message_written();
        Ok(())
    }

    /// Appends about `length` bytes to the output. `encode` runs none of the program's code.
    #[inline]
    pub(super) fn append(&self, length: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        // While an encoder runs, this is a separate buffer, which `Writing` appends behind the encoder's.
        let mut buffer = self.output.buffer.take();
        if buffer.capacity() == 0 {
            buffer = buffer::take_for(length);
        }
        encode(&mut buffer);
        self.output.bytes.set(buffer.len());
        self.output.buffer.set(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Method, encode};

    #[test]
    fn an_encoded_call_is_the_notification_byte_for_byte() {
        for name in ["f", "a.b.c", &"n".repeat(40), &"n".repeat(300)] {
            for count in [0u32, 1, 15, 16, 70_000] {
                let params = |out: &mut Vec<u8>| {
                    out.extend((0..count).map(|n| n as u8 & 0x7f));
                    Ok(count)
                };
                let call = EncodedCall::new(name, params).unwrap();
                let mut expected = Vec::new();
                encode::notification(&mut expected, Method::Name(name.as_bytes()), params).unwrap();
                assert_eq!(*call.message, *expected);
                assert_eq!(call.name(), name.as_bytes());
                let mut values = Vec::new();
                assert_eq!(call.append_params(&mut values).unwrap(), count);
                assert_eq!(values.len(), count as usize);
                assert!(expected.ends_with(&values));
            }
        }
    }

    #[test]
    fn an_encoder_that_fails_makes_no_call() {
        let failed = EncodedCall::new("f", |_| Err(Error::new(ErrorKind::Argument, "no")));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Argument);
    }
}
