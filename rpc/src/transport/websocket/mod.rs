//! WebSocket: a filter between a session and the link below it, so that browsers can call.
//!
//! ```text
//!   session ── send(buffer) ──▶ WebSocket ── one binary frame ──▶ link below: TCP, or TLS over TCP
//!      ▲                          │    ▲                             │
//!      └──── data(payload) ───────┘    └──────── data(bytes) ────────┘
//!
//!   accepted:  Upgrading ─ request ─▶ Open ─▶ Lingering ─▶ ended        opened:  Upgrading ─ answer ─▶ Open ─▶ …
//!                  └─ refusal ───────────────────▲
//! ```
//!
//! The filter is both the [`Transport`](super::Transport) of the session above it and the
//! [`Events`](super::Events) of the link below. It does no I/O, has no fiber, and keeps no buffer: payload goes up as
//! it arrives (see [`frame`]), and each buffer of the session goes down as one frame. So an idle connection costs the
//! filter's few words, and the end of a tick one frame.
//!
//! WebSocket has no half close. A session that shuts its sending side down sends a close frame behind all queued bytes.
//! A peer's close frame is the end of input: answers that it asked for still go out, and then the close frame that
//! answers its own. When both have been sent, the link ends.
//!
//! A link that ends for a fault, or by a refusal, *lingers*: this side has sent the reason, but a socket that is closed
//! while bytes of the peer are unread discards what it sent. So the rest is read and dropped until the peer closes,
//! for a second at most.
//!
//! Invariants:
//! - No borrow of a cell is live while the session or the link is called: either may call back at once.
//! - After the close frame nothing is sent; after the peer's, nothing is read.
//! - At most one pong is queued and one waits, however many pings arrive.

mod connector;
mod filter;
pub mod frame;
mod keys;
mod opening;
mod options;
pub mod upgrade;

pub use connector::WebSocketConnector;
pub use options::WebSocketOptions;

pub(crate) use filter::WebSocket;
