//! Sessions: one connection, over which both sides call each other, for as long as the program wants, over however many
//! links that takes.
//!
//! ```text
//!   caller fiber ──encode──▶ WriteBuffer ──flush──▶ Transport ─ ─ ─▶ the peer
//!        ▲ wake                                                          │
//!        └── InFlight ◀── responses ── Input (scanner, segments) ◀─ ─ ─ ─┘
//!                                       └─ requests ──▶ Inbox ──▶ worker fiber ──▶ Dispatch ──▶ WriteBuffer
//!
//!   Connector makes links, Handshake gets each granted, QueuedCalls holds the calls that are made before that.
//! ```
//!
//! ```
//! use std::rc::Rc;
//! use yue_rpc::session::{Call, Reply, Service, Session};
//! use yue_rpc::{Error, Listener, Options, Timeout, transport};
//!
//! yue_io::run(|| -> Result<(), Error> {
//!     // Whatever is called, it answers with its arguments.
//!     let echo = |call: &mut Call, reply: Reply| {
//!         let params = call.params();
//!         reply.results(|out| {
//!             out.extend_from_slice(params.bytes);
//!             Ok(params.count)
//!         })
//!     };
//!     let address = "tcp://127.0.0.1:0".parse().unwrap();
//!     let listener = Listener::bind(&address, Service::new(Rc::new(echo)), Options::default())?;
//!
//!     let connector = transport::connector(listener.address());
//!     let session = Session::open(connector, Service::none(), Options::default());
//!     let answer = session.call("echo", Timeout::Default, |out| {
//!         out.extend_from_slice(b"\x01\xa2hi"); // 1 and "hi" in msgpack
//!         Ok(2)
//!     })?;
//!     assert_eq!((answer.count(), answer.bytes()), (2, &b"\x01\xa2hi"[..]));
//!     session.close();
//!     Ok(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The files: `state/` holds the parts of a session's state, which know nothing of each other; `inner.rs` puts them
//! together; `service.rs` is the program's side. The other files are what a session does, by subject.
//!
//! Values are written by *encoders*: closures that append any number of msgpack values to a buffer, and return the
//! number.
//!
//! # Invariants
//!
//! - A session belongs to one loop; everything here runs on it. State is in cells, and no borrow is held while the
//!   program's code runs (encoders included: the output buffer is taken out of its cell for them).
//! - The *epoch* counts links. It identifies objects of an earlier link (an event, a reply, a reference), which are
//!   dropped.
//! - Only `transition` changes the phase, by the rules of `state/phase.rs`; only `link.rs` changes the link.
//! - Requests of one connection start in the order in which they arrived.

mod admission;
mod backlog;
mod call;
mod chunks;
pub(crate) mod close_reason;
mod connector;
mod control_messages;
mod encoded;
pub(crate) mod failure;
mod flow_control;
mod handshake;
pub(crate) mod inherited;
mod inner;
mod input;
mod keepalive;
mod link;
mod member_calls;
pub(crate) mod metrics;
pub(crate) mod options;
mod queued_calls;
mod references;
mod request;
pub(crate) mod service;
#[cfg(feature = "tracing")]
mod spans;
#[cfg(not(feature = "tracing"))]
#[path = "no_spans.rs"]
mod spans;
mod state;
pub(crate) mod worker;
mod write_buffer;

pub(crate) use inherited::request_of;
pub(crate) use inner::WeakSession;
pub(crate) use state::accounts::Accounts;
pub(crate) use state::memberships::SessionSet;

pub use crate::buffer::Response;
pub use crate::proto::Params;
pub use crate::release_order::LinkNumber;
pub use call::{CallId, Target};
pub use control_messages::{DESCRIBE, NODE};
pub use encoded::EncodedCall;
pub use inner::{RequestContext, Session};
pub use member_calls::MemberAnswer;
pub use references::ImportedReference;
pub use request::{CallMethod, peer};
pub use service::{Call, Dispatch, Replied, Reply, Service};
pub use state::accounts::Usage;
pub use state::changes::{note_change, wait_for_change};
