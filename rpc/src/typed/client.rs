//! Calling with Rust's own types.

use super::server::{Server, parse};
use super::values;
use crate::error::Error;
use crate::session::{Options, Session, Timeout};
use crate::transport::connector;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::Deref;

/// A connection, to call over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    session: Session,
}

impl Caller {
    /// Calls over that session.
    pub fn new(session: Session) -> Caller {
        Caller { session }
    }

    /// The session itself.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Calls and waits, for no longer than the connection's timeout. `params` is a tuple with a value for each
    /// argument, `()` for none, or a single argument.
    ///
    /// # Errors
    /// See [`Session::call`]; `ArgumentError` if `params` cannot be sent, or the answer is not an `R`.
    ///
    /// # Panics
    /// Outside a fiber.
    pub fn call<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        params: P,
    ) -> Result<R, Error> {
        self.call_within(Timeout::Default, method, params)
    }

    /// As [`Caller::call`], with a time limit of its own.
    ///
    /// # Errors
    /// As [`Caller::call`].
    ///
    /// # Panics
    /// Outside a fiber.
    pub fn call_within<P: Serialize, R: DeserializeOwned>(
        &self,
        timeout: Timeout,
        method: &str,
        params: P,
    ) -> Result<R, Error> {
        let response = self
            .session
            .call(method, timeout, |out| values::append_params(out, &params))?;
        values::read_results(&response)
    }

    /// Calls without an answer.
    ///
    /// # Errors
    /// See [`Session::notify`].
    pub fn notify<P: Serialize>(&self, method: &str, params: P) -> Result<(), Error> {
        self.session
            .notify(method, |out| values::append_params(out, &params))
    }
}

/// The connection through which the running handler was called; `None` outside of handlers.
pub fn peer() -> Option<Caller> {
    crate::peer().map(Caller::new)
}

/// An opened connection. It closes when this is dropped.
#[derive(Debug)]
pub struct Client {
    caller: Caller,
}

impl Client {
    /// A connection to an address, made when it is first used.
    ///
    /// # Errors
    /// `AddressError` if the address is none.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn open(address: &str) -> Result<Client, Error> {
        Client::open_with(address, Server::new(), Options::default())
    }

    /// As [`Client::open`]; the other side may call what `offers` has.
    ///
    /// # Errors
    /// As [`Client::open`].
    ///
    /// # Panics
    /// Outside a loop.
    pub fn open_with(address: &str, offers: Server, options: Options) -> Result<Client, Error> {
        let connector = connector(&parse(address)?);
        let session = Session::open(connector, offers.into_service(), options);
        Ok(Client {
            caller: Caller::new(session),
        })
    }
}

impl Deref for Client {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.caller.session.close();
    }
}
