//! Servers: services made of Rust functions.

use super::values;
use crate::address::{Address, AddressError};
use crate::error::{Error, ErrorKind};
use crate::listener::Listener;
use crate::proto::encode;
use crate::session::failure::Failure;
use crate::session::options::Options;
use crate::session::service::Hooks;
use crate::session::worker::is_private;
use crate::session::{Call, CallMethod, DESCRIBE, Dispatch, Replied, Reply, Service};
use crate::transport::SocketOptions;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

type Handler = Box<dyn Fn(&mut Call, Reply) -> Replied>;

/// Functions by name, for a listener to serve or for a client to offer in return.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{Error, ErrorKind};
///
/// #[derive(Serialize, Deserialize)]
/// struct Point {
///     x: f64,
///     y: f64,
/// }
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new()
///         .handler("text.upper", |text: String| Ok(text.to_uppercase()))
///         .handler("geometry.distance", |(a, b): (Point, Point)| Ok((a.x - b.x).hypot(a.y - b.y)))
///         .handler("divide", |(a, b): (i64, i64)| Ok(a.checked_div(b).ok_or("division by zero")?))
///         .listen("tcp://127.0.0.1:0")?;
///
///     let server = Client::open(&listener.address().to_string())?;
///     assert_eq!(server.call::<_, String>("text.upper", "hello")?, "HELLO");
///     let points = (Point { x: 0.0, y: 0.0 }, Point { x: 3.0, y: 4.0 });
///     assert_eq!(server.call::<_, f64>("geometry.distance", points)?, 5.0);
///     let error = server.call::<_, i64>("divide", (1, 0)).unwrap_err();
///     assert_eq!(error.message(), "division by zero");
///     let error = server.call::<_, i64>("divide", "one").unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::Argument);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A peer may ask for the names, by the request [`DESCRIBE`]:
///
/// ```
/// use serde::Deserialize;
/// use yue_rpc::Error;
/// use yue_rpc::typed::{Client, Server};
///
/// #[derive(Deserialize)]
/// struct Function {
///     name: String,
/// }
///
/// #[derive(Deserialize)]
/// struct Description {
///     functions: Vec<Function>,
/// }
///
/// yue_io::run(|| -> Result<(), Error> {
///     let server = Server::new().handler("b", |()| Ok(1)).handler("a.x", |()| Ok(2)).handler("_private", |()| Ok(3));
///     let listener = server.listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     let answer: Description = client.call("$yue/describe", ())?;
///     let names: Vec<_> = answer.functions.into_iter().map(|function| function.name).collect();
///     assert_eq!(names, ["a.x", "b"]);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Server {
    handlers: HashMap<Box<[u8]>, Handler>,
    hooks: Option<Rc<dyn Hooks>>,
    options: Options,
    pub(super) sockets: SocketOptions,
}

impl Server {
    /// A server without handlers.
    pub fn new() -> Server {
        Server::default()
    }

    /// Adds a function under a name, which may be dotted. The function runs in a new fiber for each request, and may
    /// park. `P` is the type of its arguments (see [the module](super)), `R` that of its result. A name that begins
    /// with `_`, or has a segment that does, cannot be called by peers.
    pub fn handler<P, R>(
        mut self,
        name: &str,
        handler: impl Fn(P) -> Result<R, Failure> + 'static,
    ) -> Server
    where
        P: DeserializeOwned,
        R: Serialize,
    {
        let serve = move |call: &mut Call, reply: Reply| match values::read_params(call.params()) {
            Err(error) => reply.fail(&wrong_arguments(call, &error)),
            Ok(params) => {
                call.release_params();
                match handler(params) {
                    Ok(result) => reply.results(|out| values::append(out, &result).map(|()| 1)),
                    Err(failure) => reply.fail(&failure),
                }
            }
        };
        self.handlers
            .insert(name.as_bytes().into(), Box::new(serve));
        self
    }

    /// Sets the hooks that are called during each connection's life.
    pub fn hooks(mut self, hooks: Rc<dyn Hooks>) -> Server {
        self.hooks = Some(hooks);
        self
    }

    /// Sets the options of connections.
    pub fn options(mut self, options: Options) -> Server {
        self.options = options;
        self
    }

    /// Sets the options of sockets, such as certificates: see [`TlsOptions`](crate::transport::TlsOptions).
    pub fn sockets(mut self, sockets: SocketOptions) -> Server {
        self.sockets = sockets;
        self
    }

    /// Serves at an address, on this loop.
    ///
    /// # Errors
    /// `AddressError` if the address is invalid or cannot be bound; `ArgumentError` for socket options that do not fit.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn listen(self, address: &str) -> Result<Listener, Error> {
        let address = parse(address)?;
        let (options, sockets) = (self.options.clone(), self.sockets.clone());
        Listener::bind_with(&address, self.into_service(), options, &sockets)
    }

    /// The service alone, without a listener.
    pub fn into_service(self) -> Service {
        let service = Service::new(Rc::new(Handlers(self.handlers)));
        match self.hooks {
            Some(hooks) => service.with_hooks(hooks),
            None => service,
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .handlers
            .keys()
            .map(|name| String::from_utf8_lossy(name));
        f.debug_set().entries(names).finish()
    }
}

pub(super) fn parse(address: &str) -> Result<Address, Error> {
    address
        .parse()
        .map_err(|error: AddressError| Error::new(ErrorKind::Address, error.to_string()))
}

fn wrong_arguments(call: &Call, error: &rmp_serde::decode::Error) -> Failure {
    let name = match call.method() {
        CallMethod::Name(name) => String::from_utf8_lossy(name).into_owned(),
        CallMethod::Token(_) => "the function".to_owned(),
    };
    Failure::of_kind(
        ErrorKind::Argument,
        format!("these are not the arguments that '{name}' takes: {error}"),
    )
}

struct Handlers(HashMap<Box<[u8]>, Handler>);

impl Handlers {
    /// Lists the names, as [`DESCRIBE`] says. The parameters of a Rust function are known to the compiler alone.
    fn describe(&self, reply: Reply) -> Replied {
        let mut names: Vec<&[u8]> = self.0.keys().map(|name| &**name).collect();
        names.retain(|name| !is_private(name));
        names.sort_unstable();
        reply.results(|out| {
            out.push(MAP_OF_ONE);
            encode::str(out, "functions");
            encode::array(out, |out| {
                for name in &names {
                    out.push(MAP_OF_ONE);
                    encode::str(out, "name");
                    encode::str_or_bin(out, name);
                }
                Ok(u32::try_from(names.len()).unwrap_or(u32::MAX))
            })?;
            Ok(1)
        })
    }
}

/// The header of a map with one entry.
const MAP_OF_ONE: u8 = 0x81;

impl Dispatch for Handlers {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        if matches!(call.method(), CallMethod::Name(DESCRIBE)) {
            return self.describe(reply);
        }
        let handler = match call.method() {
            CallMethod::Name(name) => self.0.get(name),
            CallMethod::Token(_) => None,
        };
        match handler {
            Some(handler) => handler(call, reply),
            None => reply.no_method(call),
        }
    }
}
