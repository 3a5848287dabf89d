//! Lock-free queues between event loops, with epoch-based reclamation.
//!
//! # What is here
//!
//! - [`mailbox`]: many producers, one consumer; how anything reaches a loop from outside of its thread.
//! - [`Injector`]: many producers, many consumers; work that any loop may take.
//! - [`IdleSet`]: which of the consumers of an injector sleep, to wake exactly one.
//! - [`SleepFlag`]: the handshake by which a loop goes to sleep without ever missing a message.
//! - [`pin`], [`flush`], [`garbage_bytes`]: the epoch that all of them, and the loop registry above, share.
//!
//! Nothing here blocks, and nothing here knows about fibers, loops or I/O: whoever pushes rings the bell.
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
//! A push is that one read-modify-write, a look-up of the block, and a plain store that publishes the slot. A consumer
//! reads slots in order; the mailbox's consumer does no read-modify-write at all. See `tail.rs` for the producers'
//! half and for why it needs no epoch pin except at a block's border, `mailbox.rs` and `injector.rs` for the
//! consumers' halves, `reclaim.rs` for the epoch, `sleep.rs` for the handshake.
//!
//! # A ticket that is taken and not yet published
//!
//! A producer may be preempted between its ticket and its store. Until it runs again the consumer finds nothing at that
//! slot, and so nothing behind it: `pop` answers `None` and `is_empty` answers `true`, *although later values may be
//! published already*. Order demands it. It costs no wake-up, because the rule of [`SleepFlag`] is that every producer
//! calls [`SleepFlag::notify`] *after* its push: the late one finds the sleeper idle and rings. (The other choice,
//! answering "not empty" while a ticket is out, would make the loop spin on the core that the late producer needs.)

mod block;
mod idle;
mod injector;
mod mailbox;
mod reclaim;
#[cfg(loom)]
mod reclaim_model;
mod sleep;
mod sync;
mod tail;

pub use idle::IdleSet;
pub use injector::Injector;
pub use mailbox::{Receiver, Sender, mailbox};
pub use reclaim::{flush, garbage_bytes, pin};
pub use sleep::SleepFlag;
