//! Symmetric, pipelined msgpack-rpc on fibers.
//!
//! Two programs, or two loops of one program, share a connection, and each calls the functions that the other offers. A
//! call is one line of code. It parks its fiber until the answer arrives. The handler may call back in the meantime.
//!
//! ```
//! use yue_rpc::Error;
//! use yue_rpc::typed::{Client, Server, peer};
//!
//! yue_io::run(|| -> Result<(), Error> {
//!     let listener = Server::new()
//!         .handler("order", |dish: String| {
//!             // In the middle of the caller's call, it is asked back.
//!             let table: u32 = peer().ok_or("no peer")?.call("table", ())?;
//!             Ok(format!("{dish} for table {table}"))
//!         })
//!         .listen("tcp://127.0.0.1:0")?;
//!
//!     let guest = Server::new().handler("table", |()| Ok(7));
//!     let kitchen = Client::open_with(&listener.address().to_string(), guest, Default::default())?;
//!     let dinner: String = kitchen.call("order", "soup")?; // The first call connects.
//!     assert_eq!(dinner, "soup for table 7");
//!     Ok(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look
//!
//! | | |
//! |---|---|
//! | [`typed`] | calls with Rust's own types: [`Server`](typed::Server) and [`Client`](typed::Client); begin here |
//! | this page | what all connections have: addresses, [`Options`], [`Limits`], errors, [`Hooks`], [`Listener`]s |
//! | [`group`] | sets of connections that are notified and called together, on all loops of the process |
//! | `http::client` | requests to HTTP servers (feature `http`) |
//! | [`inspect`] | lists of the connections and listeners of a loop |
//! | [`session`] | the layer below, in msgpack bytes: for values that serde does not know, gateways, scripts |
//! | [`trace`] | the ids by which the calls of one piece of work are found, in all processes |
//! | [`transport`] | what carries the bytes: sockets, threads, memory, your own |
//!
//! # What a connection does by itself
//!
//! - **Connecting.** The first call connects. Calls made before the link is up wait for it, within their timeout
//!   ([`Options::timeout`], five seconds).
//! - **Reconnecting.** A link that was up and is lost is made again, however long that takes. Calls that were not
//!   written yet go out over the new link. Calls that were written may have run: they fail with
//!   [`ErrorKind::ConnectionLost`], and the caller decides whether to repeat them.
//! - **Order.** Requests of a connection start in the order of their calls, each in a new fiber; a slow one does
//!   not hold up the others.
//! - **Cancellation and deadlines travel.** A request whose caller has timed out or cancelled before it starts
//!   never starts. If the serving side sets [`Options::cancel`], this also cancels a handler that has started, and
//!   the handler's calls have no more time than the caller has left.
//! - **Limits.** A peer that floods, stalls or sends nonsense costs at most its [`Limits`].
//!
//! The wire is plain msgpack-rpc, with extensions that are used only between peers that know them. So it works equally
//! with Lua programs and with msgpack-rpc clients in any language.

mod address;
mod buffer;
mod error;
pub mod group;
#[cfg(feature = "http")]
pub mod http;
pub mod inspect;
mod listener;
mod memory_listener;
#[doc(hidden)]
// Public for the command's benchmark and for the tests. Programs encode with a library.
pub mod proto;
mod release_order;
pub mod session;
mod socket_file;
mod text;
pub mod trace;
pub mod transport;
pub mod typed;

pub use address::{Address, AddressError};
pub use error::{Error, ErrorKind, LocalError, RemoteError};
pub use listener::Listener;
pub use memory_listener::MemoryListener;
pub use proto::ProtocolError;
pub use session::close_reason::CloseReason;
pub use session::failure::Failure;
pub use session::options::{Limits, Options, Rate, Stats, Timeout, WhenFull};
pub use session::service::{Hooks, Moment, Retry, Verdict};
pub use socket_file::{SharedSocket, WeakSocket, remove_deserted_socket};
pub use yue_io::net::ListenOptions;

/// The README, whose example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
