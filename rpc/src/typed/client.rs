//! Clients: calls with Rust's own types.

use super::server::{Server, parse};
use super::values;
use crate::error::Error;
use crate::session::options::{Options, Timeout};
use crate::session::{self, EncodedCall, Response, Session};
use crate::transport::try_connector;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::Deref;

/// A connection to make calls over.
///
/// A handler gets its caller by [`peer`]. [`Caller::new`] wraps any [`Session`]. A [`Client`] is a caller, too.
///
/// ```
/// use yue_rpc::Error;
/// use yue_rpc::typed::{Caller, Client, Server};
///
/// fn total(kitchen: &Caller, dishes: &[&str]) -> Result<u32, Error> {
///     dishes.iter().map(|dish| kitchen.call::<_, u32>("price", dish)).sum()
/// }
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new()
///         .handler("price", |dish: String| Ok(dish.len()))
///         .listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     assert_eq!(total(&client, &["tea", "cake"])?, 7);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    session: Session,
}

impl Caller {
    /// Makes calls over `session`.
    pub fn new(session: Session) -> Caller {
        Caller { session }
    }

    /// The session itself.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Calls and waits, at most for the connection's timeout. `params` is a tuple with a value for each argument, `()`
    /// for none, or a single argument.
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

    /// Like [`Caller::call`], with its own time limit.
    ///
    /// # Errors
    /// Like [`Caller::call`].
    ///
    /// # Panics
    /// Outside a fiber.
    pub fn call_within<P: Serialize, R: DeserializeOwned>(
        &self,
        timeout: Timeout,
        method: &str,
        params: P,
    ) -> Result<R, Error> {
        values::read_results(&self.call_raw_within(timeout, method, params)?)
    }

    /// Like [`Client::call_within`], but leaves the results as they are.
    ///
    /// # Errors
    /// See [`Session::call`].
    #[doc(hidden)]
    pub fn call_raw_within<P: Serialize>(
        &self,
        timeout: Timeout,
        method: &str,
        params: P,
    ) -> Result<Response, Error> {
        self.session
            .call(method, timeout, |out| values::append_params(out, &params))
    }

    /// Calls without an answer.
    ///
    /// # Errors
    /// See [`Session::notify`].
    ///
    /// ```
    /// use yue_rpc::Error;
    /// use yue_rpc::typed::{Client, Server};
    ///
    /// yue_io::run(|| -> Result<(), Error> {
    ///     let (sender, received) = yue_scheduler::sync::local::channel(1);
    ///     let listener = Server::new()
    ///         .handler("move_to", move |position: (i64, i64)| Ok(drop(sender.try_send(position))))
    ///         .listen("tcp://127.0.0.1:0")?;
    ///     let client = Client::open(&listener.address().to_string())?;
    ///     client.notify("move_to", (3, 4))?; // Does not wait for the peer.
    ///     assert_eq!(received.recv(), Ok((3, 4)));
    ///     Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify<P: Serialize>(&self, method: &str, params: P) -> Result<(), Error> {
        self.session
            .notify(method, |out| values::append_params(out, &params))
    }
}

/// Encodes a call once, for any number of connections: see [`Group`](crate::group::Group) and
/// [`Session::notify_encoded`]. `params` as in [`Caller::call`].
///
/// # Errors
/// `ArgumentError` if `params` cannot be sent.
///
/// ```
/// use yue_rpc::Error;
/// use yue_rpc::group::Group;
/// use yue_rpc::typed::{Client, Server, encode_call};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let (sender, received) = yue_scheduler::sync::local::channel(2);
///     let listener = Server::new()
///         .handler("moved", move |to: (String, f64)| Ok(drop(sender.try_send(to))))
///         .listen("tcp://127.0.0.1:0")?;
///     let address = listener.address().to_string();
///     let (one, other) = (Client::open(&address)?, Client::open(&address)?);
///     let servers = Group::new();
///     servers.join(one.session());
///     servers.join(other.session());
///     assert_eq!(servers.notify(&encode_call("moved", ("frodo", 4.5))?)?, 2);
///     assert_eq!(received.recv(), Ok(("frodo".to_owned(), 4.5)));
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn encode_call<P: Serialize>(method: &str, params: P) -> Result<EncodedCall, Error> {
    EncodedCall::new(method, |out| values::append_params(out, &params))
}

/// The connection through which the running handler was called; `None` outside of handlers.
///
/// ```
/// use yue_rpc::Error;
/// use yue_rpc::typed::{Client, Server, peer};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new()
///         .handler("new_hero", |()| {
///             let player = peer().ok_or("no peer")?;
///             let class: String = player.call("which", "class")?;
///             let face: String = player.call("which", "face")?;
///             Ok(format!("a {face} {class}"))
///         })
///         .listen("tcp://127.0.0.1:0")?;
///     let player = Server::new()
///         .handler("which", |what: String| Ok(if what == "class" { "wizard" } else { "bearded" }));
///     let game = Client::open_with(&listener.address().to_string(), player, Default::default())?;
///     assert_eq!(game.call::<_, String>("new_hero", ())?, "a bearded wizard");
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn peer() -> Option<Caller> {
    session::peer().map(Caller::new)
}

/// An open connection. Dropping it closes it.
///
/// ```
/// use yue_rpc::Error;
/// use yue_rpc::typed::{Client, Server};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new()
///         .handler("add", |(a, b): (i64, i64)| Ok(a + b))
///         .handler("now", |()| Ok("noon"))
///         .listen("tcp://127.0.0.1:0")?;
///     let server = Client::open(&listener.address().to_string())?; // Connects at the first call.
///     let sum: i64 = server.call("add", (1, 2))?;
///     assert_eq!(sum, 3);
///
///     // Many fibers may call at once over the one connection.
///     let server = std::rc::Rc::new(server);
///     let calls: Vec<_> = (0..10)
///         .map(|n| {
///             let server = server.clone();
///             yue_scheduler::spawn(move || server.call::<_, i64>("add", (n, n)))
///         })
///         .collect();
///     let sums: Result<Vec<i64>, Error> = calls.into_iter().map(|call| call.join().unwrap()).collect();
///     assert_eq!(sums?.into_iter().sum::<i64>(), 90);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client {
    caller: Caller,
}

impl Client {
    /// Creates a connection to an address. The first use connects.
    ///
    /// # Errors
    /// `AddressError` if the address is invalid.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn open(address: &str) -> Result<Client, Error> {
        Client::open_with(address, Server::new(), Options::default())
    }

    /// Like [`Client::open`]; the peer may call the functions in `offers`, whose [socket options](Server::sockets) are
    /// also those of the connection.
    ///
    /// # Errors
    /// Like [`Client::open`]; `ArgumentError` for socket options that do not fit the address.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn open_with(address: &str, offers: Server, options: Options) -> Result<Client, Error> {
        let connector = try_connector(&parse(address)?, &offers.sockets)?;
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
