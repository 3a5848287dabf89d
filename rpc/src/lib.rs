//! Symmetric, pipelined msgpack-rpc on fibers.
//!
//! Two programs, or two loops of one program, share a connection, and each calls what the other offers: a call is one
//! line, parks its fiber until the answer is there, and may be answered by a handler that calls back meanwhile.
//!
//! ```
//! use yue::rpc::Error;
//! use yue::rpc::typed::{Client, Server, peer};
//!
//! yue::Runtime::new()?.run(|| -> Result<(), Error> {
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
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where things are
//!
//! | | |
//! |---|---|
//! | [`typed`] | calls with Rust's own types: [`Server`](typed::Server) and [`Client`](typed::Client); begin here |
//! | this page | what all connections have: addresses, [`Options`] and [`Limits`], errors, [`Listener`], [`Hooks`] |
//! | [`session`] | the layer below, in msgpack bytes: for values that serde does not know, gateways, scripts |
//! | [`transport`] | what carries the bytes: sockets, threads, a network in memory for tests, your own |
//!
//! # What a connection does by itself
//!
//! - **Connecting.** The first call does it. What is called before the link is up waits for it, within its timeout
//!   ([`Options::timeout`], five seconds).
//! - **Connecting again.** A link that was up and is lost is made again, as long as it takes. Calls that were not
//!   written yet go out over the new one. Those that were written may have run: they fail with
//!   [`ErrorKind::ConnectionLost`], and whether to repeat one is the caller's to decide.
//! - **Order.** Requests of a connection start in the order of their calls, each in a fiber of its own; a slow one
//!   holds up no other.
//! - **Cancellation and deadlines travel.** When a call times out or its fiber is cancelled, the handler on the other
//!   side is cancelled, too; what it calls onwards has no more time than is left.
//! - **Limits.** A peer that floods, stalls or sends nonsense costs its [`Limits`] and no more.
//!
//! The wire is plain msgpack-rpc, with extensions that are used only between peers that know them. So a msgpack-rpc
//! client of any language, or a Lua program, is as good a peer.

mod address;
mod buffer;
mod error;
mod listener;
#[doc(hidden)]
// For the command's benchmark, and for the tests: what a program encodes, it encodes with a library.
pub mod proto;
pub mod session;
mod socket_file;
mod text;
pub mod transport;
pub mod typed;

pub use address::{Address, AddressError};
pub use error::{Error, ErrorKind, LocalError, RemoteError};
pub use listener::Listener;
pub use proto::ProtocolError;
pub use session::options::{Limits, Options, Rate, Stats, Timeout, WhenFull};
pub use session::service::{CloseReason, Failure, Hooks, Moment, Retry, Verdict};
pub use socket_file::{SharedSocket, WeakSocket};
pub use yue_io::net::ListenOptions;
