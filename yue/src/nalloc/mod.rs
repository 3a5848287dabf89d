//! Nodes: processes, here or elsewhere, that run a library for their owner, and whose lives hang on one connection.
//!
//! ```text
//!   owner                                                          node
//!   Session ── NodeConnector ── Carrier ── process, socket ─────▶ NodeEnd ── Listener
//!                   │             └ Life: how it ended               └ Guard: lifeline, lease
//!                   └ Allocation: epoch, stage, lease, last lines
//! ```
//!
//! The session of an owner is like any other: it connects when it is used, holds calls until the node has loaded the
//! library, and fails them when the link ends. The connector starts a node instead of connecting to a server.
//!
//! From Rust, [`Node`] runs an entry of the same program in a process of its own; [`serve`] has an example. Lua
//! programs call `yue.nalloc`.
//!
//! The machine cleans up itself. A node ends when its owner does: the lifeline of a child ends, or nobody renews the
//! lease of a node elsewhere (`lease.rs`). What the owner does (`life.rs`) is a courtesy.

#[cfg(feature = "lua")]
pub mod agent;
mod allocation;
mod connector;
#[cfg(feature = "lua")]
mod container;
mod entries;
mod guard;
mod lease;
mod life;
mod limits;
mod node;
mod output;
mod owner;
mod process;
#[cfg(feature = "lua")]
mod program;
#[cfg(feature = "lua")]
mod prologue;

pub use allocation::Restart;
pub use entries::{Entry, Node, NodeBuilder, serve};
pub use life::describe_end;
pub use node::NodeEnd;
pub use process::LIFELINE;

#[cfg(feature = "lua")]
pub(crate) use allocation::{Allocation, Plan, Stage};
#[cfg(feature = "lua")]
pub(crate) use connector::{Carrier, NodeConnector};
#[cfg(feature = "lua")]
pub(crate) use container::Container;
#[cfg(feature = "lua")]
pub(crate) use lease::clock;
#[cfg(feature = "lua")]
pub(crate) use life::Life;
#[cfg(feature = "lua")]
pub(crate) use limits::Limits;
#[cfg(feature = "lua")]
pub(crate) use output::Lines;
#[cfg(feature = "lua")]
pub(crate) use owner::OwnerDispatch;
#[cfg(feature = "lua")]
pub(crate) use process::{ProcessCarrier, Reach};
#[cfg(feature = "lua")]
pub(crate) use program::{own_command, own_libraries};
#[cfg(feature = "lua")]
pub(crate) use prologue::{Prologue, SHELL};
