//! Lock-free queues between event loops, with epoch-based reclamation.
//!
//! # Contents
//!
//! - [`mailbox`]: many producers, one consumer. Everything that reaches a loop from another thread goes through one.
//! - [`Injector`]: many producers, many consumers. It holds work that any loop may take.
//! - [`IdleSet`]: tracks the sleeping consumers of an injector, so that a producer can wake exactly one.
//! - [`SleepFlag`]: the handshake that lets a loop sleep without missing a message.
//! - [`pin`], [`flush`], [`garbage_bytes`]: the epoch that all of them share with the loop registry in the scheduler.
//!
//! Nothing here blocks, and nothing here knows about fibers, loops or I/O. The producer rings the consumer's bell.
//!
//! # How it works
//!
//! Both queues are a chain of blocks of 128 slots. The one contended word is a ticket counter:
//!
//! ```text
//!   ticket.fetch_add(1) = 258  ->  block 258 / 128 = 2, slot 258 % 128 = 2
//!
//!   retired         head                            newest
//!  +--------+ next +--------+ next +--------+ next +--------+
//!  |block 0 |----->|block 1 |----->|block 2 |----->|block 3 |      (`previous` links point back)
//!  +--------+      +--------+      +--------+      +--------+
//!  freed by the     ^ the consumer  ^ our slot
//!  epoch            reads here
//! ```
//!
//! A push is that one read-modify-write, a lookup of the block, and a plain store that publishes the slot. A consumer
//! reads slots in order; the mailbox's consumer does no read-modify-write at all. `tail.rs` has the producers' half,
//! and says why a push needs no epoch pin except at a block boundary. `mailbox.rs` and `injector.rs` have the
//! consumers' halves, `reclaim.rs` the epoch, `sleep.rs` the handshake.
//!
//! # A ticket that is taken but not yet published
//!
//! A producer may be preempted between taking its ticket and its store. Until it runs again the consumer sees an empty
//! slot there, and stops: `pop` returns `None` and `is_empty` returns `true`, *although later values may already be
//! published*. The queue's order requires this. No wake-up is lost, because [`SleepFlag`] requires every producer to
//! call [`SleepFlag::notify`] *after* its push: the late producer finds the consumer idle and rings. (The alternative
//! is to return "not empty" while a ticket is out. The loop would then spin on the core that the late producer needs.)

mod block;
mod idle;
mod injector;
mod mailbox;
mod plants;
mod reclaim;
#[cfg(loom)]
mod reclaim_model;
mod sleep;
mod sync;
mod tail;

pub use idle::IdleSet;
pub use injector::Injector;
pub use mailbox::{Receiver, Sender, mailbox};
#[doc(hidden)]
pub use plants::is_planted;
pub use reclaim::{flush, garbage_bytes, pin};
pub use sleep::SleepFlag;

/// The README, whose example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
